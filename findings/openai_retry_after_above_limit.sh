#!/usr/bin/env bash
# openai 3.54.0: a Retry-After above 120 seconds switches retrying off altogether.
# Seen: max_retries=4; a server that answers 429 without the header is asked 5 times, one
# that says "Retry-After: 121" once, at once, and RateLimitError is raised.
# Natural guess: the wait is honoured, or cut to the limit, or replaced by the usual
# back-off; in each case the request is tried again. So whoever runs hundreds of requests
# must hold the others back himself, or each is fired once at a server that said wait.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check openai==3.54.0
"$work/env/bin/python" - <<'PY'
import json, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai

asked, header = [], {}


class Busy(BaseHTTPRequestHandler):
    def do_POST(self):
        asked.append(self.path)
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"error": {"message": "slow down"}}).encode()
        self.send_response(429)
        for name, value in {**header, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


server = HTTPServer(("127.0.0.1", 0), Busy)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(
    api_key="none", base_url=f"http://127.0.0.1:{server.server_port}/v1", max_retries=4
)
counts = []
for header in ({}, {"Retry-After": "121"}):
    asked.clear()
    try:
        client.completions.create(model="m", prompt="t")
    except openai.RateLimitError:
        counts.append(len(asked))
print("asked without the header, with 121 s:", counts)
assert counts == [5, 1]
PY
