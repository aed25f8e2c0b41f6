"""The folder of a run: a manifest, a shard for each block, and the bad rows.

Everything appears under its name whole or not at all. A block is done where its shard
of results and its shard of bad rows have all its rows between them, so nothing else
has to be kept about how far a run came.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from .plan import Plan

MANIFEST = "manifest.json"
_LOCK = ".lock"
_UNFINISHED = ".unfinished"


class Store:
    """The folder of one run.

    Parameters
    ----------
    folder : pathlib.Path
        Where; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = folder / "table"
        self.bad = folder / "bad"
        self.manifest: dict[str, Any] = {}

    @contextmanager
    def claimed(self, parts: dict[str, Any]) -> Iterator[None]:
        """Make the folder this run's, and keep others out of it meanwhile.

        Parameters
        ----------
        parts : dict
            What the run follows from, as JSON can hold it.

        Raises
        ------
        ValueError
            The folder holds another run, or other things.
        RuntimeError
            Somebody writes to it.
        """
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
            for folder in (self.folder, self.table, self.bad):
                folder.mkdir(exist_ok=True)
                for left_over in folder.glob(f"*{_UNFINISHED}"):
                    left_over.unlink(missing_ok=True)
            yield
        finally:
            lock.release()

    def update(self, **known: Any) -> None:
        """Write down what is known of the run now.

        Parameters
        ----------
        **known : dict
            Entries of the manifest.
        """
        self.manifest |= known
        text = json.dumps(self.manifest, indent=1) + "\n"
        unfinished = self.folder / f"{MANIFEST}{_UNFINISHED}"
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave an empty file
        os.replace(unfinished, self.folder / MANIFEST)

    def admit(self, source: Any) -> None:
        """Note what the results come from, or refuse it.

        Parameters
        ----------
        source : dict or None
            What the classifier says of itself; None where it says nothing.

        Raises
        ------
        ValueError
            The folder has results of another one.
        """
        if "source" not in self.manifest:
            self.update(source=source)
        known = self.manifest["source"]
        if source != known:
            raise ValueError(
                f"destination must be empty, or hold this run; {self.folder} has "
                f"results of {known!r}, and the classifier is {source!r}. Name another "
                "folder."
            )

    def write(self, number: int, table: pa.Table | None, bad: pa.Table | None) -> None:
        """Write what became of a block, in place of what is there of it.

        Parameters
        ----------
        number : int
            The block.
        table, bad : pyarrow.Table, optional
            Its results and its bad rows, as far as it has any.
        """
        # Until the last of the two is there, they have fewer rows than the block.
        for folder, rows in ((self.bad, bad), (self.table, table)):
            place = folder / _shard(number)
            if rows is None:
                place.unlink(missing_ok=True)
                continue
            unfinished = folder / f"{place.name}.{uuid4().hex}{_UNFINISHED}"
            with unfinished.open("wb") as file:
                pq.write_table(rows, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, place)

    def done(self, plan: Plan) -> tuple[set[int], int, int]:
        """The blocks that are done.

        Parameters
        ----------
        plan : Plan
            All blocks.

        Returns
        -------
        numbers : set of int
            Which.
        good, bad : int
            How many rows they have in the table, and how many bad ones.
        """
        good, bad = _counts(self.table), _counts(self.bad)
        numbers = {
            at
            for at in range(len(plan))
            if good.get(at, 0) + bad.get(at, 0) == plan.block(at).rows
        }
        totals = [sum(each.get(at, 0) for at in numbers) for each in (good, bad)]
        return numbers, totals[0], totals[1]

    def _check(self, parts: dict[str, Any]) -> dict[str, Any] | None:
        """The manifest, if there is one and it is this run's."""
        if not (self.folder / MANIFEST).exists():
            there = self.folder.iterdir() if self.folder.is_dir() else iter(())
            strange = [
                path.name
                for path in there
                if path.name not in (_LOCK, self.table.name, self.bad.name)
                and not path.name.endswith(_UNFINISHED)
            ]
            if strange or self.folder.is_file():
                raise ValueError(
                    f"destination must be a folder that is empty, or holds this run; "
                    f"{self.folder} has {sorted(strange)[:3]!r}."
                )
            if self._has_shards():
                raise ValueError(
                    f"destination must be empty, or hold this run; {self.folder} has "
                    f"results, but no {MANIFEST} that tells whose. Name another folder."
                )
            return None
        found = read_manifest(self.folder)
        if not found["finished"] and not self._has_shards():
            # Nothing was done yet that another plan or classifier could spoil.
            return None
        other = [name for name in parts if found["parts"].get(name) != parts[name]]
        if other:
            raise ValueError(
                f"destination must be empty, or hold this run; {self.folder} holds one "
                f"with other {', '.join(other)}. Name another folder."
            )
        return found

    def _has_shards(self) -> bool:
        return any(_shard_paths(folder) for folder in (self.table, self.bad))


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
    try:
        found = json.loads((Path(folder) / MANIFEST).read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(
            f"destination must hold a run; {folder} has no {MANIFEST}."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"destination must hold a run; {Path(folder) / MANIFEST} is no JSON. "
            "Whose results these are is not known any more: name another folder."
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
        There is no run, it has not finished, or a column is missing.
    """
    source = _finished(destination).get("source")
    for shard in _shards(Path(destination) / "table", columns):
        table = shard.to_pandas()
        table.attrs["source"] = source
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
        There is no run, it has not finished, or a column is missing.
    """
    manifest = _finished(destination)
    shards = list(_shards(Path(destination) / "table", columns))
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
        There is no run, or it has not finished.
    """
    identity = _finished(destination)["parts"]["id"]
    shards = list(_shards(Path(destination) / "bad", None))
    if shards:
        return pa.concat_tables(shards).to_pandas()
    names = ["row", *([identity] if identity is not None else []), "reason"]
    return pd.DataFrame({name: [] for name in names}).astype({"row": "int64"})


def _finished(destination: str | Path) -> dict[str, Any]:
    manifest = read_manifest(destination)
    if not manifest["finished"]:
        raise ValueError(
            f"destination must hold a run that has finished; that in {destination} "
            "has not: call classify_dataset again, and it goes on."
        )
    return manifest


def _shard(number: int) -> str:
    return f"part-{number:08d}.parquet"


def _shard_paths(folder: Path) -> list[tuple[int, Path]]:
    """Numbers and paths, in the order of the source."""
    paths = folder.glob("part-*.parquet")
    return sorted((int(path.stem.removeprefix("part-")), path) for path in paths)


def _shards(folder: Path, columns: Sequence[str] | None) -> Iterable[pa.Table]:
    for _, path in _shard_paths(folder):
        file = pq.ParquetFile(path)
        missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
        if missing:
            raise ValueError(
                f"columns must be among {file.schema_arrow.names!r}, not "
                f"{missing[0]!r}."
            )
        yield file.read(columns=None if columns is None else list(columns))


def _counts(folder: Path) -> dict[int, int]:
    """Rows of each shard that is whole."""
    counts = {}
    for number, path in _shard_paths(folder):
        try:
            counts[number] = pq.read_metadata(path).num_rows
        except (pa.ArrowInvalid, OSError):
            continue  # cut off, as by a loss of power
    return counts
