"""Rows of files in blocks, and results in shards, for :mod:`helpers.scale`.

The journal in the folder of results has a line for the plan, the source, each block and
the end, each line and each shard with its SHA-256. A block whose line or shard is
damaged is done again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

_FILES = {".parquet": "Parquet", ".pq": "Parquet", ".csv": "CSV"}
_KINDS = ("table", "bad")
_JOURNAL, _LOCK = "journal.jsonl", ".lock"
_LONGEST = 1 << 26  # characters of a CSV field; Python's own limit is 131,072
_RETURN = "\ud800"  # stands for a carriage return inside a row; no UTF-8 has it
_BUFFER = 1 << 20  # with it, a row group is read in pieces instead of as a whole
_AGAIN = "Call classify_dataset again: what is missing or damaged is done again."


@dataclass(frozen=True)
class Columns:
    """Which columns of the files hold what.

    Parameters
    ----------
    text, id, truth : str
        The texts (default "text"); what names each row, also bad ones (optional); the
        true labels, which come out as ``truth``, with ``correct`` (optional).
    keep : sequence of str, optional
        Columns to carry over. Default: all but the text and the truth.

    Examples
    --------
    >>> Columns(truth="label").text
    'text'
    """

    text: str = "text"
    id: str | None = None
    truth: str | None = None
    keep: Sequence[str] | None = None


class Block(NamedTuple):
    """Rows of one file, what is wrong with them, and where they are."""

    number: int
    row: int  # its first row in the whole source
    where: str
    table: pa.Table
    faults: dict[int, str]

    def columns(self, places: list[int], names: Sequence[str]) -> dict[str, Any]:
        """The numbers of some rows, and their columns."""
        some = self.table.select(list(names)).take(pa.array(places, pa.int64()))
        numbers = pa.array([self.row + at for at in places], pa.int64())
        return {"row": numbers} | {name: some[name] for name in names}


class Source:
    """Files, identified by their SHA-256, and their rows in blocks."""

    def __init__(self, given: list[Any], columns: Columns, rows_per_block: int) -> None:
        self._given, self._step = given, rows_per_block
        self._files = _find_files(given)
        self.columns, self._names = _resolve(columns, self._files)
        self._seen = [_status(path) for path in self._files]
        named = asdict(self.columns) | {"rows_per_block": rows_per_block}
        self.plan = {"files": _hashes(self._files)} | named
        self._counts = [_count(path) for path in self._files]
        self.sizes = [
            min(rows_per_block, count - first)
            for count in self._counts
            for first in range(0, count, rows_per_block)
        ]

    def blocks(self, done: set[int]) -> Iterator[Block]:
        """The blocks still to do, from files that have not changed."""
        number = before = 0
        files = zip(self._files, self._seen, self._counts, strict=True)
        for path, seen, count in files:
            pieces = _pieces(path, self._names, self._step)
            for first in range(0, count, self._step):
                try:
                    table, faults = next(pieces)
                finally:
                    if _status(path) != seen:
                        raise _changed(path)
                if number not in done:
                    rows = f"rows {first:,} to {first + table.num_rows - 1:,}"
                    where = f"on block {number} ({rows} of {path.name})"
                    table, broken = _as_text(table)
                    yield Block(number, before + first, where, table, broken | faults)
                number += 1
            before += count

    def check_unchanged(self) -> None:
        """Refuse files that differ from the plan's."""
        if _hashes(_find_files(self._given)) != self.plan["files"]:
            raise _changed("it")


def _find_files(given: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, given):
        found += _files_below(path) if path.is_dir() else [path]
    rule = "source must be Parquet files or CSV files"
    known: dict[tuple[int, int], Path] = {}
    for path in found:
        if not path.is_file():
            raise ValueError(f"{rule}; there is no file {path}.")
        status = path.stat()  # of what a link leads to
        same = known.setdefault((status.st_dev, status.st_ino), path)
        if same is not path:
            raise ValueError(
                f"source must name each file once; {path} and {same} are the same."
            )
    kinds = sorted({_FILES.get(path.suffix.lower(), path.suffix) for path in found})
    if len(kinds) != 1 or kinds[0] not in _FILES.values():
        raise ValueError(f"{rule}; {list(map(str, given))} has {kinds}.")
    return found


def _files_below(folder: Path) -> list[Path]:
    """All files of a folder that are not hidden; links to folders are not followed."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or not path.is_dir())
        and not any(p.startswith((".", "_")) for p in path.relative_to(folder).parts)
    ]


def _status(path: Path) -> tuple[int, ...]:
    if not path.is_file():
        return ()
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _hashes(files: Sequence[Path]) -> list[list[str]]:
    return [[path.name, _sha256(path)] for path in files]


def _changed(what: Path | str) -> RuntimeError:
    return RuntimeError(
        f"source must stay as it is while it is classified; {what} has changed. Put "
        "back what was there, or classify what is there now into another folder."
    )


def _resolve(columns: Columns, files: Sequence[Path]) -> tuple[Columns, list[str]]:
    """Find the columns in all files, of one type each; and all that are read."""
    if isinstance(columns.keep, str):
        raise ValueError(f"keep must be a list of columns, not {columns.keep!r}.")
    types = {path: _types(path) for path in files}
    first, roles = types[files[0]], {"text": columns.text, "truth": columns.truth}
    kept = columns.keep
    if kept is None:
        kept = [name for name in first if name not in roles.values()]
    own = [] if columns.id is None or columns.id in kept else [columns.id]
    chosen = replace(columns, keep=[*own, *dict.fromkeys(kept)])
    names = [*roles.values(), *(chosen.keep or ())]
    wanted = list(dict.fromkeys(name for name in names if name is not None))
    for path, found in types.items():
        others = {name for name in found if columns.keep is None}
        if any(found.get(name) != first.get(name, name) for name in {*wanted, *others}):
            raise ValueError(
                f"source must have the columns {wanted}, of one type each, and others "
                f"only where those to keep are named; {path} has {found}, {files[0]} "
                f"{first}."
            )
    for role, named in roles.items():
        if named is not None and first[named] != pa.string():
            raise ValueError(f"{role} must be strings; {named!r} is {first[named]}.")
    return chosen, wanted


def _types(path: Path) -> dict[str, pa.DataType]:
    """Types of columns by name; those of CSV files are text."""
    if _is_csv(path):
        names = next(_csv_rows(path), [])
        types = [pa.string() for _ in names]
        if not names or any("\r" in name for name in names):
            raise ValueError(
                "source must have column names, and lines that end in \\n; "
                f"{path} begins with {names!r}."
            )
    else:
        try:
            schema = pq.read_schema(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"source must be Parquet; {path}: {error}") from error
        names = schema.names
        types = [pa.string() if _is_text(kind) else kind for kind in schema.types]
    if len(set(names)) < len(names):
        raise ValueError(f"source must not name columns twice; {path} has {names!r}.")
    return dict(zip(names, types, strict=True))


def _is_csv(path: Path) -> bool:
    return _FILES[path.suffix.lower()] == "CSV"


def _is_text(kind: pa.DataType) -> bool:
    held = kind.value_type if pa.types.is_dictionary(kind) else kind
    return held in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


def _csv_rows(path: Path) -> Iterator[list[str]]:
    """Names and rows of a CSV file; an empty line is a row only in a single column."""
    csv.field_size_limit(_LONGEST)
    how: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "surrogateescape"}
    with path.open(**how, newline="\n") as file:
        lines = (re.sub(r"\r(?!\n)", _RETURN, line) for line in file)
        reader, width = csv.reader(lines, strict=True), 0
        try:
            for row in reader:
                width = width or len(row)
                if row or width == 1:
                    yield [cell.replace(_RETURN, "\r") for cell in row or [""]]
        except csv.Error as error:
            raise ValueError(
                f"source must be CSV that can be read; {path} cannot, at or before "
                f"line {reader.line_num:,}: {error}. A quotation mark may be left open."
            ) from error


def _count(path: Path) -> int:
    if _is_csv(path):
        return sum(1 for _ in _csv_rows(path)) - 1
    return int(pq.read_metadata(path).num_rows)


def _pieces(
    path: Path, names: list[str], step: int
) -> Iterator[tuple[pa.Table, dict[int, str]]]:
    """A file in tables of so many rows, and what is wrong with rows of each."""
    if _is_csv(path):
        rows = _csv_rows(path)
        there = next(rows)
        while some := list(islice(rows, step)):
            faults = {
                at: f"The row has {len(row)} fields, not {len(there)}."
                for at, row in enumerate(some)
                if len(row) != len(there)
            }
            cells = zip(
                *([*row, *[""] * len(there)][: len(there)] for row in some), strict=True
            )
            columns = dict(zip(there, cells, strict=True))
            yield pa.table({name: _raw(columns[name]) for name in names}), faults
        return
    with pq.ParquetFile(path, buffer_size=_BUFFER) as file:
        held = file.schema_arrow.empty_table().select(names)
        # Batches of some types end where a page ends, however many rows were asked for.
        for batch in file.iter_batches(step, columns=names, use_threads=False):
            piece = pa.Table.from_batches([batch]).select(names)
            held = pa.concat_tables([held, piece])
            while held.num_rows >= step:
                yield held.slice(0, step), {}
                held = held.slice(step)
        if held.num_rows:
            yield held, {}


def _raw(texts: Sequence[str]) -> pa.Array:
    """Texts as the file's bytes, which may be invalid UTF-8."""
    data = [text.encode("utf-8", "surrogateescape") for text in texts]
    return pa.array(data, pa.large_binary()).view(pa.large_string())


def _as_text(table: pa.Table) -> tuple[pa.Table, dict[int, str]]:
    """Texts as strings of one type; invalid UTF-8 becomes U+FFFD and is noted."""
    broken = {}
    for place, name in enumerate(table.column_names):
        if _is_text(table[name].type):
            raw = table[name].cast(pa.large_binary()).to_pylist()
            texts = [v if v is None else v.decode("utf-8", "replace") for v in raw]
            for at, (text, value) in enumerate(zip(texts, raw, strict=True)):
                if text and text.encode() != value:
                    broken[at] = f"Its {name} is not UTF-8."
            table = table.set_column(place, name, pa.array(texts, pa.string()))
    return table, broken


class Folder:
    """The folder of one run, whose files are written atomically."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._known: dict[Any, Any] = {}

    @contextmanager
    def claimed(self, plan: dict[str, Any], n_blocks: int) -> Iterator[set[int]]:
        """Lock the folder for this run, and yield the blocks done."""
        self._check(plan)
        for kind in _KINDS:
            (self.path / kind).mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / _LOCK, timeout=0):
            known = self._check(plan)  # somebody may have come first
            blocks = range(n_blocks)
            self._refuse_all_but({(kind, at) for kind in _KINDS for at in blocks})
            # Blocks whose source is not known any more are not mixed with others.
            told = known if "source" in known else {}
            done = {at for at in blocks if at in told and self._is_whole(at, told[at])}
            keys = {"source", *done, *(["end"] if len(done) == n_blocks else [])}
            self._known = {"plan": plan} | {at: known[at] for at in known if at in keys}
            lines = [_line(key, told) for key, told in self._known.items()]
            _write(self.path / _JOURNAL, b"".join(lines))
            yield done

    def admit(self, source: Any) -> None:
        """Note the source of the results, or refuse another one."""
        if "source" not in self._known:
            self._note("source", source)
        known = self._known["source"]
        if source != known:
            raise ValueError(
                f"destination must be empty, or hold this run; {self.path} has "
                f"results of {known!r}, and the classifier is {source!r}. Name another "
                "folder."
            )

    def write(self, number: int, tables: dict[str, pa.Table]) -> None:
        """Write the results of a block, in place of what is there of it."""
        shards = {}
        for kind in _KINDS:
            path = self._shard(kind, number)
            path.unlink(missing_ok=True)
            if kind in tables:
                buffer = io.BytesIO()
                pq.write_table(_as_text(tables[kind])[0], buffer)
                _write(path, buffer.getvalue())
                shards[kind] = [tables[kind].num_rows, _sha256(path)]
        self._note(number, shards)

    def finish(self, n_blocks: int) -> int:
        """Note that all blocks are done, and count the bad rows."""
        self._known.setdefault("source", None)
        self._note("end", [n_blocks, self._known["source"]])
        return sum(self._known[at].get("bad", [0])[0] for at in range(n_blocks))

    def finished(
        self, kind: str, columns: Sequence[str] | None = None
    ) -> tuple[dict[str, Any], Any, Iterator[pa.Table]]:
        """Plan, source and shards of a complete run."""
        known, path = self._journal(), self.path / _JOURNAL
        if "plan" not in known:
            raise ValueError(f"destination must hold a run; there is no whole {path}.")
        if "end" not in known:
            raise ValueError(f"The run in {self.path} has not finished. {_AGAIN}")
        n_blocks, source = known["end"]
        if lost := n_blocks - len(known.keys() & range(n_blocks)):
            raise ValueError(f"{path} lacks the lines of {lost} blocks. {_AGAIN}")
        shards = [(each, at) for at in range(n_blocks) for each in known[at]]
        self._refuse_all_but({*shards})
        found = (self._read(at, known[at], k, columns) for k, at in shards if k == kind)
        return known["plan"], source, found

    def _read(
        self, number: int, shards: Any, kind: str, columns: Sequence[str] | None
    ) -> pa.Table:
        path = self._shard(kind, number)
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != shards[kind][1]:
            raise ValueError(f"{path} is missing or damaged. {_AGAIN}")
        table = pq.read_table(io.BytesIO(data))
        names = table.column_names
        if missing := sorted(set(columns or ()) - set(names)):
            raise ValueError(f"columns must be among {names!r}, not {missing[0]!r}.")
        return table if columns is None else table.select(list(columns))

    def _check(self, plan: dict[str, Any]) -> dict[Any, Any]:
        """The journal's content, if there is one and it is this run's."""
        known = self._journal()
        hold = [path for path in self.path.rglob("[!.]*") if path.is_file()]
        if "end" not in known and {path.name for path in hold} <= {_JOURNAL}:
            return {}  # nothing was done yet that another plan could spoil
        there = known.get("plan", {})
        if other := [name for name in plan if there.get(name) != plan[name]]:
            what = f"one with other {', '.join(other)}" if there else "files of none"
            raise ValueError(
                f"destination must be empty, or hold this run; {self.path} holds "
                f"{what}, such as {hold[0].name}. Name another folder."
            )
        return known

    def _journal(self) -> dict[Any, Any]:
        path, known = self.path / _JOURNAL, {}
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            text, _, seal = line.rpartition(b"\t")
            if hashlib.sha256(text).hexdigest().encode() == seal:
                key, told = json.loads(text)
                known[key] = told
        return known

    def _note(self, key: str | int, told: Any) -> None:
        self._known[key] = told
        with (self.path / _JOURNAL).open("ab") as file:
            file.write(_line(key, told))

    def _is_whole(self, number: int, shards: dict[str, Any]) -> bool:
        found = {kind: _sha256(self._shard(kind, number)) for kind in _KINDS}
        return found == {kind: shards.get(kind, [0, ""])[1] for kind in _KINDS}

    def _shard(self, kind: str, number: int) -> Path:
        return self.path / kind / f"part-{number:08d}.parquet"

    def _refuse_all_but(self, shards: set[tuple[str, int]]) -> None:
        """Refuse foreign files that a reader would take for results."""
        ours = {self._shard(*shard) for shard in shards}
        there = {path for kind in _KINDS for path in (self.path / kind).glob("[!._]*")}
        if strange := sorted(f"{path.relative_to(self.path)}" for path in there - ours):
            raise ValueError(
                "destination must hold nothing among its results that is not of this "
                f"run; {self.path} has {strange[:3]!r}."
            )


def _line(key: str | int, told: Any) -> bytes:
    text = json.dumps([key, told]).encode()
    return text + f"\t{hashlib.sha256(text).hexdigest()}\n".encode()


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f".{path.name}")
    with unfinished.open("wb") as file:
        file.write(data)
        if path.name == _JOURNAL:  # what else a power cut takes is done again
            file.flush()
            os.fsync(file.fileno())
    os.replace(unfinished, path)
