"""What the Python suites share: where the broker is, and names nobody else uses.

The broker under test is a process of its own. `clients/run` starts it and tells
where it listens by the environment, so that one suite runs against any broker.
"""

import os
import secrets

import pytest


@pytest.fixture(scope="session")
def address():
    """Host and port of the broker under test."""
    host, _, port = os.environ["MQTT_ADDRESS"].rpartition(":")
    return host, int(port)


@pytest.fixture
def name():
    """A word for topics, client ids and groups that no other case uses.

    Short, because MQTT 3.1 allows a client id 23 characters.
    """
    return "c" + secrets.token_hex(5)


@pytest.fixture(scope="session")
def keep_alive_max():
    """The longest keep alive that the broker was configured with."""
    told = os.environ.get("MQTT_KEEP_ALIVE_MAX")
    if not told:
        pytest.skip("the broker's keep alive limit is not known (MQTT_KEEP_ALIVE_MAX)")
    return int(told)


def pytest_collection_modifyitems(items):
    if os.environ.get("MQTT_ANY_BROKER") != "1":
        return
    for item in items:
        if item.get_closest_marker("choice"):
            item.add_marker(pytest.mark.skip(reason="a choice of Tidegate, not of the standard"))
