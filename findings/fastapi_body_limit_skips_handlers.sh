#!/usr/bin/env bash
# fastapi 0.165.0 on starlette 1.10.0: max_body_size answers in plain text, past an
# exception handler, whenever the request says its length.
# Seen: an app with a handler that turns every HTTPException into JSON, max_body_size=10;
# a body of 108 bytes with Content-Length gets "Content Too Large" as text/plain, the
# same body in chunks gets the handler's JSON. Both are 413.
# Natural guess: a 413 goes through the handler as a 404 or 405 does, however the body is
# sent. So an API whose clients read {"error": ...} must check the length itself.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check \
  fastapi==0.165.0 starlette==1.10.0 httpx2==2.16.2
"$work/env/bin/python" - <<'PY'
from fastapi import Body, FastAPI
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from starlette.exceptions import HTTPException

app = FastAPI(max_body_size=10)


@app.exception_handler(HTTPException)
async def failed(_, error):
    return JSONResponse({"error": error.detail}, error.status_code)


@app.post("/")
async def repeat(body: dict = Body()):
    return body


client = TestClient(app)
body = b'{"a": "' + b"x" * 99 + b'"}'
kind = {"content-type": "application/json"}
whole = client.post("/", content=body, headers=kind)
chunks = client.post("/", content=iter([body]), headers=kind)
missing = client.get("/nothing")
for name, answer in (("whole", whole), ("chunks", chunks), ("missing", missing)):
    print(name, answer.status_code, answer.headers["content-type"], answer.text)
assert whole.status_code == chunks.status_code == 413
assert chunks.json() == {"error": "Content Too Large"} and missing.json()
assert whole.headers["content-type"].startswith("text/plain")
PY
