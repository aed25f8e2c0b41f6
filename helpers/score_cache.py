"""Scores kept between runs, so that chapters and re-runs share them.

An entry is a row of numbers under a hash of the model, the prompt's tokens and the
labels' tokens. Texts are not kept. The cache only saves time: whatever is wrong with
its folder or with an entry costs a warning, and the scores are computed.
"""

from __future__ import annotations

import hashlib
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from .fetch import cache_dir
from .models import LanguageModel
from .progress import progress_bar
from .scoring import label_logprob_batches
from .verbalizer import LabelTokens

# Columns and index of the package diskcache, which wrote such files before.
_TABLE = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS Cache (key BLOB, raw INTEGER, mode INTEGER, value BLOB);
CREATE UNIQUE INDEX IF NOT EXISTS Cache_key_raw ON Cache (key, raw);
"""
_READ = "SELECT value FROM Cache WHERE key = ? AND raw = 1"
_WRITE = "INSERT OR REPLACE INTO Cache (key, raw, mode, value) VALUES (?, 1, 1, ?)"
_SURPLUS = 0.05  # what rounding in half precision may add to the sum of a row, in nats


def cached_label_logprobs(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    *,
    prefix: Sequence[int] = (),
    token_budget: int | None = None,
) -> np.ndarray:
    """What :func:`label_logprobs` gives, computing only what is not kept yet."""
    scores = np.empty((len(prompts), len(labels.labels)))
    keys = [_score_key(model, labels, ids) for ids in prompts]
    with closing(_Kept(cache_dir() / "scores")) as kept:
        todo = kept.read(keys, scores)
        batches = label_logprob_batches(
            model, prompts, labels, rows=todo, prefix=prefix, token_budget=token_budget
        )
        with progress_bar(total=len(todo)) as bar:
            for rows, values in batches:
                scores[rows] = values
                kept.write([keys[row] for row in rows], values)
                bar.update(len(rows))
    return scores


class _Kept:
    """The kept rows; after the first error of the file, none are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: sqlite3.Connection | None = None
        with self._or_without():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(folder / "cache.db", timeout=10)
            self._file.text_factory = bytes  # a damaged text need not be UTF-8
            self._file.executescript(_TABLE)

    def read(self, keys: Sequence[str], scores: np.ndarray) -> list[int]:
        """Fill in the rows that are kept; which ones are not."""
        todo, damaged, file = dict.fromkeys(range(len(keys))), 0, self._file
        with self._or_without():
            for at, key in enumerate(keys):
                found = file.execute(_READ, [key]).fetchone() if file else None
                row = found and _unpacked(key, found[0], scores.shape[1])
                if row is not None:
                    scores[at] = row
                    del todo[at]
                damaged += row is None and found is not None
        if damaged:
            self._warn(f"{damaged} entries are no scores and are computed again")
        return list(todo)

    def write(self, keys: Sequence[str], values: np.ndarray) -> None:
        """Keep rows, all or none."""
        if self._file:
            with self._or_without(), self._file as file:
                pairs = zip(keys, values, strict=True)
                file.executemany(
                    _WRITE, [(key, _packed(key, row)) for key, row in pairs]
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
            f"The cache of scores in {self._folder} is damaged, or cannot be read and "
            f"written: {what}. Results are not affected. If this persists, delete the "
            "folder or make room in it; cache=False does without it.",
            stacklevel=2,
        )


def _score_key(model: LanguageModel, labels: LabelTokens, ids: Sequence[int]) -> str:
    identity = (model.fingerprint, labels.sequences, labels.owners, labels.stop_ids)
    text = repr((identity, labels.labels, tuple(ids)))
    return hashlib.sha256(text.encode()).hexdigest()


def _packed(key: str, row: np.ndarray) -> bytes:
    numbers = np.asarray(row, dtype="<f8").tobytes()
    return numbers + hashlib.blake2b(numbers, digest_size=8, key=key.encode()).digest()


def _unpacked(key: str, value: object, n: int) -> np.ndarray | None:
    """A kept row, if it is one of n log-probabilities, as it was written."""
    if not isinstance(value, bytes) or len(value) != 8 * n + 8:
        return None
    row = np.frombuffer(value[:-8], dtype="<f8")
    with np.errstate(invalid="ignore"):
        total = np.logaddexp.reduce(row)
    return row if value == _packed(key, row) and -np.inf < total <= _SURPLUS else None
