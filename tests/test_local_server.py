"""Rules of helpers.local_server, with a small server in place of llama.cpp's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from helpers.local_server import local_server

# It says in a file what it was started with, and does what a variable tells it.
FAKE = """
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

how, folder = os.environ.get("FAKE_HOW"), Path(os.environ["FAKE_FOLDER"])
told = {"argv": sys.argv[1:], "pid": os.getpid(), "env": dict(os.environ)}
(folder / "part").write_text(json.dumps(told))
(folder / "part").rename(folder / "started")
if how == "stops":
    print("x" * 3000 + "loading ...", flush=True)
    sys.exit("no such architecture: étoile")
if how == "slow":
    print("still loading", flush=True)
    time.sleep(60)

class Handler(BaseHTTPRequestHandler):
    asked = []

    def do_GET(self):
        self.asked.append(self.path)
        ready = how != "warms up" or self.asked == ["/v1/models"] * 3
        self.send_response(200 if ready else 503)
        self.send_header("content-length", "0")
        self.end_headers()

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
HTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""


class Fake:
    """What the small server was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gguf = folder / "small.gguf"

    @property
    def started(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "started").read_text()))

    @property
    def runs(self) -> bool:
        return Path(f"/proc/{self.started['pid']}").exists()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    package = tmp_path / "packages" / "llama_cpp"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "server.py").write_text(FAKE, "utf-8")
    # It comes before the real one, here and in the processes.
    paths = [str(package.parent), str(Path(__file__).resolve().parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.setenv("FAKE_FOLDER", str(tmp_path))
    found = Fake(tmp_path)
    found.gguf.write_bytes(b"GGUF")
    return found


def test_it_serves_until_the_block_ends(fake, monkeypatch):
    # What is meant for other servers is kept from this one, and a proxy is not asked.
    others = {"HOST": "0.0.0.0", "PORT": "1", "MODEL": "x", "api_key": "secret"}
    kept = {"N_GPU_LAYERS": "0", "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}
    for name, value in (others | kept | {"FAKE_HOW": "warms up"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(KeyError, match="mine"):
        with local_server(fake.gguf, name="tiny", threads=77) as base_url:
            assert fake.runs
            raise KeyError("mine")
    assert not fake.runs
    argv = fake.started["argv"]
    assert dict(zip(argv[::2], argv[1::2], strict=True)) == {
        "--host": "127.0.0.1",
        "--port": base_url.removeprefix("http://127.0.0.1:").removesuffix("/v1"),
        "--model": str(fake.gguf),
        "--model_alias": "tiny",
        "--n_ctx": "2048",
        "--n_threads": "77",
        "--n_threads_batch": "77",
        "--logits_all": "true",
        "--verbose": "false",
    }
    environment = fake.started["env"]
    assert not set(others) & set(environment)
    assert kept.items() <= environment.items()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("stops", "exit status 1. It said: x+loading ...\nno such .*: étoile$"),
        ("slow", "No server within 1 s; exit status None. It said: still loading$"),
    ],
)
def test_a_server_that_is_not_ready_is_quoted_and_ended(fake, monkeypatch, how, says):
    monkeypatch.setenv("FAKE_HOW", how)
    patience = {"stops": 60, "slow": 1}[how]
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=says) as caught:
        with local_server(fake.gguf, patience=patience):
            raise AssertionError("it is not ready")
    assert time.monotonic() - start < 30  # nobody waits for one that has stopped
    assert len(str(caught.value)) < 2200  # the end of it, not all
    assert not fake.runs


def test_a_port_in_use(fake):
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(OSError, match="[Aa]ddress already in use"):
            with local_server(fake.gguf, port=other.getsockname()[1]):
                raise AssertionError("it is not ready")
    assert not (fake.folder / "started").exists()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_whoever_ends_the_command_ends_the_server(fake, by):
    command = [sys.executable, "-m", "helpers.local_server", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--model", str(fake.gguf)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("small answers at http://127.0.0.1:")
        base_url = line.split(" answers at ")[1].split(";")[0]
        assert requests.get(f"{base_url}/models", timeout=5).ok and fake.runs
        process.send_signal(by)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    assert not fake.runs


@pytest.mark.parametrize(("port", "why"), [("70000", "65535"), ("0", "no such arch")])
def test_the_command_says_why_it_ends(fake, monkeypatch, port, why):
    monkeypatch.setenv("FAKE_HOW", "stops")
    command = [sys.executable, "-m", "helpers.local_server", "--port", port]
    command += ["--model", str(fake.gguf)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and why in done.stderr
    assert "Traceback" not in done.stderr
