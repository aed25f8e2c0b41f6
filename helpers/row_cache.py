"""Rows of numbers that are kept between runs, by the hash of what they belong to.

A broken cache costs a warning and time; it never changes a result.
"""

from __future__ import annotations

import hashlib
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from .files import cache_dir
from .progress import progress_bar

# Columns and index of the package diskcache, which wrote such files before.
_TABLE = """
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS Cache (key BLOB, raw INTEGER, mode INTEGER, value BLOB);
CREATE UNIQUE INDEX IF NOT EXISTS Cache_key_raw ON Cache (key, raw);
"""
_READ = "SELECT value FROM Cache WHERE key = ? AND raw = 1"
_WRITE = "INSERT OR REPLACE INTO Cache (key, raw, mode, value) VALUES (?, 1, 1, ?)"


@dataclass(frozen=True)
class Rows:
    """What rows are: the folder that they are kept in, and what tells a whole one."""

    folder: str
    dtype: str
    is_row: Callable[[np.ndarray], bool]

    def of(
        self,
        keys: Sequence[str],
        width: int,
        read: Callable[[list[int]], Iterable[tuple[list[int], np.ndarray]]],
        *,
        cache: bool,
        progress: bool,
    ) -> np.ndarray:
        """A row for each key, of which equal ones are read once.

        ``read`` gets the places of those that must be read, and yields some of their
        positions in that list with their rows: these are kept at once.
        """
        rows = np.empty((len(keys), width), self.dtype)
        with closing(_Kept(self, cache)) as kept:
            places: dict[str, list[int]] = {}
            for at in kept.read(keys, rows):
                places.setdefault(keys[at], []).append(at)
            todo = list(places.values())
            if not todo:
                return rows
            with progress_bar(total=len(todo), show=progress) as bar:
                for part, found in read([same[0] for same in todo]):
                    for at, row in zip(part, found, strict=True):
                        rows[todo[at]] = row
                    kept.write([keys[todo[at][0]] for at in part], found)
                    bar.update(len(part))
        return rows


class _Kept:
    """The kept rows; none if unwanted, or after the file's first error."""

    def __init__(self, kind: Rows, wanted: bool) -> None:
        self._dtype, self._is_row, self._what = kind.dtype, kind.is_row, kind.folder
        self._folder = cache_dir() / kind.folder
        self._file: sqlite3.Connection | None = None
        if not wanted:
            return
        with self._or_without():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self._folder / "cache.db", timeout=10)
            self._file.text_factory = bytes  # a damaged text need not be UTF-8
            with suppress(sqlite3.OperationalError):  # another process does the same
                self._file.execute("PRAGMA journal_mode = WAL")
            self._file.executescript(_TABLE)

    def read(self, keys: Sequence[str], rows: np.ndarray) -> list[int]:
        """Fill in the rows that are kept; the places of all others."""
        todo, damaged, file = dict.fromkeys(range(len(keys))), 0, self._file
        with self._or_without():
            for at, key in enumerate(keys):
                found = file.execute(_READ, [key]).fetchone() if file else None
                row = found and self._unpacked(key, found[0], rows.shape[1])
                if row is not None:
                    rows[at] = row
                    del todo[at]
                damaged += row is None and found is not None
        if damaged:
            self._warn(f"{damaged} entries are no {self._what} and are computed again")
        return list(todo)

    def write(self, keys: Sequence[str], values: np.ndarray) -> None:
        """Keep rows, from now on."""
        if self._file:
            with self._or_without(), self._file as file:
                pairs = zip(keys, values, strict=True)
                file.executemany(
                    _WRITE, [(key, self._packed(key, row)) for key, row in pairs]
                )

    def close(self) -> None:
        file, self._file = self._file, None
        if file:
            file.close()

    @contextmanager
    def _or_without(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            with self._or_without():
                self.close()
            self._warn(f"it is not used for now ({error})")

    def _warn(self, what: str) -> None:
        warnings.warn(
            f"The cache of {self._what} in {self._folder} is damaged, or cannot be "
            f"read and written: {what}. Results are not affected. If this persists, "
            "delete the folder or make room in it; cache=False does without it.",
            stacklevel=2,
        )

    def _packed(self, key: str, row: np.ndarray) -> bytes:
        numbers = np.asarray(row, dtype=self._dtype).tobytes()
        digest = hashlib.blake2b(numbers, digest_size=8, key=key.encode())
        return numbers + digest.digest()

    def _unpacked(self, key: str, value: object, n: int) -> np.ndarray | None:
        size = n * np.dtype(self._dtype).itemsize
        if not isinstance(value, bytes) or len(value) != size + 8:
            return None
        row = np.frombuffer(value[:-8], dtype=self._dtype)
        whole = value == self._packed(key, row)
        return row if whole and self._is_row(row) else None
