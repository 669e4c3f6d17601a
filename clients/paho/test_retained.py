"""Retained messages: set, replaced, cleared, and the retain flag."""

import time

import pytest
from paho.mqtt.client import SubscribeOptions
from peer import PATIENCE

HOLD = SubscribeOptions.RETAIN_DO_NOT_SEND
ONCE = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
ALWAYS = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE


def retained(connect, filter, fence):
    """What a new subscriber is sent because it subscribes: all before the fence."""
    with connect() as bob:
        bob.subscribe(filter, 2)
        bob.subscribe(fence, 2)
        bob.publish(fence, b"fence", 2)
        got = []
        while (message := bob.receive()).topic != fence:
            got.append((message.topic, message.payload, message.qos, message.retain))
        return got


def comes_to(look, expected):
    """Whether the retained messages are these, if need be after a moment.

    Nothing says when a QoS 0 publish has arrived. When an acknowledged one must
    be seen, and before what, is a case of its own.
    """
    until = time.monotonic() + PATIENCE
    while (got := look()) != expected and time.monotonic() < until:
        time.sleep(0.05)
    assert got == expected
    return True


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_retained_is_set_replaced_and_cleared(connect, name, qos):
    alice = connect()

    def look():
        return retained(connect, name, f"{name}-fence")

    alice.publish(name, b"one", qos, retain=True)
    assert comes_to(look, [(name, b"one", qos, True)])

    alice.publish(name, b"two", qos, retain=True)
    assert comes_to(look, [(name, b"two", qos, True)])

    alice.publish(name, b"live", max(qos, 1))
    assert comes_to(look, [(name, b"two", qos, True)])

    alice.publish(name, b"", qos, retain=True)
    assert comes_to(look, [])


def test_retained_comes_before_what_is_published_after_the_suback(connect, name):
    alice = connect()
    for n in range(40):
        topic = f"{name}/{n}"
        alice.publish(topic, b"kept", 1, retain=True)
        with connect() as bob:
            bob.subscribe(topic, 1)
            alice.publish(topic, b"later", 1)
            got = [(m.payload, m.retain) for m in bob.receive_all(2)]
        alice.publish(topic, b"", 1, retain=True)
        assert got == [(b"kept", True), (b"later", False)]


def test_retain_flag_is_clear_on_live_messages(connect, name):
    bob = connect()
    bob.subscribe(name, 1)
    alice = connect()

    alice.publish(name, b"x", 1, retain=True)
    alice.publish(name, b"", 1, retain=True)

    live = bob.receive_all(2)
    assert [(m.payload, m.retain) for m in live] == [(b"x", False), (b"", False)]


def test_retained_qos_is_capped_by_the_grant(connect, name):
    alice, bob = connect(), connect()
    alice.publish(name, b"x", 2, retain=True)

    bob.subscribe(name, 1)

    assert bob.receive().qos == 1
    alice.publish(name, b"", retain=True)


def test_wildcard_brings_every_retained_message_that_matches(connect, name):
    alice = connect()
    topics = [f"{name}/{n}/t" for n in range(40)]
    for topic in topics:
        alice.publish(topic, topic.encode(), 1, retain=True)
    alice.publish(f"{name}/other", b"no", 1, retain=True)

    expected = sorted((t, t.encode(), 1, True) for t in topics)
    assert comes_to(lambda: sorted(retained(connect, f"{name}/+/t", f"{name}-fence")), expected)
    for topic in [*topics, f"{name}/other"]:
        alice.publish(topic, b"", 1, retain=True)
    assert comes_to(lambda: retained(connect, f"{name}/#", f"{name}-fence"), [])


def test_subscribing_again_brings_retained_again(connect, name):
    alice, bob = connect(), connect()
    alice.publish(name, b"x", 1, retain=True)

    bob.subscribe(name, 1)
    bob.subscribe(name, 1)

    assert [m.payload for m in bob.receive_all(2)] == [b"x", b"x"]
    alice.publish(name, b"", 1, retain=True)


@pytest.mark.parametrize(
    ("handling", "copies"), [(ALWAYS, 2), (ONCE, 1), (HOLD, 0)], ids=["always", "new", "never"]
)
def test_retain_handling_rules_what_a_subscribe_brings(connect5, name, handling, copies):
    alice, bob = connect5(), connect5()
    alice.publish(name, b"kept", 1, retain=True)

    options = SubscribeOptions(qos=1, retainHandling=handling)
    bob.subscribe(name, options=options)
    bob.subscribe(name, options=options)
    alice.publish(name, b"live", 1)

    assert [m.payload for m in bob.receive_all(copies + 1)] == [b"kept"] * copies + [b"live"]
    alice.publish(name, b"", 1, retain=True)


def test_retain_as_published_keeps_the_flag(connect5, name):
    alice, bob = connect5(), connect5()
    bob.subscribe(name, options=SubscribeOptions(qos=1, retainAsPublished=True))

    alice.publish(name, b"kept", 1, retain=True)
    alice.publish(name, b"not kept", 1)
    alice.publish(name, b"", 1, retain=True)

    got = [(m.payload, m.retain) for m in bob.receive_all(3)]
    assert got == [(b"kept", True), (b"not kept", False), (b"", True)]


def test_retained_message_keeps_its_properties_and_ages(connect5, name):
    alice = connect5()
    alice.publish(
        name, b"x", 1, retain=True, ContentType="text/plain", MessageExpiryInterval=60,
        UserProperty=[("b", "1"), ("a", "2"), ("b", "1")], CorrelationData=b"\x00\xff",
    )
    time.sleep(1.2)

    bob = connect5()
    bob.subscribe(name, 1)

    props = bob.receive().properties
    assert props["ContentType"] == "text/plain"
    assert props["CorrelationData"] == b"\x00\xff"
    assert props["UserProperty"] == [("b", "1"), ("a", "2"), ("b", "1")]
    assert props["MessageExpiryInterval"] in (58, 59)
    alice.publish(name, b"", 1, retain=True)


def test_expired_retained_message_is_gone(connect5, name):
    connect5().publish(name, b"x", 1, retain=True, MessageExpiryInterval=1)
    time.sleep(2.1)

    assert retained(connect5, name, f"{name}-fence") == []
