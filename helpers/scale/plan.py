"""Which rows make which block: the same on every run of the same files."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from .sources import column_types, measure

# What the tidy table calls its own columns.
_TAKEN = ("row", "off_label", "prediction", "confidence", "correct")


@dataclass(frozen=True)
class Block:
    """Some rows of one file.

    Parameters
    ----------
    number : int
        Its place among all blocks.
    file : int
        The place of its file among all files.
    first : int
        Its first row in that file.
    row : int
        Its first row in the whole source.
    rows : int
        How many rows it has.
    """

    number: int
    file: int
    first: int
    row: int
    rows: int


@dataclass(frozen=True)
class Columns:
    """Which columns are what.

    Parameters
    ----------
    text : str
        Holds the texts.
    id : str or None
        Names a row; also in the table of bad rows.
    truth : str or None
        Holds the true labels.
    keep : tuple of str
        Carried over as they are; ``id`` is among them.
    """

    text: str
    id: str | None
    truth: str | None
    keep: tuple[str, ...]

    @property
    def wanted(self) -> list[str]:
        """All columns that are read, each once."""
        named = [self.text, *self.keep, self.truth]
        return list(dict.fromkeys(name for name in named if name is not None))


@dataclass(frozen=True)
class Plan:
    """The blocks of a source.

    Parameters
    ----------
    paths : tuple of pathlib.Path
        The files.
    rows_in : tuple of int
        Rows of each file.
    starts : tuple of tuple of int
        Where the blocks of each CSV file begin.
    columns : Columns
        Which columns are what.
    rows_per_block : int
        Rows of a block; the last one of a file may have fewer.

    Examples
    --------
    >>> columns = Columns("text", None, None, ())
    >>> plan = Plan((Path("a"), Path("b")), (5, 2), ((), ()), columns, 3)
    >>> [(plan.block(at).row, plan.block(at).rows) for at in range(len(plan))]
    [(0, 3), (3, 2), (5, 2)]
    """

    paths: tuple[Path, ...]
    rows_in: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    columns: Columns
    rows_per_block: int

    @property
    def rows(self) -> int:
        """Rows of the whole source."""
        return sum(self.rows_in)

    def __len__(self) -> int:
        return self._blocks_before[-1]

    def block(self, number: int) -> Block:
        """One block.

        Parameters
        ----------
        number : int
            From 0 to the length of the plan, less one.

        Returns
        -------
        Block
        """
        file = bisect_right(self._blocks_before, number) - 1
        first = (number - self._blocks_before[file]) * self.rows_per_block
        rows = min(self.rows_per_block, self.rows_in[file] - first)
        return Block(number, file, first, self._rows_before[file] + first, rows)

    def where(self, number: int) -> str:
        """One block in words.

        Parameters
        ----------
        number : int
            The block.

        Returns
        -------
        str
        """
        block = self.block(number)
        last = block.first + block.rows - 1
        name = self.paths[block.file].name
        return f"block {number} (rows {block.first:,} to {last:,} of {name})"

    @cached_property
    def _blocks_before(self) -> list[int]:
        counts = (-(-rows // self.rows_per_block) for rows in self.rows_in)
        return list(accumulate(counts, initial=0))

    @cached_property
    def _rows_before(self) -> list[int]:
        return list(accumulate(self.rows_in, initial=0))


def choose_columns(
    files: Sequence[Path],
    *,
    text: str,
    id: str | None,
    truth: str | None,
    keep: Sequence[str] | None,
) -> Columns:
    """Find the columns in all files.

    Parameters
    ----------
    files : sequence of pathlib.Path
        What :func:`find_files` gives.
    text, id, truth : str
        Names of columns.
    keep : sequence of str, optional
        Names of columns to carry over; without it, all but the text and the truth.

    Returns
    -------
    Columns

    Raises
    ------
    ValueError
        A file lacks one, has one of another type than the first file has, or one that
        would be lost; a text or truth is no text; or a name is taken.
    """
    if isinstance(keep, str):
        raise ValueError(
            f"keep must be a list of columns, not the one string {keep!r}."
        )
    types = [column_types(path) for path in files]
    given = types[0]
    rest = [name for name in given if name not in (text, truth)]
    kept = list(dict.fromkeys(rest if keep is None else keep))
    if id is not None and id not in kept:
        kept.insert(0, id)
    columns = Columns(text, id, truth, tuple(kept))
    for path, found in zip(files, types, strict=True):
        for column in columns.wanted:
            if column not in found:
                raise ValueError(
                    f"source must have the column {column!r}; {path} has "
                    f"{list(found)!r}."
                )
            if found[column] != given[column]:
                raise ValueError(
                    f"source must have one type for each column; {column!r} is "
                    f"{given[column]} in {files[0]} and {found[column]} in {path}."
                )
        lost = sorted(set(found) - set(given))
        if keep is None and lost:
            raise ValueError(
                f"source must have the same columns in each file; only {path} has "
                f"{lost[0]!r}. Name the columns to keep."
            )
    for role, named in (("text", text), ("truth", truth)):
        if named is not None and given[named] != pa.string():
            raise ValueError(
                f"{role} must be a column of strings; {named!r} is {given[named]}."
            )
    taken = [*_TAKEN, *(["truth"] if truth is not None else [])]
    for column in kept:
        if column in taken or column.startswith("p_"):
            raise ValueError(
                f"keep must leave the names of the tidy table free, not {column!r}. "
                "Name the columns to keep, or rename this one."
            )
    if id == "reason":
        raise ValueError("id must leave the name 'reason' to the table of bad rows.")
    return columns


def make_plan(
    files: Sequence[Path],
    columns: Columns,
    rows_per_block: int,
    measured: Sequence[tuple[int, Sequence[int]]] | None = None,
) -> Plan:
    """Divide files into blocks.

    Parameters
    ----------
    files : sequence of pathlib.Path
        What :func:`find_files` gives.
    columns : Columns
        Which columns are what.
    rows_per_block : int
        Rows of a block.
    measured : sequence, optional
        What an earlier run measured; else the files are measured now.

    Returns
    -------
    Plan
    """
    if measured is None:
        measured = [measure(path, rows_per_block) for path in files]
    rows, starts = zip(*measured, strict=True)
    paths = tuple(path.resolve() for path in files)
    begun = tuple(tuple(each) for each in starts)
    return Plan(paths, rows, begun, columns, rows_per_block)


def fingerprint(
    files: Sequence[Path], columns: Columns, rows_per_block: int
) -> dict[str, Any]:
    """What a plan follows from; another one means other blocks or other rows.

    Parameters
    ----------
    files : sequence of pathlib.Path
        What :func:`find_files` gives.
    columns : Columns
        Which columns are what.
    rows_per_block : int
        Rows of a block.

    Returns
    -------
    dict
        What JSON can hold; of each file its name, size and time of change.
    """
    seen = []
    for path in files:
        status = path.stat()
        seen.append([path.name, status.st_size, status.st_mtime_ns])
    return {
        "files": seen,
        "text": columns.text,
        "id": columns.id,
        "truth": columns.truth,
        "keep": list(columns.keep),
        "rows_per_block": rows_per_block,
    }
