"""The broker with every kind of listener, and the certificates for it."""

import pathlib
import subprocess
import os

import pytest

from node import Node
from pki import Authority

RULES = """\
user alice  allow  all        %c/#
user alice  allow  all        shared/#
user *      allow  publish    shared/in
anonymous   allow  all        shared/#
"""


class World:
    """Authorities and certificates."""

    def __init__(self, directory):
        self.dir = directory
        self.ca = Authority(directory, "ca")
        self.other = Authority(directory, "other")
        self.server = self.ca.issue("localhost")
        self.second = self.ca.issue("second.example", "DNS:second.example")
        self.alice = self.ca.issue("alice", "DNS:alice.example")
        self.expired = self.ca.issue("alice", "DNS:alice.example", expired=True)
        self.revoked = self.ca.issue("mallory", "DNS:mallory.example")
        self.stranger = self.other.issue("alice", "DNS:alice.example")
        self.crl = self.ca.revoke(self.revoked[0])
        sni = directory / "sni" / "second.example"
        sni.mkdir(parents=True)
        (sni / "tls.crt").write_bytes(self.second[0].read_bytes())
        (sni / "tls.key").write_bytes(self.second[1].read_bytes())


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def users(tmp_path_factory):
    """A password file with alice, whose password is `secret`."""
    file = tmp_path_factory.mktemp("users") / "passwords"
    subprocess.run(
        [os.environ["TIDEGATE_BIN"], "passwd", "add", file, "alice"],
        input=b"secret\n", check=True, capture_output=True,
    )
    return file


@pytest.fixture(scope="session")
def node(world, tmp_path_factory):
    """Open listeners of every transport."""
    tls = f'tls_certificate = "{world.server[0]}"\ntls_key = "{world.server[1]}"\n'
    mutual = f'{tls}tls_client_ca = "{world.ca.pem}"\ntls_crl = "{world.crl}"\n'
    directory = tmp_path_factory.mktemp("node")
    node = Node(
        f"""
[limits]
connect_timeout_ms = 3000
[listener.tcp]
bind = "127.0.0.1:0"
[listener.dual]
bind = "[::]:0"
ipv6_only = false
anonymous = true
[listener.unix]
bind = "unix:{directory}/mqtt.sock"
[listener.tls]
bind = "127.0.0.1:0"
transport = "tls"
tls_sni_dir = "{world.dir}/sni"
handshake_timeout_ms = 3000
{tls}
[listener.newest]
bind = "127.0.0.1:0"
transport = "tls"
tls_version_min = "1.3"
{tls}
[listener.required]
bind = "127.0.0.1:0"
transport = "tls"
tls_client_auth = "required"
{mutual}
[listener.optional]
bind = "127.0.0.1:0"
transport = "tls"
tls_client_auth = "optional"
{mutual}
[listener.ws]
bind = "127.0.0.1:0"
transport = "ws"
handshake_timeout_ms = 3000
[listener.wss]
bind = "127.0.0.1:0"
transport = "wss"
{tls}
[listener.proxy]
bind = "127.0.0.1:0"
proxy_protocol = "any"
trusted_sources = ["127.0.0.1"]
handshake_timeout_ms = 3000
source_connects_per_second = 1
source_connects_burst = 3
[listener.stranger]
bind = "127.0.0.1:0"
proxy_protocol = "v2"
trusted_sources = ["10.0.0.0/8"]
""",
        directory,
    )
    yield node
    node.stop()


@pytest.fixture(scope="session")
def guarded(world, users, tmp_path_factory):
    """A node that asks who comes, and has rules."""
    directory = tmp_path_factory.mktemp("guarded")
    rules = directory / "rules"
    rules.write_text(RULES)
    tls = f'tls_certificate = "{world.server[0]}"\ntls_key = "{world.server[1]}"\n'
    mutual = f'{tls}tls_client_ca = "{world.ca.pem}"\n'
    node = Node(
        f"""
[auth]
password_file = "{users}"
acl_file = "{rules}"
[listener.closed]
bind = "127.0.0.1:0"
[listener.both]
bind = "127.0.0.1:0"
anonymous = true
[listener.cn]
bind = "127.0.0.1:0"
transport = "tls"
tls_client_auth = "optional"
user_from = "certificate_cn"
{mutual}
[listener.san]
bind = "127.0.0.1:0"
transport = "tls"
tls_client_auth = "required"
user_from = "certificate_san"
{mutual}
[listener.proxy_cn]
bind = "127.0.0.1:0"
proxy_protocol = "v2"
trusted_sources = ["127.0.0.0/8"]
user_from = "proxy_cn"
[listener.few]
bind = "127.0.0.1:0"
anonymous = true
connections_max = 2
[listener.slow]
bind = "127.0.0.1:0"
anonymous = true
connects_per_second = 1
connects_burst = 2
""",
        directory,
    )
    node.rules = rules
    yield node
    node.stop()
