"""mosquitto_pub to mosquitto_sub: QoS, order, size, versions, filters."""

import random

import pytest
from tool import VERSIONS


@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("sent", [0, 1, 2])
def test_qos_is_the_lower_of_sent_and_granted(publish, subscribe, version, name, sent, granted):
    bob = subscribe(version, name, granted)
    assert bob.granted == [granted]

    log = publish(version, name, "häll\"o", sent)

    message = bob.receive()
    assert (message.topic, message.payload) == (name, "häll\"o")
    assert (message.qos, message.retain) == (min(sent, granted), False)
    assert message.properties == {}
    answer = {0: "DISCONNECT", 1: "received PUBACK", 2: "received PUBCOMP"}[sent]
    assert answer in log


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_order_of_a_publisher_is_kept(publish, subscribe, version, name, qos):
    bob = subscribe(version, name, qos)
    lines = [f"line {n}" for n in range(300)]

    publish(version, name, None, qos, "-l", stdin="".join(l + "\n" for l in lines).encode())

    assert [m.payload for m in bob.receive_all(300)] == lines


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_large_payload_arrives_whole(publish, subscribe, version, name, qos):
    payload = random.Random(qos).randbytes(100 * 1024).hex()
    bob = subscribe(version, name, qos)

    publish(version, name, None, qos, "-s", stdin=payload.encode())

    got = bob.receive().payload
    assert len(got) == 200 * 1024
    assert got == payload


def test_empty_payload_arrives(publish, subscribe, version, name):
    bob = subscribe(version, name, 1)

    publish(version, name, None, 1)
    publish(version, name, "after", 1)

    assert [m.payload for m in bob.receive_all(2)] == ["", "after"]


@pytest.mark.parametrize("to", VERSIONS)
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_versions_understand_each_other(publish, subscribe, version, name, to, qos):
    bob = subscribe(to, f"{name}/#", qos)

    publish(version, f"{name}/a", "across", qos)

    message = bob.receive()
    assert (message.topic, message.payload, message.qos) == (f"{name}/a", "across", qos)
    assert message.properties == {}


@pytest.mark.parametrize("to", ["v3.1", "v3.1.1"])
def test_properties_do_not_spoil_the_payload_of_an_older_subscriber(publish, subscribe, name, to):
    bob = subscribe(to, name, 1)

    publish("v5", name, "payload", 1, properties={"publish": [
        ("user-property", "k", "v"), ("content-type", "a/b"), ("correlation-data", "c"),
    ]})

    message = bob.receive()
    assert (message.payload, message.properties) == ("payload", {})


def test_filters_match(publish, subscribe, version, name):
    bob = subscribe(version, [f"{name}/+/x", f"{name}/deep/#", f"{name}"], 1)
    assert bob.granted == [1, 1, 1]

    for level in ("", "/a/x", "/a/y", "/deep", "/deep/a/b", "/a/b/x", "/other", "//x"):
        publish(version, name + level, level or "top", 1)
    publish(version, name, "fence", 1)

    got = [m.payload for m in bob.receive_all(6)]
    assert got == ["top", "/a/x", "/deep", "/deep/a/b", "//x", "fence"]


def test_unsubscribed_filter_brings_nothing(publish, subscribe, version, name):
    bob = subscribe(version, [f"{name}/a", f"{name}/b"], 1, "-U", f"{name}/a")
    bob.wait_log("received UNSUBACK")

    publish(version, f"{name}/a", "no", 1)
    publish(version, f"{name}/b", "yes", 1)

    assert bob.receive().payload == "yes"
