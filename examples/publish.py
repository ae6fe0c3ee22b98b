#!/usr/bin/env python3
"""Publishes one CloudEvent: ./publish.py order.paid '{"id": 7}'

Nothing but the standard library. The token is read from FANFARE_TOKEN, or given as --token.
"""

import argparse
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid

ATTEMPTS_MAX = 10


def read_json(text):
    try:
        return json.loads(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON; a text needs quotes of its own")


def read_arguments():
    parser = argparse.ArgumentParser(description="Publishes one CloudEvent.")
    url = os.environ.get("FANFARE_URL", "http://127.0.0.1:8080")
    parser.add_argument("--url", default=url, help="where listen is")
    parser.add_argument("--token", default=os.environ.get("FANFARE_TOKEN"))
    parser.add_argument("--source", default="/examples", help="who publishes")
    parser.add_argument("--id", default=str(uuid.uuid4()), help="unique for the source")
    parser.add_argument("type", help="such as order.paid")
    parser.add_argument("data", nargs="?", default="null", type=read_json, help="JSON")
    return parser.parse_args()


def publish(url, token, event):
    """Sends until there is an answer: the event with what the gateway has filled in.

    It is safe to send an event again: by its source and its id the gateway knows it, and
    delivers it once.
    """
    request = urllib.request.Request(
        url.rstrip("/") + "/events",
        data=json.dumps(event).encode(),
        headers={"Content-Type": "application/cloudevents+json"},
    )
    if token:
        # A signed token comes with its scheme: "Bearer eyJ…".
        request.add_header("Authorization", token if " " in token else "Basic " + token)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            # 429 and 503 mean: later. All others mean: not so.
            if error.code not in (429, 503):
                sys.exit(f"refused: {error.code} {error.read().decode()}")
            wait, why = float(error.headers.get("Retry-After", 1)), error
        except (OSError, http.client.HTTPException) as error:
            wait, why = 1.0, error
        print(f"attempt {attempt}: {why}", file=sys.stderr)
        time.sleep(wait)
    sys.exit("given up")


def main():
    arguments = read_arguments()
    event = {
        "specversion": "1.0",
        "id": arguments.id,
        "source": arguments.source,
        "type": arguments.type,
        "data": arguments.data,
    }
    print(json.dumps(publish(arguments.url, arguments.token, event)))


if __name__ == "__main__":
    main()
