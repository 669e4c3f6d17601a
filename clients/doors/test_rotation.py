"""Certificates and lists are swapped as Kubernetes swaps a Secret."""

import os
import threading
import time

from node import PATIENCE, Node, Wire, client_context, connect, publish

CLIENTS = 20


class Secret:
    """A directory whose files are links through `..data`."""

    def __init__(self, directory, **files):
        self.dir, self.turn = directory, 0
        self.dir.mkdir()
        self.put(**files)
        for name in files:
            (self.dir / name).symlink_to(f"..data/{name}")

    def put(self, **files):
        """Swaps all at once, by one rename."""
        self.turn += 1
        target = self.dir / f"..{self.turn}"
        target.mkdir()
        for name, path in files.items():
            (target / name).write_bytes(path.read_bytes())
        new = self.dir / "..data_tmp"
        new.symlink_to(target.name)
        os.replace(new, self.dir / "..data")


def subject(port, ca, name="localhost"):
    context = client_context(ca)
    context.check_hostname = False
    wire = Wire(port, context, name)
    assert wire.ask(connect("look"))[0] == 0x20
    subject = wire.socket.getpeercert()["subject"][0][0][1]
    wire.close()
    return subject


def test_a_certificate_is_swapped_under_load_and_no_session_is_dropped(world, tmp_path):
    files = {"crt": world.server[0], "key": world.server[1], "ca": world.ca.pem, "crl": world.crl}
    secret = Secret(tmp_path / "secret", **files)
    at = tmp_path / "secret"
    (tmp_path / "node").mkdir()
    node = Node(
        f"""
[listener.tls]
bind = "127.0.0.1:0"
transport = "tls"
tls_certificate = "{at}/crt"
tls_key = "{at}/key"
tls_client_ca = "{at}/ca"
tls_crl = "{at}/crl"
tls_client_auth = "optional"
""",
        tmp_path / "node",
    )
    port, done, failed, sent = node.port("tls"), threading.Event(), [], [0] * CLIENTS

    def work(n):
        wire = Wire(port, client_context(world.ca.pem, world.alice))
        try:
            assert wire.ask(connect(f"load{n}"))[3] == 0
            while not done.is_set():
                assert wire.ask(publish("load", qos=1))[0] == 0x40
                sent[n] += 1
        except Exception as error:
            failed.append((n, error))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    assert subject(port, world.ca.pem) == "localhost"
    second, key = world.ca.issue("renewed", "DNS:localhost")
    late = world.ca.issue("late", "DNS:late.example")
    secret.put(**{**files, "crt": second, "key": key})
    deadline = time.monotonic() + PATIENCE
    while subject(port, world.ca.pem) != "renewed":
        assert time.monotonic() < deadline, node.said()
        time.sleep(0.1)
    at_swap = list(sent)
    # A list with one more: new handshakes of that one fail, the old one goes on.
    assert Wire(port, client_context(world.ca.pem, late)).ask(connect("again"))[3] == 0
    secret.put(**{**files, "crt": second, "key": key, "crl": world.ca.revoke(late[0])})
    deadline = time.monotonic() + PATIENCE
    while not refused(port, world, late):
        assert time.monotonic() < deadline, node.said()
        time.sleep(0.1)
    # A faulty pair is not taken.
    after = len(node.said())
    secret.put(**{**files, "crt": second, "key": world.server[1]})
    node.wait_for("the old files stay in effect", after)
    assert subject(port, world.ca.pem) == "renewed"
    time.sleep(0.3)
    done.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert all(now > then for now, then in zip(sent, at_swap)), "all went on after the swap"
    assert node.metric('tidegate_tls_reloads_total{listener="tls",result="failed"}') >= 1
    node.stop()


def refused(port, world, late):
    try:
        return Wire(port, client_context(world.ca.pem, late)).ask(connect("late")) == b""
    except OSError:
        return True
