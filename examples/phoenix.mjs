#!/usr/bin/env node
// Follows the events of one source by Phoenix channels: node phoenix.mjs /shop
//
// Comes back by itself, and goes on where it was. Needs `npm install phoenix ws` (Node 22 and later
// have a WebSocket of their own, and need only `phoenix`).
import { parseArgs } from "node:util";
import { Socket } from "phoenix";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: "string", default: process.env.FANFARE_WATCH_URL ?? "ws://127.0.0.1:8081" },
    token: { type: "string", default: process.env.FANFARE_TOKEN },
    after: { type: "string" },
  },
});
const [source] = positionals;
if (!source) {
  console.error("usage: node phoenix.mjs [--url URL] [--token TOKEN] [--after CURSOR] SOURCE");
  process.exit(2);
}

// `authToken` goes with the handshake and not into the URL, where logs of others would have it.
const socket = new Socket(values.url.replace(/^http/, "ws").replace(/\/+$/, "") + "/socket", {
  authToken: values.token,
  transport: globalThis.WebSocket ?? (await import("ws")).default,
});
socket.onError(() => console.error("not connected; trying again"));
socket.connect();

// A function, so that each join says where we are by then.
let cursor = values.after;
const channel = socket.channel(`source:${source}`, () => ({ cursor }));

function handle(event) {
  console.log(JSON.stringify(event));
  cursor = event.cursor;
}

// Events have all sorts of names: this hears them all, but for those of the protocol itself.
channel.onMessage = (name, payload) => {
  if (!/^(phx_|chan_reply_)/.test(name)) handle(payload);
  return payload;
};

channel
  .join()
  .receive("ok", (reply) => {
    console.error(`joined ${source}`);
    // In a first join the last hundred; when we come back, what came meanwhile.
    reply.messages.forEach(handle);
    cursor = reply.cursor;
    if (reply.recovered === false) console.error("some events are lost");
  })
  .receive("error", ({ reason }) => {
    console.error(`refused: ${reason}`);
    process.exit(1);
  });
