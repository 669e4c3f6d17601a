#!/usr/bin/env python3
"""CPU of a broker that holds many idle connections for minutes.

  benches/peers/idle.py PROGRAM [CONNECTIONS] [SECONDS]

Starts PROGRAM (a tidegate binary) with two shards, opens the connections (3.1.1,
client ids of 16 characters, keep alive 3,600 s, so that no PINGREQ is due), and
prints the broker's CPU time over the whole span, by thread, as a share of a core.
"""
import os
import socket
import subprocess
import sys
import tempfile
import time

program = sys.argv[1]
connections = int(sys.argv[2]) if len(sys.argv) > 2 else 15_000
seconds = int(sys.argv[3]) if len(sys.argv) > 3 else 600


def cpu_ns(pid):
    """Nanoseconds on a core, by thread name."""
    times = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm") as name:
            comm = name.read().strip()
        with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
            times[f"{comm}/{task}"] = int(stat.read().split()[0])
    return times


def rss(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


folder = tempfile.mkdtemp()
broker = subprocess.Popen(
    [program, "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
     "--data-dir", f"{folder}/data", "--shards", "2"],
    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
try:
    address = None
    for line in broker.stdout:
        words = line.split()
        if words[:2] == ["listening", "mqtt"]:
            host, port = words[3].rsplit(":", 1)
            address = (host, int(port))
        if words == ["ready"]:
            break
    before = rss(broker.pid)
    held = []
    for number in range(connections):
        one = socket.create_connection(address)
        one.sendall(b"\x10\x1c\x00\x04MQTT\x04\x02\x0e\x10\x00\x10" + b"idle-%011d" % number)
        held.append(one)
    for one in held:
        assert one.recv(4) == b"\x20\x02\x00\x00"
    time.sleep(3)
    each = (rss(broker.pid) - before) / connections
    start, began = cpu_ns(broker.pid), time.monotonic()
    time.sleep(seconds)
    spent, span = cpu_ns(broker.pid), time.monotonic() - began
    alive = 0
    for one in held[:: max(1, connections // 100)]:
        one.sendall(b"\xc0\x00")
        alive += one.recv(2) == b"\xd0\x00"
    total = 0
    for thread in sorted(spent):
        used = spent[thread] - start.get(thread, 0)
        total += used
        print(f"{thread.split('/')[0]:12} {used / 1e6:9.2f} ms")
    print(f"{connections} idle connections, {span:.0f} s: {total / 1e6:.1f} ms of CPU, "
          f"{total / 1e9 / span * 100:.4f} % of a core; {each:.0f} bytes each (RssAnon); "
          f"{alive} of {len(held[:: max(1, connections // 100)])} asked still answer")
finally:
    broker.terminate()
    broker.wait()
