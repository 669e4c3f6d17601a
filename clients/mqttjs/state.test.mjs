// What the broker keeps: retained messages, wills, sessions, shares.

import assert from "node:assert/strict";
import test from "node:test";
import { isDeepStrictEqual } from "node:util";
import { Peer, VERSIONS, kept, pause, text, within, word } from "./peer.mjs";

for (const version of Object.keys(VERSIONS)) {
  for (const qos of [0, 1, 2]) {
    test(`${version} qos ${qos} retained is set, replaced and cleared`, async (t) => {
      const name = word();
      const alice = await Peer.connect(t, version);
      const retained = async () => {
        const bob = await Peer.connect(t, version);
        await bob.subscribe(name, { qos: 2 });
        await bob.publish(name, "fence", { qos: 2 });
        const got = [];
        for (;;) {
          const message = await bob.receive();
          if (message.payload.toString() === "fence") break;
          got.push([message.payload.toString(), message.qos, message.retain]);
        }
        await bob.end();
        return got;
      };

      // Nothing says when a QoS 0 publish has arrived: that may take a moment.
      // What an acknowledged one must come before is a case of the paho suite.
      const comesTo = async (expected) => {
        let got = await retained();
        for (let n = 0; n < 50 && !isDeepStrictEqual(got, expected); n++) {
          await pause(50);
          got = await retained();
        }
        assert.deepEqual(got, expected);
      };

      await alice.publish(name, "one", { qos, retain: true });
      await comesTo([["one", qos, true]]);
      await alice.publish(name, "two", { qos, retain: true });
      await comesTo([["two", qos, true]]);
      await alice.publish(name, "", { qos, retain: true });
      await comesTo([]);
    });

    test(`${version} qos ${qos} will is sent when the connection breaks`, async (t) => {
      const name = word();
      const bob = await Peer.connect(t, version);
      await bob.subscribe(name, { qos: 2 });
      const doomed = await Peer.connect(t, version, {
        will: { topic: name, payload: Buffer.from("last words"), qos, retain: false },
      });

      await doomed.drop();

      const message = await bob.receive();
      assert.deepEqual(
        [message.topic, message.payload.toString(), message.qos, message.retain],
        [name, "last words", qos, false],
      );
    });

    test(`${version} qos ${qos} shared goes to one member and all take part`, async (t) => {
      const name = word();
      const members = [];
      for (let n = 0; n < 3; n++) {
        members.push(await Peer.connect(t, version));
        await members[n].subscribe(`$share/${name}/${name}/+`, { qos });
      }
      const alice = await Peer.connect(t, version);
      for (let n = 0; n < 60; n++) await alice.publish(`${name}/${n % 5}`, `${n}`, { qos });

      const count = () => members.reduce((sum, member) => sum + member.messages.length, 0);
      for (let n = 0; n < 100 && count() < 60; n++) await pause(20);
      const got = members.map((member) => text(member.messages).map(Number));
      const sorted = got.flat().sort((a, b) => a - b);
      assert.deepEqual(sorted, Array.from({ length: 60 }, (_, n) => n));
      for (const part of got) assert.ok(part.length > 0, JSON.stringify(got));
    });
  }

  test(`${version} disconnect takes the will back`, async (t) => {
    const name = word();
    const bob = await Peer.connect(t, version);
    await bob.subscribe(name, { qos: 1 });
    const polite = await Peer.connect(t, version, {
      will: { topic: name, payload: Buffer.from("no"), qos: 1, retain: false },
    });

    await polite.end();
    await bob.publish(name, "fence");

    assert.equal((await bob.receive()).payload.toString(), "fence");
  });

  test(`${version} retained will is stored`, async (t) => {
    const name = word();
    const doomed = await Peer.connect(t, version, {
      will: { topic: name, payload: Buffer.from("kept"), qos: 1, retain: true },
    });
    const bob = await Peer.connect(t, version);
    await bob.subscribe(name, { qos: 1 });
    await doomed.drop();
    assert.equal((await bob.receive()).retain, false);

    // A will has no acknowledgement that could say that it is stored.
    await pause(300);
    const late = await Peer.connect(t, version);
    await late.subscribe(name, { qos: 1 });

    const message = await late.receive();
    assert.deepEqual([message.payload.toString(), message.retain], ["kept", true]);
    await late.publish(name, "", { retain: true });
  });

  for (const qos of [1, 2]) {
    test(`${version} qos ${qos} queue of an absent client comes in order`, async (t) => {
      const name = word();
      const first = await Peer.connect(t, version, { clientId: name, ...kept(version) });
      if (version !== "v3.1") assert.equal(first.connack.sessionPresent, false);
      await first.subscribe(`${name}/#`, { qos });
      await first.end();
      const alice = await Peer.connect(t, version);
      const sent = Array.from({ length: 100 }, (_, n) => `${n}`);
      for (const payload of sent) await alice.publish(`${name}/t`, payload, { qos });

      const again = await Peer.connect(t, version, { clientId: name, ...kept(version) });

      if (version !== "v3.1") assert.equal(again.connack.sessionPresent, true);
      const got = await again.receiveAll(100);
      assert.deepEqual(text(got), sent);
      assert.ok(got.every((m) => m.qos === qos && !m.retain));
    });
  }

  test(`${version} unacknowledged message comes again with dup`, async (t) => {
    const name = word();
    const first = await Peer.connect(t, version, { clientId: name, ...kept(version) });
    first.client.handleMessage = () => {}; // never acknowledges
    await first.subscribe(name, { qos: 1 });
    const alice = await Peer.connect(t, version);
    await alice.publish(name, "x");
    const before = await first.receive();
    await first.drop();

    const again = await Peer.connect(t, version, { clientId: name, ...kept(version) });

    const after = await again.receive();
    assert.deepEqual([before.dup, after.dup, after.payload.toString()], [false, true, "x"]);
    assert.equal(after.messageId, before.messageId);
  });

  test(`${version} clean start discards the old session`, async (t) => {
    const name = word();
    const first = await Peer.connect(t, version, { clientId: name, ...kept(version) });
    await first.subscribe(name, { qos: 1 });
    await first.end();
    const alice = await Peer.connect(t, version);
    await alice.publish(name, "old");

    const clean = await Peer.connect(t, version, { clientId: name, clean: true });
    await alice.publish(name, "unheard");
    await clean.subscribe(name, { qos: 1 });
    await alice.publish(name, "new");

    if (version !== "v3.1") assert.equal(clean.connack.sessionPresent, false);
    assert.equal((await clean.receive()).payload.toString(), "new");
  });

  test(`${version} takeover closes the old connection and keeps the session`, async (t) => {
    const name = word();
    const old = await Peer.connect(t, version, { clientId: name, ...kept(version) });
    await old.subscribe(name, { qos: 1 });

    const taker = await Peer.connect(t, version, { clientId: name, ...kept(version) });

    await within(old.closed, "the old connection's end");
    if (version !== "v3.1") assert.equal(taker.connack.sessionPresent, true);
    await (await Peer.connect(t, version)).publish(name, "x");
    assert.equal((await taker.receive()).payload.toString(), "x");
    assert.deepEqual(old.messages, []);
    if (version === "v5") {
      assert.equal((await within(old.disconnect, "its DISCONNECT")).reasonCode, 0x8e);
    }
  });
}
