"""Where texts come from: Parquet and CSV files, read in blocks and never as a whole.

A block of a Parquet file is found by the row groups that hold it, a block of a CSV file
by the byte at which it begins: a line break inside quotation marks is no end of a row,
so only a reader that starts at the top knows where rows begin. It does so once.
"""

from __future__ import annotations

import csv
import io
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

_KINDS = {".parquet": "Parquet", ".pq": "Parquet", ".csv": "CSV"}
_BUFFER = 1 << 20
_MARK = b"\xef\xbb\xbf"  # what some programs begin a UTF-8 file with


def find_files(source: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files of a source, in the order in which their rows count.

    Parameters
    ----------
    source : str, pathlib.Path or iterable of them
        A file, several, or a folder with all that is in it, sorted by name. What is in
        a folder under a name that begins with a dot or an underscore is passed over.

    Returns
    -------
    list of pathlib.Path

    Raises
    ------
    ValueError
        There is no file, one is missing, one is neither Parquet nor CSV, or there are
        both kinds.

    Examples
    --------
    >>> find_files("reviews.txt")
    Traceback (most recent call last):
    ...
    ValueError: source must be Parquet or CSV files; there is no reviews.txt.
    """
    given = [source] if isinstance(source, (str, Path)) else list(source)
    found: list[Path] = []
    for path in map(Path, given):
        if not path.exists():
            raise ValueError(
                f"source must be Parquet or CSV files; there is no {path}."
            )
        found += _below(path) if path.is_dir() else [path]
    if not found:
        raise ValueError(f"source must be Parquet or CSV files; {given!r} has none.")
    kinds = {_KINDS.get(path.suffix.lower(), path.suffix) for path in found}
    if len(kinds) > 1 or not kinds <= set(_KINDS.values()):
        raise ValueError(
            "source must be Parquet files or CSV files, not "
            f"{' and '.join(map(repr, sorted(kinds)))}."
        )
    return found


def column_types(path: Path) -> dict[str, pa.DataType]:
    """The columns of a file.

    Parameters
    ----------
    path : pathlib.Path
        A Parquet or CSV file.

    Returns
    -------
    dict of str to pyarrow.DataType
        Types by name, as :func:`plain_type` gives them. All of a CSV file is text:
        what type its columns have could only be guessed, and differently for each
        block.

    Raises
    ------
    ValueError
        The file cannot be read, or has two columns of one name.
    """
    if _is_csv(path):
        with path.open("rb") as file:
            _, names = next(_records(file, path), (0, []))
        types = [pa.string() for _ in names]
        if not names:
            raise ValueError(f"source must have column names; {path} is empty.")
    else:
        try:
            schema = pq.read_schema(path)
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"source must be readable; {path} is not: {error}"
            ) from error
        names, types = schema.names, schema.types
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"source must name columns apart; {path} has {twice[0]!r} twice."
        )
    return dict(zip(names, map(plain_type, types), strict=True))


def measure(path: Path, rows_per_block: int) -> tuple[int, tuple[int, ...]]:
    """How many rows a file has, and where the blocks of a CSV file begin.

    Parameters
    ----------
    path : pathlib.Path
        A Parquet or CSV file.
    rows_per_block : int
        Rows of a block; the last one of a file may have fewer.

    Returns
    -------
    rows : int
        Their number.
    starts : tuple of int
        For CSV, the byte at which each block begins, then the one behind the last row;
        for Parquet nothing.

    Raises
    ------
    ValueError
        A quotation mark in a CSV file is left open, or stands where none may.
    """
    if not _is_csv(path):
        return pq.read_metadata(path).num_rows, ()
    starts: list[int] = []
    rows = 0
    with path.open("rb") as file:
        records = _records(file, path)
        at, _ = next(records)
        for end, record in records:
            if record:
                if rows % rows_per_block == 0:
                    starts.append(at)
                rows += 1
            at = end
    return rows, (*starts, at)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that a column has in the end: all ways to hold texts are one.

    Parameters
    ----------
    kind : pyarrow.DataType
        The type that it has in a file.

    Returns
    -------
    pyarrow.DataType
        ``string`` for columns of strings, categories of strings, and nothing but
        missing values; anything else as it is.

    Examples
    --------
    >>> plain_type(pa.dictionary(pa.int8(), pa.large_string()))
    DataType(string)
    >>> plain_type(pa.int64())
    DataType(int64)
    """
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_null,
    )
    return pa.string() if any(test(held) for test in tests) else kind


def text_values(column: pa.ChunkedArray) -> tuple[list[str | None], list[int]]:
    """The values of a column of texts.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        A column that :func:`plain_type` calls ``string``.

    Returns
    -------
    values : list of str or None
        What is no UTF-8 is replaced by question marks in diamonds.
    broken : list of int
        The places of such values.
    """
    plain = column.cast(pa.large_string())
    try:
        return plain.to_pylist(), []
    except UnicodeDecodeError:
        raw = plain.cast(pa.large_binary()).to_pylist()
    values = [None if v is None else v.decode("utf-8", "replace") for v in raw]
    same = (v is None or v.encode() == r for v, r in zip(values, raw, strict=True))
    return values, [at for at, equal in enumerate(same) if not equal]


class ParquetBlocks:
    """Reads blocks of one Parquet file; those that follow each other at one go.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    columns : sequence of str
        The columns wanted.
    batch : int
        Rows to decode at a time.
    """

    def __init__(self, path: Path, columns: Sequence[str], batch: int) -> None:
        # With a buffer, a row group is read in pieces instead of as a whole.
        self._file = pq.ParquetFile(path, buffer_size=_BUFFER)
        self._columns = list(columns)
        self._batch = batch
        groups = range(self._file.num_row_groups)
        sizes = [self._file.metadata.row_group(group).num_rows for group in groups]
        self._starts = list(accumulate(sizes[:-1], initial=0))
        self._at = -1
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.RecordBatch | None = None

    def read(self, first: int, rows: int) -> tuple[pa.Table, dict[int, str]]:
        """Some rows of the file.

        Parameters
        ----------
        first : int
            The first row.
        rows : int
            How many.

        Returns
        -------
        table : pyarrow.Table
            The columns.
        faults : dict of int to str
            Nothing: a row of a Parquet file has all its columns.
        """
        group = bisect_right(self._starts, first) - 1
        if not self._starts[group] <= self._at <= first:
            self._at, self._rest = self._starts[group], None
            self._batches = self._file.iter_batches(
                self._batch,
                row_groups=range(group, self._file.num_row_groups),
                columns=self._columns,
                use_threads=False,
            )
        parts = []
        while self._at < first + rows:
            part = self._rest if self._rest is not None else next(self._batches)
            wanted = part.slice(0, first + rows - self._at)
            begin = max(0, first - self._at)
            if begin < len(wanted):
                parts.append(wanted.slice(begin))
            self._rest = part.slice(len(wanted)) if len(wanted) < len(part) else None
            self._at += len(wanted)
        return pa.Table.from_batches(parts).select(self._columns), {}


class CsvBlocks:
    """Reads blocks of one CSV file: comma-separated UTF-8 with column names on top.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    columns : sequence of str
        The columns wanted.
    starts : sequence of int
        What :func:`measure` found.
    batch : int
        Rows of a block.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], starts: Sequence[int], batch: int
    ) -> None:
        self._path = path
        self._names = list(column_types(path))
        self._columns = list(columns)
        self._starts = starts
        self._batch = batch

    def read(self, first: int, rows: int) -> tuple[pa.Table, dict[int, str]]:
        """The rows of a block.

        Parameters
        ----------
        first : int
            The first row; a block begins there.
        rows : int
            How many.

        Returns
        -------
        table : pyarrow.Table
            The columns, all of them text.
        faults : dict of int to str
            What is wrong with rows, by their place in the block.
        """
        block = first // self._batch
        begin, end = self._starts[block : block + 2]
        with self._path.open("rb") as file:
            file.seek(begin)
            found = _records(io.BytesIO(file.read(end - begin)), self._path)
            records = [record for _, record in found if record]
        if len(records) != rows:
            raise RuntimeError(f"{self._path} was changed while it was read.")
        faults: dict[int, str] = {}
        width = len(self._names)
        values: dict[str, list[str | None]] = {name: [] for name in self._columns}
        for at, record in enumerate(records):
            if len(record) != width:
                faults[at] = f"The row has {len(record)} fields, not {width}."
            row = dict(zip(self._names, record, strict=False))
            for name in self._columns:
                value = row.get(name)
                if value is not None and not value.isascii():
                    raw = value.encode("utf-8", "surrogateescape")
                    value = raw.decode("utf-8", "replace")
                    if value.encode() != raw:
                        faults[at] = f"Its {name} is not UTF-8."
                values[name].append(value)
        columns = {name: pa.array(v, pa.string()) for name, v in values.items()}
        return pa.table(columns), faults


def _is_csv(path: Path) -> bool:
    return _KINDS[path.suffix.lower()] == "CSV"


def _below(folder: Path) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith((".", "_")) for part in parts)
        if path.suffix.lower() in _KINDS and path.is_file() and not hidden:
            found.append(path)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _records(file: BinaryIO, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file, each with the byte at which the next one begins."""
    read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        for line in file:
            begins = read == 0
            read += len(line)
            if begins:
                line = line.removeprefix(_MARK)
            yield line.decode("utf-8", "surrogateescape")

    try:
        for record in csv.reader(lines(), strict=True):
            yield read, record
    except csv.Error as error:
        raise ValueError(
            f"source must be CSV that can be read; {path} cannot, at or before byte "
            f"{read:,}: {error}. A quotation mark may be left open."
        ) from error
