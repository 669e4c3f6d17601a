"""HAProxy in front: PROXY headers, TLS that ends outside, health checks, WebSocket over HTTP."""

import base64
import os
import socket
import subprocess
import time

import pytest

from node import PATIENCE, Node, Wire, client_context, connect, publish


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """A node that only proxies reach."""
    directory = tmp_path_factory.mktemp("behind")
    rules = directory / "rules"
    rules.write_text("user alice allow publish named/#\nanonymous allow publish open/#\n")
    node = Node(
        f"""
[auth]
acl_file = "{rules}"
[listener.plain]
bind = "127.0.0.1:0"
proxy_protocol = "any"
trusted_sources = ["127.0.0.0/8"]
source_connects_per_second = 1
source_connects_burst = 4
[listener.named]
bind = "127.0.0.1:0"
proxy_protocol = "v2"
trusted_sources = ["127.0.0.0/8"]
user_from = "proxy_cn"
[listener.web]
bind = "127.0.0.1:0"
transport = "ws"
ws_path = "/broker"
trusted_sources = ["127.0.0.0/8"]
source_connects_per_second = 1
source_connects_burst = 4
""",
        directory,
    )
    yield node
    node.stop()


class Proxy:
    """A HAProxy with a frontend a way in."""

    def __init__(self, directory, node, world):
        names = ["v1", "v2", "tls", "web"]
        self.port = {name: free_port() for name in names}
        self.stats = directory / "stats"
        both = directory / "both.pem"
        both.write_bytes(world.server[0].read_bytes() + world.server[1].read_bytes())
        config = f"""
global
  stats socket {self.stats} mode 600 level user
defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
  timeout tunnel 1m
frontend v1
  bind 127.0.0.1:{self.port["v1"]}
  default_backend v1
backend v1
  server one 127.0.0.1:{node.port("plain")} send-proxy check inter 200
frontend v2
  bind 127.0.0.1:{self.port["v2"]}
  default_backend v2
backend v2
  server one 127.0.0.1:{node.port("plain")} send-proxy-v2 check-send-proxy check inter 200
frontend tls
  bind 127.0.0.1:{self.port["tls"]} ssl crt {both} ca-file {world.ca.pem} verify optional
  default_backend tls
backend tls
  server one 127.0.0.1:{node.port("named")} send-proxy-v2-ssl-cn check-send-proxy check inter 200
frontend web
  mode http
  bind 127.0.0.1:{self.port["web"]}
  option forwardfor
  default_backend web
backend web
  mode http
  server one 127.0.0.1:{node.port("web")} check inter 200
"""
        file = directory / "haproxy.cfg"
        file.write_text(config)
        self.log = open(directory / "haproxy.log", "w+")
        self.process = subprocess.Popen(
            [os.environ.get("HAPROXY", "haproxy"), "-db", "-f", file],
            stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE
        while not self.stats.exists() or len(self.states()) < 4:
            assert self.process.poll() is None, (directory / "haproxy.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def states(self):
        """What the health checks say of each backend's server."""
        with socket.socket(socket.AF_UNIX) as stats:
            stats.connect(str(self.stats))
            stats.sendall(b"show stat\n")
            text = b""
            while more := stats.recv(65536):
                text += more
        rows = [line.split(",") for line in text.decode().splitlines() if ",one," in line]
        return {row[0]: row[17] for row in rows}


@pytest.fixture(scope="module")
def proxy(behind, world, tmp_path_factory):
    proxy = Proxy(tmp_path_factory.mktemp("haproxy"), behind, world)
    yield proxy
    proxy.process.terminate()
    proxy.process.wait(PATIENCE)


def code(wire, client="c"):
    reply = wire.ask(connect(client, 5))
    assert reply[:1] == b"\x20", reply
    return reply[3]


@pytest.mark.parametrize("way", ["v1", "v2"])
def test_clients_come_in_behind_a_header(proxy, way):
    wire = Wire(proxy.port[way], source="127.0.0.5" if way == "v1" else "127.0.0.6")
    assert code(wire) == 0
    assert wire.ask(publish("open/t", qos=1, level=5))[0] == 0x40


def test_the_source_is_the_client_and_not_the_proxy(proxy, behind):
    def come(source):
        try:
            return Wire(proxy.port["v2"], source=source).ask(connect("many", 5)) != b""
        except OSError:
            return False

    before = behind.metric('tidegate_connections_rejected_total{reason="source"}')
    assert sum(come("127.0.0.7") for _ in range(10)) <= 5
    assert come("127.0.0.8")
    assert behind.metric('tidegate_connections_rejected_total{reason="source"}') > before
    assert all(state.startswith("UP") for state in proxy.states().values()), proxy.states()


def test_tls_ends_outside_and_the_certificate_s_name_comes_through(proxy, world):
    alice = Wire(proxy.port["tls"], client_context(world.ca.pem, world.alice))
    assert code(alice) == 0
    assert alice.ask(publish("named/t", qos=1, level=5))[0] == 0x40
    assert alice.ask(publish("open/t", qos=1, packet_id=2, level=5))[4] == 0x87
    nobody = Wire(proxy.port["tls"], client_context(world.ca.pem))
    assert code(nobody) == 0x87, "no certificate, no user"


def test_health_checks_find_the_broker_up_and_leave_nothing_behind(proxy, behind):
    deadline = time.monotonic() + PATIENCE
    while not all(state.startswith("UP") for state in proxy.states().values()):
        assert time.monotonic() < deadline, proxy.states()
        time.sleep(0.1)
    time.sleep(2)
    assert all(state.startswith("UP") for state in proxy.states().values()), proxy.states()
    assert behind.metric("tidegate_connections_half_open") <= 8


def frame(payload):
    mask = b"\x01\x02\x03\x04"
    body = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    return bytes([0x82, 0x80 | len(payload)]) + mask + body


def websocket(port, forwarded=None):
    stream = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    key = base64.b64encode(os.urandom(16)).decode()
    more = f"X-Forwarded-For: {forwarded}\r\n" if forwarded else ""
    stream.sendall(
        f"GET /broker HTTP/1.1\r\nHost: mqtt.example\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: mqtt\r\n{more}\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        more = stream.recv(1)
        if not more:
            return None
        answer += more
    if b" 101 " not in answer.split(b"\r\n", 1)[0]:
        return None
    stream.sendall(frame(connect("web", 4)))
    return stream.recv(100)


def test_an_http_ingress_carries_websockets(proxy):
    time.sleep(1.1)
    assert websocket(proxy.port["web"]) == b"\x82\x04\x20\x02\x00\x00"


def test_x_forwarded_for_tells_where_a_websocket_comes_from(proxy, behind):
    # HAProxy adds the address that it sees, 127.0.0.1, which is trusted; the one
    # before it is the client's.
    assert [websocket(proxy.port["web"], "192.0.2.77") for _ in range(8)].count(None) >= 3
    assert websocket(proxy.port["web"], "192.0.2.78") == b"\x82\x04\x20\x02\x00\x00"
