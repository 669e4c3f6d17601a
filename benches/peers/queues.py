#!/usr/bin/env python3
"""Messages that wait for sessions that are away: their memory, and a start with them.

  python3 benches/peers/queues.py PROGRAM [SESSIONS [MESSAGES [shared]]]

Starts PROGRAM (a tidegate binary), makes the sessions with one subscription each (to a
topic of their own, with `shared` all to one), publishes so many messages of 100 bytes at
QoS 1 to each, ends the node with SIGKILL, starts it again, and prints what a message
costs and how long the start took. Then one session comes back and gets all of its own.
"""
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time

program = sys.argv[1]
sessions = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
messages = int(sys.argv[3]) if len(sys.argv) > 3 else 1_000
shared = sys.argv[4:] == ["shared"]
WORKERS = 8
folder = tempfile.mkdtemp()


def rss(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def start():
    broker = subprocess.Popen(
        [program, "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
         "--data-dir", f"{folder}/data", "--shards", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    address = None
    for line in broker.stdout:
        words = line.split()
        if words[:2] == ["listening", "mqtt"]:
            host, port = words[3].rsplit(":", 1)
            address = (host, int(port))
        if words == ["ready"]:
            break
    return broker, address


def topic(number):
    return b"one-topic-of-all" if shared else b"topi-%011d" % number


def connect(address, name, clean=0):
    one = socket.create_connection(address)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.sendall(b"\x10\x1c\x00\x04MQTT\x04" + bytes([2 * clean, 0, 0, 0, 16]) + name)
    assert one.recv(4)[:2] == b"\x20\x02"
    return one


def subscribe(address, first, last):
    for number in range(first, last):
        one = connect(address, b"sess-%011d" % number)
        one.sendall(b"\x82\x15\x00\x01\x00\x10" + topic(number) + b"\x01")
        assert one.recv(5) == b"\x90\x03\x00\x01\x01"
        one.close()


def publish(address, first, last):
    one = connect(address, b"publ-%011d" % first, clean=1)
    waits, id = 0, 0
    for turn in range(messages):
        for number in range(first, last):
            id = id % 60_000 + 1
            one.sendall(b"\x32\x78\x00\x10" + topic(number) + struct.pack(">H", id) + b"m" * 100)
            waits += 1
            while waits >= 200:
                waits -= len(one.recv(400)) // 4  # whole PUBACKs, as they are sent together
    while waits > 0:
        waits -= len(one.recv(400)) // 4
    one.close()


def work(what, address, upto):
    share = upto // WORKERS if upto >= WORKERS else upto
    children = []
    for worker in range(WORKERS if upto >= WORKERS else 1):
        child = os.fork()
        if child == 0:
            what(address, worker * share, (worker + 1) * share)
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)


broker, address = start()
try:
    work(subscribe, address, sessions)
    before = rss(broker.pid)
    began = time.monotonic()
    work(publish, address, 1 if shared else sessions)
    took = time.monotonic() - began
    queued = sessions * messages
    print(f"{queued} messages queued in {took:.1f} s, {(rss(broker.pid) - before) / queued:.1f} bytes each (RssAnon)")
    broker.kill()
    broker.wait()
    log = sum(entry.stat().st_size for entry in os.scandir(f"{folder}/data/log"))
    cache = "warm"
    if os.geteuid() == 0:
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w") as drop:
            drop.write("3")
        cache = "cold"
    began = time.monotonic()
    broker, address = start()
    took = time.monotonic() - began
    print(f"after SIGKILL: ready in {took:.2f} s from {log / 2**20:.0f} MiB with a {cache} page cache, "
          f"{(rss(broker.pid) - before) / queued:.1f} bytes each")
    one = connect(address, b"sess-%011d" % 0)
    got = 0
    while got < messages:
        head = one.recv(122, socket.MSG_WAITALL)
        assert head[0] & 0xf0 == 0x30, head
        one.sendall(b"\x40\x02" + head[20:22])
        got += 1
    print(f"a session that comes back gets its {got} messages")
finally:
    broker.kill()
    broker.wait()
