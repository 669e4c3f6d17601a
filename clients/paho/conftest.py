"""Fixtures of the paho suite."""

import pytest

from peer import V5, VERSION_NAMES, VERSIONS, Peer


@pytest.fixture(params=VERSIONS, ids=VERSION_NAMES.get)
def version(request):
    """Each protocol version in turn."""
    return request.param


@pytest.fixture
def connect(address, version):
    """Connects clients of the case's version and ends those that are left."""
    yield from peers(address, version)


@pytest.fixture
def connect5(address):
    """Connects 5.0 clients."""
    yield from peers(address, V5)


def peers(address, default_version):
    made = []

    def connect(client_id="", *, version=default_version, **more):
        peer = Peer(address, version, client_id, **more)
        made.append(peer)
        return peer

    yield connect
    for peer in made:
        peer.__exit__()
