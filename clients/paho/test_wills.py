"""Wills: what ends a connection, and what is then said."""

import time

import pytest
from peer import V5, WILL, properties


def will(topic, payload=b"gone", qos=1, retain=False, **props):
    made = {"topic": topic, "payload": payload, "qos": qos, "retain": retain}
    if props:
        made["properties"] = properties(WILL, **props)
    return made


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_will_is_sent_when_the_connection_breaks(connect, name, qos):
    bob = connect()
    bob.subscribe(name, 2)

    connect(will=will(name, b"last words", qos)).drop()

    message = bob.receive()
    assert (message.topic, message.payload, message.qos) == (name, b"last words", qos)
    assert not message.retain


def test_disconnect_takes_the_will_back(connect, name):
    bob = connect()
    bob.subscribe(name, 1)

    connect(will=will(name)).disconnect()
    connect().publish(name, b"fence", 1)

    assert bob.receive().payload == b"fence"


def test_retained_will_is_stored(connect, name):
    bob = connect()
    bob.subscribe(name, 1)
    connect(will=will(name, retain=True)).drop()
    assert not bob.receive().retain

    late = connect()
    late.subscribe(name, 1)

    message = late.receive()
    assert (message.payload, message.retain) == (b"gone", True)
    late.publish(name, b"", 1, retain=True)


def test_empty_will_payload_is_sent(connect, name):
    bob = connect()
    bob.subscribe(name, 1)

    connect(will=will(name, b"")).drop()

    assert bob.receive().payload == b""


def test_silence_beyond_the_keep_alive_ends_the_connection(connect, name):
    bob = connect()
    bob.subscribe(name, 1)
    silent = connect(keep_alive=2, will=will(name))
    silent.client.loop_stop()
    since = time.monotonic()

    message = bob.receive(patience=20)

    assert message.payload == b"gone"
    assert 2.0 < time.monotonic() - since < 12.0


def test_disconnect_with_will_sends_it(connect5, name):
    bob = connect5()
    bob.subscribe(name, 1)

    connect5(will=will(name)).disconnect(reason=0x04)

    assert bob.receive().payload == b"gone"


def test_will_waits_for_its_delay(connect5, name):
    bob = connect5()
    bob.subscribe(name, 1)
    since = time.monotonic()
    connect5(f"{name}-w", expiry=60, will=will(name, WillDelayInterval=2)).drop()

    connect5().publish(name, b"before", 1)

    assert bob.receive().payload == b"before"
    message = bob.receive()
    assert message.payload == b"gone"
    assert 1.5 < time.monotonic() - since < 12.0
    assert message.properties == {}


def test_resume_within_the_delay_takes_the_will_back(connect5, name):
    bob = connect5()
    bob.subscribe(name, 1)
    connect5(f"{name}-w", expiry=60, will=will(name, WillDelayInterval=1)).drop()

    connect5(f"{name}-w", clean=False, expiry=60)

    time.sleep(1.5)
    connect5().publish(name, b"fence", 1)
    assert bob.receive().payload == b"fence"


def test_will_is_sent_at_the_end_of_the_session_if_that_comes_first(connect5, name):
    bob = connect5()
    bob.subscribe(name, 1)
    since = time.monotonic()

    connect5(f"{name}-w", expiry=1, will=will(name, WillDelayInterval=60)).drop()

    assert bob.receive().payload == b"gone"
    assert 0.5 < time.monotonic() - since < 4.0


def test_clean_start_within_the_delay_sends_the_will_at_once(connect5, name):
    bob = connect5()
    bob.subscribe(name, 1)
    connect5(f"{name}-w", expiry=60, will=will(name, WillDelayInterval=30)).drop()

    connect5(f"{name}-w", clean=True)

    assert bob.receive(patience=3).payload == b"gone"


def test_will_keeps_its_properties(connect5, name):
    bob = connect5()
    bob.subscribe(name, 1)

    connect5(
        will=will(
            name, ContentType="text/plain", ResponseTopic="r", CorrelationData=b"\x01\x00",
            PayloadFormatIndicator=1, UserProperty=[("z", "1"), ("a", "2"), ("z", "1")],
            MessageExpiryInterval=60,
        )
    ).drop()

    assert bob.receive().properties == {
        "ContentType": "text/plain", "ResponseTopic": "r", "CorrelationData": b"\x01\x00",
        "PayloadFormatIndicator": 1, "UserProperty": [("z", "1"), ("a", "2"), ("z", "1")],
        "MessageExpiryInterval": 60,
    }


@pytest.mark.choice
def test_takeover_sends_a_will_without_delay(connect, version, name):
    bob = connect()
    bob.subscribe(name, 1)
    more = {"expiry": 60} if version == V5 else {}
    connect(f"{name}-w", clean=False, will=will(name), **more)

    connect(f"{name}-w", clean=False, **more)

    assert bob.receive().payload == b"gone"
