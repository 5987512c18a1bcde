#!/usr/bin/env python3
"""A small hook server for Braidcast: who may publish needs a token, everybody may watch, and everything is printed.

Needs nothing but Python. Start it with `TOKEN=secret python3 hook_server.py`, and name it in the configuration:

    [[hook]]
    events = ["on_connect", "on_close", "on_publish", "on_unpublish", "on_play", "on_stop", "on_hls"]
    url = "http://127.0.0.1:8085/"
"""

import hmac
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

TOKEN = os.environ.get("TOKEN", "secret")
SEEN = set()  # In earnest: a table with the ids of the last hours.


def may_publish(event):
    token = parse_qs(event["param"].lstrip("?")).get("token", [""])[0]
    return hmac.compare_digest(token.encode(), TOKEN.encode())


class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        # What is told may be told twice after a crash: the id says so.
        first = self.headers["Braidcast-Event-Id"] not in SEEN
        SEEN.add(self.headers["Braidcast-Event-Id"])
        if first:
            print(event["action"], event["client_id"], event["ip"], event["app"], event.get("stream", ""), flush=True)
        allowed = event["action"] != "on_publish" or may_publish(event)
        body = json.dumps({"code": 0} if allowed else {"code": 403, "msg": "wrong token"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8085
    server = ThreadingHTTPServer(("127.0.0.1", port), Hook)
    print("listening on", server.server_port, flush=True)
    server.serve_forever()
