"""mosquitto_pub, mosquitto_sub and mosquitto_rr as a case sees them."""

import json
import queue
import re
import subprocess
import threading
import time
from dataclasses import dataclass

VERSIONS = {"v3.1": "mqttv31", "v3.1.1": "mqttv311", "v5": "mqttv5"}
PATIENCE = 20.0


def target(address, version):
    host, port = address
    return ["-h", host, "-p", str(port), "-V", VERSIONS[version]]


def flags(properties):
    """{"publish": [("user-property", "k", "v")]} as -D arguments."""
    made = []
    for command, fields in (properties or {}).items():
        for field in fields:
            made += ["-D", command, *map(str, field)]
    return made


def publish(address, version, topic, payload=None, qos=0, *arguments, properties=None, stdin=None):
    """Runs mosquitto_pub to its end; gives what it logged."""
    command = ["mosquitto_pub", *target(address, version), "-d", "-t", topic, "-q", str(qos)]
    if stdin is None:
        command += ["-n"] if payload in (None, "") else ["-m", payload]
    try:
        done = subprocess.run(
            [*command, *arguments, *flags(properties)], input=stdin, capture_output=True,
            timeout=PATIENCE * 2,
        )
    except subprocess.TimeoutExpired as hung:
        # Before 2.0.14 `-l` may hang when stdin has ended (its issue 2448). What the
        # test judges is what arrived; elsewhere a hang is a failure.
        log = ((hung.stdout or b"") + (hung.stderr or b"")).decode()
        assert "-l" in arguments and qos == 0 and "sending PUBLISH" in log, log
        print("mosquitto_pub -l hung at the end of its input")
        return log
    log = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, log
    return log


def request(address, version, topic, answer_topic, payload, *arguments, properties=None):
    """Runs mosquitto_rr: publishes, waits for one answer, and gives its payload."""
    done = subprocess.run(
        ["mosquitto_rr", *target(address, version), "-t", topic, "-e", answer_topic, "-m", payload,
         "-W", "5", *arguments, *flags(properties)],
        capture_output=True, timeout=PATIENCE * 2,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@dataclass
class Message:
    """A message as mosquitto_sub printed it."""

    topic: str
    payload: str
    qos: int
    retain: bool
    properties: dict


class Subscriber:
    """A running mosquitto_sub, ready when its SUBACK has come."""

    def __init__(self, address, version, filters, qos=0, *arguments, properties=None):
        # Line by line: into a pipe it would say nothing before it ends.
        command = ["stdbuf", "-oL", "mosquitto_sub", *target(address, version)]
        command += ["-d", "-F", "%j", "-q", str(qos)]
        for filter in [filters] if isinstance(filters, str) else filters:
            command += ["-t", filter]
        self.messages = queue.Queue()
        self.log = []
        self.logged = threading.Condition()
        self.process = subprocess.Popen(
            [*command, *arguments, *flags(properties)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.granted = [int(q) for q in self.wait_log(r"^Subscribed \(mid: \d+\): (.*)$").split(",")]

    def wait_log(self, pattern, patience=PATIENCE, count=1):
        """Waits for the log line of that form, the `count`th, and gives its group."""
        def found():
            hits = [m for m in (re.search(pattern, line) for line in self.log) if m]
            return hits[count - 1] if len(hits) >= count else None

        with self.logged:
            assert self.logged.wait_for(found, patience), f"no {pattern!r} in {self.log[-8:]}"
            match = found()
        return match.group(1) if match.groups() else match.group()

    def receive(self, patience=PATIENCE):
        """The next message."""
        try:
            return self.messages.get(timeout=patience)
        except queue.Empty:
            raise AssertionError(f"no message came; log: {self.log[-8:]}") from None

    def receive_all(self, count):
        """The next `count` messages."""
        return [self.receive() for _ in range(count)]

    def kill(self):
        """Ends it without a DISCONNECT."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Ends it with a DISCONNECT, which mosquitto_sub sends at SIGTERM."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()

    def _read(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                got = json.loads(line, object_pairs_hook=in_order)
                self.messages.put(Message(
                    got["topic"], got["payload"] or "", got["qos"], bool(got["retain"]),
                    got.get("properties", {}),
                ))
            else:
                with self.logged:
                    self.log.append(line.rstrip("\n"))
                    self.logged.notify_all()


def in_order(pairs):
    """JSON objects as dicts; user properties repeat, and stay a list of pairs."""
    return {
        key: list(value.items()) if key == "user-properties" and isinstance(value, dict) else value
        for key, value in pairs
    } if len({key for key, _ in pairs}) == len(pairs) else Pairs(pairs)


class Pairs(list):
    """Pairs whose keys repeat."""

    def items(self):
        return self


def eventually(claim, patience=PATIENCE):
    """Whether the claim comes true in time."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if claim():
            return True
        time.sleep(0.02)
    return False
