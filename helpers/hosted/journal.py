"""A journal of what hosted models answered, in one SQLite file, and recordings of it.

Every call is a row under its request's key. With a write-ahead log and
``synchronous=FULL``, a written answer survives kill -9 and power loss; processes claim
what they ask, so that nothing is paid for twice. The log needs a local disk. Rows that
fail their checksum count as failures. Keys to servers are never kept.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..answers import Answer, Failure, TokenUsage, read_answer
from ..checks import check_not_negative
from .requests import Prices, Request, check_prices, plain_url

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    protocol TEXT NOT NULL,
    model TEXT NOT NULL,
    source TEXT NOT NULL,  -- direct, batch, recorded
    status TEXT NOT NULL,  -- ok, error, or repeat: paid though answered before
    response TEXT,         -- what the server sent, NULL for a repeat
    request_id TEXT,
    error_kind TEXT,
    error_message TEXT,
    http_status INTEGER,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    time REAL NOT NULL,    -- seconds since 1970
    checksum TEXT          -- of all after the id, NULL where it did not fit
);
CREATE INDEX IF NOT EXISTS calls_by_key ON calls (key);
CREATE UNIQUE INDEX IF NOT EXISTS one_answer ON calls (key) WHERE status = 'ok';
CREATE TABLE IF NOT EXISTS claims (  -- what is asked at this moment
    key TEXT PRIMARY KEY,
    owner TEXT NOT NULL,   -- a process, and a name for its run
    most REAL NOT NULL,    -- what it may cost
    until REAL NOT NULL    -- seconds since 1970
);
CREATE TABLE IF NOT EXISTS requests (  -- where they are to be kept
    key TEXT PRIMARY KEY,
    protocol TEXT NOT NULL,
    arguments TEXT NOT NULL,
    draw INTEGER NOT NULL
)
"""
_PATIENCE = 60.0  # seconds to wait for another process that writes
_CHUNK = 500
_DAMAGED = "The row in the journal is damaged ({}). Ask again with retry_failed=True."
_FAILURE = (
    "error_kind, error_message, http_status, "
    "prompt_tokens, completion_tokens, reasoning_tokens"
)
_RESULT = f"status, response, request_id, {_FAILURE}, time"
_COLUMNS = f"key, protocol, model, source, {_RESULT}"
_INSERT = (
    f"INSERT INTO calls ({_COLUMNS}, checksum) VALUES ({', '.join('?' * 15)}) "
    "ON CONFLICT DO NOTHING"
)
_PAID = (
    "SELECT id, key, source, http_status, prompt_tokens, completion_tokens FROM calls"
)
_SAME = " AND ".join(
    f"{name} IS :{name}"
    for name in (
        *("key", "source", "request_id", "error_kind", "error_message"),
        *("prompt_tokens", "completion_tokens"),
    )
)
_RECORDED = f"key, protocol, arguments, draw, {_RESULT}".split(", ")


@dataclass(frozen=True)
class Call:
    """One call of a server, as the journal keeps it.

    ``response`` is what the server sent; ``source`` is "direct", "batch" or
    "recorded"; ``time`` is in seconds since 1970, by default now.
    """

    key: str
    request: Request
    result: Answer | Failure
    response: str | None
    source: str = "direct"
    time: float | None = None

    def row(self, status: str | None = None) -> tuple[object, ...]:
        """The columns of the table, with another status if one is given."""
        failed = self.result if isinstance(self.result, Failure) else None
        row = (
            self.key,
            self.request.protocol,
            self.request.model,
            self.source,
            status or ("error" if failed else "ok"),
            None if status else self.response,
            _writable(self.result.request_id),
            failed and failed.kind,
            failed and _writable(failed.message),
            failed and failed.status,
            *astuple(self.result.usage),
            time.time() if self.time is None else self.time,
        )
        return (*row, _checksum(row))


def _checksum(row: Sequence[object]) -> str:
    text = json.dumps([*row], default=repr)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _writable(text: str | None) -> str | None:
    """A text with halves of characters spelled out, which SQLite does not take."""
    return text and text.encode("utf-8", "backslashreplace").decode()


class Journal:
    """Answers on disk, under the keys of their requests.

    Parameters
    ----------
    path : str or pathlib.Path
        The SQLite file, on a local disk; created if missing. With ":memory:", answers
        are lost when the journal is closed.
    keep_requests : bool, default=False
        Whether to keep the requests too, which :func:`save_recording` needs. The file
        then contains the prompts.

    Examples
    --------
    >>> with Journal(":memory:") as journal:
    ...     journal.get(["a key"])
    {}
    """

    def __init__(self, path: str | Path, *, keep_requests: bool = False) -> None:
        self._keeps_requests = keep_requests
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One connection for all threads, one thread at a time.
        self._lock = threading.Lock()
        self._file = sqlite3.connect(
            self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        self._file.row_factory = sqlite3.Row
        self._file.text_factory = lambda data: data.decode("utf-8", "replace")
        try:
            self._open()
        except BaseException as error:
            self._file.close()
            if type(error) is not sqlite3.DatabaseError:
                raise
            raise ValueError(f"{self.path} is no journal: {error}.") from None

    def _open(self) -> None:
        # Switching to the log does not wait for others by itself.
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._file.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.01)
        self._file.execute("PRAGMA synchronous = FULL")
        with self.writing() as file:
            (version,) = file.execute("PRAGMA user_version").fetchone()
            (tables,) = file.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            if version != _VERSION and (version or tables):
                raise ValueError(
                    f"{self.path} is a database, but no journal of version {_VERSION}; "
                    "name another file."
                )
            for statement in _SCHEMA.split(";"):
                file.execute(statement)
            file.execute(f"PRAGMA user_version = {_VERSION}")

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction; one that is not durable may be lost with the power."""
        with self._lock:
            if not durable:
                self._file.execute("PRAGMA synchronous = NORMAL")
            try:
                self._file.execute("BEGIN IMMEDIATE")
                yield self._file
                self._file.execute("COMMIT")
            except BaseException:
                # SQLite has done it by itself where the disk is full.
                if self._file.in_transaction:
                    self._file.execute("ROLLBACK")
                raise
            finally:
                if not durable:
                    self._file.execute("PRAGMA synchronous = FULL")

    def add(self, calls: Iterable[Call]) -> None:
        """Write calls in one transaction; the first answer stays, all costs count."""
        with self.writing() as file:
            for call in calls:
                if not file.execute(_INSERT, call.row()).rowcount:
                    file.execute(_INSERT, call.row("repeat"))
                file.execute("DELETE FROM claims WHERE key = ?", (call.key,))
                if self._keeps_requests:
                    asked = call.request
                    sent = json.dumps(dict(asked.arguments))
                    file.execute(
                        "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?)",
                        (call.key, asked.protocol, sent, asked.draw),
                    )

    def holds(self, call: Call) -> bool:
        """Whether this very call is here, as an answer, a failure or a repeat."""
        row = dict(zip(_COLUMNS.split(", "), call.row()[:-1], strict=True))
        with self._lock:
            found = self._file.execute(f"SELECT id FROM calls WHERE {_SAME}", row)
            return found.fetchone() is not None

    def get(self, keys: Sequence[str]) -> dict[str, Answer | Failure]:
        """The answer under each key or, where there is none yet, the last failure."""
        found: dict[str, Answer | Failure] = {}
        query = (
            f"SELECT id, checksum, {_COLUMNS} FROM calls WHERE status != 'repeat' AND "
            "key IN ({}) ORDER BY status = 'ok', id"
        )
        for row in self._rows(query, keys):
            key = row["key"]
            try:
                if row["checksum"] not in (None, _checksum(row[2:])):
                    raise ValueError("its checksum does not fit")
                found[key] = _result(row)
            # Whatever is wrong with a row concerns that row alone.
            except Exception as error:
                failure = Failure("DamagedRow", _DAMAGED.format(error))
                if not isinstance(found.get(key), Answer):
                    found[key] = failure
                with self.writing() as file:
                    file.execute(
                        "UPDATE calls SET status = 'error', error_kind = ?, "
                        "error_message = ?, checksum = NULL WHERE id = ?",
                        (failure.kind, failure.message, row["id"]),
                    )
        return found

    def _rows(self, query: str, keys: Sequence[str]) -> Iterator[sqlite3.Row]:
        for start in range(0, len(keys), _CHUNK):
            part = list(keys[start : start + _CHUNK])
            with self._lock:
                found = self._file.execute(
                    query.format(", ".join("?" * len(part))), part
                ).fetchall()
            yield from found

    def paid(self, keys: Sequence[str]) -> tuple[int, list[sqlite3.Row]]:
        """The number of the last row, and what calls up to it cost."""
        with self._lock:
            (last,) = self._file.execute("SELECT MAX(id) FROM calls").fetchone()
        query = f"{_PAID} WHERE key IN ({{}}) AND id <= {last or 0}"
        return last or 0, list(self._rows(query, keys))

    def paid_since(self, last: int) -> list[sqlite3.Row]:
        """What later calls cost, inside a transaction of :meth:`writing`."""
        query = f"{_PAID} WHERE id > ? ORDER BY id"
        return self._file.execute(query, (last,)).fetchall()

    def responses(self, keys: Sequence[str]) -> dict[str, str]:
        """What the server sent last for each key, as it was, where it sent anything."""
        self.get(keys)  # which finds what is damaged
        query = (
            "SELECT key, response FROM calls WHERE response IS NOT NULL AND "
            "error_kind IS NOT 'DamagedRow' AND key IN ({}) ORDER BY id"
        )
        return {row["key"]: row["response"] for row in self._rows(query, keys)}

    def usage(
        self, prices: Prices | None = None, *, batch_share: float = 1.0
    ) -> pd.DataFrame:
        """What all calls in this journal cost: a row for each model and source.

        Parameters
        ----------
        prices : mapping, optional
            For each model, the prices of a million tokens read and of a million
            written, for a column ``cost``.
        batch_share : float, default=1.0
            The part of the price that a token of a batch costs.
        """
        check_not_negative("batch_share", batch_share)
        # Not by SUM, which stops where a server has named huge numbers.
        sums = [
            f"CAST(TOTAL({name}_tokens) AS INTEGER) AS {name}_tokens"
            for name in ("prompt", "completion", "reasoning")
        ]
        table = self._table(
            "SELECT model, source, SUM(status = 'ok') AS answers, "
            f"SUM(status = 'error') AS errors, {', '.join(sums)} FROM calls "
            "GROUP BY model, source ORDER BY model, source"
        )
        if prices is not None:
            check_prices(prices, table["model"])
            pairs = np.reshape([prices[name] for name in table["model"]], (-1, 2))
            used = table[["prompt_tokens", "completion_tokens"]].to_numpy(float)
            share = np.where(table["source"] == "batch", batch_share, 1.0)
            table["cost"] = (used * pairs).sum(axis=1) / 1e6 * share
        return table.set_index(["model", "source"])

    def failures(self) -> pd.DataFrame:
        """All calls that failed, in the order of time, also those answered since."""
        return self._table(
            "SELECT key, model, error_kind, error_message, http_status, request_id, "
            "time FROM calls WHERE status = 'error' ORDER BY id"
        )

    def recorded(self) -> pd.DataFrame:
        """Each kept request's answer, or its last failure, by time of first answer."""
        if not self._keeps_requests:
            return pd.DataFrame(columns=["key"])
        self.get(self._table("SELECT key FROM requests")["key"].tolist())
        table = self._table(
            f"SELECT r.key, r.protocol, r.arguments, r.draw, {_RESULT} "
            "FROM requests r JOIN calls c "
            "ON c.id = (SELECT id FROM calls WHERE key = r.key AND status != 'repeat' "
            "ORDER BY status = 'ok' DESC, id DESC LIMIT 1) ORDER BY c.id"
        )
        return table.astype({"http_status": "Int64"})

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _table(self, query: str) -> pd.DataFrame:
        with self._lock:
            return pd.read_sql_query(query, self._file)


def save_recording(
    journal: Journal, path: str | Path, *, base_url: str, **about: str
) -> pd.DataFrame:
    """Write a journal's answers and requests to a Parquet file; return the table.

    Parameters
    ----------
    journal : Journal
        One with ``keep_requests=True`` and answers of one server.
    path : str or pathlib.Path
        The file to write.
    base_url : str
        The server's address.
    **about : str
        Where the answers come from: the server, its version, the model, the date.
    """
    table = journal.recorded()
    if table.empty:
        raise ValueError("journal must hold requests; open it with keep_requests=True.")
    table.attrs.update({**about, "base_url": plain_url(base_url)})
    _requests(table, f"journal {journal.path}")
    table.to_parquet(path, compression="zstd", compression_level=19, index=False)
    return table


def play_recording(path: str | Path, journal: Journal) -> dict[str, str]:
    """Put the answers of a recording that a journal lacks into it.

    Parameters
    ----------
    path : str or pathlib.Path
        A file that :func:`save_recording` wrote.
    journal : Journal
        The journal to fill.

    Returns
    -------
    dict of str to str
        ``base_url`` and what else :func:`save_recording` was told.
    """
    path = Path(path)
    try:
        table = pd.read_parquet(path)
    except ValueError as error:  # what Arrow says of a file of another kind
        raise ValueError(f"path must be a recording; {path} is none: {error}") from None
    if "base_url" not in table.attrs or not set(_RECORDED) <= set(table):
        raise ValueError(f"path must be a recording; {path} is none.")
    requests = _requests(table, str(path))
    known = journal.get(table["key"].tolist())
    calls = []
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    for row, request in zip(rows, requests, strict=True):
        key, found = row["key"], known.get(row["key"])
        if found is None or (row["status"] == "ok" and isinstance(found, Failure)):
            result, said = _result(row), row["response"]
            calls.append(Call(key, request, result, said, "recorded", row["time"]))
    journal.add(calls)
    return {str(name): str(value) for name, value in table.attrs.items()}


def _requests(table: pd.DataFrame, where: str) -> list[Request]:
    address = table.attrs["base_url"]
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


def _result(row: Mapping[Any, Any] | sqlite3.Row) -> Answer | Failure:
    """What a row of the journal or of a recording says of a call."""
    name = row["request_id"]
    if row["status"] == "ok":
        return read_answer(row["protocol"], row["response"], name)
    kind, message, status, *tokens = (row[column] for column in _FAILURE.split(", "))
    return Failure(kind, message, status, name, TokenUsage(*tokens))
