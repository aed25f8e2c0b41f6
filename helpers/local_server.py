"""A real model behind an OpenAI-compatible address, on this machine.

What hosted models do can be tried here without a key: the server of llama-cpp-python
(extra ``server``) answers by Chat Completions and by legacy completions, from a GGUF
file, by default the embedded one. It listens to this machine only.

    python -m helpers.local_server --port 8000
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import requests

from . import EMBEDDED
from .checks import check_between, check_count, check_not_negative
from .files import FetchError

_HOST = "127.0.0.1"
_GRACE = 10  # seconds that a server has to end by itself
_SHOWN = 2000  # characters of what a server that stopped has said
# What the server would take from the environment, where it may be meant for others: a
# host of 0.0.0.0 would open it to the network, a key would close it to us.
_OTHERS = frozenset(
    ("HOST", "PORT", "MODEL", "API_KEY", "CONFIG_FILE", "ROOT_PATH", "SEED", "CACHE")
    + ("SSL_KEYFILE", "SSL_CERTFILE")
)


class ServerError(RuntimeError):
    """The server did not start, or stopped; the message says what it said."""


@contextmanager
def local_server(
    gguf: str | Path | None = None,
    *,
    name: str = EMBEDDED,
    port: int = 0,
    context: int = 2048,
    threads: int | None = None,
    patience: float = 120.0,
) -> Iterator[str]:
    """Serve a model until the block ends.

    Parameters
    ----------
    gguf : str or pathlib.Path, optional
        The model's file; the embedded model otherwise.
    name : str, default="SmolLM2-135M-Instruct"
        What requests call the model.
    port : int, default=0
        Where to listen; 0 takes a free port.
    context : int, default=2048
        The most tokens of a prompt with its answer.
    threads : int, optional
        How many to compute with; by default one for each processor.
    patience : float, default=120.0
        Seconds to wait until the server is ready.

    Yields
    ------
    str
        The address for a client, such as ``"http://127.0.0.1:8000/v1"``.

    Raises
    ------
    ValueError
        A number out of range.
    ServerError
        The extra ``server`` is not installed, or the server stopped before it was
        ready, or it was not ready in time.
    FileNotFoundError
        There is no such file.
    OSError
        The port is in use.

    Examples
    --------
    >>> with local_server() as base_url:  # doctest: +SKIP
    ...     print(probe(base_url, "SmolLM2-135M-Instruct"))
    """
    check_count("port", port, least=0)
    check_between("port", port, 0, 65535, closed=True)
    check_count("context", context)
    if threads is not None:
        check_count("threads", threads)
    check_not_negative("patience", patience)
    if gguf is not None and not Path(gguf).is_file():
        raise FileNotFoundError(f"gguf must be a file; there is no {gguf}.")
    if importlib.util.find_spec("llama_cpp") is None:
        raise ServerError(
            "llama-cpp-python is not installed. In a clone of the book, make serve "
            "installs it; elsewhere, pip install 'llama-cpp-python[server]' does. "
            "Either builds it from source, which needs a C++ compiler and some minutes."
        )
    port = _free_port(port)
    command = [sys.executable, "-m", "llama_cpp.server", "--host", _HOST]
    command += ["--port", str(port), "--model", str(gguf or _embedded())]
    command += ["--model_alias", name, "--n_ctx", str(context)]
    command += ["--n_threads", str(threads or os.cpu_count() or 1)]
    command += ["--n_threads_batch", str(threads or os.cpu_count() or 1)]
    # Log-probabilities need the logits of every position.
    command += ["--logits_all", "true", "--verbose", "false"]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={k: v for k, v in os.environ.items() if k.upper() not in _OTHERS},
        )
        try:
            base_url = f"http://{_HOST}:{port}/v1"
            _wait(server, base_url, patience, said)
            yield base_url
        finally:
            server.terminate()
            try:
                server.wait(_GRACE)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _embedded() -> Path:
    from .checkpoints import fetch_embedded_gguf

    return fetch_embedded_gguf()


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        # As servers do: a port that was just left counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise OSError(error.errno, f"port {port} cannot be had: {error}") from None
        return int(probe.getsockname()[1])


def _wait(
    server: subprocess.Popen[bytes], base_url: str, patience: float, said: IO[str]
) -> None:
    until = time.monotonic() + patience
    with requests.Session() as session:
        session.trust_env = False  # no proxy knows the way to this machine
        while server.poll() is None and (left := until - time.monotonic()) > 0:
            try:
                if session.get(f"{base_url}/models", timeout=min(left, 5)).ok:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.1)
    said.seek(0)
    words = said.read()[-_SHOWN:].strip()
    ended = server.poll()
    what = f"was not ready within {patience:g} seconds"
    if ended is not None:
        what = f"stopped with exit status {ended}"
    raise ServerError(f"The server {what}. It said: {words or 'nothing'}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until interrupted, as ``make serve`` does.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; that of the process otherwise.
    """
    parser = argparse.ArgumentParser(
        prog="python -m helpers.local_server",
        description="Serve a model to this machine by OpenAI's protocols.",
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", help="a GGUF file; the embedded model otherwise")
    options = parser.parse_args(arguments)
    name = Path(options.model).stem if options.model else EMBEDDED
    # Whoever ends this process ends the server with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with local_server(options.model, name=name, port=options.port) as base_url:
            print(f"{name} answers at {base_url}; Ctrl-C ends it.", flush=True)
            while True:
                time.sleep(60)
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError, ServerError, FetchError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
