// What is published arrives: every QoS, every size, every pair of versions.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import test from "node:test";
import { Peer, VERSIONS, text, word } from "./peer.mjs";

const QOS = [0, 1, 2];

for (const version of Object.keys(VERSIONS)) {
  for (const sent of QOS) {
    for (const granted of QOS) {
      test(`${version} qos ${sent} arrives at a grant of ${granted} as the lower`, async (t) => {
        const name = word();
        const bob = await Peer.connect(t, version);
        assert.deepEqual(await bob.subscribe(name, { qos: granted }), [granted]);

        await (await Peer.connect(t, version)).publish(name, "héllo", { qos: sent });

        const { topic, payload, qos, retain, dup } = await bob.receive();
        assert.deepEqual(
          { topic, payload: payload.toString(), qos, retain, dup },
          { topic: name, payload: "héllo", qos: Math.min(sent, granted), retain: false, dup: false },
        );
      });
    }
  }

  for (const qos of QOS) {
    test(`${version} qos ${qos} keeps the order of a publisher`, async (t) => {
      const name = word();
      const [bob, alice] = [await Peer.connect(t, version), await Peer.connect(t, version)];
      await bob.subscribe(name, { qos });
      const sent = Array.from({ length: 200 }, (_, n) => `${n}`);

      await alice.publishAll(name, sent, { qos });

      assert.deepEqual(text(await bob.receiveAll(200)), sent);
    });

    test(`${version} qos ${qos} carries a large payload whole`, async (t) => {
      const name = word();
      const bob = await Peer.connect(t, version);
      await bob.subscribe(name, { qos });
      const payload = randomBytes(200 * 1024);
      const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");

      await (await Peer.connect(t, version)).publish(name, payload, { qos });

      const got = await bob.receive();
      assert.equal(got.payload.length, payload.length);
      assert.equal(digest(got.payload), digest(payload));
    });

    for (const to of Object.keys(VERSIONS)) {
      test(`${version} to ${to} qos ${qos} is understood`, async (t) => {
        const name = word();
        const bob = await Peer.connect(t, to);
        await bob.subscribe(`${name}/#`, { qos });
        const more = version === "v5" ? { properties: { contentType: "a/b" } } : {};

        await (await Peer.connect(t, version)).publish(`${name}/a`, "across", { qos, ...more });

        const message = await bob.receive();
        assert.deepEqual([message.topic, message.payload.toString(), message.qos], [
          `${name}/a`, "across", qos,
        ]);
        const passed = version === "v5" && to === "v5" ? { contentType: "a/b" } : {};
        assert.deepEqual(message.properties, passed);
      });
    }
  }

  test(`${version} carries an empty payload and every byte value`, async (t) => {
    const name = word();
    const peer = await Peer.connect(t, version);
    await peer.subscribe(name, { qos: 1 });
    const all = Buffer.from(Array.from({ length: 256 }, (_, n) => n));

    await peer.publish(name, "");
    await peer.publish(name, all);

    const [empty, full] = await peer.receiveAll(2);
    assert.equal(empty.payload.length, 0);
    assert.deepEqual(full.payload, all);
  });

  test(`${version} filters match what they should, until unsubscribed`, async (t) => {
    const name = word();
    const [bob, alice] = [await Peer.connect(t, version), await Peer.connect(t, version)];
    const codes = await bob.subscribe({
      [`${name}/+/x`]: { qos: 1 }, [`${name}/deep/#`]: { qos: 2 }, [`${name}`]: { qos: 1 },
    });
    assert.deepEqual(codes, [1, 2, 1]);

    const levels = ["", "/a/x", "/a/y", "/deep", "/deep/a/b", "/a/b/x", "/other", "//x"];
    for (const level of levels) await alice.publish(name + level, level);
    await alice.publish(name, "fence");
    assert.deepEqual(text(await bob.receiveAll(6)), [
      "", "/a/x", "/deep", "/deep/a/b", "//x", "fence",
    ]);

    await bob.unsubscribe(`${name}/deep/#`);
    await alice.publish(`${name}/deep/a`, "no");
    await alice.publish(`${name}/a/x`, "yes");
    assert.equal((await bob.receive()).payload.toString(), "yes");
  });
}
