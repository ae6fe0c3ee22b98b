// Reads a page of events with the official package: node read_page.js URL TOKEN. Says one event a line.

import { HTTP } from "cloudevents";

const [url, token] = process.argv.slice(2);
const response = await fetch(url, { headers: { authorization: `Basic ${token}` } });
const message = { headers: Object.fromEntries(response.headers), body: await response.text() };
for (const event of HTTP.toEvent(message)) {
  // It must be one by the rules of the package, too.
  event.validate();
  console.log(event.toString());
}
console.log(JSON.stringify({ done: true }));
