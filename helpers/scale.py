"""Classify a data set of any size, on one machine or a cluster, restartably.

This process reads the files, block by block, and writes a shard for each block; in
between, classifiers in Ray actors, or one here, make a table of a block's texts. What
is done is known by the journal of the folder, which has the SHA-256 of each shard: a
block without its line, or with a shard that is not as the line says, is done again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from joblib import cpu_count

from .checks import check_count, check_not_negative
from .progress import progress_bar

__all__ = [
    "DatasetRun",
    "classify_dataset",
    "iter_results",
    "read_bad_rows",
    "read_manifest",
    "read_results",
]

# What the tidy table calls its own columns.
_TAKEN = ("row", "off_label", "prediction", "confidence", "correct")
_KINDS = {".parquet": "Parquet", ".pq": "Parquet", ".csv": "CSV"}
_SHARDS = ("table", "bad")
_MANIFEST, _JOURNAL, _LOCK = "manifest.json", "journal.jsonl", ".lock"
_UNFINISHED = ".unfinished"
_LONGEST = 1 << 26  # characters of a CSV field; Python's own limit is 131,072
_RETURN = "\ud800"  # stands for a carriage return inside a row; no UTF-8 has it
_BUFFER = 1 << 20  # with it, a row group is read in pieces instead of as a whole
_OBJECT_STORE = 100 << 20  # bytes; only blocks under way pass through it
_AGAIN = "Call classify_dataset again: what is missing or damaged is done again."


@dataclass(frozen=True)
class DatasetRun:
    """What became of a data set.

    Parameters
    ----------
    rows : int
        Rows of the source: those in the table and the bad ones.
    bad_rows : int
        Rows that could not be classified.
    blocks_now, blocks_before : int
        Blocks done by this call, and by earlier ones.
    rows_now : int
        Rows done by this call.
    seconds : float
        How long it took, starting the workers included.
    table, bad : pathlib.Path
        Folders with the shards of results and of bad rows, Parquet files each.
    """

    rows: int
    bad_rows: int
    blocks_now: int
    blocks_before: int
    rows_now: int
    seconds: float
    table: Path
    bad: Path

    @property
    def rows_per_second(self) -> float:
        """How fast this call was, starting the workers included."""
        return self.rows_now / self.seconds


class _Columns(NamedTuple):
    """Which columns are what; the id is among those to keep."""

    text: str
    id: str | None
    truth: str | None
    keep: tuple[str, ...]

    @property
    def wanted(self) -> list[str]:
        """All columns that are read, each once."""
        named = [self.text, *self.keep, self.truth]
        return list(dict.fromkeys(name for name in named if name is not None))


class _Block(NamedTuple):
    """Some rows of one file, what is wrong with them, and where they are."""

    number: int
    row: int  # its first row in the whole source
    where: str
    table: pa.Table
    faults: dict[int, str]


def classify_dataset(
    source: str | Path | Iterable[str | Path],
    destination: str | Path,
    classifier_factory: Callable[[], Any],
    *,
    text: str = "text",
    id: str | None = None,
    truth: str | None = None,
    keep: Sequence[str] | None = None,
    rows_per_block: int = 256,
    workers: int = 1,
    cpus_per_worker: int | None = None,
    gpus_per_worker: float = 0,
    address: str | None = None,
    attempts: int = 3,
    progress: bool = True,
) -> DatasetRun:
    """Classify files of any size, in blocks, each row exactly once.

    Called again after a crash, with the same arguments, it goes on where it stopped.
    The number of workers and where they are may change between calls.

    Parameters
    ----------
    source : str, pathlib.Path or iterable of them
        Parquet files, or CSV files in UTF-8 with commas and column names: one, several,
        or a folder with all that is in it, sorted by name. Names that begin with a dot
        or an underscore are passed over.
    destination : str or pathlib.Path
        A folder for the results, empty or of this run.
    classifier_factory : callable
        Makes the classifier, once for each worker: an
        :class:`helpers.classifier.LLMClassifier`, a
        :class:`helpers.hosted.HostedClassifier`, or anything with a method
        ``score_table`` that takes a list of texts and gives the tidy table. Where it
        has a method ``source``, results of different sources do not get mixed.
    text : str, default="text"
        The column with the texts.
    id : str, optional
        A column that names each row. It is carried over, also for bad rows.
    truth : str, optional
        The column with the true labels. It comes out as ``truth``, with ``correct``;
        both may be missing.
    keep : sequence of str, optional
        Columns to carry over; without it, all but the text and the truth.
    rows_per_block : int, default=256
        Rows that are handed out, held in memory and written at once, and lost where a
        worker dies. For very fast classifiers, or a billion rows, take more.
    workers : int, default=1
        How many Ray actors work at the same time. With 0, this process does the work,
        without Ray.
    cpus_per_worker : int, optional
        Cores that a worker takes, and threads that it uses. Without it, a Ray started
        here shares out the cores of the machine; with another, it is 1.
    gpus_per_worker : float, default=0
        Accelerators that a worker takes; half a one lets two share it.
    address : str, optional
        A Ray cluster, such as "auto" or "ray://head:10001". Without it, Ray is started
        on this machine for the time of the call. Where Ray is initialised already, that
        is used and left as it is.
    attempts : int, default=3
        How many workers may die of the same block, or while they make the classifier,
        before the run stops.
    progress : bool, default=True
        Whether a run of more than a few seconds shows a bar: rows, rows a second, and
        the time that is left.

    Returns
    -------
    DatasetRun
        The counts and where the results are: see :func:`read_results`,
        :func:`iter_results` and :func:`read_bad_rows`.

    Raises
    ------
    ValueError
        An argument breaks its rule, a column is missing, a file is named twice, or the
        destination holds a run of other files, columns or blocks, results of another
        classifier, or files that no run wrote. So does an error of the classifier that
        is no text's fault.
    RuntimeError
        Workers died of the same block again and again, a file of the source was changed
        meanwhile, or another run writes to the destination.
    ImportError
        Ray is not installed, and ``workers`` is not 0.

    Notes
    -----
    A row is bad where the text is missing, empty or no UTF-8, a CSV row has too many
    or too few fields, the truth is no label, or the classifier refuses the text with a
    ValueError, as for one that is too long. It goes to a table of its own with the
    reason; rows in the table and bad rows together are always as many as the source
    has, which is counted in the end. CSV does not tell a missing text from an empty
    one, so both have the same reason; in a file of one column, an empty line is one.

    A file of the source is known by the SHA-256 of its bytes, before the first block
    and after the last one, and each shard of results by that in ``journal.jsonl``. What
    is lost or damaged there is an error to read, and done again by another call.

    Ray Data is not used: its checkpoints want a column of unique ids and hold all those
    done in memory, and its files do not tell which rows are in them, whereas here a
    shard's name says which block it is.

    On a cluster, only this process reads the source and writes the destination; the
    workers' machines must have this package. Scores need not be kept twice: give
    ``cache=False`` to an LLMClassifier, and a journal of its own to a HostedClassifier
    on each machine.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> from helpers.scale import read_bad_rows, read_results
    >>> class ShortIsGood:
    ...     def score_table(self, texts):
    ...         p = [1 / (1 + len(text) / 10) for text in texts]
    ...         table = pd.DataFrame({"p_bad": [1 - x for x in p], "p_good": p})
    ...         table["off_label"] = 0.0
    ...         table["prediction"] = ["good" if x > 0.5 else "bad" for x in p]
    ...         table["confidence"] = [max(x, 1 - x) for x in p]
    ...         return table
    >>> reviews = pd.DataFrame({"text": ["A joy.", None, "A bore, a long one."]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     reviews.to_parquet(f"{folder}/reviews.parquet")
    ...     done = classify_dataset(
    ...         f"{folder}/reviews.parquet", f"{folder}/out", ShortIsGood, workers=0
    ...     )
    ...     table, bad = read_results(f"{folder}/out"), read_bad_rows(f"{folder}/out")
    >>> done.rows, done.bad_rows
    (3, 1)
    >>> table[["row", "prediction", "confidence"]]
       row prediction  confidence
    0    0       good    0.625000
    1    2        bad    0.655172
    >>> bad
       row                         reason
    0    1  The text is missing or empty.
    """
    began = time.perf_counter()
    check_count("rows_per_block", rows_per_block)
    check_count("workers", workers, 0)
    check_count("attempts", attempts)
    check_not_negative("gpus_per_worker", gpus_per_worker)
    if cpus_per_worker is not None:
        check_count("cpus_per_worker", cpus_per_worker)
    if not callable(classifier_factory):
        raise TypeError(
            "classifier_factory must be called for a classifier, and "
            f"{classifier_factory!r} cannot."
        )
    given = [source] if isinstance(source, (str, Path)) else list(source)
    folder = Path(destination)
    around = [folder.resolve(), *folder.resolve().parents]
    if any(Path(path).resolve() in around for path in given):
        raise ValueError(f"destination must not lie in the source, as {folder} does.")
    files = _find_files(given)
    columns = _choose_columns(files, text=text, id=id, truth=truth, keep=keep)
    as_seen = [_status(path) for path in files]
    parts = {"files": _contents(files), **columns._asdict()}
    # As it comes back from the manifest, so that the two can be compared.
    parts = json.loads(json.dumps(parts | {"rows_per_block": rows_per_block}))
    counts = [_count(path) for path in files]
    step = rows_per_block
    sizes = [min(step, n - at) for n in counts for at in range(0, n, step)]
    run = _Folder(folder)
    with run.claimed(parts, len(sizes)):
        before = run.whole(sizes)
        run.keep_in_journal(before)
        rows_before = sum(sizes[number] for number in before)
        # A run that has finished stays so while its classifier is looked at.
        finished = run.manifest["finished"] and len(before) == len(sizes)
        run.update(finished=finished)
        blocks = _blocks(files, as_seen, counts, columns, step, before)
        if workers:
            results = _on_ray(
                classifier_factory,
                columns,
                blocks,
                workers=min(workers, max(1, len(sizes) - len(before))),
                cpus=cpus_per_worker,
                gpus=gpus_per_worker,
                address=address,
                attempts=attempts,
            )
        else:
            results = _here(classifier_factory, columns, blocks)
        bar = progress_bar(
            total=sum(counts), initial=rows_before, unit="row", show=progress
        )
        with closing(results), bar:
            for block, (told, good, bad) in results if sizes else ():
                run.admit(told)
                if block is None:
                    bar.unpause()  # what it took to begin tells nothing
                    continue
                run.write(block.number, {"table": good, "bad": bad})
                bar.update(block.table.num_rows)
        if _contents(_find_files(given)) != parts["files"]:
            raise _changed("it")
        whole = run.whole(sizes)
        if len(whole) < len(sizes):
            raise RuntimeError(
                f"Of {len(sizes)} blocks, {len(sizes) - len(whole)} are not whole: "
                f"something else changes {folder}."
            )
        bad_rows = sum(shards["bad"][0] for shards in whole.values() if "bad" in shards)
        run.update(finished=True, rows=sum(counts) - bad_rows, bad_rows=bad_rows)
    return DatasetRun(
        rows=sum(counts),
        bad_rows=bad_rows,
        blocks_now=len(sizes) - len(before),
        blocks_before=len(before),
        rows_now=sum(counts) - rows_before,
        seconds=time.perf_counter() - began,
        table=folder / "table",
        bad=folder / "bad",
    )


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """What is written down about a run.

    Parameters
    ----------
    folder : str or pathlib.Path
        The destination of a run.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        There is no run in it, or its file is damaged.
    """
    path = Path(folder) / _MANIFEST
    try:
        found = json.loads(path.read_bytes())
        if found.pop("sha256") != _sha256(json.dumps(found).encode()):
            raise ValueError("Its checksum is another.")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"destination must hold a run; {folder} has no {_MANIFEST}."
        ) from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"destination must hold a run; {path} is damaged. Whose results these are "
            "is not known any more: name another folder."
        ) from error
    return dict(found)


def iter_results(
    destination: str | Path, columns: Sequence[str] | None = None
) -> Iterator[pd.DataFrame]:
    """The results of a run, one shard after the other: more than memory can hold.

    Parameters
    ----------
    destination : str or pathlib.Path
        What :func:`classify_dataset` was given.
    columns : sequence of str, optional
        The columns wanted.

    Yields
    ------
    pandas.DataFrame
        What :func:`read_results` gives, for the rows of one block.

    Raises
    ------
    ValueError
        There is no run, it has not finished, something of what it wrote is missing or
        damaged or strange to it, or a column is missing.
    """
    manifest, shards = _finished(destination, "table", columns)
    for shard in shards:
        table = shard.to_pandas()
        table.attrs["source"] = manifest.get("source")
        yield table


def read_results(
    destination: str | Path, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """The results of a run in one table.

    Parameters
    ----------
    destination : str or pathlib.Path
        What :func:`classify_dataset` was given.
    columns : sequence of str, optional
        The columns wanted.

    Returns
    -------
    pandas.DataFrame
        In the order of the source: ``row``, the place in it; the columns carried over;
        then those of the classifier's tidy table, with ``truth`` and ``correct`` where
        the truth is known. ``attrs["source"]`` is what they come from.

    Raises
    ------
    ValueError
        There is no run, it has not finished, something of what it wrote is missing or
        damaged or strange to it, or a column is missing.
    """
    manifest, found = _finished(destination, "table", columns)
    shards = list(found)
    if shards:
        table = pa.concat_tables(shards, promote_options="permissive").to_pandas()
    else:
        # Without a row, nobody knows what the labels are.
        known = ["row", *manifest["parts"]["keep"]] if columns is None else columns
        table = pd.DataFrame({name: [] for name in known}).astype({"row": "int64"})
    table.attrs["source"] = manifest.get("source")
    return table


def read_bad_rows(destination: str | Path) -> pd.DataFrame:
    """The rows of a run that could not be classified.

    Parameters
    ----------
    destination : str or pathlib.Path
        What :func:`classify_dataset` was given.

    Returns
    -------
    pandas.DataFrame
        In the order of the source: ``row``, the place in it; the id, where one was
        named; and ``reason``.

    Raises
    ------
    ValueError
        There is no run, it has not finished, or something of what it wrote is missing,
        damaged or strange to it.
    """
    manifest, found = _finished(destination, "bad")
    shards = list(found)
    if shards:
        return pa.concat_tables(shards).to_pandas()
    identity = manifest["parts"]["id"]
    names = ["row", *([identity] if identity is not None else []), "reason"]
    return pd.DataFrame({name: [] for name in names}).astype({"row": "int64"})


# Where texts come from ------------------------------------------------------------


def _find_files(given: Sequence[str | Path]) -> list[Path]:
    """The files of a source, in the order in which their rows count."""
    found: list[Path] = []
    for path in map(Path, given):
        found += _below(path) if path.is_dir() else [path]
    if not found:
        raise ValueError(f"source must be Parquet or CSV files; {given!r} has none.")
    first: dict[tuple[int, int], Path] = {}
    for path in found:
        if not path.is_file():
            raise ValueError(
                f"source must be Parquet or CSV files; there is no file {path}."
            )
        status = path.stat()  # of what a link leads to
        twin = first.setdefault((status.st_dev, status.st_ino), path)
        if twin is not path:
            raise ValueError(
                f"source must name each file once; {path} and {twin} are the same."
            )
    kinds = {_KINDS.get(path.suffix.lower(), path.suffix) for path in found}
    if len(kinds) > 1 or not kinds <= set(_KINDS.values()):
        raise ValueError(
            "source must be Parquet files or CSV files, not "
            f"{' and '.join(map(repr, sorted(kinds)))}."
        )
    return found


def _below(folder: Path) -> list[Path]:
    """All files of a folder that are not hidden; a link to a folder is none of them."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return [
        found[name]
        for name in sorted(found)
        if not any(part.startswith((".", "_")) for part in name.split("/"))
        and (found[name].is_symlink() or not found[name].is_dir())
    ]


def _status(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()  # it is gone
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _contents(files: Sequence[Path]) -> list[list[str]]:
    """The name of each file and the SHA-256 of its bytes."""
    found = []
    for path in files:
        with path.open("rb") as file:
            found.append([path.name, hashlib.file_digest(file, "sha256").hexdigest()])
    return found


def _changed(what: Path | str) -> RuntimeError:
    return RuntimeError(
        f"source must stay as it is while it is classified; {what} has changed. The "
        "results so far are of the files as they were: put these back, or classify "
        "those that are there now into another folder."
    )


def _is_csv(path: Path) -> bool:
    return _KINDS[path.suffix.lower()] == "CSV"


def _column_types(path: Path) -> dict[str, pa.DataType]:
    """Types of columns by name; all of a CSV file is text, for types are guesses."""
    if _is_csv(path):
        with closing(_records(path)) as records:
            names = next(records, [])
        types = [pa.string() for _ in names]
        if not names:
            raise ValueError(f"source must have column names; {path} is empty.")
        if any("\r" in name for name in names):
            raise ValueError(f"source must have lines that end in \\n; {path} has \\r.")
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
    return dict(zip(names, map(_plain_type, types), strict=True))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that a column has in the end: all ways to hold texts are one."""
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_null,
    )
    return pa.string() if any(test(held) for test in tests) else kind


def _choose_columns(
    files: Sequence[Path],
    *,
    text: str,
    id: str | None,
    truth: str | None,
    keep: Sequence[str] | None,
) -> _Columns:
    """Find the columns in all files, of one type each, and with names that are free."""
    if isinstance(keep, str):
        raise ValueError(
            f"keep must be a list of columns, not the one string {keep!r}."
        )
    types = [_column_types(path) for path in files]
    first = types[0]
    rest = [name for name in first if name not in (text, truth)]
    kept = list(dict.fromkeys(rest if keep is None else keep))
    if id is not None and id not in kept:
        kept.insert(0, id)
    columns = _Columns(text, id, truth, tuple(kept))
    for path, found in zip(files, types, strict=True):
        for column in columns.wanted:
            if column not in found:
                raise ValueError(
                    f"source must have the column {column!r}; {path} has "
                    f"{list(found)!r}."
                )
            if found[column] != first[column]:
                raise ValueError(
                    f"source must have one type for each column; {column!r} is "
                    f"{first[column]} in {files[0]} and {found[column]} in {path}."
                )
        lost = sorted(set(found) - set(first))
        if keep is None and lost:
            raise ValueError(
                f"source must have the same columns in each file; only {path} has "
                f"{lost[0]!r}. Name the columns to keep."
            )
    for role, named in (("text", text), ("truth", truth)):
        if named is not None and first[named] != pa.string():
            raise ValueError(
                f"{role} must be a column of strings; {named!r} is {first[named]}."
            )
    _check_free(kept, [*_TAKEN, *(["truth"] if truth is not None else [])])
    if id == "reason":
        raise ValueError("id must leave the name 'reason' to the table of bad rows.")
    return columns


def _check_free(keep: Sequence[str], taken: Iterable[str]) -> None:
    for column in keep:
        if column in taken or column.startswith("p_"):
            raise ValueError(
                f"keep must leave the names of the tidy table free, not {column!r}. "
                "Name the columns to keep, or rename this one."
            )


def _records(path: Path) -> Generator[list[str]]:
    """The rows of a CSV file, the names first; broken bytes come as surrogates."""
    csv.field_size_limit(_LONGEST)
    with path.open("rb") as file:

        def lines() -> Iterator[str]:
            for at, line in enumerate(file):
                text = line.removeprefix(b"" if at else b"\xef\xbb\xbf").decode(
                    "utf-8", "surrogateescape"
                )
                end = "\r\n" if text.endswith("\r\n") else text[-1:]
                yield text.removesuffix(end).replace("\r", _RETURN) + end

        try:
            for record in csv.reader(lines(), strict=True):
                yield [field.replace(_RETURN, "\r") for field in record]
        except csv.Error as error:
            raise ValueError(
                f"source must be CSV that can be read; {path} cannot, at or before "
                f"byte {file.tell():,}: {error}. A quotation mark may be left open."
            ) from error


def _rows(path: Path) -> Iterator[list[str]]:
    """The rows of a CSV file behind the names.

    An empty line is a row only where there is one column, whose text it may be.
    """
    records = _records(path)
    alone = len(next(records)) == 1
    return (row or [""] for row in records if row or alone)


def _count(path: Path) -> int:
    if _is_csv(path):
        return sum(1 for _ in _rows(path))
    return int(pq.read_metadata(path).num_rows)


def _pieces(
    path: Path, wanted: list[str], step: int
) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    """A file in tables of so many rows, and what is wrong with rows of each."""
    if _is_csv(path):
        names, rows = list(_column_types(path)), _rows(path)
        while some := list(islice(rows, step)):
            columns = {}
            for name in wanted:
                at = names.index(name)
                raw = [
                    row[at].encode("utf-8", "surrogateescape")
                    if at < len(row)
                    else None
                    for row in some
                ]
                columns[name] = pa.array(raw, pa.large_binary()).view(pa.large_string())
            yield (
                pa.table(columns),
                {
                    at: f"The row has {len(row)} fields, not {len(names)}."
                    for at, row in enumerate(some)
                    if len(row) != len(names)
                },
            )
        return
    with pq.ParquetFile(path, buffer_size=_BUFFER) as file:
        held: list[pa.Table] = []
        for batch in file.iter_batches(step, columns=wanted, use_threads=False):
            table = pa.concat_tables(
                [*held, pa.Table.from_batches([batch]).select(wanted)]
            )
            while table.num_rows >= step:
                yield table.slice(0, step), {}
                table = table.slice(step)
            held = [table]
        if held and held[0].num_rows:
            yield held[0], {}


def _blocks(
    files: Sequence[Path],
    as_seen: Sequence[tuple[int, ...]],
    counts: Sequence[int],
    columns: _Columns,
    step: int,
    done: Container[int],
) -> Iterator[_Block]:
    """The blocks that are not done yet, read from files that are as they were seen."""
    number = before = 0
    for path, seen, count in zip(files, as_seen, counts, strict=True):
        numbers = range(number, number + -(-count // step))
        if any(at not in done for at in numbers):
            pieces = _pieces(path, columns.wanted, step)
            for at in numbers:
                try:
                    table, faults = next(pieces, (None, {}))
                finally:
                    if _status(path) != seen:
                        raise _changed(path)
                if table is None:
                    raise _changed(path)
                if at in done:
                    continue
                first = (at - number) * step
                last = first + table.num_rows - 1
                where = f"on block {at} (rows {first:,} to {last:,} of {path.name})"
                table, broken = _as_text(table)
                yield _Block(at, before + first, where, table, broken | faults)
        number, before = numbers.stop, before + count


def _as_text(table: pa.Table) -> tuple[pa.Table, dict[int, str]]:
    """Texts as strings of one type; where one is no UTF-8, with U+FFFD and noted."""
    columns, broken = {}, {}
    for name in table.column_names:
        column = table[name]
        if _plain_type(column.type) == pa.string():
            raw = column.cast(pa.large_binary())
            try:
                column = raw.cast(pa.string())
            except pa.ArrowInvalid:
                values: list[str | None] = []
                for at, value in enumerate(raw.to_pylist()):
                    values.append(value and value.decode("utf-8", "replace"))
                    if value and value.decode("utf-8", "surrogateescape") != values[-1]:
                        broken[at] = f"Its {name} is not UTF-8."
                column = pa.chunked_array([pa.array(values, pa.string())])
        columns[name] = column
    return pa.table(columns), broken


# What is done with a block --------------------------------------------------------


class _Worker:
    """Holds a classifier and takes blocks: in this process, or as a Ray actor."""

    def __init__(
        self,
        factory: Callable[[], Any],
        columns: _Columns,
        threads: int | None = None,
    ) -> None:
        self._factory, self._columns, self._threads = factory, columns, threads
        self._classifier: Any = None
        self._source: Any = None

    def classify(
        self, block: _Block | None
    ) -> tuple[Any, pa.Table | None, pa.Table | None]:
        """What the classifier says of itself, the table of a block, its bad rows."""
        if self._classifier is None:
            self._load()
        if block is None:
            return self._source, None, None
        texts = block.table[self._columns.text].to_pylist()
        reasons = dict(block.faults)
        for at, text in enumerate(texts):
            if not (text and text.strip()):
                reasons.setdefault(at, "The text is missing or empty.")
        fine = [at for at in range(len(texts)) if at not in reasons]
        pieces = self._score(texts, fine, reasons)
        table = self._table(block, pieces, reasons) if pieces else None
        bad = None
        if reasons:
            places = sorted(reasons)
            named = [] if self._columns.id is None else [self._columns.id]
            bad = _taken(block, places, named).append_column(
                "reason", pa.array([reasons[at] for at in places])
            )
        return self._source, table if table is not None and len(table) else None, bad

    def _load(self) -> None:
        if self._threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(self._threads)
        self._classifier = self._factory()
        if self._threads is not None and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._threads)
        # Before any work, this shows what is wrong with the classifier and no text.
        trial = self._scored(["A"])
        _check_free(self._columns.keep, trial.columns)
        source = getattr(self._classifier, "source", None)
        told = source() if callable(source) else trial.attrs.get("source")
        # As it comes back from the manifest, so that the two can be compared.
        self._source = json.loads(json.dumps(told))

    def _score(
        self, texts: list[str], places: list[int], reasons: dict[int, str]
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

    def _scored(self, texts: list[str]) -> pd.DataFrame:
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
        block: _Block,
        pieces: list[tuple[list[int], pd.DataFrame]],
        reasons: dict[int, str],
    ) -> pa.Table:
        """Rows, columns carried over, the tidy table, and the truth."""
        places = [at for piece, _ in pieces for at in piece]
        scored = pa.concat_tables(
            [
                _as_text(pa.Table.from_pandas(table, preserve_index=False))[0]
                for _, table in pieces
            ],
            promote_options="permissive",
        )
        table = _taken(block, places, self._columns.keep)
        for name in scored.column_names:
            table = table.append_column(name, scored[name])
        known = [True] * len(places)
        if self._columns.truth is not None:
            labels = {n[2:] for n in scored.column_names if n.startswith("p_")}
            given = block.table[self._columns.truth].take(pa.array(places))
            truth = [label or None for label in given.to_pylist()]
            known = [label is None or label in labels for label in truth]
            for at, label, fine in zip(places, truth, known, strict=True):
                if not fine:
                    reasons[at] = f"Its truth {label!r} is no label."
            said = scored["prediction"].to_pylist()
            correct = [
                None if None in pair else pair[0] == pair[1]
                for pair in zip(truth, said, strict=True)
            ]
            table = table.append_column("truth", pa.array(truth, pa.string()))
            table = table.append_column("correct", pa.array(correct, pa.bool_()))
        # pandas finds this and puts it into attrs.
        meta = {"PANDAS_ATTRS": json.dumps({"source": self._source})}
        return table.replace_schema_metadata(meta).filter(pa.array(known, pa.bool_()))


def _taken(block: _Block, places: list[int], names: Sequence[str]) -> pa.Table:
    """The numbers of some rows, and columns of theirs."""
    columns = {"row": pa.array([block.row + at for at in places], pa.int64())}
    some = block.table.select(list(names)).take(pa.array(places, pa.int64()))
    return pa.table(columns | {name: some[name] for name in names})


def _here(
    factory: Callable[[], Any], columns: _Columns, blocks: Iterator[_Block]
) -> Generator[tuple[_Block | None, tuple[Any, Any, Any]]]:
    """Results of blocks by this process; the first is that of no block."""
    worker = _Worker(factory, columns)
    for block in chain([None], blocks):
        yield block, worker.classify(block)


def _on_ray(
    factory: Callable[[], Any],
    columns: _Columns,
    blocks: Iterator[_Block],
    *,
    workers: int,
    cpus: int | None,
    gpus: float,
    address: str | None,
    attempts: int,
) -> Generator[tuple[_Block | None, tuple[Any, Any, Any]]]:
    """Results of blocks by Ray actors, which Ray replaces where they die."""
    with _ray(address, workers, cpus) as (ray, cores):
        _warn_if_too_small(ray, cores, gpus)
        actor_class = ray.remote(
            num_cpus=cores,
            num_gpus=gpus,
            max_restarts=-1,  # of the actor; its tasks set the limit
            max_task_retries=attempts - 1,
        )(_Worker)
        given = [ray.put(part) for part in (factory, columns, cores)]
        actors = [actor_class.remote(*given) for _ in range(workers)]
        idle, busy, left = list(actors), {}, chain([None], blocks)
        try:
            while True:
                for block in islice(left, len(idle)):
                    actor = idle.pop()
                    busy[actor.classify.remote(block)] = (actor, block)
                if not busy:
                    return
                [done], _ = ray.wait(list(busy))
                actor, block = busy.pop(done)
                try:
                    result = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, Exception):
                        raise error.cause from error  # the classifier's own
                    raise
                except ray.exceptions.RayError as error:
                    where = block.where if block else "while it made the classifier"
                    raise RuntimeError(
                        f"{attempts} times, a worker died {where}: {error}"
                    ) from error
                idle.append(actor)
                yield block, result
        finally:
            for actor in actors:
                ray.kill(actor)


@contextmanager
def _ray(address: str | None, workers: int, cpus: int | None) -> Iterator[Any]:
    """Ray, and the cores of a worker; what was started here is stopped again."""
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "workers need Ray: pip install 'how-sure[scale]'. With workers=0, this "
            "process does all the work."
        ) from error
    if ray.is_initialized():
        yield ray, cpus or 1
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        cpus = cpus or max(1, cpu_count() // workers)
        quiet |= {"num_cpus": workers * cpus, "include_dashboard": False}
        quiet |= {"object_store_memory": _OBJECT_STORE}
    # What this process can import, workers started here are to find, too.
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    with patch.dict(os.environ, RAY_USAGE_STATS_ENABLED="0", PYTHONPATH=paths):
        ray.init("local" if address is None else address, **quiet)
    try:
        yield ray, cpus or 1
    finally:
        ray.shutdown()


def _warn_if_too_small(ray: Any, cpus: int, gpus: float) -> None:
    sizes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(s.get("CPU", 0) >= cpus and s.get("GPU", 0) >= gpus for s in sizes):
        return
    # A cluster may grow; until it does, Ray waits and says nothing.
    warnings.warn(
        f"A worker is to take {cpus} cores and {gpus:g} accelerators; no machine that "
        "Ray knows has them. Waiting for one.",
        stacklevel=4,
    )


# What is written down -------------------------------------------------------------

# Of each block that is done, and each kind of shard it has: its rows and its SHA-256.
_Journal = dict[int, dict[str, tuple[int, str]]]


class _Folder:
    """The folder of one run; all in it appears under its name whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = {}

    @contextmanager
    def claimed(self, parts: dict[str, Any], blocks: int) -> Iterator[None]:
        """Make the folder this run's, and keep others out of it meanwhile."""
        self._check(parts)
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RuntimeError(f"Another run writes to {self.folder}.") from error
        try:
            # Somebody may have come first.
            found = self._check(parts)
            self.manifest = found or {"parts": parts, "finished": False}
            for kind in _SHARDS:
                (self.folder / kind).mkdir(exist_ok=True)
            for left_over in self.folder.rglob(f"*{_UNFINISHED}"):
                left_over.unlink(missing_ok=True)
            _refuse_strange(
                self.folder,
                {
                    path
                    for path in _shards_in(self.folder)
                    if not re.fullmatch(r"part-\d{8,}\.parquet", path.name)
                    or int(path.stem[len("part-") :]) >= blocks
                },
            )
            yield
        finally:
            lock.release()

    def update(self, **known: Any) -> None:
        """Write down what is known of the run now."""
        self.manifest |= known
        # The checksum is that of the text without it.
        text = json.dumps(self.manifest)
        sealed = self.manifest | {"sha256": _sha256(text.encode())}
        _write(self.folder / _MANIFEST, (json.dumps(sealed, indent=1) + "\n").encode())

    def admit(self, source: Any) -> None:
        """Note what the results come from, or refuse it."""
        if "source" not in self.manifest:
            self.update(source=source)
        known = self.manifest["source"]
        if source != known:
            raise ValueError(
                f"destination must be empty, or hold this run; {self.folder} has "
                f"results of {known!r}, and the classifier is {source!r}. Name another "
                "folder."
            )

    def write(self, number: int, tables: dict[str, pa.Table | None]) -> None:
        """Write what became of a block, in place of what is there of it."""
        shards = {}
        for kind, table in tables.items():
            path = _shard(self.folder, kind, number)
            if table is None:
                path.unlink(missing_ok=True)
                continue
            buffer = io.BytesIO()
            pq.write_table(table, buffer)
            _write(path, buffer.getvalue())
            shards[kind] = (table.num_rows, _sha256(buffer.getvalue()))
        with (self.folder / _JOURNAL).open("ab") as file:
            file.write(_line(number, shards))

    def whole(self, sizes: Sequence[int]) -> _Journal:
        """Of the blocks with these numbers of rows, those whose shards are intact."""
        return {
            number: shards
            for number, shards in _journal(self.folder).items()
            if number < len(sizes)
            and sum(rows for rows, _ in shards.values()) == sizes[number]
            and all(
                _sha256(_bytes(_shard(self.folder, kind, number)))
                == shards.get(kind, (0, _sha256(b"")))[1]
                for kind in _SHARDS
            )
        }

    def keep_in_journal(self, blocks: _Journal) -> None:
        """Forget all other blocks, and a last line that is cut off."""
        lines = [_line(number, shards) for number, shards in blocks.items()]
        _write(self.folder / _JOURNAL, b"".join(lines))

    def _check(self, parts: dict[str, Any]) -> dict[str, Any] | None:
        """The manifest, if there is one and it is this run's."""
        if not (self.folder / _MANIFEST).exists():
            there = self.folder.iterdir() if self.folder.is_dir() else iter(())
            strange = [
                path.name
                for path in there
                if path.name not in (_LOCK, _JOURNAL, *_SHARDS)
                and not path.name.endswith(_UNFINISHED)
            ]
            if strange or self.folder.is_file():
                raise ValueError(
                    f"destination must be a folder that is empty, or holds this run; "
                    f"{self.folder} has {sorted(strange)[:3]!r}."
                )
            if _shards_in(self.folder):
                raise ValueError(
                    f"destination must be empty, or hold this run; {self.folder} has "
                    f"results, but no {_MANIFEST} that tells whose. Name another "
                    "folder."
                )
            return None
        found = read_manifest(self.folder)
        if not found["finished"] and not _shards_in(self.folder):
            # Nothing was done yet that another plan or classifier could spoil.
            return None
        other = [name for name in parts if found["parts"].get(name) != parts[name]]
        if other:
            raise ValueError(
                f"destination must be empty, or hold this run; {self.folder} holds one "
                f"with other {', '.join(other)}. Name another folder."
            )
        return found


def _finished(
    destination: str | Path, kind: str, columns: Sequence[str] | None = None
) -> tuple[dict[str, Any], Iterator[pa.Table]]:
    """The manifest of a run, and its shards, none of which may be missing."""
    manifest, folder = read_manifest(destination), Path(destination)
    if not manifest["finished"]:
        raise ValueError(
            f"destination must hold a run that has finished; that in {destination} "
            "has not: call classify_dataset again, and it goes on."
        )
    journal = _journal(folder)
    written = {
        _shard(folder, each, number) for number in journal for each in journal[number]
    }
    there = _shards_in(folder)
    counts = [
        sum(shards[each][0] for shards in journal.values() if each in shards)
        for each in _SHARDS
    ]
    if written - there or counts != [manifest["rows"], manifest["bad_rows"]]:
        lost = min(written - there, default=folder / _JOURNAL)
        raise ValueError(f"{lost} is missing, or lines of it are. {_AGAIN}")
    _refuse_strange(folder, there - written)

    def shards() -> Iterator[pa.Table]:
        for number in sorted(journal):
            if kind not in journal[number]:
                continue
            path = _shard(folder, kind, number)
            data = _bytes(path)
            if _sha256(data) != journal[number][kind][1]:
                raise ValueError(f"{path} is damaged. {_AGAIN}")
            names = pq.read_schema(io.BytesIO(data)).names
            missing = sorted(set(columns or ()) - set(names))
            if missing:
                raise ValueError(
                    f"columns must be among {names!r}, not {missing[0]!r}."
                )
            yield pq.read_table(
                io.BytesIO(data), columns=None if columns is None else list(columns)
            )

    return manifest, shards()


def _shard(folder: Path, kind: str, number: int) -> Path:
    return folder / kind / f"part-{number:08d}.parquet"


def _shards_in(folder: Path) -> set[Path]:
    """All that a reader of the folders of shards would take for one."""
    return {
        path
        for kind in _SHARDS
        for path in (folder / kind).glob("*")
        if not path.name.startswith((".", "_")) and not path.name.endswith(_UNFINISHED)
    }


def _refuse_strange(folder: Path, paths: Iterable[Path]) -> None:
    if strange := sorted(path.relative_to(folder).as_posix() for path in paths):
        raise ValueError(
            "destination must hold nothing among its results that is not of this run; "
            f"{folder} has {strange[:3]!r}."
        )


def _journal(folder: Path) -> _Journal:
    """What is written of blocks; a line that is damaged says nothing."""
    found: _Journal = {}
    path = folder / _JOURNAL
    for line in _bytes(path).splitlines():
        text, _, seal = line.rpartition(b"\t")
        if _sha256(text).encode() == seal:
            number, shards = json.loads(text)
            found[number] = {kind: tuple(each) for kind, each in shards.items()}
    return found


def _line(number: int, shards: dict[str, tuple[int, str]]) -> bytes:
    text = json.dumps([number, shards])
    return f"{text}\t{_sha256(text.encode())}\n".encode()


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write(path: Path, data: bytes) -> None:
    unfinished = path.with_name(path.name + _UNFINISHED)
    with unfinished.open("wb") as file:
        file.write(data)
        if path.name == _MANIFEST:  # what else a power cut takes is done again
            file.flush()
            os.fsync(file.fileno())
    os.replace(unfinished, path)
