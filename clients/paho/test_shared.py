"""Shared subscriptions: each message to one member."""

import pytest
from paho.mqtt.client import SubscribeOptions


def drain(members, count):
    """Takes `count` messages from all members together, a list a member."""
    got = [[] for _ in members]
    for _ in range(200):
        for member, list_ in zip(members, got):
            while not member.messages.empty():
                list_.append(member.messages.get())
        if sum(map(len, got)) >= count:
            return got
        members[0].disconnected.wait(0.05)
    raise AssertionError(f"{sum(map(len, got))} of {count} messages came")


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_message_goes_to_one_member_and_all_take_part(connect, name, qos):
    members = [connect() for _ in range(3)]
    for member in members:
        assert member.subscribe(f"$share/{name}/{name}/+", qos) == [qos]

    alice = connect()
    for n in range(60):
        alice.publish(f"{name}/{n % 5}", b"%d" % n, qos)

    got = drain(members, 60)
    payloads = [int(m.payload) for list_ in got for m in list_]
    assert sorted(payloads) == list(range(60))
    assert all(list_ for list_ in got), [len(list_) for list_ in got]
    assert {m.qos for list_ in got for m in list_} == {qos}
    for list_ in got:
        for topic in {m.topic for m in list_}:
            of_topic = [int(m.payload) for m in list_ if m.topic == topic]
            assert of_topic == sorted(of_topic)


def test_every_group_gets_its_copy(connect, name):
    one, other, plain = connect(), connect(), connect()
    one.subscribe(f"$share/{name}-1/{name}", 1)
    other.subscribe(f"$share/{name}-2/{name}", 1)
    plain.subscribe(name, 1)

    alice = connect()
    for n in range(5):
        alice.publish(name, b"%d" % n, 1)

    for peer in (one, other, plain):
        assert [m.payload for m in peer.receive_all(5)] == [b"%d" % n for n in range(5)]


def test_a_members_plain_subscription_gets_its_own_copy(connect, name):
    both = connect()
    both.subscribe(f"$share/{name}/{name}", 1)
    both.subscribe(name, 1)

    alice = connect()
    alice.publish(name, b"x", 1)
    alice.publish(f"{name}-end", b"", 1)
    both.subscribe(f"{name}-fence", 1)
    alice.publish(f"{name}-fence", b"fence", 1)

    assert [m.payload for m in both.receive_all(3)] == [b"x", b"x", b"fence"]


def test_the_share_of_a_member_that_left_goes_to_the_others(connect, name):
    stays, leaves, drops = connect(), connect(), connect()
    for member in (stays, leaves, drops):
        member.subscribe(f"$share/{name}/{name}", 1)
    leaves.unsubscribe(f"$share/{name}/{name}")
    drops.drop()

    alice = connect()
    for n in range(20):
        alice.publish(name, b"%d" % n, 1)

    assert [int(m.payload) for m in stays.receive_all(20)] == list(range(20))
    assert leaves.messages.empty() and drops.messages.empty()


def test_no_retained_message_comes_to_a_group(connect, name):
    alice, member = connect(), connect()
    alice.publish(name, b"kept", 1, retain=True)

    member.subscribe(f"$share/{name}/{name}", 1)
    alice.publish(name, b"live", 1)

    assert member.receive().payload == b"live"
    alice.publish(name, b"", 1, retain=True)


def test_identifier_is_that_of_the_chosen_member(connect5, name):
    members = [connect5(), connect5()]
    for identifier, member in enumerate(members, 10):
        member.subscribe(f"$share/{name}/{name}", 1, identifier=identifier)

    alice = connect5()
    for _ in range(20):
        alice.publish(name, b"x", 1)

    for identifier, list_ in enumerate(drain(members, 20), 10):
        assert {tuple(m.properties["SubscriptionIdentifier"]) for m in list_} <= {(identifier,)}


def test_no_local_on_a_shared_subscription_is_a_protocol_error(connect5, name):
    bob = connect5()

    bob.client.subscribe(
        f"$share/{name}/{name}", options=SubscribeOptions(qos=1, noLocal=True)
    )

    assert bob.wait_closed() == 0x82
