"""Rules of helpers.local_server, with a small server in place of llama.cpp's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from helpers import local_server as module
from helpers.local_server import ServerError, local_server, main

# It says in a file what it was started with, and does what a variable tells it.
FAKE = """
import json, os, signal, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

def note(name, value):
    path = os.path.join(os.environ["FAKE_FOLDER"], name)
    with open(path + ".part", "w") as file:
        json.dump(value, file)
    os.replace(path + ".part", path)

how = os.environ.get("FAKE_HOW", "")
if how == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
note("started", {"argv": sys.argv[1:], "pid": os.getpid(), "env": dict(os.environ)})
if how == "stops":
    print("x" * 3000 + "loading ...")
    print("no such architecture: \\u00e9toile", file=sys.stderr)
    sys.exit(3)
if how == "dumb":
    sys.exit(1)
if how == "slow":
    print("still loading", flush=True)
    time.sleep(60)

class Handler(BaseHTTPRequestHandler):
    asked = []

    def do_GET(self):
        self.asked.append(self.path)
        note("asked", self.asked)
        if how == "silent":
            time.sleep(60)
        ready = how != "warms up" or len(self.asked) > 2
        self.send_response(200 if ready else 503)
        self.send_header("content-length", "0")
        self.end_headers()

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
HTTPServer((options["--host"], int(options["--port"])), Handler).serve_forever()
"""


class Fake:
    """What the small server was told and has written down."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._environment = monkeypatch

    def behave(self, how: str) -> None:
        self._environment.setenv("FAKE_HOW", how)

    def __getitem__(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    @property
    def options(self) -> dict[str, str]:
        argv = self["started"]["argv"]
        return dict(zip(argv[::2], argv[1::2], strict=True))

    @property
    def runs(self) -> bool:
        try:
            os.kill(self["started"]["pid"], 0)
        except ProcessLookupError:
            return False
        return True


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    package = tmp_path / "packages" / "llama_cpp"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "server.py").write_text(FAKE, "utf-8")
    # It comes before the real one, here and in the processes.
    paths = [str(package.parent), str(Path(__file__).resolve().parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    monkeypatch.setenv("FAKE_FOLDER", str(tmp_path))
    monkeypatch.delenv("FAKE_HOW", raising=False)
    return Fake(tmp_path, monkeypatch)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF")
    return file


@pytest.fixture
def handlers() -> Iterator[None]:
    """main takes signals; the tests take them back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def is_open(base_url: str) -> bool:
    port = int(base_url.split(":")[2].split("/")[0])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_serves_until_the_block_ends(
    fake: Fake, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is meant for other servers is kept from this one, and a proxy is not asked.
    others = {"HOST": "0.0.0.0", "PORT": "1", "MODEL": "x", "api_key": "secret"}
    kept = {"N_GPU_LAYERS": "0", "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": ""}
    for name, value in (others | kept).items():
        monkeypatch.setenv(name, value)
    for name in ("no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    fake.behave("warms up")
    with local_server(
        gguf, name="tiny", context=64, threads=77, patience=20
    ) as base_url:
        # Whoever answers with an error is not ready.
        assert fake["asked"] == ["/v1/models"] * 3
        assert fake.runs and is_open(base_url)
    assert not fake.runs and not is_open(base_url)
    address, port = base_url.removesuffix("/v1").rsplit(":", 1)
    assert address == "http://127.0.0.1" and int(port) > 0
    assert fake.options == {
        "--host": "127.0.0.1",
        "--port": port,
        "--model": str(gguf),
        "--model_alias": "tiny",
        "--n_ctx": "64",
        "--n_threads": "77",
        "--n_threads_batch": "77",
        "--logits_all": "true",
        "--verbose": "false",
    }
    environment = fake["started"]["env"]
    assert not set(others) & set(environment)
    assert kept.items() <= environment.items()


def test_it_ends_when_the_block_raises(
    fake: Fake, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By default it serves the embedded model, on a port of its own, with all cores.
    monkeypatch.setattr(module, "_embedded", lambda: gguf)
    with pytest.raises(KeyError, match="mine"):
        with local_server() as base_url:
            assert fake.runs
            raise KeyError("mine")
    assert not fake.runs and not is_open(base_url)
    assert fake.options["--model"] == str(gguf)
    assert fake.options["--model_alias"] == "SmolLM2-135M-Instruct"
    assert fake.options["--n_threads"] == str(os.cpu_count())


def test_a_server_that_does_not_want_to_end_is_killed(
    fake: Fake, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GRACE", 0.05)
    fake.behave("stubborn")
    with local_server(gguf) as base_url:
        assert fake.runs
    assert not fake.runs and not is_open(base_url)


def test_a_server_that_stops_is_quoted(fake: Fake, gguf: Path) -> None:
    fake.behave("stops")
    start = time.monotonic()
    with pytest.raises(ServerError, match="stopped with exit status 3") as caught:
        with local_server(gguf, patience=20):
            raise AssertionError("it is not ready")
    assert time.monotonic() - start < 15  # nobody waits for one that has stopped
    message = str(caught.value)
    assert "It said: " in message and message.endswith("no such architecture: étoile")
    # The end of it, not all.
    assert "loading ..." in message and 1800 < len(message) < 2200
    fake.behave("dumb")
    with pytest.raises(ServerError, match="exit status 1. It said: nothing"):
        with local_server(gguf, patience=20):
            raise AssertionError("it is not ready")


@pytest.mark.parametrize("how", ["slow", "silent"])
def test_a_server_that_is_not_ready_in_time_is_ended(
    fake: Fake, gguf: Path, how: str
) -> None:
    fake.behave(how)
    said = {"slow": "still loading", "silent": "nothing"}[how]
    start = time.monotonic()
    with pytest.raises(ServerError) as caught:
        with local_server(gguf, patience=0.6):
            raise AssertionError("it is not ready")
    assert "was not ready within 0.6 seconds" in str(caught.value)
    assert str(caught.value).endswith(f"It said: {said}")
    assert time.monotonic() - start < 4
    assert not fake.runs


def test_a_port_in_use(fake: Fake, gguf: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} cannot be had"):
            with local_server(gguf, port=port):
                raise AssertionError("it is not ready")
    assert not (fake.folder / "started").exists()
    with local_server(gguf, port=port) as base_url:
        assert base_url == f"http://127.0.0.1:{port}/v1"


def test_what_is_missing_is_said_before_any_work(
    fake: Fake, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*given: Any, **options: Any) -> None:
        with local_server(*given, **options):
            raise AssertionError("it is not ready")

    with pytest.raises(FileNotFoundError, match=r"gguf must be a file.*no\.gguf"):
        start(gguf.with_name("no.gguf"))
    with pytest.raises(FileNotFoundError, match="gguf must be a file"):
        start(gguf.parent)
    for options, rule in (
        ({"port": -1}, "port must be a whole number of 0 or more, not -1"),
        ({"port": 65536}, "port must lie between 0 and 65535, not 65536"),
        ({"port": 80.5}, "port must be a whole number"),
        ({"context": 0}, "context must be a whole number of 1 or more, not 0"),
        ({"threads": 0}, "threads must be a whole number of 1 or more, not 0"),
        ({"patience": -1}, "patience must be 0 or more, not -1"),
    ):
        with pytest.raises(ValueError, match=rule):
            start(gguf, **options)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)  # as if not installed
    monkeypatch.setattr(module, "_embedded", lambda: pytest.fail("fetched in vain"))
    with pytest.raises(ServerError, match="not installed.*make serve"):
        start()
    assert not (fake.folder / "started").exists()


# The command -------------------------------------------------------------------------


def test_whoever_ends_the_command_ends_the_server(fake: Fake, gguf: Path) -> None:
    command = [sys.executable, "-m", "helpers.local_server", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--model", str(gguf)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        base_url = line.split(" answers at ")[1].split(";")[0]
        assert line.startswith("small answers at http://127.0.0.1:")
        assert requests.get(f"{base_url}/models", timeout=5).ok
        assert fake.runs and fake.options["--model_alias"] == "small"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()
    assert not fake.runs and not is_open(base_url)


@pytest.mark.usefixtures("handlers")
def test_an_interrupt_ends_the_command_quietly(
    fake: Fake,
    gguf: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sleep = module.time.sleep

    def interrupted(seconds: float) -> None:
        if seconds > 1:
            raise KeyboardInterrupt
        sleep(seconds)

    monkeypatch.setattr(module.time, "sleep", interrupted)
    monkeypatch.setattr(module, "_embedded", lambda: gguf)
    main(["--port", "0"])
    assert not fake.runs
    said = capsys.readouterr()
    assert "SmolLM2-135M-Instruct answers at http://127.0.0.1:" in said.out
    assert not said.err


@pytest.mark.usefixtures("handlers")
def test_the_command_says_in_a_line_why_it_ends(
    fake: Fake, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.behave("stops")
    for arguments, why in (
        (["--model", "no.gguf"], "there is no no.gguf"),
        (["--port", "70000"], "port must lie between 0 and 65535"),
        (["--port", "0", "--model", str(gguf)], "no such architecture"),
    ):
        with pytest.raises(SystemExit, match=why):
            main(arguments)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with pytest.raises(SystemExit, match=f"port {port} cannot be had"):
            main(["--port", port, "--model", str(gguf)])
