// One MQTT.js client as a case sees it: every call waits for its answer.

import { randomBytes } from "node:crypto";
import mqtt from "mqtt";

export const VERSIONS = {
  "v3.1": { protocolId: "MQIsdp", protocolVersion: 3 },
  "v3.1.1": { protocolId: "MQTT", protocolVersion: 4 },
  v5: { protocolId: "MQTT", protocolVersion: 5 },
};
export const anyBroker = process.env.MQTT_ANY_BROKER === "1";
export const keepAliveMax = Number(process.env.MQTT_KEEP_ALIVE_MAX ?? 0);
const PATIENCE = 20000;

/** A word that no other case uses; MQTT 3.1 allows a client id 23 characters. */
export const word = () => "j" + randomBytes(5).toString("hex");

export const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** The promise, or a failure that says what was waited for. */
export function within(promise, what, ms = PATIENCE) {
  let timer;
  const late = new Promise((_, fail) => {
    timer = setTimeout(() => fail(new Error(`waited in vain for ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export class Peer {
  /** Connects; `t` is the case, which ends the client when it is over. */
  static async connect(t, version, options = {}) {
    const peer = new Peer(version, options);
    t.after(() => peer.client.endAsync(true));
    peer.connack = await within(peer.connected, "CONNACK");
    return peer;
  }

  constructor(version, options) {
    this.version = version;
    this.messages = [];
    this.waiting = [];
    this.client = mqtt.connect(`mqtt://${process.env.MQTT_ADDRESS}`, {
      ...VERSIONS[version],
      clientId: word(),
      reconnectPeriod: 0,
      connectTimeout: PATIENCE,
      ...options,
    });
    this.connected = new Promise((done, fail) => {
      this.client.once("connect", done);
      this.client.once("error", fail);
    });
    this.closed = new Promise((done) => this.client.once("close", done));
    this.disconnect = new Promise((done) => this.client.once("disconnect", done));
    this.client.on("error", () => {});
    this.client.on("message", (topic, payload, packet) => {
      const { qos, retain, dup, messageId, properties } = packet;
      const message = { topic, payload, qos, retain, dup, messageId, properties: { ...properties } };
      if (properties?.userProperties) {
        message.properties.userProperties = { ...properties.userProperties };
      }
      const taker = this.waiting.shift();
      if (taker) taker(message);
      else this.messages.push(message);
    });
  }

  /** Subscribes and gives the codes of the SUBACK. */
  async subscribe(filter, options = {}) {
    const packet = await within(
      new Promise((done, fail) =>
        this.client.subscribe(filter, { qos: 0, ...options }, (error, _granted, suback) =>
          error ? fail(error) : done(suback),
        ),
      ),
      "SUBACK",
    );
    return packet.granted;
  }

  /** Unsubscribes and gives the UNSUBACK. */
  unsubscribe(filter) {
    return within(
      new Promise((done, fail) =>
        this.client.unsubscribe(filter, (error, unsuback) => (error ? fail(error) : done(unsuback))),
      ),
      "UNSUBACK",
    );
  }

  /** Publishes and gives the last acknowledgement. */
  publish(topic, payload, options = {}) {
    return within(
      new Promise((done, fail) =>
        this.client.publish(topic, payload, { qos: 1, ...options }, (error, packet) =>
          error ? fail(error) : done(packet),
        ),
      ),
      "the acknowledgement",
    );
  }

  /**
   * Publishes many, a few at a time: MQTT.js does not heed the broker's Receive
   * Maximum by itself.
   */
  async publishAll(topic, payloads, options) {
    for (let n = 0; n < payloads.length; n += 16) {
      const few = payloads.slice(n, n + 16);
      await Promise.all(few.map((payload) => this.publish(topic, payload, options)));
    }
  }

  /** The next message. */
  receive(ms = PATIENCE) {
    const waiting = this.messages.length
      ? Promise.resolve(this.messages.shift())
      : new Promise((done) => this.waiting.push(done));
    return within(waiting, "a message", ms);
  }

  /** The next `count` messages. */
  async receiveAll(count) {
    const got = [];
    while (got.length < count) got.push(await this.receive());
    return got;
  }

  /** Ends with a DISCONNECT. */
  end(options) {
    return within(this.client.endAsync(false, options), "the end");
  }

  /** Cuts the connection without a DISCONNECT. */
  async drop() {
    this.client.stream.destroy();
    await within(this.closed, "the cut");
  }
}

/** What makes a session outlive its connection. */
export const kept = (version, seconds = 300) =>
  version === "v5"
    ? { clean: false, properties: { sessionExpiryInterval: seconds } }
    : { clean: false };

export const text = (messages) => messages.map((message) => message.payload.toString());
