"""What 5.0 adds: properties, aliases, quotas, expiry, and what CONNACK tells."""

import time

import pytest
from peer import PUBLISH, properties

PAIRS = [("zeta", "1"), ("alpha", "2"), ("zeta", "1"), ("", ""), ("ключ", "значение")]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_properties_pass_unchanged_and_in_order(connect5, name, qos):
    bob = connect5()
    bob.subscribe(name, qos)

    connect5().publish(
        name, b"{}", qos, PayloadFormatIndicator=1, ContentType="application/json",
        ResponseTopic=f"{name}/answer", CorrelationData=bytes(range(256)), UserProperty=PAIRS,
    )

    assert bob.receive().properties == {
        "PayloadFormatIndicator": 1, "ContentType": "application/json",
        "ResponseTopic": f"{name}/answer", "CorrelationData": bytes(range(256)),
        "UserProperty": PAIRS,
    }


def test_properties_wait_in_the_queue_with_their_message(connect5, name):
    connect5(name, clean=False, expiry=60).disconnect()
    first = connect5(name, clean=False, expiry=60)
    first.subscribe(name, 1, identifier=9)
    first.disconnect()
    connect5().publish(name, b"x", 1, UserProperty=PAIRS, ContentType="a/b")

    message = connect5(name, clean=False, expiry=60).receive()

    assert message.properties == {
        "UserProperty": PAIRS, "ContentType": "a/b", "SubscriptionIdentifier": [9],
    }


def test_message_expiry_is_counted_down_while_it_waits(connect5, name):
    first = connect5(name, clean=False, expiry=60)
    first.subscribe(name, 1)
    first.disconnect()
    alice = connect5()
    alice.publish(name, b"short", 1, MessageExpiryInterval=1)
    alice.publish(name, b"long", 1, MessageExpiryInterval=100)
    alice.publish(name, b"without", 1)
    time.sleep(2.2)

    long, without = connect5(name, clean=False, expiry=60).receive_all(2)

    assert long.payload == b"long"
    assert long.properties["MessageExpiryInterval"] in (97, 98)
    assert (without.payload, without.properties) == (b"without", {})


def test_live_message_keeps_its_expiry(connect5, name):
    bob = connect5()
    bob.subscribe(name, 1)

    connect5().publish(name, b"x", 1, MessageExpiryInterval=0xFFFF_FFFF)

    assert bob.receive().properties["MessageExpiryInterval"] in (0xFFFF_FFFF, 0xFFFF_FFFE)


def test_topic_alias_stands_for_its_topic(connect5, name):
    bob, alice = connect5(), connect5()
    bob.subscribe(f"{name}/#", 1)
    assert alice.connack.properties["TopicAliasMaximum"] >= 2

    alice.publish(f"{name}/one", b"1", 1, TopicAlias=1)
    alice.publish(f"{name}/two", b"2", 1, TopicAlias=2)
    alice.publish("", b"3", 1, TopicAlias=1)
    alice.publish("", b"4", 0, TopicAlias=2)
    alice.publish(f"{name}/new", b"5", 1, TopicAlias=1)
    alice.publish("", b"6", 1, TopicAlias=1)

    got = [(m.topic.removeprefix(name), m.payload) for m in bob.receive_all(6)]
    assert got == [
        ("/one", b"1"), ("/two", b"2"), ("/one", b"3"), ("/two", b"4"), ("/new", b"5"),
        ("/new", b"6"),
    ]


def test_topic_alias_ends_with_its_connection(connect5, name):
    alice = connect5(name, clean=False, expiry=60)
    alice.publish(f"{name}/t", b"1", 1, TopicAlias=1)
    alice.disconnect()

    again = connect5(name, clean=False, expiry=60)
    again.client.publish("", b"2", 1, properties=properties(PUBLISH, TopicAlias=1))

    assert again.wait_closed() == 0x82


def test_topic_alias_beyond_the_maximum_is_refused(connect5, name):
    alice = connect5()
    beyond = alice.connack.properties["TopicAliasMaximum"] + 1

    alice.client.publish(name, b"x", 1, properties=properties(PUBLISH, TopicAlias=beyond))

    assert alice.wait_closed() == 0x94


def test_no_alias_comes_to_a_client_that_allows_none(connect5, name):
    bob, alice = connect5(), connect5()
    bob.subscribe(name, 1)

    for _ in range(5):
        alice.publish(name, b"x", 1, TopicAlias=1)

    assert [(m.topic, m.properties) for m in bob.receive_all(5)] == [(name, {})] * 5


@pytest.mark.choice
def test_aliases_are_used_towards_a_client_that_allows_them(connect5, name):
    bob, alice = connect5(connect={"TopicAliasMaximum": 2}), connect5()
    bob.subscribe(f"{name}/#", 1)

    for n in range(12):
        alice.publish(f"{name}/{n % 3}", b"%d" % n, 1)

    aliases, empty = {}, 0
    for n, message in enumerate(bob.receive_all(12)):
        alias = message.properties.get("TopicAlias")
        assert alias is None or 1 <= alias <= 2
        if message.topic == "":
            empty += 1
            topic = aliases[alias]
        else:
            topic = message.topic
            if alias:
                aliases[alias] = topic
        assert (topic, message.payload) == (f"{name}/{n % 3}", b"%d" % n)
    assert empty > 0


def test_receive_maximum_bounds_what_is_unacknowledged(connect5, name):
    bob = connect5(manual_ack=True, connect={"ReceiveMaximum": 2})
    bob.subscribe(f"{name}/#", 1)
    alice = connect5()
    for n in range(5):
        alice.publish(f"{name}/1", b"%d" % n, 1)
    alice.publish(f"{name}/0", b"meanwhile", 0)

    first = bob.receive_all(3)
    assert sorted(m.payload for m in first) == [b"0", b"1", b"meanwhile"]
    assert bob.silent(0.3)

    held = [m for m in first if m.qos == 1]
    for n in range(2, 5):
        bob.ack(held.pop(0))
        held.append(bob.receive())
        assert held[-1].payload == b"%d" % n


def test_packet_beyond_the_clients_maximum_is_left_out(connect5, name):
    bob = connect5(connect={"MaximumPacketSize": 200})
    bob.subscribe(name, 1)
    alice = connect5()

    alice.publish(name, b"x" * 300, 1)
    alice.publish(name, b"y", 1, UserProperty=[("pad", "z" * 300)])
    alice.publish(name, b"small", 1)

    assert bob.receive().payload == b"small"


def test_empty_client_id_is_assigned_one_that_works(connect5, name):
    one, other = connect5("", expiry=60), connect5("")
    assigned = one.connack.properties["AssignedClientIdentifier"]
    assert assigned and assigned != other.connack.properties["AssignedClientIdentifier"]
    one.subscribe(name, 1)
    one.disconnect()
    other.publish(name, b"x", 1)

    again = connect5(assigned, clean=False, expiry=60)

    assert again.connack.session_present
    assert "AssignedClientIdentifier" not in again.connack.properties
    assert again.receive().payload == b"x"


def test_connack_says_only_what_differs_from_the_default(connect5, name):
    props = connect5(name).connack.properties

    assert props.get("ReceiveMaximum") != 0
    assert "MaximumQoS" not in props
    for available in (
        "RetainAvailable", "WildcardSubscriptionAvailable", "SubscriptionIdentifierAvailable",
        "SharedSubscriptionAvailable",
    ):
        assert props.get(available, 1) == 1


def test_server_keep_alive_is_told_when_the_client_asks_for_more(connect5, keep_alive_max):
    above = connect5(keep_alive=keep_alive_max + 1).connack.properties
    none = connect5(keep_alive=0).connack.properties
    within = connect5(keep_alive=keep_alive_max).connack.properties

    assert above["ServerKeepAlive"] == keep_alive_max
    assert none["ServerKeepAlive"] == keep_alive_max
    assert "ServerKeepAlive" not in within


def test_reason_codes_of_publishes(connect5, name):
    alice, bob = connect5(), connect5()

    for qos in (1, 2):
        assert alice.publish(f"{name}/unheard", b"x", qos) in (0x00, 0x10)
    bob.subscribe(name, 1)
    for qos in (1, 2):
        assert alice.publish(name, b"x", qos) == 0x00


@pytest.mark.choice
def test_a_publish_that_nobody_hears_is_told_so(connect5, name):
    # With QoS 2 the PUBREC says so; paho hands out the PUBCOMP's code alone.
    assert connect5().publish(name, b"x", 1) == 0x10


def test_response_information_comes_only_on_request(connect5):
    silent = connect5(connect={"RequestResponseInformation": 0}).connack.properties

    assert "ResponseInformation" not in silent


def test_request_is_answered_on_its_response_topic(connect5, name):
    server, client = connect5(), connect5()
    server.subscribe(f"{name}/request", 1)
    client.subscribe(f"{name}/answer/7", 1)

    client.publish(
        f"{name}/request", b"6*7", 1, ResponseTopic=f"{name}/answer/7", CorrelationData=b"\x00id",
    )
    asked = server.receive()
    server.publish(
        asked.properties["ResponseTopic"], b"42", 1,
        CorrelationData=asked.properties["CorrelationData"],
    )

    answer = client.receive()
    assert (answer.topic, answer.payload) == (f"{name}/answer/7", b"42")
    assert answer.properties == {"CorrelationData": b"\x00id"}
