// node phoenix.js PACKAGE URL OPTIONS [AUTHORIZATION]: follows the topic of the tests. Each line of
// its input is something to do.
import { createInterface } from "node:readline";
import WebSocket from "ws";
import "./channel.js";

const [name, url, options, authorization] = process.argv.slice(2);
const client = await import(name);
const { Socket } = client.Socket ? client : client.default;

class Transport extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, authorization ? { headers: { authorization } } : {});
  }
}

const say = (what) => console.log(JSON.stringify(what));
const settings = { transport: Transport, ...JSON.parse(options) };
const todo = follow(Socket, url, settings, "source:/all", say);
const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => todo[line]());
lines.on("close", () => process.exit(0));
