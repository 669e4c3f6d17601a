"""What 5.0 adds, with mosquitto's own tools."""

import threading
import time

import pytest
from tool import request


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_properties_pass_unchanged_and_in_order(publish, subscribe, name, qos):
    bob = subscribe("v5", name, qos, properties={"subscribe": [("subscription-identifier", 77)]})
    pairs = [("zeta", "1"), ("alpha", "2"), ("zeta", "1"), ("ключ", "значение")]

    publish("v5", name, "{}", qos, properties={"publish": [
        ("payload-format-indicator", 1), ("content-type", "application/json"),
        ("response-topic", f"{name}/answer"), ("correlation-data", "id-7"),
        *(("user-property", k, v) for k, v in pairs),
    ]})

    assert bob.receive().properties == {
        "payload-format-indicator": 1, "content-type": "application/json",
        "response-topic": f"{name}/answer", "correlation-data": "id-7",
        "user-properties": pairs, "subscription-identifier": 77,
    }


def test_message_expiry_is_counted_down_while_it_waits(publish, subscribe, name):
    subscribe("v5", name, 1, "-c", "-i", name).stop()
    publish("v5", name, "short", 1, properties={"publish": [("message-expiry-interval", 1)]})
    publish("v5", name, "long", 1, properties={"publish": [("message-expiry-interval", 100)]})
    time.sleep(2.2)

    message = subscribe("v5", name, 1, "-c", "-i", name).receive()

    assert message.payload == "long"
    assert message.properties["message-expiry-interval"] in (97, 98)


def test_topic_alias_stands_for_its_topic(publish, subscribe, name):
    bob = subscribe("v5", f"{name}/#", 1)

    log = publish("v5", f"{name}/topic", "x", 1, "--repeat", "4",
                  properties={"publish": [("topic-alias", 3)]})

    assert log.count("'(null)'") + log.count("''") == 3, "the tool did not use its alias"
    assert [(m.topic, m.payload) for m in bob.receive_all(4)] == [(f"{name}/topic", "x")] * 4


def test_receive_maximum_of_one_still_brings_everything_in_order(publish, subscribe, name):
    bob = subscribe("v5", name, 2, properties={"connect": [("receive-maximum", 1)]})

    publish("v5", name, None, 2, "-l", stdin=b"".join(b"%d\n" % n for n in range(50)))

    assert [int(m.payload) for m in bob.receive_all(50)] == list(range(50))


def test_packet_beyond_the_clients_maximum_is_left_out(publish, subscribe, name):
    bob = subscribe("v5", name, 1, properties={"connect": [("maximum-packet-size", 200)]})

    publish("v5", name, "x" * 300, 1)
    publish("v5", name, "small", 1)

    assert bob.receive().payload == "small"


def test_empty_client_id_is_assigned(publish, name):
    log = publish("v5", name, "x", 1)

    assert "Client (null) sending CONNECT" in log
    assigned = [line.split()[1] for line in log.splitlines() if "received CONNACK" in line]
    assert len(assigned) == 1 and assigned[0] not in ("", "(null)", "received")


def test_request_is_answered_on_its_response_topic(address, publish, subscribe, name):
    server = subscribe("v5", f"{name}/request", 1)

    def answer():
        asked = server.receive()
        publish("v5", asked.properties["response-topic"], f"re: {asked.payload}", 1, properties={
            "publish": [("correlation-data", asked.properties["correlation-data"])],
        })

    thread = threading.Thread(target=answer)
    thread.start()
    got = request(address, "v5", f"{name}/request", f"{name}/answer", "6*7",
                  properties={"publish": [("correlation-data", "id")]})
    thread.join()

    assert got == b"re: 6*7\n"
