"""Batches: requests as a file, answered within a day for less money.

The Batch API takes a file of requests and gives back two, of answers and of errors.
Both go into the journal that direct calls use, under the same keys, so that
:func:`run` finds them there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .answers import Answer, Failure, TokenUsage
from .journal import Call, Journal
from .reading import UnreadableAnswer, decode, read_answer, read_usage
from .requests import PATHS, Request

# What OpenAI takes in one file.
_MOST_REQUESTS = 50_000
_MOST_BYTES = 200_000_000
_GROUP = 500


@dataclass(frozen=True)
class BatchRead:
    """What a file of a batch held.

    Parameters
    ----------
    answers : int
        Lines with an answer.
    errors : int
        Lines that say why there is none; :meth:`Journal.failures` has them.
    unknown : tuple of str
        Keys of no request that was given, and broken lines; they are not written down.
    """

    answers: int
    errors: int
    unknown: tuple[str, ...]


def write_batch(
    requests: Iterable[Request],
    path: str | Path,
    journal: Journal,
    *,
    base_url: str,
    retry_failed: bool = False,
) -> int:
    """Write the requests that the journal does not know yet, as a file to upload.

    Parameters
    ----------
    requests : iterable of Request
        All of one protocol and model, as a batch must be.
    path : str or pathlib.Path
        The file, one JSON object a line; it is replaced as a whole.
    journal : Journal
        Where answers are kept.
    base_url : str
        The server's address, as the client for direct calls has it:
        ``str(client.base_url)``.
    retry_failed : bool, default=False
        Whether requests that failed before are asked again.

    Returns
    -------
    int
        How many were written. With none, there is no file.

    Raises
    ------
    ValueError
        Several protocols or models, or more than one file may hold: 50,000 requests
        and 200 MB.
    """
    wanted = {request.key(base_url): request for request in requests}
    kinds = sorted({(request.protocol, request.model) for request in wanted.values()})
    if len(kinds) > 1:
        raise ValueError(
            f"requests of a batch must share protocol and model, not {kinds!r}."
        )
    known = journal.get(list(wanted))
    todo = [
        key
        for key in wanted
        if key not in known or (retry_failed and isinstance(known[key], Failure))
    ]
    if len(todo) > _MOST_REQUESTS:
        raise ValueError(
            f"requests must be at most {_MOST_REQUESTS:,} in one batch, not "
            f"{len(todo):,}: write several."
        )
    lines = [
        json.dumps(
            {
                "custom_id": key,
                "method": "POST",
                "url": PATHS[wanted[key].protocol],
                "body": dict(wanted[key].arguments),
            }
        )
        + "\n"
        for key in todo
    ]
    size = sum(map(len, lines))
    if size > _MOST_BYTES:
        raise ValueError(
            f"requests must be at most {_MOST_BYTES:,} bytes in one batch, not "
            f"{size:,}: write several."
        )
    path = Path(path)
    if not lines:
        path.unlink(missing_ok=True)
        return 0
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text("".join(lines), "ascii")
    os.replace(partial, path)
    return len(todo)


def read_batch(
    path: str | Path, requests: Iterable[Request], journal: Journal, *, base_url: str
) -> BatchRead:
    """Read a file of answers or of errors into the journal.

    Lines read before are passed over, so that nothing counts twice.

    Parameters
    ----------
    path : str or pathlib.Path
        The output file or the error file of a batch.
    requests : iterable of Request
        Those that :func:`write_batch` was given.
    journal : Journal
        Where answers are kept.
    base_url : str
        The server's address, as :func:`write_batch` was given it.

    Returns
    -------
    BatchRead
    """
    wanted = {request.key(base_url): request for request in requests}
    known = journal.get(list(wanted))
    answers = errors = 0
    unknown: list[str] = []
    group: list[Call] = []
    with open(path, encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            try:
                entry = decode(line)
            except UnreadableAnswer:
                unknown.append(line[:80])
                continue
            key = str(entry.get("custom_id"))
            if key not in wanted:
                unknown.append(key)
                continue
            call = _call(key, wanted[key], entry)
            answers += isinstance(call.result, Answer)
            errors += isinstance(call.result, Failure)
            if call.result != known.get(key):
                group.append(call)
            if len(group) == _GROUP:
                journal.add(group)
                group = []
    journal.add(group)
    return BatchRead(answers, errors, tuple(unknown))


def _call(key: str, request: Request, entry: Mapping[str, Any]) -> Call:
    """One line of a file as a call."""
    response, error = entry.get("response"), entry.get("error")
    response = response if isinstance(response, dict) else {}
    body = response.get("body")
    body = body if isinstance(body, dict) else {}
    status, name = response.get("status_code"), response.get("request_id")
    result: Answer | Failure
    try:
        if error or status != 200:
            said = error or body.get("error") or "nothing"
            words = said.get("message") if isinstance(said, dict) else said
            code = said.get("code") if isinstance(said, dict) else None
            raise UnreadableAnswer(
                f"The batch has no answer: {words} ({code or status}). Correct the "
                "request or ask again with retry_failed=True."
            )
        result = read_answer(request.protocol, body, name)
    except UnreadableAnswer as problem:
        code = status if isinstance(status, int) and status != 200 else None
        result = Failure("BatchError", str(problem), code, name)
    usage = read_usage(body) if body else TokenUsage()
    kept = json.dumps(body) if body else None
    return Call(
        key, request.protocol, request.model, result, kept, usage, "batch", request
    )
