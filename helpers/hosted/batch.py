"""The Batch API: requests as a file, answered within a day at a lower price."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..answers import (
    PROTOCOLS,
    Answer,
    Failure,
    TokenUsage,
    UnreadableAnswer,
    read_answer,
)
from ..files import writing
from .journal import Call, Journal
from .requests import Request

# What OpenAI takes in one file.
_MOST_REQUESTS = 50_000
_MOST_BYTES = 200_000_000


def write_batch(
    requests: Iterable[Request],
    path: str | Path,
    journal: Journal,
    *,
    base_url: str,
    retry_failed: bool = False,
) -> int:
    """Write the requests that the journal does not know yet to a file to upload.

    Parameters
    ----------
    requests : iterable of Request
        All of one protocol and model; at most 50,000 and 200 MB.
    path : str or pathlib.Path
        The JSON Lines file, which is replaced.
    journal : Journal
        Where answers are kept.
    base_url : str
        The server's address as direct calls have it: ``str(client.base_url)``.
    retry_failed : bool, default=False
        Whether to ask again for requests that failed before.

    Returns
    -------
    int
        Number of requests written. With none, there is no file.
    """
    wanted = {request.key(base_url): request for request in requests}
    kinds = sorted({(request.protocol, request.model) for request in wanted.values()})
    if len(kinds) > 1:
        raise ValueError(
            f"requests of a batch must share protocol and model, not {kinds!r}."
        )
    known = journal.get(list(wanted))
    if retry_failed:
        known = {
            key: found for key, found in known.items() if isinstance(found, Answer)
        }
    lines: list[str] = []
    for key, request in wanted.items():
        if key not in known:
            url, body = PROTOCOLS[request.protocol].path, dict(request.arguments)
            line = {"custom_id": key, "method": "POST", "url": url, "body": body}
            lines.append(json.dumps(line) + "\n")
    size = sum(map(len, lines))
    if len(lines) > _MOST_REQUESTS or size > _MOST_BYTES:
        raise ValueError(
            f"requests must be at most {_MOST_REQUESTS:,} in one batch, of at most "
            f"{_MOST_BYTES:,} bytes together, not {len(lines):,} of {size:,}: write "
            "several."
        )
    if not lines:
        Path(path).unlink(missing_ok=True)
        return 0
    with writing(path) as unfinished:
        unfinished.write_text("".join(lines), "ascii")
    return len(lines)


def read_batch(
    path: str | Path, requests: Iterable[Request], journal: Journal, *, base_url: str
) -> tuple[int, int, tuple[str, ...]]:
    """Read a batch's output or error file into the journal; reading twice is harmless.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    requests, journal, base_url
        As given to :func:`write_batch`.

    Returns
    -------
    tuple of int, int and tuple of str
        Number of answers, number of failures (see :meth:`Journal.failures`), and the
        lines that were skipped: keys of unknown requests, and broken lines.
    """
    wanted = {request.key(base_url): request for request in requests}
    known = journal.get(list(wanted))
    kinds: Counter[type] = Counter()
    unknown: list[str] = []
    calls: list[Call] = []
    with open(path, encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            try:
                entry = json.loads(line)
                key = str(entry.get("custom_id"))
            except (ValueError, AttributeError, RecursionError):
                unknown.append(line[:80])
                continue
            if key not in wanted:
                unknown.append(key)
                continue
            call = _call(key, wanted[key], entry)
            kinds[type(call.result)] += 1
            if call.result != known.get(key) and not journal.holds(call):
                calls.append(call)
    journal.add(calls)
    return kinds[Answer], kinds[Failure], tuple(unknown)


def _call(key: str, request: Request, entry: dict[str, Any]) -> Call:
    response = _mapping(entry.get("response"))
    body = _mapping(response.get("body"))
    status, name = response.get("status_code"), response.get("request_id")
    result: Answer | Failure
    try:
        error = entry.get("error") or body.get("error")
        if status != 200 and not error:
            error = {"message": f"the row has the status {status}"}
        result = read_answer(request.protocol, {**body, "error": error}, name)
    except UnreadableAnswer as problem:
        code = status if isinstance(status, int) and status != 200 else None
        usage = TokenUsage.of(body)
        result = Failure("BatchError", str(problem), code, name, usage)
    return Call(key, request, result, json.dumps(body) if body else None, "batch")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
