"""What a request costs besides the server's time, and what a long run leaves in memory.

Run by ``make bench``: 10,000 requests, 64 in flight, to a server in another process
that answers at once. Measured are the time from the first request to the last answer
on disk, the processor's time, and how far memory grows beyond the answers themselves.
"""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hosted_server import serve_in_process  # noqa: E402

from helpers.hosted import Journal, ask, build_request  # noqa: E402

N = int(os.environ.get("HOW_SURE_REQUESTS", "10000"))
CONCURRENCY = 64


@pytest.fixture
def url() -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    ports = context.Queue()
    process = context.Process(target=serve_in_process, args=(ports,))
    process.start()
    yield f"http://127.0.0.1:{ports.get(timeout=60)}/v1"
    process.kill()
    process.join()


def test_overhead_and_memory(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = pytest.importorskip("psutil").Process().memory_info
    client = AsyncOpenAI(api_key="sk-0123456789abcdef", base_url=url)

    def asked(count: int) -> list:
        texts = [f"q{at}" for at in range(count)]
        return [build_request("chat", "m", text, max_tokens=1) for text in texts]

    with Journal(tmp_path / "answers.sqlite") as journal:
        options = {"concurrency": CONCURRENCY, "progress": False}
        ask(asked(200), client, journal, **options)
        requests, before = asked(N), memory().rss
        start, busy = time.perf_counter(), time.process_time()
        answers = ask(requests, client, journal, **options)
        wall, busy = time.perf_counter() - start, time.process_time() - busy
        grown = memory().rss - before
        start = time.perf_counter()
        assert ask(requests, client, journal, **options) == answers
        again = time.perf_counter() - start
    with sqlite3.connect(tmp_path / "answers.sqlite") as file:
        written = file.execute("SELECT COUNT(*) FROM calls").fetchone()[0]
    assert written == len(answers) == N
    with capsys.disabled():
        print(
            f"\n{N:,} requests, {CONCURRENCY} in flight: {wall / N * 1e3:.2f} ms each, "
            f"{busy / N * 1e3:.2f} ms of processor time; memory grew by "
            f"{grown / 2**20:.0f} MiB, {grown / N:.0f} bytes an answer; read from the "
            f"journal in {again / N * 1e3:.3f} ms each"
        )
    assert busy / N < 6e-3  # the wall clock also counts what else a machine does
    assert grown / N < 10_000
