"""What the broker keeps: retained messages, wills, sessions, shares."""

import signal
import time

import pytest
from tool import VERSIONS, eventually


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_retained_is_set_replaced_and_cleared(publish, subscribe, version, name, qos):
    def retained():
        bob = subscribe(version, name, 2)
        publish(version, name, "fence", 2)
        got = []
        while (message := bob.receive()).payload != "fence":
            got.append((message.payload, message.qos, message.retain))
        bob.stop()
        return got

    publish(version, name, "one", qos, "-r")
    assert retained() == [("one", qos, True)]
    publish(version, name, "two", qos, "-r")
    assert retained() == [("two", qos, True)]
    publish(version, name, None, qos, "-r")
    assert retained() == []


def test_live_message_is_not_marked_retained(publish, subscribe, version, name):
    bob = subscribe(version, name, 1)

    publish(version, name, "x", 1, "-r")
    publish(version, name, None, 1, "-r")

    assert [(m.payload, m.retain) for m in bob.receive_all(2)] == [("x", False), ("", False)]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_will_is_sent_when_the_client_is_killed(subscribe, version, name, qos):
    bob = subscribe(version, name, 2)
    doomed = subscribe(version, f"{name}/other", 0, "--will-topic", name, "--will-payload",
                       "last words", "--will-qos", str(qos))

    doomed.kill()

    message = bob.receive()
    assert (message.payload, message.qos, message.retain) == ("last words", qos, False)


def test_will_is_not_sent_after_a_disconnect(publish, subscribe, version, name):
    bob = subscribe(version, name, 1)

    log = publish(version, f"{name}/other", "x", 1, "--will-topic", name, "--will-payload", "no")
    publish(version, name, "fence", 1)

    assert "sending DISCONNECT" in log
    assert bob.receive().payload == "fence"


def test_disconnect_with_will_sends_it(subscribe, name):
    bob = subscribe("v5", name, 1)

    # mosquitto_sub says 0x04 in its DISCONNECT when a signal ends it.
    subscribe("v5", f"{name}/other", 0, "--will-topic", name, "--will-payload", "bye").stop()

    assert bob.receive().payload == "bye"


def test_retained_will_is_stored(publish, subscribe, version, name):
    bob = subscribe(version, name, 1)
    subscribe(version, f"{name}/other", 0, "--will-topic", name, "--will-payload", "kept",
              "--will-retain", "--will-qos", "1").kill()
    assert bob.receive().payload == "kept"

    late = subscribe(version, name, 1)

    message = late.receive()
    assert (message.payload, message.retain) == ("kept", True)
    publish(version, name, None, 1, "-r")


def test_will_waits_for_its_delay(publish, subscribe, name):
    bob = subscribe("v5", name, 1)
    since = time.monotonic()
    subscribe("v5", f"{name}/other", 0, "-c", "-i", f"{name}-w", "--will-topic", name,
              "--will-payload", "late",
              properties={"will": [("will-delay-interval", 2), ("content-type", "a/b")]}).kill()

    publish("v5", name, "before", 1)

    assert bob.receive().payload == "before"
    message = bob.receive()
    assert (message.payload, message.properties) == ("late", {"content-type": "a/b"})
    assert 1.5 < time.monotonic() - since < 5


@pytest.mark.parametrize("qos", [1, 2])
def test_queue_of_an_absent_client_comes_in_order(publish, subscribe, version, name, qos):
    subscribe(version, f"{name}/#", qos, "-c", "-i", name).stop()
    lines = [f"{n}" for n in range(100)]
    publish(version, f"{name}/t", None, qos, "-l", stdin="\n".join(lines).encode())
    publish(version, f"{name}/u", "last", qos)

    again = subscribe(version, f"{name}/#", qos, "-c", "-i", name)

    got = again.receive_all(101)
    assert [m.payload for m in got] == [*lines, "last"]
    assert {(m.qos, m.retain) for m in got} == {(qos, False)}


def test_clean_session_has_no_queue(publish, subscribe, version, name):
    subscribe(version, name, 1, "-c", "-i", name).stop()
    publish(version, name, "old", 1)

    clean = subscribe(version, name, 1, "-i", name)
    publish(version, name, "new", 1)

    assert clean.receive().payload == "new"


def test_session_ends_when_its_expiry_is_over(publish, subscribe, name):
    subscribe("v5", name, 1, "-c", "-i", name, "-x", "1").stop()
    publish("v5", name, "lost", 1)
    time.sleep(2.5)

    again = subscribe("v5", name, 1, "-c", "-i", name, "-x", "1")
    publish("v5", name, "new", 1)

    assert again.receive().payload == "new"


def test_takeover_closes_the_old_connection(publish, subscribe, version, name):
    old = subscribe(version, name, 1, "-c", "-i", name)

    new = subscribe(version, name, 1, "-c", "-i", name)

    # mosquitto_sub goes on as long as it lives: it comes back after a second
    # and takes over in turn. Ended before that, it has shown what it should.
    if version == "v5":
        old.wait_log("received DISCONNECT \\(142\\)|Received DISCONNECT \\(142\\)")
    else:
        old.wait_log("sending CONNECT", count=2)
        new.wait_log("sending CONNECT", count=2)
    old.kill()
    assert eventually(lambda: old.process.poll() is not None)
    publish(version, name, "x", 1)
    assert new.receive().payload == "x"


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_message_goes_to_one_member_and_all_take_part(publish, subscribe, version, name, qos):
    members = [subscribe(version, f"$share/{name}/{name}/#", qos) for _ in range(3)]

    publish(version, f"{name}/a", None, qos, "-l", stdin=b"".join(b"%d\n" % n for n in range(60)))

    assert eventually(lambda: sum(m.messages.qsize() for m in members) >= 60)
    got = [[int(m.payload) for m in member.messages.queue] for member in members]
    assert sorted(sum(got, [])) == list(range(60))
    assert all(got), [len(list_) for list_ in got]
    assert all(list_ == sorted(list_) for list_ in got)


def test_silence_beyond_the_keep_alive_ends_the_connection(subscribe, name):
    bob = subscribe("v5", f"{name}/+", 1)
    silent = [
        subscribe(version, f"{name}/other/x", 0, "-k", "5", "--will-topic", f"{name}/{version}",
                  "--will-payload", "asleep")
        for version in VERSIONS
    ]
    since = time.monotonic()
    for client in silent:
        client.process.send_signal(signal.SIGSTOP)

    try:
        asleep = {bob.receive(patience=14).topic for _ in silent}
        assert asleep == {f"{name}/{version}" for version in VERSIONS}
        assert 4.5 < time.monotonic() - since < 14
    finally:
        for client in silent:
            client.kill()
