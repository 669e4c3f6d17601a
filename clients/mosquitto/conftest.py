"""Fixtures of the mosquitto suite."""

import pytest

import tool


@pytest.fixture(params=tool.VERSIONS)
def version(request):
    """Each protocol version in turn."""
    return request.param


@pytest.fixture
def subscribe(address):
    """Starts mosquitto_sub and ends it after the case."""
    made = []

    def start(version, filters, qos=0, *arguments, properties=None):
        made.append(tool.Subscriber(address, version, filters, qos, *arguments,
                                    properties=properties))
        return made[-1]

    yield start
    for subscriber in made:
        subscriber.stop()


@pytest.fixture
def publish(address):
    """Runs mosquitto_pub."""
    def run(version, topic, payload=None, qos=0, *arguments, properties=None, stdin=None):
        return tool.publish(address, version, topic, payload, qos, *arguments,
                            properties=properties, stdin=stdin)

    return run
