"""Who comes in, with which answer; and what is not MQTT at all."""

import socket
import struct
import time

import pytest

from conftest import RULES
from node import PATIENCE, Wire, client_context, connect, publish, subscribe

LEVELS = {"3.1.1": 4, "5.0": 5}


def connack(reply):
    assert reply[:1] == b"\x20", reply
    return reply[3]


# What comes, and the code for 3.1.1 and 5.0.
ATTEMPTS = {
    "right": (dict(user="alice", password="secret"), 0, 0),
    "wrong password": (dict(user="alice", password="guess"), 4, 0x86),
    "no password": (dict(user="alice"), 4, 0x86),
    "unknown user": (dict(user="nobody", password="secret"), 4, 0x86),
    "nobody said": (dict(), 5, 0x87),
}


@pytest.mark.parametrize("version", LEVELS)
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_credentials_are_answered_with_their_code(guarded, attempt, version):
    given, code_3, code_5 = ATTEMPTS[attempt]
    if version == "3.1.1" and "user" not in given:
        assert "password" not in given
    wire = Wire(guarded.port("closed"))
    code = connack(wire.ask(connect("a", LEVELS[version], **given)))
    assert code == (code_3 if version == "3.1.1" else code_5)
    assert code == 0 or wire.closed()


@pytest.mark.parametrize("version", LEVELS)
def test_a_listener_may_take_both_and_still_checks_who_names_itself(guarded, version):
    level = LEVELS[version]
    assert connack(Wire(guarded.port("both")).ask(connect("a", level))) == 0
    wrong = connect("a", level, user="alice", password="guess")
    assert connack(Wire(guarded.port("both")).ask(wrong)) == (4 if level == 4 else 0x86)


def alice(guarded, client="mine", level=5):
    wire = Wire(guarded.port("closed"))
    assert connack(wire.ask(connect(client, level, user="alice", password="secret"))) == 0
    return wire


def test_rules_decide_over_publishing(guarded):
    wire = alice(guarded)
    assert wire.ask(publish("mine/t", qos=1, level=5))[0] == 0x40
    assert wire.ask(publish("other/t", qos=1, level=5))[4] == 0x87
    wire = alice(guarded, level=4)
    assert wire.ask(publish("other/t", qos=1))[0] == 0x40, "3.1.1 cannot be told"
    assert wire.ask(publish("other/t", qos=2))[0] == 0x50
    assert guarded.metric('tidegate_messages_dropped_total{reason="acl"}') >= 3


def test_rules_decide_over_subscribing(guarded):
    wire = alice(guarded)
    assert wire.ask(subscribe("mine/#", level=5))[-1] == 0
    assert wire.ask(subscribe("#", level=5))[-1] == 0x87
    assert alice(guarded, level=4).ask(subscribe("other/#"))[-1] == 0x80


@pytest.mark.parametrize("version", LEVELS)
def test_rules_decide_over_wills(guarded, version):
    level = LEVELS[version]
    for topic, allowed in [("mine/will", True), ("other/will", False)]:
        attempt = connect("mine", level, user="alice", password="secret", will=topic)
        code = connack(Wire(guarded.port("closed")).ask(attempt))
        assert code == (0 if allowed else 5 if level == 4 else 0x87)


def test_new_rules_hold_for_who_is_connected(guarded):
    wire, source = alice(guarded, "recheck"), alice(guarded, "source")
    assert wire.ask(subscribe("shared/x", level=5))[-1] == 0
    source.send(publish("shared/x", b"one", level=5))
    assert wire.receive().endswith(b"one")
    guarded.rules.write_text("user alice allow publish shared/#\nuser alice allow subscribe mine/#\n")
    try:
        guarded.reload()
        source.send(publish("shared/x", b"two", level=5))
        assert wire.ask(b"\xc0\0") == b"\xd0\0", "nothing but the answer to the ping"
        assert guarded.metric("tidegate_subscriptions_revoked_total") >= 1
    finally:
        guarded.rules.write_text(RULES)
        guarded.reload()


def test_rules_with_a_fault_leave_the_old_ones(guarded):
    after = len(guarded.said())
    guarded.rules.write_text("user alice permit all #\n")
    try:
        guarded.reload()
        assert "auth.acl_file" in guarded.said()[after:]
        assert alice(guarded).ask(subscribe("#", level=5))[-1] == 0x87
    finally:
        guarded.rules.write_text(RULES)
        guarded.reload()


def test_a_certificate_names_its_user(guarded, world):
    context = client_context(world.ca.pem, world.alice)
    wire = Wire(guarded.port("cn"), context)
    assert connack(wire.ask(connect("c", 5))) == 0
    assert wire.ask(publish("c/t", qos=1, level=5))[0] == 0x40, "alice may"
    wire = Wire(guarded.port("cn"), client_context(world.ca.pem))
    assert connack(wire.ask(connect("c", 5))) == 0x87, "no certificate, no user"
    wire = Wire(guarded.port("san"), context)
    assert connack(wire.ask(connect("c", 5))) == 0
    denied = wire.ask(publish("c/t", qos=1, level=5))
    assert denied[4] == 0x87, "alice.example is another user"
    assert wire.ask(publish("shared/in", qos=1, packet_id=2, level=5))[0] == 0x40


SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(source="192.0.2.1", entries=b"", command=0x21):
    body = socket.inet_aton(source) + socket.inet_aton("192.0.2.2") + struct.pack(">HH", 1, 2)
    body += entries
    return SIGNATURE + bytes([command, 0x11]) + len(body).to_bytes(2, "big") + body


def entry(kind, value):
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def test_a_proxy_names_the_user(guarded):
    def come(verified):
        value = bytes([5]) + (0 if verified else 1).to_bytes(4, "big") + entry(0x22, b"alice")
        wire = Wire(guarded.port("proxy_cn"), first=v2(entries=entry(0x20, value)))
        return wire, connack(wire.ask(connect("p", 5)))

    wire, code = come(True)
    assert code == 0 and wire.ask(publish("p/t", qos=1, level=5))[0] == 0x40
    assert come(False)[1] == 0x87
    plain = Wire(guarded.port("proxy_cn"), first=v2())
    assert connack(plain.ask(connect("p", 5))) == 0x87


def test_a_listener_that_is_full_closes_at_once(guarded):
    inside = [Wire(guarded.port("few")) for _ in range(2)]
    assert [connack(wire.ask(connect(f"few{n}"))) for n, wire in enumerate(inside)] == [0, 0]
    assert Wire(guarded.port("few")).closed()
    inside[0].close()
    deadline = time.monotonic() + PATIENCE
    while not (reply := try_connect(guarded.port("few"))):
        assert time.monotonic() < deadline
    assert connack(reply) == 0


def try_connect(port):
    try:
        return Wire(port).ask(connect("next"))
    except OSError:
        return b""


def test_connections_beyond_the_rate_are_refused(guarded):
    port = guarded.port("slow")
    time.sleep(2.1)
    replies = [try_connect(port) for _ in range(6)]
    assert 2 <= sum(reply != b"" for reply in replies) <= 3, replies
    # In the kernel, where eBPF may be had; else after the accept.
    refused = [
        guarded.metric('tidegate_connections_rejected_total{reason="rate"}'),
        guarded.metric('tidegate_kernel_refused_connections_total{listener="slow",reason="rate"}'),
    ]
    assert sum(refused) >= 3, refused


def test_a_source_that_the_proxy_tells_of_has_a_rate_of_its_own(node):
    def come(source):
        try:
            return Wire(node.port("proxy"), first=v2(source)).ask(connect("s")) != b""
        except OSError:
            return False

    assert sum(come("192.0.2.10") for _ in range(6)) <= 4
    assert come("192.0.2.11")
    assert node.metric('tidegate_connections_rejected_total{reason="source"}') >= 2


def test_a_header_of_version_1_and_a_health_check(node):
    wire = Wire(node.port("proxy"), first=b"PROXY TCP4 192.0.2.20 192.0.2.2 1 2\r\n")
    assert connack(wire.ask(connect("one"))) == 0
    check = Wire(node.port("proxy"), first=SIGNATURE + b"\x20\0\0\0")
    check.socket.shutdown(socket.SHUT_WR)
    assert check.closed(), "an orderly end, which a balancer takes for health"
    wire = Wire(node.port("proxy"), first=SIGNATURE + b"\x20\0\0\0")
    assert connack(wire.ask(connect("two"))) == 0


def test_a_proxy_that_is_not_trusted_is_not_heard(node):
    with pytest.raises((OSError, AssertionError)):
        reply = Wire(node.port("stranger"), first=v2()).ask(connect("x"))
        assert reply != b""


HELLO = b"\x16\x03\x01\0\xc8\x01\0\0\xc4\x03\x03"
GARBAGE = {
    "mqtt": connect("x"),
    "tls": HELLO + bytes(192),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "proxy": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + connect("x"),
    "noise": bytes(range(1, 200)),
}


@pytest.mark.parametrize("place", ["tcp", "tls", "ws", "wss", "proxy", "required"])
@pytest.mark.parametrize("what", GARBAGE)
def test_what_does_not_belong_on_a_listener_ends_there(node, place, what):
    """Closed, perhaps after an answer of that layer, and the next client is served."""
    if (place, what) not in [("tcp", "mqtt"), ("proxy", "proxy")]:
        wire = socket.create_connection(("127.0.0.1", node.port(place)), timeout=PATIENCE)
        wire.sendall(GARBAGE[what])
        try:
            while wire.recv(65536):
                pass
        except ConnectionResetError:
            pass
    assert connack(Wire(node.port("tcp")).ask(connect("after"))) == 0


def test_a_browser_gets_an_answer_that_it_can_show(node):
    wire = socket.create_connection(("127.0.0.1", node.port("ws")), timeout=PATIENCE)
    wire.sendall(b"GET /mqtt HTTP/1.1\r\nHost: broker\r\nUser-Agent: Mozilla\r\n\r\n")
    answer = b""
    while more := wire.recv(65536):
        answer += more
    assert answer.startswith(b"HTTP/1.1 426 ") and b"not a web page" in answer


SLOW = {
    "tcp": connect("slow"),
    "tls": HELLO + bytes(192),
    "ws": b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n",
    "proxy": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
}


@pytest.mark.parametrize("place", SLOW)
def test_who_dribbles_is_closed_in_time_and_others_come_in_meanwhile(node, place):
    wires = [socket.create_connection(("127.0.0.1", node.port(place))) for _ in range(50)]
    began, at = time.monotonic(), 0
    open_wires = list(wires)
    while open_wires and time.monotonic() < began + PATIENCE:
        for wire in list(open_wires):
            try:
                wire.sendall(SLOW[place][at : at + 1])
                wire.setblocking(False)
                gone = wire.recv(1024) == b""
            except BlockingIOError:
                gone = False
            except OSError:
                gone = True
            wire.setblocking(True)
            if gone:
                open_wires.remove(wire)
        at = min(at + 1, len(SLOW[place]) - 2)
        assert connack(Wire(node.port("tcp")).ask(connect("good"))) == 0
        time.sleep(0.2)
    took = time.monotonic() - began
    assert not open_wires and took < 10, f"{len(open_wires)} open after {took:.1f} s"
