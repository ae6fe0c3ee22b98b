// Sends events with the official package: node emit.js SINK TOKEN. Says one JSON a line: how each was
// sent, what was answered, and what must arrive.

import { CloudEvent, HTTP, Mode, emitterFor, httpTransport } from "cloudevents";

const [sink, token] = process.argv.slice(2);
const authorization = `Basic ${token}`;
const base = { source: "/npm/source", type: "npm.event" };
const json = { datacontenttype: "application/json" };
const text = { datacontenttype: "text/plain" };
const octets = { datacontenttype: "application/octet-stream" };

// What is sent, by name.
const events = {
  object: { ...base, ...json, data: { text: "Grüße 😀", list: [1, 2.5, null, true], nested: {} } },
  list: { ...base, ...json, data: [1, "2", null] },
  implied: { ...base, data: { no: "content type" } },
  suffix: { ...base, datacontenttype: "application/vnd.npm+json", data: { a: 1 } },
  text: { ...base, ...text, data: "some text, Grüße 😀\nin two lines" },
  html: { ...base, datacontenttype: "text/html; charset=utf-8", data: "<p>&amp;</p>" },
  uint8array: { ...base, ...octets, data: new Uint8Array([0, 1, 127, 128, 254, 255]) },
  buffer: { ...base, ...octets, data: Buffer.from("fffe00", "hex") },
  png: { ...base, datacontenttype: "image/png", data: Buffer.from("89504e470d0a1a0a", "hex") },
  nothing: { ...base },
  untold: { ...base, ...text },
  extensions: { ...base, ...json, data: {}, text: "a value", number: 42, yes: true, no: false },
  whole: {
    ...base, ...json, data: { a: 1 }, subject: "a/subject", dataschema: "https://x.test/schema.json",
    time: "2026-11-21T12:00:00.123Z", traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
  },
};

const say = (line) => console.log(JSON.stringify(line));

// What must arrive, of an event that was sent in a mode.
function expected(event, mode) {
  const arrived = JSON.parse(event.toString());
  if (mode === Mode.BINARY) {
    // The package says so where nothing was said, data or not.
    arrived.datacontenttype ??= "application/json; charset=utf-8";
    for (const [name, value] of Object.entries(arrived)) {
      if (name !== "data" && typeof value !== "string") arrived[name] = String(value);
    }
  } else if (arrived.data !== undefined) {
    arrived.datacontenttype ??= "application/json";
  }
  return arrived;
}

// A transport that tells the status, which the one of the package keeps to itself.
async function post(message) {
  const headers = { ...message.headers, authorization };
  const response = await fetch(sink, { method: "POST", headers, body: message.body });
  await response.text();
  return response.status;
}

for (const mode of [Mode.BINARY, Mode.STRUCTURED]) {
  const emit = emitterFor(post, { mode });
  const emitByTransport = emitterFor(httpTransport(sink), { mode });
  for (const [name, event] of Object.entries(events)) {
    const first = new CloudEvent({ ...event, id: `${mode} ${name}` });
    say({ name: `${mode} ${name}`, status: await emit(first), event: expected(first, mode) });
    // The transport of the package cannot send an empty body: Node refuses to write `undefined`.
    if (mode === Mode.BINARY && event.data === undefined) continue;
    const second = new CloudEvent({ ...event, id: `transport ${mode} ${name}` });
    await emitByTransport(second, { headers: { authorization } });
    say({ name: `transport ${mode} ${name}`, event: expected(second, mode) });
  }
}

// The package has no way to write a batch, but its events are what a batch is made of.
const batch = Object.entries(events).map(([name, it]) => new CloudEvent({ ...it, id: `batch ${name}` }));
const body = `[${batch.map((event) => HTTP.structured(event).body).join(",")}]`;
const status = await post({ headers: { "content-type": "application/cloudevents-batch+json" }, body });
for (const event of batch) say({ name: event.id, status, event: expected(event, Mode.STRUCTURED) });
say({ done: true });
