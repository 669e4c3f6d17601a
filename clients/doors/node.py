"""A broker of its own with a config of its own, and raw MQTT to speak to it."""

import os
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

PATIENCE = 20.0


class Node:
    """A running broker; `ports` by the name of the listener."""

    def __init__(self, config, directory=None):
        self.dir = Path(directory or tempfile.mkdtemp(prefix="tidegate-doors-"))
        self.file = self.dir / "tidegate.toml"
        self.log = open(self.dir / "log", "w+")
        head = f'[node]\ndata_dir = "{self.dir}/data"\n[admin]\nbind = "127.0.0.1:0"\n'
        self.head = head
        self.file.write_text(head + config)
        self.process = subprocess.Popen(
            [os.environ["TIDEGATE_BIN"], "run", "--shards", "2", "--config", self.file],
            stdout=self.log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )
        self.ports = {}
        for line in self.wait_for("\nready\n").splitlines():
            match line.split():
                case ["listening", "mqtt", name, address]:
                    self.ports[name] = address
                case ["listening", "admin", address]:
                    self.admin = address

    def said(self):
        return (self.dir / "log").read_text()

    def wait_for(self, text, after=0):
        deadline = time.monotonic() + PATIENCE
        while text not in (said := self.said())[after:]:
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, f"{text!r} is not in:\n{said}"
            time.sleep(0.02)
        return said

    def port(self, name):
        return int(self.ports[name].rpartition(":")[2])

    def reload(self, config=None):
        if config is not None:
            self.file.write_text(self.head + config)
        after = len(self.said())
        self.process.send_signal(signal.SIGHUP)
        self.wait_for("config reloaded", after)

    def metric(self, name):
        """The sum of a metric's series whose line begins with `name`."""
        with urllib.request.urlopen(f"http://{self.admin}/metrics", timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def stop(self):
        self.process.terminate()
        assert self.process.wait(30) == 0, self.said()


# --- Raw MQTT ------------------------------------------------------------------


def text(value):
    value = value if isinstance(value, bytes) else value.encode()
    return len(value).to_bytes(2, "big") + value


def packet(first, body):
    length, rest = b"", len(body)
    while True:
        rest, digit = divmod(rest, 128)
        length += bytes([digit | (128 if rest else 0)])
        if not rest:
            return bytes([first]) + length + body


def connect(client, level=4, user=None, password=None, will=None, keep_alive=0):
    flags = 2 | (0x80 if user is not None else 0) | (0x40 if password is not None else 0)
    flags |= 4 if will else 0
    body = text("MQTT") + bytes([level, flags]) + keep_alive.to_bytes(2, "big")
    body += b"\0" if level == 5 else b""
    body += text(client)
    if will:
        body += (b"\0" if level == 5 else b"") + text(will) + text("gone")
    body += text(user) if user is not None else b""
    body += text(password) if password is not None else b""
    return packet(0x10, body)


def publish(topic, payload=b"x", qos=0, packet_id=1, level=4):
    body = text(topic) + (packet_id.to_bytes(2, "big") if qos else b"")
    return packet(0x30 | qos << 1, body + (b"\0" if level == 5 else b"") + payload)


def subscribe(topic, qos=0, packet_id=1, level=4):
    head = packet_id.to_bytes(2, "big") + (b"\0" if level == 5 else b"")
    return packet(0x82, head + text(topic) + bytes([qos]))


class Wire:
    """A socket that speaks packets."""

    def __init__(
        self, port, context=None, name="localhost", host="127.0.0.1", first=b"", source=None
    ):
        self.socket = socket.create_connection(
            (host, port), timeout=PATIENCE, source_address=(source, 0) if source else None
        )
        if first:
            self.socket.sendall(first)
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname=name)
        self.kept = b""

    def send(self, data):
        self.socket.sendall(data)

    def receive(self):
        """The next packet; empty when the broker has closed."""
        while True:
            if len(self.kept) > 1:
                length, shift, at = 0, 0, 1
                while at < len(self.kept):
                    length |= (self.kept[at] & 127) << shift
                    shift += 7
                    at += 1
                    if self.kept[at - 1] < 128:
                        if len(self.kept) >= at + length:
                            whole, self.kept = self.kept[: at + length], self.kept[at + length :]
                            return whole
                        break
            try:
                more = self.socket.recv(65536)
            except (ConnectionResetError, ssl.SSLError):
                more = b""
            if not more:
                return b""
            self.kept += more

    def closed(self):
        """Whether the broker closes now, without a word."""
        return self.receive() == b""

    def ask(self, data):
        self.send(data)
        return self.receive()

    def close(self):
        self.socket.close()


def client_context(ca, certificate=None, version=None):
    context = ssl.create_default_context(cafile=ca)
    if certificate:
        context.load_cert_chain(*certificate)
    if version:
        context.maximum_version = version
    return context
