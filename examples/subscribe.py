#!/usr/bin/env python3
"""Prints events as they come, one CloudEvent a line: ./subscribe.py 'order.*'

Nothing but the standard library. Comes back by itself when the connection is lost, and goes on
where it was; with --place FILE also when it was stopped itself.
"""

import argparse
import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

# The gateway says something every 15 s: who hears nothing for so long has lost it.
SILENCE_SECONDS = 45


def read_arguments():
    parser = argparse.ArgumentParser(description="Prints events as they come.")
    url = os.environ.get("FANFARE_WATCH_URL", "http://127.0.0.1:8081")
    parser.add_argument("--url", default=url, help="where broadcast is")
    parser.add_argument("--token", default=os.environ.get("FANFARE_TOKEN"))
    parser.add_argument("--after", help="begin behind this cursor, or with the first that is kept")
    parser.add_argument("--place", metavar="FILE", help="where to remember the last cursor")
    parser.add_argument("types", nargs="*", metavar="TYPE", help="types or patterns; all if none")
    return parser.parse_args()


class Subscription:
    def __init__(self, arguments):
        # The same variable may hold the address of the WebSocket.
        self.url = re.sub("^ws", "http", arguments.url).rstrip("/") + "/events?"
        self.query = [("format", "cloudevents")] + [("type", it) for it in arguments.types]
        self.token = arguments.token
        self.file = arguments.place
        self.place = arguments.after
        self.retry_seconds = 1.0
        if self.file and os.path.exists(self.file):
            with open(self.file) as file:
                self.place = file.read().strip() or self.place

    def remember(self, cursor):
        self.place = cursor
        if self.file:
            # By rename, so that there is always a whole one.
            with open(self.file + ".new", "w") as file:
                file.write(cursor)
            os.replace(self.file + ".new", self.file)

    def events(self):
        """All events for ever, over as many connections as it takes."""
        while True:
            try:
                yield from self.connection()
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code != 429:
                    sys.exit(f"refused: {error.code} {error.read().decode()}")
                print(error, file=sys.stderr)
            except (OSError, http.client.HTTPException) as error:
                print(error, file=sys.stderr)
            time.sleep(self.retry_seconds)

    def connection(self):
        query = self.query + ([("after", self.place)] if self.place else [])
        url = self.url + urllib.parse.urlencode(query)
        request = urllib.request.Request(url, headers={"Accept": "text/event-stream"})
        if self.token:
            # A signed token comes with its scheme: "Bearer eyJ…".
            shown = self.token if " " in self.token else "Basic " + self.token
            request.add_header("Authorization", shown)
        with urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as response:
            fields, data = {}, []
            for line in response:
                line = line.decode().rstrip("\n")
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "data":
                    data.append(value)
                elif name == "retry":
                    self.retry_seconds = int(value) / 1000
                elif line:
                    fields[name] = value
                else:
                    if data:
                        yield fields.get("event"), fields.get("id"), "\n".join(data)
                    elif "id" in fields:
                        # Where the stream begins: who is cut off before an event goes on there.
                        self.remember(fields["id"])
                    fields, data = {}, []


def main():
    subscription = Subscription(read_arguments())
    for name, cursor, data in subscription.events():
        if name == "gateway.gap":
            # What was kept no longer cannot be had; who must have all asks its source again.
            print("some events are lost:", json.loads(data), file=sys.stderr)
            continue
        print(data, flush=True)
        # Only when the work is done: who dies before gets the event again.
        if cursor:
            subscription.remember(cursor)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
