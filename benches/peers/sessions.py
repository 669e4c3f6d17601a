#!/usr/bin/env python3
"""Memory of many durable sessions without a connection, and a scrape's time with them.

  benches/peers/sessions.py PROGRAM [SESSIONS [subscribe]]

Starts PROGRAM (a tidegate binary), makes the sessions (3.1.1, clean session 0, client
ids of 16 characters, with `subscribe` one subscription each to a topic of 16
characters), and prints what they cost and how long `GET /metrics` takes. Then it ends
the node with SIGKILL, starts it again, and prints what they cost then and how long the
start took.
"""
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

program = sys.argv[1]
sessions = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
subscribe = sys.argv[3:] == ["subscribe"]
WORKERS = 16  # each waits for a sync


def rss(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def connect(address, first, last):
    abort = struct.pack("ii", 1, 0)  # a reset leaves no port waiting
    for number in range(first, last):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, abort)
        one.connect(address)
        one.sendall(b"\x10\x1c\x00\x04MQTT\x04\x00\x00\x00\x00\x10" + b"sess-%011d" % number)
        assert one.recv(4) == b"\x20\x02\x00\x00"
        if subscribe:
            one.sendall(b"\x82\x15\x00\x01\x00\x10" + b"topi-%011d" % number + b"\x01")
            assert one.recv(5) == b"\x90\x03\x00\x01\x01"
        one.close()


folder = tempfile.mkdtemp()


def start():
    """The broker when it is ready, and where it and its metrics are."""
    broker = subprocess.Popen(
        [program, "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
         "--data-dir", f"{folder}/data", "--shards", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    address = admin = None
    for line in broker.stdout:
        words = line.split()
        if words[:2] == ["listening", "mqtt"]:
            host, port = words[3].rsplit(":", 1)
            address = (host, int(port))
        if words[:2] == ["listening", "admin"]:
            admin = words[2]
        if words == ["ready"]:
            break
    return broker, address, admin


broker, address, admin = start()
try:
    before = rss(broker.pid)
    share = sessions // WORKERS
    children = []
    for worker in range(WORKERS):
        child = os.fork()
        if child == 0:
            connect(address, worker * share, (worker + 1) * share)
            os._exit(0)
        children.append(child)
    failed = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    assert failed == 0, f"{failed} workers failed"
    time.sleep(2)
    each = (rss(broker.pid) - before) / (share * WORKERS)
    times = []
    for _ in range(20):
        began = time.monotonic()
        text = urllib.request.urlopen(f"http://{admin}/metrics").read().decode()
        times.append((time.monotonic() - began) * 1000)
    times.sort()
    lines = [line for line in text.splitlines() if line.startswith("tidegate_sessions{")]
    print("; ".join(lines))
    print(f"{share * WORKERS} sessions, {each:.0f} bytes each (RssAnon); a scrape takes "
          f"{times[0]:.1f} / {times[10]:.1f} / {times[-1]:.1f} ms (min, median, max of 20)")
    broker.kill()
    broker.wait()
    log = sum(entry.stat().st_size for entry in os.scandir(f"{folder}/data/log"))
    began = time.monotonic()
    broker, address, admin = start()
    took = time.monotonic() - began
    each = (rss(broker.pid) - before) / (share * WORKERS)
    print(f"after SIGKILL: ready in {took:.2f} s from {log / 2**20:.0f} MiB, {each:.0f} bytes each")
finally:
    broker.terminate()
    broker.wait()
