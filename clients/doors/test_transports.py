"""mosquitto's tools and paho over each transport, with good and bad certificates."""

import os
import queue
import ssl
import subprocess

import paho.mqtt.client as mqtt
import pytest

from node import PATIENCE, Wire, client_context, connect

PAYLOAD = b"p" * 70_000
PLACES = ["tcp", "dual", "unix", "tls", "newest", "ws", "wss"]


class Paho:
    """A connected paho client that keeps what it gets."""

    def __init__(self, node, place, ca, host="localhost"):
        transport = {"ws": "websockets", "wss": "websockets", "unix": "unix"}.get(place, "tcp")
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, transport=transport)
        if transport == "websockets":
            self.client.ws_set_options(path="/mqtt")
        if place in ("tls", "newest", "wss"):
            self.client.tls_set(ca_certs=ca)
        self.got, self.subscribed, self.connected = queue.Queue(), queue.Queue(), queue.Queue()
        self.client.on_message = lambda _c, _u, message: self.got.put(message)
        self.client.on_subscribe = lambda *_: self.subscribed.put(True)
        self.client.on_connect = lambda *args: self.connected.put(args[3])
        if place == "unix":
            self.client.connect(node.ports["unix"].removeprefix("unix:"), 1)
        else:
            self.client.connect(host, node.port(place))
        self.client.loop_start()
        assert self.connected.get(timeout=PATIENCE) == 0

    def stop(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def paho(node, world):
    made = []

    def make(place, host="localhost"):
        made.append(Paho(node, place, world.ca.pem, host))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_large_message_goes_round(paho, place, qos):
    one = paho(place, "127.0.0.1" if place == "dual" else "localhost")
    one.client.subscribe(f"round/{place}", qos)
    one.subscribed.get(timeout=PATIENCE)
    one.client.publish(f"round/{place}", PAYLOAD, qos)
    message = one.got.get(timeout=PATIENCE)
    assert (message.payload, message.qos) == (PAYLOAD, qos)


def test_dual_stack_takes_ipv6_too(paho):
    paho("dual", "::1")


@pytest.mark.parametrize("place", PLACES)
def test_every_transport_reaches_every_other(paho, place):
    reader = paho("tcp")
    reader.client.subscribe("from/+", 1)
    reader.subscribed.get(timeout=PATIENCE)
    paho(place, "127.0.0.1" if place == "dual" else "localhost").client.publish(f"from/{place}", b"x", 1)
    assert reader.got.get(timeout=PATIENCE).topic == f"from/{place}"


def many(paho, place):
    """Hundreds of messages back to back, so that frames and records share reads."""
    one = paho(place)
    one.client.subscribe(f"many/{place}", 1)
    one.subscribed.get(timeout=PATIENCE)
    for n in range(300):
        one.client.publish(f"many/{place}", str(n), 1)
    return [int(one.got.get(timeout=PATIENCE).payload) for _ in range(300)]


@pytest.mark.parametrize("place", ["tls", "ws", "wss"])
def test_many_messages_keep_their_order(paho, place):
    assert many(paho, place) == list(range(300))


def mosquitto(node, place, *arguments):
    """mosquitto_pub's exit status and words."""
    where = (
        ["--unix", node.ports["unix"].removeprefix("unix:")]
        if place == "unix"
        else ["-h", "localhost", "-p", str(node.port(place))]
    )
    done = subprocess.run(
        ["mosquitto_pub", *where, "-t", "mosquitto", "-m", "x", "-q", "2", *map(str, arguments)],
        capture_output=True, text=True, timeout=PATIENCE,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("place", ["tcp", "unix"])
def test_mosquitto_publishes(node, place):
    assert mosquitto(node, place)[0] == 0


@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
def test_mosquitto_publishes_over_tls(node, world, version):
    assert mosquitto(node, "tls", "--cafile", world.ca.pem, "--tls-version", version)[0] == 0


def test_mosquitto_finds_a_wrong_authority_out(node, world):
    status, said = mosquitto(node, "tls", "--cafile", world.other.pem)
    assert status != 0, said


CLIENTS = {"none": False, "alice": True, "expired": False, "revoked": False, "stranger": False}


@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
@pytest.mark.parametrize("shown", CLIENTS)
def test_a_client_certificate_is_required_and_has_to_be_good(node, world, shown, version):
    arguments = ["--cafile", world.ca.pem, "--tls-version", version]
    if shown != "none":
        certificate, key = getattr(world, shown)
        arguments += ["--cert", certificate, "--key", key]
    status, said = mosquitto(node, "required", *arguments)
    assert (status == 0) == CLIENTS[shown], said
    status, said = mosquitto(node, "optional", *arguments)
    assert (status == 0) == (CLIENTS[shown] or shown == "none"), said


def test_the_old_version_is_refused_where_the_new_one_is_asked_for(node, world):
    old = client_context(world.ca.pem, version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises(ssl.SSLError):
        Wire(node.port("newest"), old)
    assert Wire(node.port("tls"), old).ask(connect("old"))[0] == 0x20


def shown(node, place, world, name):
    context = client_context(world.ca.pem)
    context.check_hostname = False
    wire = Wire(node.port(place), context, name)
    assert wire.ask(connect("who"))[:2] == b"\x20\x02"
    return wire.socket.getpeercert()["subject"][0][0][1]


def test_the_certificate_follows_the_name_that_is_asked_for(node, world):
    assert shown(node, "tls", world, "second.example") == "second.example"
    assert shown(node, "tls", world, "localhost") == "localhost"
    assert shown(node, "tls", world, "unknown.example") == "localhost"


def test_a_client_that_checks_names_refuses_a_wrong_one(node, world):
    with pytest.raises(ssl.SSLCertVerificationError):
        Wire(node.port("tls"), client_context(world.ca.pem), "wrong.example")


def openssl(node, place, *arguments):
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{node.port(place)}", *map(str, arguments)],
        input="", capture_output=True, text=True, timeout=PATIENCE,
    )
    return done.stdout + done.stderr


def test_alpn_is_agreed_on_and_an_unknown_protocol_refused(node, world):
    assert "ALPN protocol: mqtt" in openssl(node, "tls", "-alpn", "mqtt", "-CAfile", world.ca.pem)
    assert "ALPN protocol: http/1.1" in openssl(node, "wss", "-alpn", "http/1.1")
    assert "no application protocol" in openssl(node, "tls", "-alpn", "imap").lower()


def test_what_is_broken_is_not_offered(node):
    for old in ["-tls1", "-tls1_1"]:
        assert "Cipher is (NONE)" in openssl(node, "tls", old, "-cipher", "ALL:@SECLEVEL=0")
    for weak in ["RC4", "3DES", "aNULL", "NULL", "EXP", "AES128-SHA", "ECDHE-ECDSA-AES128-SHA"]:
        said = openssl(node, "tls", "-tls1_2", "-cipher", f"{weak}:@SECLEVEL=0")
        assert "Cipher is (NONE)" in said or "no cipher match" in said, weak


def test_a_session_is_resumed_by_its_ticket(node, world, tmp_path):
    file = tmp_path / "session"
    context = client_context(world.ca.pem)
    first = Wire(node.port("tls"), context)
    assert first.ask(connect("one"))[0] == 0x20
    session = first.socket.session
    again = context.wrap_socket(
        __import__("socket").create_connection(("127.0.0.1", node.port("tls"))),
        server_hostname="localhost", session=session,
    )
    assert again.session_reused, file


SCHEMES = {"tcp": "mqtt", "tls": "mqtts", "newest": "mqtts", "ws": "ws", "wss": "wss"}


def mqttjs(node, place, *files):
    path = "/mqtt" if place in ("ws", "wss") else ""
    url = f"{SCHEMES.get(place, 'mqtts')}://localhost:{node.port(place)}{path}"
    done = subprocess.run(
        ["node", "mqttjs/through.mjs", url, *map(str, files)],
        capture_output=True, text=True, timeout=2 * PATIENCE,
    )
    return done.stdout.strip() + done.stderr


@pytest.mark.parametrize("place", SCHEMES)
def test_mqttjs_gets_its_messages(node, world, place):
    assert mqttjs(node, place, world.ca.pem) == "0:70000 1:70000 2:70000"


@pytest.mark.parametrize("shown", ["alice", "stranger", "none"])
def test_mqttjs_shows_its_certificate(node, world, shown):
    files = [] if shown == "none" else getattr(world, shown)
    said = mqttjs(node, "required", world.ca.pem, *files)
    assert (said == "0:70000 1:70000 2:70000") == (shown == "alice"), said


def test_mqttjs_finds_a_wrong_authority_out(node, world):
    assert "error" in mqttjs(node, "wss", world.other.pem)


RUMQTTC = {"tcp": "tcp", "tls": "ssl", "newest": "ssl", "required": "ssl", "ws": "ws", "wss": "wss"}


def rumqttc(node, place, *files):
    done = subprocess.run(
        [os.environ["RUMQTTC_THROUGH"], RUMQTTC[place], "localhost", str(node.port(place)), *map(str, files)],
        capture_output=True, text=True, timeout=2 * PATIENCE,
    )
    return done.stdout.strip() + done.stderr


@pytest.mark.parametrize("place", [place for place in RUMQTTC if place != "required"])
def test_rumqttc_gets_its_messages(node, world, place):
    assert rumqttc(node, place, world.ca.pem) == "0:70000 1:70000 2:70000"


@pytest.mark.parametrize("shown", ["alice", "expired", "revoked", "stranger", "none"])
def test_rumqttc_shows_its_certificate(node, world, shown):
    files = [] if shown == "none" else getattr(world, shown)
    said = rumqttc(node, "required", world.ca.pem, *files)
    assert (said == "0:70000 1:70000 2:70000") == (shown == "alice"), said


@pytest.mark.parametrize("place", ["tls", "wss"])
def test_rumqttc_finds_a_wrong_authority_out(node, world, place):
    assert "UnknownIssuer" in rumqttc(node, place, world.other.pem)


@pytest.mark.parametrize("version", ["tlsv1.2", "tlsv1.3"])
def test_mosquitto_s_subscriber_gets_over_tls_what_came_over_tcp(node, world, version):
    topic = f"subscriber/{version}"
    reader = subprocess.Popen(
        ["mosquitto_sub", "-h", "localhost", "-p", str(node.port("tls")), "--cafile", world.ca.pem,
         "--tls-version", version, "-t", topic, "-q", "2", "-C", "1", "-W", str(PATIENCE), "-F", "%q %p"],
        stdout=subprocess.PIPE, text=True,
    )
    # Retained, so that it does not matter which of the two comes first.
    sent = mosquitto(node, "tcp", "-t", topic, "-r")
    assert sent[0] == 0, sent
    assert reader.communicate(timeout=2 * PATIENCE)[0] == "2 x\n"
