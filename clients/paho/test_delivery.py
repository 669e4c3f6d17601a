"""What is published arrives: every QoS, every size, every pair of versions."""

import hashlib
import random

import pytest
from peer import V311, V5, VERSION_NAMES, VERSIONS


@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("sent", [0, 1, 2])
def test_qos_is_the_lower_of_sent_and_granted(connect, name, sent, granted):
    bob = connect()
    assert bob.subscribe(name, granted) == [granted]

    connect().publish(name, b"x", sent)

    message = bob.receive()
    assert (message.topic, message.payload) == (name, b"x")
    assert message.qos == min(sent, granted)
    assert not message.retain and not message.dup


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_order_of_a_publisher_is_kept(connect, name, qos):
    bob, alice = connect(), connect()
    bob.subscribe(name, qos)

    sent = [b"%d" % n for n in range(200)]
    for payload in sent:
        alice.client.publish(name, payload, qos)

    assert [m.payload for m in bob.receive_all(200)] == sent


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_large_payload_arrives_whole(connect, name, qos):
    payload = random.Random(qos).randbytes(200 * 1024)
    bob = connect()
    bob.subscribe(name, qos)

    connect().publish(name, payload, qos)

    got = bob.receive().payload
    assert len(got) == len(payload)
    assert hashlib.sha256(got).digest() == hashlib.sha256(payload).digest()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_empty_payload_and_every_byte_value_arrive(connect, name, qos):
    bob, alice = connect(), connect()
    bob.subscribe(name, qos)

    for payload in [b"", bytes(range(256))]:
        alice.publish(name, payload, qos)
        assert bob.receive().payload == payload


def test_topic_beyond_ascii_arrives(connect, name):
    topic = f"{name}/Größe/温度/🌊//x "
    bob = connect()
    bob.subscribe(topic, 1)

    connect().publish(topic, b"x", 1)

    assert bob.receive().topic == topic


def test_publisher_hears_itself(connect, name):
    alice = connect()
    alice.subscribe(name, 2)

    alice.publish(name, b"echo", 2)

    assert alice.receive().payload == b"echo"


def test_every_subscriber_gets_one_copy(connect, name):
    bobs = [connect() for _ in range(20)]
    for bob in bobs:
        bob.subscribe(name, 1)

    alice = connect()
    alice.publish(name, b"x", 1)
    alice.publish(name, b"end", 1)

    for bob in bobs:
        assert [m.payload for m in bob.receive_all(2)] == [b"x", b"end"]


@pytest.mark.parametrize("to", VERSIONS, ids=VERSION_NAMES.get)
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_versions_understand_each_other(connect, version, name, to, qos):
    bob = connect(version=to)
    bob.subscribe(f"{name}/+", qos)

    connect(version=version).publish(f"{name}/a", b"across", qos)

    message = bob.receive()
    assert (message.topic, message.payload, message.qos) == (f"{name}/a", b"across", qos)
    assert message.properties == {}


def test_properties_do_not_spoil_the_payload_of_an_older_subscriber(connect, name):
    old, new = connect(version=V311), connect(version=V5)
    old.subscribe(name, 1)
    new.subscribe(name, 1)

    connect(version=V5).publish(
        name, b"payload", 1, ContentType="text/plain", UserProperty=[("k", "v")],
        CorrelationData=b"\x00\x01", ResponseTopic="r",
    )

    assert old.receive().payload == b"payload"
    assert new.receive().properties["UserProperty"] == [("k", "v")]
