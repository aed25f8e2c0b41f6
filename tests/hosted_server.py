"""A hosted model that misbehaves on request, for the tests of helpers.hosted."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Reply:
    """What comes back: by default an answer that repeats the prompt."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    how: str = "whole"  # reset, short, drip, silent
    delay: float = 0.0


def chat_answer(text: str, *, n_top: int = 3, **changes: Any) -> dict[str, Any]:
    """The body of a chat completion of one token."""
    top = [
        {"token": f"{text}{at or ''}", "logprob": -1.0 - at, "bytes": [97 + at]}
        for at in range(n_top)
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "finish_reason": "stop",
        "logprobs": {"content": [{**top[0], "top_logprobs": top}]} if top else None,
    }
    return {
        "id": f"chat-{text}",
        "object": "chat.completion",
        "model": "stub-2026",
        "choices": [{**choice, **changes}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11},
    }


def prompt_of(body: dict[str, Any]) -> str:
    """The text that was asked."""
    asked = body.get("messages", body.get("input", body.get("prompt")))
    return asked if isinstance(asked, str) else asked[-1]["content"]


class StubServer:
    """Counts what it is asked, and does with it what it is told."""

    def __init__(self, behave: Callable[[str, int], Reply] | None = None) -> None:
        self.behave = behave or (lambda prompt, nth: Reply())
        self.asked: Counter[str] = Counter()
        self.times: list[float] = []
        self.most_in_flight = self._in_flight = 0

    async def serve(self, started: Callable[[int], None]) -> None:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        started(server.sockets[0].getsockname()[1])
        async with server:
            await asyncio.Event().wait()

    async def _talk(self, reader: Any, writer: Any) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                size = int(head.split("content-length:")[1].split("\r\n")[0])
                body = json.loads(await reader.readexactly(size))
                self._in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self._in_flight)
                try:
                    await self._reply(body, writer)
                finally:
                    self._in_flight -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # whoever talks to it may go at any time, and so may the server
        finally:
            writer.close()

    async def _reply(self, body: dict[str, Any], writer: Any) -> None:
        prompt = prompt_of(body)
        self.asked[prompt] += 1
        self.times.append(time.monotonic())
        reply = self.behave(prompt, self.asked[prompt])
        await asyncio.sleep(reply.delay)
        if reply.how == "silent":
            await asyncio.sleep(30)
        if reply.how == "reset":
            # Without lingering, closing sends a reset.
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise ConnectionResetError
        said = chat_answer(prompt) if reply.body is None else reply.body
        data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        headers = {"content-type": "application/json", **reply.headers}
        headers["content-length"] = str(len(data) * (2 if reply.how == "short" else 1))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 {reply.status} X\r\n{lines}\r\n".encode())
        if reply.how == "drip":
            for byte in data:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.write(b"" if reply.how == "drip" else data)
        await writer.drain()
        if reply.how == "short":
            raise ConnectionAbortedError


@contextmanager
def running(server: StubServer) -> Iterator[str]:
    """The server in a thread; its base_url."""
    loop, port, up = asyncio.new_event_loop(), [0], threading.Event()

    def started(number: int) -> None:
        port[0] = number
        up.set()

    task = loop.create_task(server.serve(started))
    thread = threading.Thread(target=_run_until_cancelled, args=(loop, task))
    thread.start()
    assert up.wait(20)
    try:
        yield f"http://127.0.0.1:{port[0]}/v1"
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


def _run_until_cancelled(loop: asyncio.AbstractEventLoop, task: Any) -> None:
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        for other in (rest := asyncio.all_tasks(loop)):
            other.cancel()
        if rest:
            loop.run_until_complete(asyncio.wait(rest))
    finally:
        loop.close()


def processes() -> Any:
    """Processes that start at once, since the imports are done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["openai", "helpers.hosted", "hosted_server"])
    return context


def ask_in_process(
    base_url: str, path: Path, requests: list[Any], concurrency: int
) -> None:
    """What a process does that is to be killed."""
    from openai import AsyncOpenAI

    from helpers.hosted import Journal, ask

    client = AsyncOpenAI(api_key="sk-killed-12345678", base_url=base_url)
    with Journal(path) as journal:
        ask(requests, client, journal, concurrency=concurrency, progress=False)


def fill_in_process(path: Path, name: str) -> None:
    """What one of several processes writes: rows of its own, and rows of all."""
    from helpers.hosted import Call, Journal, build_request, read_answer

    body, asked = chat_answer("yes"), build_request("chat", "m", "q", max_tokens=1)
    result = read_answer("chat", body)
    with Journal(path) as journal:
        for at in range(20):
            journal.add(
                Call(key, asked, result, json.dumps(body))
                for key in (f"{name}-{at}", f"shared-{at}")
            )


def serve_in_process(ports: Any) -> None:
    """A server that takes no time from the process that asks it."""
    asyncio.run(StubServer().serve(ports.put))
