"""One block: read, classify, write down; and what to do with the rows that are bad."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from .plan import Plan
from .sources import CsvBlocks, ParquetBlocks, plain_type, text_values
from .store import Store

_HARMLESS = "A"


@dataclass(frozen=True)
class BlockDone:
    """What became of a block.

    Parameters
    ----------
    number : int
        The block.
    rows, bad : int
        How many rows it has, and how many of them are bad.
    """

    number: int
    rows: int
    bad: int


class BlockWorker:
    """Holds a classifier and takes blocks: in this process, or as a Ray actor.

    Parameters
    ----------
    factory : callable
        Makes the classifier.
    plan : Plan
        All blocks.
    folder : pathlib.Path
        Where results go.
    """

    def __init__(self, factory: Callable[[], Any], plan: Plan, folder: Path) -> None:
        self._factory = factory
        self._plan = plan
        self._store = Store(folder)
        self._source: Any = None
        self._classifier: Any = None
        self._reader: tuple[int, ParquetBlocks | CsvBlocks] | None = None

    def load(self, threads: int | None = None) -> Any:
        """Make the classifier.

        Parameters
        ----------
        threads : int, optional
            How many it may use, where this process is its own.

        Returns
        -------
        dict or None
            What it says of itself, by its method ``source`` or in its table.

        Raises
        ------
        TypeError
            What the factory makes has no ``score_table`` that gives a data frame.
        ValueError
            The classifier does not even take a harmless text, or its table has a
            column that is to be carried over.
        """
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        self._classifier = self._factory()
        if threads is not None and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        # Before any work, this shows what is wrong with the classifier and no text.
        trial = self._scored([_HARMLESS])
        taken = sorted(set(self._plan.columns.keep) & set(trial.columns))
        if taken:
            raise ValueError(
                f"keep must leave the names of the tidy table free, not {taken[0]!r}. "
                "Name the columns to keep, or rename this one."
            )
        source = getattr(self._classifier, "source", None)
        told = source() if callable(source) else trial.attrs.get("source")
        # As it comes back from the manifest, so that the two can be compared.
        self._source = json.loads(json.dumps(told))
        return self._source

    def classify(self, number: int) -> BlockDone:
        """Classify a block and write down what became of it.

        Parameters
        ----------
        number : int
            The block.

        Returns
        -------
        BlockDone
        """
        columns, block = self._plan.columns, self._plan.block(number)
        data, faults = self._read(number)
        texts, broken = text_values(data[columns.text])
        reasons = dict.fromkeys(broken, f"Its {columns.text} is not UTF-8.") | faults
        for at, text in enumerate(texts):
            if text is None or not text.strip():
                word = "missing" if text is None else "empty"
                reasons.setdefault(at, f"The text is {word}.")
        fine = [at for at in range(block.rows) if at not in reasons]
        pieces = self._score(texts, fine, reasons)
        table = self._table(data, pieces, reasons, block.row) if pieces else None
        bad = self._bad(data, reasons, block.row) if reasons else None
        good = table if table is not None and len(table) else None
        self._store.write(number, good, bad)
        return BlockDone(number, block.rows, len(reasons))

    def _read(self, number: int) -> tuple[pa.Table, dict[int, str]]:
        plan, block = self._plan, self._plan.block(number)
        if self._reader is None or self._reader[0] != block.file:
            path, batch = plan.paths[block.file], plan.rows_per_block
            wanted, starts = plan.columns.wanted, plan.starts[block.file]
            if starts:
                reader: Any = CsvBlocks(path, wanted, starts, batch)
            else:
                reader = ParquetBlocks(path, wanted, batch)
            self._reader = (block.file, reader)
        return self._reader[1].read(block.first, block.rows)

    def _score(
        self, texts: list[str | None], places: list[int], reasons: dict[int, str]
    ) -> list[tuple[list[int], pd.DataFrame]]:
        """Tables for the texts at some places, and reasons why others have none."""
        if not places:
            return []
        try:
            return [(places, self._scored([texts[at] for at in places]))]
        except ValueError as error:
            if len(places) == 1:
                reasons[places[0]] = str(error)
                return []
            half = len(places) // 2
            return [
                *self._score(texts, places[:half], reasons),
                *self._score(texts, places[half:], reasons),
            ]

    def _scored(self, texts: list[str | None]) -> pd.DataFrame:
        score = getattr(self._classifier, "score_table", None)
        table = score(texts) if callable(score) else None
        if not isinstance(table, pd.DataFrame) or len(table) != len(texts):
            raise TypeError(
                "classifier_factory must make something whose score_table gives a data "
                f"frame with a row for each text; {self._classifier!r} does not."
            )
        return table

    def _table(
        self,
        data: pa.Table,
        pieces: list[tuple[list[int], pd.DataFrame]],
        reasons: dict[int, str],
        first: int,
    ) -> pa.Table:
        """Rows, columns carried over, the tidy table, and the truth."""
        places = np.array([at for piece, _ in pieces for at in piece], dtype=np.int64)
        scored = pa.concat_tables(
            [_to_arrow(table) for _, table in pieces], promote_options="permissive"
        )
        names = self._plan.columns
        columns: dict[str, Any] = {"row": pa.array(first + places)}
        kept = _plain(data.select(names.keep).take(places))
        columns |= {name: kept[name] for name in names.keep}
        columns |= {name: scored[name] for name in scored.column_names}
        known = [True] * len(places)
        if names.truth is not None:
            labels = {n[2:] for n in scored.column_names if n.startswith("p_")}
            truth, _ = text_values(data[names.truth].take(places))
            known = [label is None or label in labels for label in truth]
            for at, label, fine in zip(places.tolist(), truth, known, strict=True):
                if not fine:
                    reasons[at] = f"Its truth {label!r} is no label."
            given = zip(truth, scored["prediction"].to_pylist(), strict=True)
            columns["truth"] = pa.array(truth, pa.string())
            columns["correct"] = pa.array(
                [None if label is None else label == said for label, said in given],
                pa.bool_(),
            )
        # pandas finds this and puts it into attrs.
        meta = {"PANDAS_ATTRS": json.dumps({"source": self._source})}
        return pa.table(columns, metadata=meta).filter(pa.array(known, pa.bool_()))

    def _bad(self, data: pa.Table, reasons: dict[int, str], first: int) -> pa.Table:
        places = np.array(sorted(reasons), dtype=np.int64)
        columns: dict[str, Any] = {"row": pa.array(first + places)}
        if self._plan.columns.id is not None:
            kept = _plain(data.select([self._plan.columns.id]).take(places))
            columns[self._plan.columns.id] = kept[self._plan.columns.id]
        columns["reason"] = [reasons[at] for at in places.tolist()]
        return pa.table(columns)


def _to_arrow(table: pd.DataFrame) -> pa.Table:
    """As Arrow, with one type for texts, also where there are none yet."""
    return _plain(pa.Table.from_pandas(table, preserve_index=False))


def _plain(table: pa.Table) -> pa.Table:
    fields = [field.with_type(plain_type(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields))
