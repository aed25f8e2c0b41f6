"""A journal of what hosted models answered, in one SQLite file.

An answer is paid for once and kept: every call is a row under the key of its request,
written in a transaction of its own or of the few that arrive with it. With SQLite's
write-ahead log and ``synchronous=FULL`` a written answer outlives both the process
(kill -9) and the machine (power loss). ``NORMAL`` would outlive the process only, since
the last commits may then not have left the operating system's memory; it is faster, but
what waits here costs money. Several processes may use a journal at once: they wait for
each other's writes, and claim what they ask, so that nothing is paid for twice; only
what was in flight when a process was killed is asked again. It must lie on a local
disk, since a write-ahead log needs memory that the processes share. Every row carries a
checksum: one that no longer fits it, or cannot be read, is a failure from then on.

Keys to servers are not kept, and what was asked only where one says so: texts may be
private. What the server sent is kept as it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..answers import Answer, Failure, TokenUsage, decode, read_answer
from ..checks import check_not_negative
from .costs import Prices, check_prices
from .endpoints import Request

_VERSION = 1
_SCHEMA = (
    """
CREATE TABLE calls (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    protocol TEXT NOT NULL,
    model TEXT NOT NULL,
    source TEXT NOT NULL,  -- direct, batch
    status TEXT NOT NULL,  -- ok, error, or repeat: paid though answered before
    response TEXT,         -- what the server sent; NULL for a repeat
    request_id TEXT,
    error_kind TEXT,
    error_message TEXT,
    http_status INTEGER,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    reasoning_tokens INTEGER NOT NULL,
    time REAL NOT NULL     -- seconds since 1970
)
""",
    "CREATE INDEX calls_by_key ON calls (key)",
    "CREATE UNIQUE INDEX one_answer ON calls (key) WHERE status = 'ok'",
)
# What is asked by whom at this moment: a process, and a name for its run.
_CLAIMS = """
CREATE TABLE IF NOT EXISTS claims (
    key TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    most REAL NOT NULL,    -- what it may cost
    until REAL NOT NULL    -- seconds since 1970
)
"""
_REQUESTS = """
CREATE TABLE IF NOT EXISTS requests (
    key TEXT PRIMARY KEY,
    protocol TEXT NOT NULL,
    arguments TEXT NOT NULL,
    draw INTEGER NOT NULL
)
"""
_ABOUT = "PRAGMA table_info(calls)"
_DAMAGED = "The row in the journal is damaged ({}). Ask again with retry_failed=True."
_CHUNK = 500
_COLUMNS = (
    "key, protocol, model, source, status, response, request_id, error_kind, "
    "error_message, http_status, prompt_tokens, completion_tokens, reasoning_tokens, "
    "time"
)
_INSERT = (
    f"INSERT INTO calls ({_COLUMNS}, checksum) VALUES ({', '.join('?' * 15)}) "
    "ON CONFLICT DO NOTHING"
)
_PAID = (
    "SELECT id, key, source, http_status, prompt_tokens, completion_tokens FROM calls"
)


@dataclass(frozen=True)
class Call:
    """One call of a server, as the journal keeps it.

    Parameters
    ----------
    key, protocol, model : str
        The request's.
    result : Answer or Failure
        What came of it.
    response : str or None
        What the server sent, if anything.
    usage : TokenUsage
        What it cost, also where it failed.
    source : {"direct", "batch", "recorded"}, default="direct"
        How it was asked, or that it comes from a recording.
    request : Request, optional
        What was asked, for journals that keep it.
    time : float, optional
        When it was answered, in seconds since 1970; now, if not given.
    """

    key: str
    protocol: str
    model: str
    result: Answer | Failure
    response: str | None
    usage: TokenUsage
    source: str = "direct"
    request: Request | None = None
    time: float | None = None

    def row(self, status: str | None = None) -> tuple[object, ...]:
        """The columns of the table, with another status if one is given."""
        failed = self.result if isinstance(self.result, Failure) else None
        row = (
            self.key,
            self.protocol,
            self.model,
            self.source,
            status or ("error" if failed else "ok"),
            None if status else self.response,
            _writable(self.result.request_id),
            failed and failed.kind,
            failed and _writable(failed.message),
            failed and failed.status,
            self.usage.prompt,
            self.usage.completion,
            self.usage.reasoning,
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
        The file; it is made, with its folder, if it is not there. ":memory:" keeps the
        answers no longer than the journal.
    patience : float, default=60.0
        Seconds to wait for another process that writes.
    keep_requests : bool, default=False
        Whether what was asked is kept too, as :func:`save_recording` needs it. Prompts
        then lie in the file.

    Raises
    ------
    ValueError
        The file is no journal, or one of another version.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Journal(f"{folder}/answers.sqlite") as journal:
    ...         journal.get(["a key"])
    {}
    """

    def __init__(
        self, path: str | Path, *, patience: float = 60.0, keep_requests: bool = False
    ) -> None:
        check_not_negative("patience", patience)
        self._keeps_requests = keep_requests
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # One connection for all threads, one thread at a time.
        self._lock = threading.Lock()
        self._file = sqlite3.connect(
            self.path, timeout=patience, isolation_level=None, check_same_thread=False
        )
        self._file.text_factory = lambda data: data.decode("utf-8", "replace")
        try:
            self._open(patience)
        except sqlite3.DatabaseError as error:
            self._file.close()
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise ValueError(f"{self.path} is no journal: {error}.") from None
        except BaseException:
            self._file.close()
            raise

    def _open(self, patience: float) -> None:
        # Switching to the log does not wait for others by itself.
        until = time.monotonic() + patience
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
            if version != _VERSION:
                if version or tables:
                    raise ValueError(
                        f"{self.path} is a database, but no journal of version "
                        f"{_VERSION}; name another file."
                    )
                for statement in _SCHEMA:
                    file.execute(statement)
                file.execute(f"PRAGMA user_version = {_VERSION}")
            if "checksum" not in {row[1] for row in file.execute(_ABOUT)}:
                file.execute("ALTER TABLE calls ADD COLUMN checksum TEXT")
            file.execute(_CLAIMS)
            if self._keeps_requests:
                file.execute(_REQUESTS)

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
        """Write calls down in one transaction; when this returns, they are on disk.

        Parameters
        ----------
        calls : iterable of Call
            The first answer to a request stays; what a second one cost is counted.
        """
        with self.writing() as file:
            for call in calls:
                if not file.execute(_INSERT, call.row()).rowcount:
                    file.execute(_INSERT, call.row("repeat"))
                file.execute("DELETE FROM claims WHERE key = ?", (call.key,))
                if self._keeps_requests and call.request is not None:
                    file.execute(
                        "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?)",
                        (
                            call.key,
                            call.protocol,
                            json.dumps(dict(call.request.arguments)),
                            call.request.draw,
                        ),
                    )

    def get(self, keys: Sequence[str]) -> dict[str, Answer | Failure]:
        """What is known of some requests.

        Parameters
        ----------
        keys : sequence of str
            Their keys.

        Returns
        -------
        dict
            The answer under its key or, where there is none yet, the last failure.
            Requests never asked are not in it.
        """
        found: dict[str, Answer | Failure] = {}
        query = (
            f"SELECT id, checksum, {_COLUMNS} FROM calls WHERE status != 'repeat' AND "
            "key IN ({}) ORDER BY status = 'ok', id"
        )
        for number, checksum, *row in self._rows(query, keys):
            key, protocol, _, _, status, response, name, kind, message, code = row[:10]
            try:
                if checksum not in (None, _checksum(row)):
                    raise ValueError("its checksum does not fit")
                if status == "ok":
                    found[key] = read_answer(protocol, decode(response), name)
                else:
                    found[key] = Failure(kind, message, code, name)
            # Whatever is wrong with a row concerns that row alone.
            except Exception as error:
                failure = Failure("DamagedRow", _DAMAGED.format(error))
                if not isinstance(found.get(key), Answer):
                    found[key] = failure
                with self.writing() as file:
                    file.execute(
                        "UPDATE calls SET status = 'error', error_kind = ?, "
                        "error_message = ?, checksum = NULL WHERE id = ?",
                        (failure.kind, failure.message, number),
                    )
        return found

    def _rows(self, query: str, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(keys), _CHUNK):
            part = list(keys[start : start + _CHUNK])
            with self._lock:
                found = self._file.execute(
                    query.format(", ".join("?" * len(part))), part
                ).fetchall()
            yield from found

    def paid(self, keys: Sequence[str]) -> tuple[int, list[tuple[Any, ...]]]:
        """The number of the last row, and what calls up to it cost."""
        with self._lock:
            (last,) = self._file.execute("SELECT MAX(id) FROM calls").fetchone()
        query = f"{_PAID} WHERE key IN ({{}}) AND id <= {last or 0}"
        return last or 0, list(self._rows(query, keys))

    def paid_since(self, file: sqlite3.Connection, last: int) -> list[tuple[Any, ...]]:
        """What later calls cost."""
        return file.execute(f"{_PAID} WHERE id > ? ORDER BY id", (last,)).fetchall()

    def responses(self, keys: Sequence[str]) -> dict[str, str]:
        """What the server sent for some requests, as it was.

        Parameters
        ----------
        keys : sequence of str
            Their keys.

        Returns
        -------
        dict of str to str
            The last one under each key; those without any are not in it.
        """
        self.get(keys)  # which finds what is damaged
        query = (
            "SELECT key, response FROM calls WHERE response IS NOT NULL AND "
            "error_kind IS NOT 'DamagedRow' AND key IN ({}) ORDER BY id"
        )
        return dict(self._rows(query, keys))

    def usage(
        self, prices: Prices | None = None, *, batch_share: float = 1.0
    ) -> pd.DataFrame:
        """What all calls in this journal cost.

        Parameters
        ----------
        prices : mapping, optional
            A pair for each model: the price of a million tokens read, and of a
            million written.
        batch_share : float, default=1.0
            What part of the price a token of a batch costs.

        Returns
        -------
        pandas.DataFrame
            A row for each model and source, with ``answers``, ``errors``,
            ``prompt_tokens``, ``completion_tokens``, ``reasoning_tokens`` (part of
            those completed) and, with prices, ``cost``.

        Raises
        ------
        ValueError
            A model without a price.
        """
        check_not_negative("batch_share", batch_share)
        query = (
            "SELECT model, source, SUM(status = 'ok') AS answers, "
            "SUM(status = 'error') AS errors, "
            + ", ".join(
                # Not by SUM, which stops where a server has named huge numbers.
                f"CAST(TOTAL({name}_tokens) AS INTEGER) AS {name}_tokens"
                for name in ("prompt", "completion", "reasoning")
            )
            + " FROM calls GROUP BY model, source ORDER BY model, source"
        )
        table = self._table(query)
        if prices is not None:
            check_prices(prices, table["model"])
            read = table["model"].map({name: pair[0] for name, pair in prices.items()})
            written = table["model"].map({n: pair[1] for n, pair in prices.items()})
            cost = table["prompt_tokens"] * read + table["completion_tokens"] * written
            table["cost"] = cost.astype(float) / 1e6
            table.loc[table["source"] == "batch", "cost"] *= batch_share
        return table.set_index(["model", "source"])

    def failures(self) -> pd.DataFrame:
        """All calls that failed, in the order of time, also those answered since.

        Returns
        -------
        pandas.DataFrame
            With ``key``, ``model``, ``error_kind``, ``error_message``,
            ``http_status``, ``request_id`` and ``time``.
        """
        return self._table(
            "SELECT key, model, error_kind, error_message, http_status, request_id, "
            "time FROM calls WHERE status = 'error' ORDER BY id"
        )

    def recorded(self) -> pd.DataFrame:
        """What is known of the requests that were kept, with what was asked.

        Returns
        -------
        pandas.DataFrame
            A row for each request, in the order in which they were first answered: the
            answer, or else the last failure. Columns ``key``, ``protocol``,
            ``arguments`` (JSON), ``draw``, ``status``, ``response``, ``request_id``,
            ``error_kind``, ``error_message``, ``http_status``, the three of tokens and
            ``time``. Empty where requests are not kept.
        """
        if not self._keeps_requests:
            return pd.DataFrame(columns=["key"])
        self.get(self._table("SELECT key FROM requests")["key"].tolist())
        table = self._table(
            "SELECT r.key, r.protocol, r.arguments, r.draw, status, response, "
            "request_id, error_kind, error_message, http_status, prompt_tokens, "
            "completion_tokens, reasoning_tokens, time FROM requests r JOIN calls c "
            "ON c.id = (SELECT id FROM calls WHERE key = r.key AND status != 'repeat' "
            "ORDER BY status = 'ok' DESC, id DESC LIMIT 1) ORDER BY c.id"
        )
        return table.astype({"http_status": "Int64"})

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _table(self, query: str) -> pd.DataFrame:
        with self._lock, closing(self._file.execute(query)) as cursor:
            names = [column[0] for column in cursor.description]
            return pd.DataFrame(cursor.fetchall(), columns=names)


class GroupWriter:
    """Writes calls in a thread, together with those that come while it writes."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: list[tuple[Call, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._closing = False

    async def add(self, call: Call) -> None:
        """Write a call down; when this returns, it is on disk."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((call, written))
        self._wake.set()
        await written

    async def __aenter__(self) -> GroupWriter:
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing = True
        self._wake.set()
        # A second Ctrl-C must not stop the last write.
        await asyncio.shield(self._task)

    async def _serve(self) -> None:
        while self._waiting or not self._closing:
            await self._wake.wait()
            self._wake.clear()
            group, self._waiting = self._waiting, []
            if not group:
                continue
            failed: Exception | None = None
            try:
                await asyncio.to_thread(self._journal.add, [call for call, _ in group])
            except Exception as error:
                failed = error
            for _, written in group:
                if not written.done():
                    if failed is None:
                        written.set_result(None)
                    else:
                        written.set_exception(failed)
