"""Filters, unsubscribing, overlaps and the options of 5.0."""

import pytest
from paho.mqtt.client import SubscribeOptions


def heard(bob, alice, topics, fence):
    """Which of the topics reach bob, each published once, in order."""
    bob.subscribe(fence, 1)
    for topic in topics:
        alice.publish(topic, topic.encode(), 1)
    alice.publish(fence, b"fence", 1)
    got = []
    while (message := bob.receive()).topic != fence:
        got.append(message.topic)
    return got


@pytest.mark.parametrize(
    ("filter", "matching", "others"),
    [
        ("", ["", "/"], ["/a"]),
        ("/+", ["/a", "/b", "/"], ["", "/a/b"]),
        ("/#", ["", "/", "/a", "/a/b", "//"], []),
        ("/+/b", ["/a/b", "//b"], ["/a", "/a/b/c", "/b"]),
        ("/a/#", ["/a", "/a/", "/a/b/c"], ["", "/ab", "/A/b"]),
        ("/+/+/c/#", ["/a/b/c", "/a/b/c/d", "///c"], ["/a/c", "/a/b/d"]),
    ],
    ids=["exact", "plus", "hash", "plus-inside", "hash-parent", "mixed"],
)
def test_filter_matches(connect, name, filter, matching, others):
    bob, alice = connect(), connect()
    if filter == "":
        matching = [""]
        others = ["/", "/a", "x"]
    assert bob.subscribe(name + filter, 1) == [1]

    topics = [name + t for t in [*others, *matching, *others]]

    assert heard(bob, alice, topics, f"fence-{name}") == [name + t for t in matching]


def test_wildcard_first_does_not_match_dollar_topics(connect, name):
    bob, alice = connect(), connect()
    bob.subscribe_all([("#", 1), (f"+/{name}", 1)])

    got = heard(bob, alice, [f"$tests/{name}", f"tests/{name}"], f"fence/{name}/x")

    assert {t for t in got if name in t} == {f"tests/{name}"}
    assert not [t for t in got if t.startswith("$")]


def test_many_filters_in_one_subscribe_are_answered_in_order(connect, name):
    bob = connect()

    codes = bob.subscribe_all([(f"{name}/a", 2), (f"{name}/b", 0), (f"{name}/c/#", 1)])

    assert codes == [2, 0, 1]


def test_unsubscribe_stops_delivery(connect, name):
    bob, alice = connect(), connect()
    bob.subscribe(f"{name}/+", 1)
    bob.subscribe(f"{name}/x/#", 1)
    assert heard(bob, alice, [f"{name}/a"], f"fence/{name}") == [f"{name}/a"]

    bob.unsubscribe(f"{name}/+")

    assert heard(bob, alice, [f"{name}/a", f"{name}/x/y"], f"fence/{name}") == [f"{name}/x/y"]


def test_subscribing_again_replaces_the_qos(connect, name):
    bob, alice = connect(), connect()
    bob.subscribe(name, 2)
    bob.subscribe(name, 0)

    alice.publish(name, b"x", 2)
    alice.publish(name, b"y", 2)

    assert [(m.payload, m.qos) for m in bob.receive_all(2)] == [(b"x", 0), (b"y", 0)]


@pytest.mark.choice
def test_overlapping_filters_bring_one_copy_with_the_highest_qos(connect, name):
    bob, alice = connect(), connect()
    bob.subscribe_all([(f"{name}/#", 0), (f"{name}/+", 2), (f"{name}/a", 1)])

    alice.publish(f"{name}/a", b"x", 2)
    alice.publish(f"{name}/b", b"end", 2)

    assert [(m.payload, m.qos) for m in bob.receive_all(2)] == [(b"x", 2), (b"end", 2)]


@pytest.mark.choice
def test_one_copy_carries_every_matching_subscription_identifier(connect5, name):
    bob, alice = connect5(), connect5()
    bob.subscribe(f"{name}/#", 1, identifier=1)
    bob.subscribe(f"{name}/+", 1, identifier=268_435_455)
    bob.subscribe(f"{name}/a", 1)

    alice.publish(f"{name}/a", b"x", 1)
    alice.publish(f"{name}/b/c", b"y", 1)

    both, one = bob.receive_all(2)
    assert sorted(both.properties["SubscriptionIdentifier"]) == [1, 268_435_455]
    assert one.properties["SubscriptionIdentifier"] == [1]


def test_subscription_identifier_comes_with_the_message(connect5, name):
    bob, alice = connect5(), connect5()
    bob.subscribe(f"{name}/a", 1, identifier=1)
    bob.subscribe(f"{name}/b", 1, identifier=16_384)
    bob.subscribe(f"{name}/c", 1)

    for level in "abc":
        alice.publish(f"{name}/{level}", b"x", 1)

    got = [m.properties.get("SubscriptionIdentifier") for m in bob.receive_all(3)]
    assert got == [[1], [16_384], None]


def test_subscribing_again_replaces_the_identifier(connect5, name):
    bob, alice = connect5(), connect5()
    bob.subscribe(name, 1, identifier=5)
    bob.subscribe(name, 1, identifier=6)

    alice.publish(name, b"x", 1)

    assert bob.receive().properties["SubscriptionIdentifier"] == [6]


def test_no_local_keeps_a_clients_own_messages_away(connect5, name):
    alice, bob = connect5(), connect5()
    alice.subscribe(name, options=SubscribeOptions(qos=1, noLocal=True))

    alice.publish(name, b"own", 1)
    bob.publish(name, b"foreign", 1)

    assert alice.receive().payload == b"foreign"


def test_unsuback_says_whether_there_was_a_subscription(connect5, name):
    bob = connect5()
    bob.subscribe(f"{name}/a", 1)

    assert bob.unsubscribe([f"{name}/none", f"{name}/a"]) == [0x11, 0x00]
    assert bob.unsubscribe(f"{name}/a") == [0x11]
