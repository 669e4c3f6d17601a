"""One paho client as a case sees it: every call waits for its answer."""

import queue
import socket
import threading
from dataclasses import dataclass

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

V31, V311, V5 = mqtt.MQTTv31, mqtt.MQTTv311, mqtt.MQTTv5
VERSIONS = [V31, V311, V5]
VERSION_NAMES = {V31: "v3.1", V311: "v3.1.1", V5: "v5"}
PATIENCE = 20.0

CONNECT, PUBLISH = PacketTypes.CONNECT, PacketTypes.PUBLISH
SUBSCRIBE, DISCONNECT, WILL = PacketTypes.SUBSCRIBE, PacketTypes.DISCONNECT, PacketTypes.WILLMESSAGE


def properties(packet, **fields):
    """Properties of a packet: properties(PUBLISH, ContentType="text/plain")."""
    made = Properties(packet)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


@dataclass
class Message:
    """A PUBLISH as it came."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    mid: int
    properties: dict


def known(props):
    """What the properties say, by name; empty before 5.0."""
    if props is None:
        return {}
    return {key: value for key, value in vars(props).items() if key in KNOWN}


KNOWN = {
    "PayloadFormatIndicator", "MessageExpiryInterval", "ContentType", "ResponseTopic",
    "CorrelationData", "SubscriptionIdentifier", "SessionExpiryInterval",
    "AssignedClientIdentifier", "ServerKeepAlive", "ResponseInformation", "ServerReference",
    "ReasonString", "ReceiveMaximum", "TopicAliasMaximum", "TopicAlias", "MaximumQoS",
    "RetainAvailable", "UserProperty", "MaximumPacketSize", "WildcardSubscriptionAvailable",
    "SubscriptionIdentifierAvailable", "SharedSubscriptionAvailable",
}


class Peer:
    """A connected client; `with` ends it with a DISCONNECT, `drop` without one."""

    def __init__(
        self, address, version, client_id="", *, clean=True, expiry=None, keep_alive=60,
        will=None, manual_ack=False, connect=None,
    ):
        self.version = version
        self.messages = queue.Queue()
        self.answers = {}
        self.answered = threading.Condition()
        self.connected = threading.Event()
        self.disconnected = threading.Event()
        self.connack = None
        self.disconnect_reason = None

        five = version == V5
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=version,
            clean_session=None if five else clean, reconnect_on_failure=False,
            manual_ack=manual_ack,
        )
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = self._on_message
        self.client.on_subscribe = self._on_answer
        self.client.on_unsubscribe = self._on_answer
        self.client.on_publish = self._on_publish
        if will:
            self.client.will_set(**will)

        more = {}
        if five:
            fields = dict(connect or {})
            if expiry is not None:
                fields["SessionExpiryInterval"] = expiry
            more = {"clean_start": clean, "properties": properties(CONNECT, **fields)}
        self.client.connect(*address, keepalive=keep_alive, **more)
        self.client.loop_start()
        assert self.connected.wait(PATIENCE), "no CONNACK"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self.disconnected.is_set():
            self.disconnect()
        self.client.loop_stop()

    def subscribe(self, filter, qos=0, *, options=None, identifier=None):
        """Subscribes and gives the reason codes of the SUBACK."""
        props = identifier and properties(SUBSCRIBE, SubscriptionIdentifier=identifier)
        if options is not None:
            _, mid = self.client.subscribe(filter, options=options, properties=props)
        elif self.version == V5:
            _, mid = self.client.subscribe(
                filter, options=mqtt.SubscribeOptions(qos=qos), properties=props
            )
        else:
            _, mid = self.client.subscribe(filter, qos)
        return self._answer(mid)

    def subscribe_all(self, filters):
        """One SUBSCRIBE with many (filter, qos) entries."""
        if self.version == V5:
            filters = [(filter, mqtt.SubscribeOptions(qos=qos)) for filter, qos in filters]
        _, mid = self.client.subscribe(filters)
        return self._answer(mid)

    def unsubscribe(self, filter):
        """Unsubscribes and gives the reason codes of the UNSUBACK (none before 5.0)."""
        _, mid = self.client.unsubscribe(filter)
        return self._answer(mid)

    def publish(self, topic, payload=b"", qos=0, *, retain=False, **props):
        """Publishes, waits until the exchange is over, and gives its reason code."""
        made = properties(PUBLISH, **props) if props else None
        info = self.client.publish(topic, payload, qos, retain, made)
        return self._answer(info.mid)[0]

    def receive(self, patience=PATIENCE):
        """The next message."""
        try:
            return self.messages.get(timeout=patience)
        except queue.Empty:
            raise AssertionError("no message came") from None

    def receive_all(self, count):
        """The next `count` messages."""
        return [self.receive() for _ in range(count)]

    def silent(self, seconds):
        """Whether no message comes for so long. For what a later message can't prove."""
        try:
            self.messages.get(timeout=seconds)
        except queue.Empty:
            return True
        return False

    def ack(self, message):
        """Acknowledges under `manual_ack`."""
        self.client.ack(message.mid, message.qos)

    def disconnect(self, reason=None, **props):
        """Ends with a DISCONNECT and waits until the connection is closed."""
        if self.version == V5:
            code = mqtt.ReasonCode(PacketTypes.DISCONNECT, identifier=reason or 0)
            made = properties(DISCONNECT, **props) if props else None
            self.client.disconnect(code, made)
        else:
            self.client.disconnect()
        assert self.disconnected.wait(PATIENCE), "the connection stayed"

    def drop(self):
        """Cuts the connection without a DISCONNECT."""
        self.client.socket().shutdown(socket.SHUT_RDWR)
        assert self.disconnected.wait(PATIENCE), "the connection stayed"

    def wait_closed(self, patience=PATIENCE):
        """Waits until the broker has closed and gives the code of its DISCONNECT."""
        assert self.disconnected.wait(patience), "the broker did not close"
        return self.disconnect_reason

    def _answer(self, mid):
        with self.answered:
            assert self.answered.wait_for(lambda: mid in self.answers, PATIENCE), "no answer"
            return self.answers.pop(mid)

    def _on_connect(self, _client, _userdata, flags, reason, props):
        # 3.1 has no such flag: the byte is reserved there.
        present = None if self.version == V31 else flags.session_present
        self.connack = Connack(present, reason.value, known(props))
        self.connected.set()

    def _on_disconnect(self, _client, _userdata, flags, reason, _props):
        self.disconnect_reason = reason.value if flags.is_disconnect_packet_from_server else None
        self.disconnected.set()

    def _on_message(self, _client, _userdata, m):
        props = known(m.properties)
        self.messages.put(Message(m.topic, m.payload, m.qos, m.retain, m.dup, m.mid, props))

    def _on_answer(self, _client, _userdata, mid, reasons, _props):
        with self.answered:
            self.answers[mid] = [reason.value for reason in reasons]
            self.answered.notify_all()

    def _on_publish(self, _client, _userdata, mid, reason, _props):
        with self.answered:
            self.answers[mid] = [reason.value]
            self.answered.notify_all()


@dataclass
class Connack:
    """The broker's answer to a CONNECT; 3.1 does not say whether there was a session."""

    session_present: bool | None
    reason: int
    properties: dict
