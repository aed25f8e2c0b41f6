"""Answers that travel with an analysis, so that others can repeat it without a key.

A recording holds what was asked and what the server said, with a note of where and
when. Played into a journal, it answers the same requests at the same address; whatever
else is asked there goes to the server.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..answers import Answer, Failure, TokenUsage, decode, read_answer
from .endpoints import Request, plain_url
from .journal import Call, Journal

_ADDRESS = "base_url"
_COLUMNS = frozenset(
    ("key", "protocol", "arguments", "draw", "status", "response", "request_id")
    + ("error_kind", "error_message", "http_status", "prompt_tokens")
    + ("completion_tokens", "reasoning_tokens", "time")
)


def save_recording(
    journal: Journal, path: str | Path, *, base_url: str, **about: str
) -> pd.DataFrame:
    """Write down what a journal holds, with its requests.

    Parameters
    ----------
    journal : Journal
        One that keeps requests, with answers of one server.
    path : str or pathlib.Path
        The Parquet file to write.
    base_url : str
        The server's address.
    **about : str
        Where the answers come from: the server, its version, the model, the date.

    Returns
    -------
    pandas.DataFrame
        What was written: see :meth:`Journal.recorded`.

    Raises
    ------
    ValueError
        The journal keeps no requests, or has some of another server.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Journal(f"{folder}/a.sqlite") as journal:
    ...         save_recording(journal, f"{folder}/a.parquet", base_url="http://x/v1")
    Traceback (most recent call last):
    ...
    ValueError: journal must hold requests; open it with keep_requests=True.
    """
    table = journal.recorded()
    if table.empty:
        raise ValueError("journal must hold requests; open it with keep_requests=True.")
    table.attrs.update({**about, _ADDRESS: plain_url(base_url)})
    _requests(table, f"journal {journal.path}")
    table.to_parquet(path, compression="zstd", compression_level=19, index=False)
    return table


def play_recording(path: str | Path, journal: Journal) -> dict[str, str]:
    """Put the answers of a recording into a journal, those that it lacks.

    A failure of the recording is put there where the journal knows nothing of the
    request; an answer, also where it knows a failure only.

    Parameters
    ----------
    path : str or pathlib.Path
        A file that :func:`save_recording` wrote.
    journal : Journal
        Where to.

    Returns
    -------
    dict of str to str
        What is noted of the recording: ``base_url`` and whatever else was given.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no recording, or a request in it is not what its key says.
    """
    path = Path(path)
    try:
        table = pd.read_parquet(path)
    except ValueError as error:  # what Arrow says of a file of another kind
        raise ValueError(f"path must be a recording; {path} is none: {error}") from None
    if _ADDRESS not in table.attrs or not _COLUMNS <= set(table):
        raise ValueError(f"path must be a recording; {path} is none.")
    requests = _requests(table, str(path))
    known = journal.get(table["key"].tolist())
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    journal.add(
        _call(row, request)
        for row, request in zip(rows, requests, strict=True)
        if _is_news(row, known.get(row["key"]))
    )
    return {str(name): str(value) for name, value in table.attrs.items()}


def _is_news(row: Mapping[Hashable, Any], known: Answer | Failure | None) -> bool:
    return known is None or (row["status"] == "ok" and isinstance(known, Failure))


def _requests(table: pd.DataFrame, where: str) -> list[Request]:
    address = table.attrs[_ADDRESS]
    columns = (table[name] for name in ("key", "protocol", "arguments", "draw"))
    found = []
    for key, protocol, arguments, draw in zip(*columns, strict=True):
        try:
            request = Request(protocol, json.loads(arguments), int(draw))
            was_asked = request.key(address) == key
        except (TypeError, ValueError):
            was_asked = False
        if not was_asked:
            raise ValueError(
                f"{where} has a request that {address} was not asked: "
                f"{str(arguments)[:200]}"
            )
        found.append(request)
    return found


def _call(row: Mapping[Hashable, Any], request: Request) -> Call:
    result: Answer | Failure
    if row["status"] == "ok":
        body = decode(row["response"])
        result = read_answer(request.protocol, body, row["request_id"])
    else:
        names = ("error_kind", "error_message", "http_status", "request_id")
        result = Failure(*(row[name] for name in names))
    counts = (row[f"{name}_tokens"] for name in ("prompt", "completion", "reasoning"))
    return Call(
        row["key"],
        request.protocol,
        request.model,
        result,
        row["response"],
        TokenUsage(*counts),
        "recorded",
        request,
        row["time"],
    )
