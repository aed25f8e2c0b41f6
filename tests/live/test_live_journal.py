"""A run against a real server that is killed again and again loses nothing."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hosted_server import StubServer, ask_in_process, processes, prompt_of, running
from openai import AsyncOpenAI

from helpers import EMBEDDED
from helpers.hosted import Answer, Journal, ask, build_request

N, KILLS, CONCURRENCY = 500, 20, 4
STARTING = 0.5  # seconds that a run needs until it asks, or less


class CountingProxy(StubServer):
    """Hands requests on to a server, and its answers back, byte for byte."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self.behind = urlsplit(base_url)

    async def _reply(self, body: dict[str, Any], writer: Any) -> None:
        self.asked[prompt_of(body)] += 1
        data = json.dumps(body).encode()
        # The connection ends with the answer, which tells where that ends.
        head = [
            f"POST {self.behind.path}/completions HTTP/1.1",
            f"host: {self.behind.netloc}",
            "content-type: application/json",
            f"content-length: {len(data)}",
            "connection: close",
        ]
        reader, behind = await asyncio.open_connection(
            self.behind.hostname, self.behind.port
        )
        try:
            behind.write("\r\n".join([*head, "", ""]).encode() + data)
            writer.write(await reader.read())
            await writer.drain()
        finally:
            behind.close()


def answered(path: Path) -> list[str]:
    """Keys with an answer on disk, one for each row that holds one."""
    try:
        with sqlite3.connect(f"file:{path}?mode=rw", uri=True) as file:
            rows = file.execute("SELECT key, status FROM calls").fetchall()
    except sqlite3.OperationalError:
        return []  # killed before there was a journal
    assert {status for _, status in rows} <= {"ok"}  # no repeat, no error
    return [key for key, _ in rows]


def test_a_run_killed_twenty_times_asks_nothing_twice(
    base_url: str, tmp_path: Path
) -> None:
    path, rng = tmp_path / "answers.sqlite", random.Random(0)
    requests = [
        build_request("completions", EMBEDDED, f"q{at}", max_tokens=1, top_logprobs=1)
        for at in range(N)
    ]
    # When to kill: evenly over the run, as told by how much has been asked, so that
    # it is no matter how fast the server is.
    marks = sorted(rng.sample(range(N), KILLS))
    proxy, context = CountingProxy(base_url), processes()
    finished: set[str] = set()
    killed = 0
    with running(proxy) as url:
        prompt_for = {q.key(url): f"q{at}" for at, q in enumerate(requests)}
        for mark in [*marks, None]:
            before = proxy.asked.copy()
            process = context.Process(
                target=ask_in_process, args=(url, path, requests, CONCURRENCY)
            )
            process.start()
            if mark is not None:
                until = time.monotonic() + 120
                while proxy.asked.total() < mark and process.is_alive():
                    assert time.monotonic() < until
                    time.sleep(0.001)
                # Somewhere in the course of a request, or before the first.
                reached = proxy.asked.total() > before.total()
                time.sleep(rng.uniform(0, 0.05 if reached else STARTING))
                process.kill()
            process.join(120)
            killed += process.exitcode == -signal.SIGKILL
            asked_again = [
                key
                for key in finished
                if proxy.asked[prompt_for[key]] != before[prompt_for[key]]
            ]
            assert asked_again == []
            found = answered(path)
            assert len(found) == len(set(found)) and finished <= set(found)
            finished = set(found)
        # A run that was nearly through may have ended first.
        assert process.exitcode == 0 and killed >= KILLS - 2
        assert finished == set(prompt_for)
        # Lost is only what was in flight.
        assert N <= proxy.asked.total() <= N + KILLS * CONCURRENCY
        asked = proxy.asked.total()
        with Journal(path) as journal:
            client = AsyncOpenAI(api_key="-", base_url=url)
            answers = ask(requests, client, journal, progress=False)
        assert proxy.asked.total() == asked
    assert all(isinstance(one, Answer) and len(one.tokens) == 1 for one in answers)
