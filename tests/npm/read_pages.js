// Reads pages of events with the official package: node read_pages.js TOKEN. Is told the URL of a page
// a line; says one event a line, and then that the page is done.

import { createInterface } from "node:readline";
import { HTTP } from "cloudevents";

const [token] = process.argv.slice(2);
for await (const url of createInterface({ input: process.stdin })) {
  const response = await fetch(url, { headers: { authorization: `Basic ${token}` } });
  const message = { headers: Object.fromEntries(response.headers), body: await response.text() };
  for (const event of HTTP.toEvent(message)) {
    // It must be one by the rules of the package, too.
    event.validate();
    console.log(event.toString());
  }
  console.log(JSON.stringify({ done: true }));
}
