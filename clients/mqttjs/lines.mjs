// A test reporter: one line a case, the failure below it.

const seconds = (data) => `${(data.details.duration_ms / 1000).toFixed(2)} s`;

export default async function* lines(source) {
  for await (const { type, data } of source) {
    if (data?.details?.type === "suite" || data?.name?.endsWith(".mjs")) continue;
    if (type === "test:pass" && data.skip !== undefined) yield `skip mqttjs  ${data.name}: ${data.skip}\n`;
    else if (type === "test:pass") yield `ok   mqttjs  ${data.name} (${seconds(data)})\n`;
    else if (type === "test:fail") {
      yield `FAIL mqttjs  ${data.name} (${seconds(data)})\n`;
      const cause = data.details.error?.cause ?? data.details.error;
      yield String(cause?.stack ?? cause).replace(/^/gm, "       ") + "\n";
    } else if (type === "test:stderr") yield data.message;
  }
}
