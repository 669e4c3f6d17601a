// Connects to a URL, sends itself a message at each QoS, and prints what came.
// node through.mjs URL [CA [CERT KEY]]
import fs from "node:fs";
import mqtt from "mqtt";

const [url, ca, cert, key] = process.argv.slice(2);
const read = (file) => (file ? fs.readFileSync(file) : undefined);
const client = mqtt.connect(url, {
  ca: read(ca), cert: read(cert), key: read(key),
  protocolVersion: 5, reconnectPeriod: 0, connectTimeout: 8000,
});
const topic = `through/${Math.random()}`;
const got = [];
client.on("error", (error) => {
  console.log(`error ${error.code ?? error.message}`);
  process.exit(1);
});
client.on("close", () => {
  console.log("closed");
  process.exit(1);
});
client.on("message", (_topic, payload, packet) => {
  got.push(`${packet.qos}:${payload.length}`);
  if (got.length === 3) {
    console.log(got.sort().join(" "));
    process.exit(0);
  }
});
client.on("connect", () => {
  client.subscribe(topic, { qos: 2 }, () => {
    for (const qos of [0, 1, 2]) client.publish(topic, Buffer.alloc(70000, "x"), { qos });
  });
});
