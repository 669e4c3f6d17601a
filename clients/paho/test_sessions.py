"""Sessions: what outlives a connection, in which order it comes back, and takeover."""

import time

import pytest
from peer import V5, V31


def kept(version):
    """What makes a session outlive its connection."""
    return {"clean": False, "expiry": 300} if version == V5 else {"clean": False}


def present(version, known):
    """What Session Present says; 3.1 says nothing."""
    return None if version == V31 else known


def ending(name):
    """A will that says that the broker has seen the connection end."""
    return {"topic": f"ended/{name}", "payload": b"", "qos": 1}


def drop_noticed(peer, name, watcher):
    """Cuts the connection and waits until the broker knows.

    What is published before that may have been sent into the dead connection,
    and would rightly come again with DUP.
    """
    watcher.subscribe(f"ended/{name}", 1)
    peer.drop()
    assert watcher.receive().topic == f"ended/{name}"


@pytest.mark.parametrize("qos", [1, 2])
def test_queue_of_an_absent_client_comes_in_order(connect, version, name, qos):
    alice = connect()
    first = connect(name, will=ending(name), **kept(version))
    assert first.connack.session_present is present(version, False)
    first.subscribe(f"{name}/#", qos)
    drop_noticed(first, name, alice)

    for n in range(100):
        alice.publish(f"{name}/{n % 3}", b"%d" % n, qos)

    again = connect(name, **kept(version))
    got = again.receive_all(100)
    assert again.connack.session_present is present(version, True)
    assert [(m.topic, m.payload) for m in got] == [
        (f"{name}/{n % 3}", b"%d" % n) for n in range(100)
    ]
    assert {(m.qos, m.dup, m.retain) for m in got} == {(qos, False, False)}


def test_resumed_session_keeps_its_subscriptions(connect, version, name):
    first = connect(name, **kept(version))
    first.subscribe(f"{name}/a", 1)
    first.subscribe(f"{name}/b", 1)
    first.unsubscribe(f"{name}/b")
    first.drop()

    again = connect(name, **kept(version))
    alice = connect()
    alice.publish(f"{name}/b", b"no", 1)
    alice.publish(f"{name}/a", b"yes", 1)

    assert again.connack.session_present is present(version, True)
    assert again.receive().payload == b"yes"


def test_unacknowledged_messages_come_again_with_dup(connect, version, name):
    alice = connect()
    first = connect(name, manual_ack=True, will=ending(name), **kept(version))
    first.subscribe(name, 1)
    for n in range(3):
        alice.publish(name, b"%d" % n, 1)
    before = first.receive_all(3)
    first.ack(before[0])
    first.subscribe(f"{name}/after-the-ack", 0)
    drop_noticed(first, name, alice)
    alice.publish(name, b"3", 1)

    got = connect(name, **kept(version)).receive_all(3)

    assert [(m.payload, m.dup) for m in got] == [(b"1", True), (b"2", True), (b"3", False)]
    assert [m.mid for m in got[:2]] == [m.mid for m in before[1:]]
    assert not any(m.dup for m in before)


def test_clean_start_discards_the_old_session(connect, version, name):
    first = connect(name, **kept(version))
    first.subscribe(name, 1)
    first.disconnect()
    alice = connect()
    alice.publish(name, b"old", 1)

    clean = connect(name, clean=True)
    assert clean.connack.session_present is present(version, False)
    alice.publish(name, b"unheard", 1)
    clean.subscribe(name, 1)
    alice.publish(name, b"new", 1)

    assert clean.receive().payload == b"new"


def test_clean_session_leaves_nothing_behind(connect, version, name):
    first = connect(name, clean=True)
    first.subscribe(name, 1)
    first.disconnect()
    connect().publish(name, b"x", 1)

    again = connect(name, **kept(version))
    assert again.connack.session_present is present(version, False)
    again.subscribe(name, 1)
    connect().publish(name, b"fence", 1)
    assert again.receive().payload == b"fence"


def test_takeover_closes_the_old_connection_and_keeps_the_session(connect, version, name):
    old = connect(name, **kept(version))
    old.subscribe(name, 1)

    new = connect(name, **kept(version))

    assert old.wait_closed() == (0x8E if version == V5 else None)
    assert new.connack.session_present is present(version, True)
    connect().publish(name, b"x", 1)
    assert new.receive().payload == b"x"
    assert old.messages.empty()


def test_takeover_again_and_again_loses_no_message(connect, version, name):
    alice = connect()
    last = connect(name, **kept(version))
    last.subscribe(name, 1)
    seen = []
    for n in range(10):
        alice.publish(name, b"%d" % n, 1)
        following = connect(name, **kept(version))
        last.wait_closed()
        seen.append(last)
        last = following
    alice.publish(name, b"end", 1)

    payloads = set()
    while (payload := last.receive().payload) != b"end":
        payloads.add(payload)
    for peer in seen:
        payloads |= {m.payload for m in peer.messages.queue}
    assert payloads == {b"%d" % n for n in range(10)}


@pytest.mark.parametrize("to_five", [True, False], ids=["to-v5", "from-v5"])
def test_session_is_resumed_with_another_version(connect, name, to_five):
    older = {"version": 4, "clean": False}
    five = {"version": V5, "clean": False, "expiry": 300}
    before, after = (older, five) if to_five else (five, older)
    first = connect(name, **before)
    first.subscribe(name, 2)
    first.disconnect()
    connect(version=V5).publish(name, b"x", 2, ContentType="a/b")

    again = connect(name, **after)

    assert again.connack.session_present
    message = again.receive()
    assert (message.payload, message.qos) == (b"x", 2)
    assert message.properties == ({"ContentType": "a/b"} if to_five else {})


def test_session_without_expiry_ends_with_its_connection(connect5, name):
    connect5(name, clean=False).disconnect()

    assert not connect5(name, clean=False).connack.session_present


def test_session_ends_when_its_expiry_is_over(connect5, name):
    connect5(name, clean=False, expiry=1).disconnect()
    assert connect5(name, clean=False, expiry=1).connack.session_present
    connect5(name, clean=False, expiry=1).disconnect()

    time.sleep(2.5)

    assert not connect5(name, clean=False, expiry=1).connack.session_present


def test_disconnect_may_change_the_expiry(connect5, name):
    connect5(name, clean=False, expiry=300).disconnect(SessionExpiryInterval=0)
    assert not connect5(name, clean=False, expiry=1).connack.session_present

    connect5(name, clean=False, expiry=1).disconnect(SessionExpiryInterval=300)
    time.sleep(2.5)
    assert connect5(name, clean=False, expiry=1).connack.session_present
