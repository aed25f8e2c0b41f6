"""Classify a data set of any size, on one machine or a Ray cluster, restartably."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from joblib import cpu_count

from .checks import check_count, check_not_negative
from .progress import progress_bar
from .shards import Block, Columns, Folder, Source

__all__ = [
    "Columns",
    "DatasetRun",
    "Workers",
    "classify_dataset",
    "iter_results",
    "read_bad_rows",
    "read_results",
]

_OBJECT_STORE = 100 << 20  # bytes; only blocks under way pass through it
_Result = tuple[Any, dict[str, pa.Table]]


@dataclass(frozen=True)
class Workers:
    """Ray actors that work at the same time.

    Parameters
    ----------
    n : int, default=1
        How many. With 0, this process does the work, without Ray.
    cpus, gpus
        Cores for each (default: an equal share of this machine, or 1 of another Ray's),
        and accelerators (0); with 0.5, two share one.
    address : str, optional
        A Ray cluster, such as "auto" or "ray://head:10001". Default: the Ray that is
        initialised, or one on this machine for the time of the call.
    attempts : int, default=3
        How many may die of the same block, or while they make the classifier.

    Examples
    --------
    >>> Workers(8, gpus=0.5, address="auto").attempts
    3
    """

    n: int = 1
    cpus: int | None = None
    gpus: float = 0
    address: str | None = None
    attempts: int = 3

    def __post_init__(self) -> None:
        check_count("workers", self.n, 0)
        check_count("cpus", 1 if self.cpus is None else self.cpus)
        check_not_negative("gpus", self.gpus)
        check_count("attempts", self.attempts)


@dataclass(frozen=True)
class DatasetRun:
    """What became of a data set: counts, seconds, and where the results are."""

    rows: int
    bad_rows: int
    blocks_now: int
    blocks_before: int
    rows_now: int
    seconds: float
    table: Path
    bad: Path


def classify_dataset(
    source: Any,
    destination: str | Path,
    classifier_factory: Callable[[], Any],
    *,
    columns: Columns | None = None,
    rows_per_block: int = 256,
    workers: int | Workers = 1,
    progress: bool = True,
) -> DatasetRun:
    """Classify files of any size, in blocks, each row exactly once.

    Called again with the same arguments after a crash, it goes on where it stopped;
    workers may differ. Rows whose text is missing or invalid, whose truth is no label,
    or which the classifier refuses with a ValueError, go to a table of their own with
    the reason. On a cluster, the workers' machines must have this package. Give an
    LLMClassifier ``cache=False``, a HostedClassifier a journal on each machine.

    Parameters
    ----------
    source : str, pathlib.Path or iterable of them
        Parquet files, or CSV files in UTF-8 with commas and column names; or a folder
        of them, read in the order of names.
    destination : str or pathlib.Path
        A folder for the results, empty or of this run.
    classifier_factory : callable
        Makes the classifier, once for each worker: anything with a method
        ``score_table`` from a list of texts to the tidy table and, optionally,
        ``source``.
    columns : Columns, optional
        Which columns hold the texts, ids and true labels, and which to carry over.
    rows_per_block : int, default=256
        Rows handed out and written at once, and lost where a worker dies. Use more for
        fast classifiers.
    workers : int or Workers, default=1
        How many Ray actors, and where; with 0, this process does the work.
    progress : bool, default=True
        Whether to show a bar in longer runs.

    Returns
    -------
    DatasetRun
        Counts of rows, bad rows and blocks, seconds, and the folders of shards. Read
        these with :func:`read_results`, :func:`iter_results` and :func:`read_bad_rows`.

    Raises
    ------
    ValueError
        A bad argument, or a destination with results of another run.
    RuntimeError
        Workers died of the same block repeatedly, or a file of the source has changed.
    TimeoutError
        Another run writes to the destination.

    Examples
    --------
    >>> import tempfile
    >>> class Optimist:
    ...     def score_table(self, texts):
    ...         table = pd.DataFrame({"p_bad": [0.2] * len(texts), "p_good": 0.8})
    ...         return table.assign(off_label=0.0, prediction="good", confidence=0.8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source, out = f"{folder}/reviews.parquet", f"{folder}/out"
    ...     pd.DataFrame({"text": ["A joy.", None]}).to_parquet(source)
    ...     done = classify_dataset(source, out, Optimist, workers=0)
    ...     done.rows, done.bad_rows, read_results(out)["prediction"].tolist()
    (2, 1, ['good'])
    """
    began = time.perf_counter()
    check_count("rows_per_block", rows_per_block)
    crew = workers if isinstance(workers, Workers) else Workers(workers)
    if not callable(classifier_factory):
        raise TypeError(f"classifier_factory must be callable: {classifier_factory!r}.")
    given = [source] if isinstance(source, (str, Path)) else list(source)
    folder = Folder(destination)
    around = [folder.path.resolve(), *folder.path.resolve().parents]
    if any(Path(path).resolve() in around for path in given):
        raise ValueError(f"destination must not lie in the source, as {folder.path}.")
    files = Source(given, columns or Columns(), rows_per_block)
    n_blocks, rows = len(files.sizes), sum(files.sizes)
    with folder.claimed(files.plan, n_blocks) as before:
        worker = _Worker(classifier_factory, files.columns)
        todo = n_blocks - len(before)
        rows_before = sum(files.sizes[at] for at in before)
        blocks = chain([None] if n_blocks else [], files.blocks(before))
        if crew.n:
            results = _on_ray(worker, blocks, crew, min(crew.n, max(todo, 1)))
        else:
            results = ((block, worker.classify(block)) for block in blocks)
        bar = progress_bar(total=rows, initial=rows_before, unit="row", show=progress)
        with closing(results), bar:
            for block, (told, tables) in results:
                folder.admit(told)
                if block is None:
                    bar.unpause()  # what it took to begin tells nothing
                    continue
                folder.write(block.number, tables)
                bar.update(block.table.num_rows)
        files.check_unchanged()
        bad_rows = folder.finish(n_blocks)
    blocks_and_rows = (todo, len(before), rows - rows_before)
    places = (folder.path / "table", folder.path / "bad")
    seconds = time.perf_counter() - began
    return DatasetRun(rows, bad_rows, *blocks_and_rows, seconds, *places)


def iter_results(
    destination: str | Path, columns: Sequence[str] | None = None
) -> Iterator[pd.DataFrame]:
    """Yield what :func:`read_results` gives, one block after the other."""
    _, source, shards = Folder(destination).finished("table", columns)
    for shard in shards:
        table = shard.to_pandas()
        table.attrs["source"] = source
        yield table


def read_results(
    destination: str | Path, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """The results of a run in one table; ValueError if it is unfinished or damaged.

    ``row`` is the place in the source; then come the columns carried over, those of the
    tidy table and, where the truth is known, ``truth`` and ``correct``.

    Parameters
    ----------
    destination : str or pathlib.Path
        What :func:`classify_dataset` was given.
    columns : sequence of str, optional
        The columns wanted. Default: all.
    """
    plan, source, shards = Folder(destination).finished("table", columns)
    # Without a row, nobody knows what the labels are.
    table = _joined(shards, columns or ["row", *plan["keep"]])
    table.attrs["source"] = source
    return table


def read_bad_rows(destination: str | Path) -> pd.DataFrame:
    """The rows that could not be classified: ``row``, the id, and ``reason``."""
    plan, _, shards = Folder(destination).finished("bad")
    names = ["row", plan["id"], "reason"]
    return _joined(shards, [name for name in names if name is not None])


def _joined(shards: Iterator[pa.Table], names: Sequence[str]) -> pd.DataFrame:
    if found := list(shards):
        return pa.concat_tables(found, promote_options="permissive").to_pandas()
    empty = pd.DataFrame({name: [] for name in names})
    return empty.astype({"row": "int64"}) if "row" in names else empty


class _Worker:
    """A classifier that takes blocks, in this process or as a Ray actor."""

    def __init__(self, factory: Callable[[], Any], columns: Columns) -> None:
        self.given = factory, columns
        self._columns = columns
        self._classifier: Any = None

    def classify(self, block: Block | None) -> _Result:
        """The classifier's source, and the tables of a block."""
        if self._classifier is None:
            self._load()
        if block is None:
            return self._source, {}
        named, reasons = self._columns, dict(block.faults)
        texts = block.table[named.text].to_pylist()
        truth = [None for _ in texts]
        if named.truth is not None:
            truth = [label or None for label in block.table[named.truth].to_pylist()]
        for at, (text, label) in enumerate(zip(texts, truth, strict=True)):
            if not (text and text.strip()):
                reasons.setdefault(at, "The text is missing or empty.")
            elif label is not None and label not in self._labels:
                reasons.setdefault(at, f"Its truth {label!r} is no label.")
        fine = [at for at in range(len(texts)) if at not in reasons]
        pieces = self._score(texts, fine, reasons) if fine else []
        tables = {}
        if pieces:
            fine = [at for at in fine if at not in reasons]
            scored = pa.concat_tables(pieces, promote_options="permissive")
            columns = block.columns(fine, named.keep or ())
            columns |= {name: scored[name] for name in scored.column_names}
            if named.truth is not None:
                columns["truth"] = pa.array([truth[at] for at in fine], pa.string())
                said = scored["prediction"].cast(pa.string())
                columns["correct"] = pc.equal(said, columns["truth"])
            # pandas finds this and puts it into attrs.
            meta = {"PANDAS_ATTRS": json.dumps({"source": self._source})}
            tables["table"] = pa.table(columns, metadata=meta)
        if reasons:
            bad = block.columns(sorted(reasons), [named.id] if named.id else [])
            bad["reason"] = pa.array([reasons[at] for at in sorted(reasons)])
            tables["bad"] = pa.table(bad)
        return self._source, tables

    def _load(self) -> None:
        """Make the classifier and try it, to tell its faults from those of texts."""
        self._classifier = self.given[0]()
        trial = self._scored(["A"])
        own = {"row", "truth", "correct", *trial.columns}
        keep, id = self._columns.keep or (), self._columns.id
        taken = [name for name in keep if name in own or name.startswith("p_")]
        if taken or id == "reason":
            raise ValueError(
                "keep and id must leave the names of the results free, not "
                f"{[*taken, id][0]!r}. Name the columns to keep, or rename this one."
            )
        self._labels = {name[2:] for name in trial.columns if name.startswith("p_")}
        source = getattr(self._classifier, "source", None)
        told = source() if callable(source) else trial.attrs.get("source")
        # As it comes back from the journal, so that the two can be compared.
        self._source = json.loads(json.dumps(told))

    def _score(
        self, texts: list[str], places: list[int], reasons: dict[int, str]
    ) -> list[pa.Table]:
        """Tables for the texts at some places, and reasons why others have none."""
        try:
            table = self._scored([texts[at] for at in places])
        except ValueError as error:
            if len(places) > 1:
                half = len(places) // 2
                first = self._score(texts, places[:half], reasons)
                return first + self._score(texts, places[half:], reasons)
            reasons[places[0]] = str(error)
            return []
        return [pa.Table.from_pandas(table, preserve_index=False)]

    def _scored(self, texts: list[str]) -> pd.DataFrame:
        score = getattr(self._classifier, "score_table", None)
        table = score(texts) if callable(score) else None
        if not isinstance(table, pd.DataFrame) or len(table) != len(texts):
            raise TypeError(
                "classifier_factory must make something whose score_table gives a data "
                f"frame with a row for each text; {self._classifier!r} does not."
            )
        return table


def _on_ray(
    worker: _Worker, blocks: Iterator[Block | None], crew: Workers, n: int
) -> Generator[tuple[Block | None, _Result]]:
    """Results of blocks by Ray actors, which are replaced where they die."""
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "workers need Ray: pip install 'how-sure[scale]', or set workers=0."
        ) from error
    cores, started_here = crew.cpus or 1, not ray.is_initialized()
    if started_here:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if crew.address is None:
            cores = crew.cpus or max(1, cpu_count() // n)
            options |= {"num_cpus": n * cores, "include_dashboard": False}
            options |= {"object_store_memory": _OBJECT_STORE}
        # What this process can import, workers started here are to find, too.
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with patch.dict(os.environ, RAY_USAGE_STATS_ENABLED="0", PYTHONPATH=paths):
            ray.init(crew.address or "local", **options)
    actors: list[Any] = []
    try:
        _warn_if_too_small(ray.nodes(), cores, crew.gpus)
        actor_class: Any = ray.remote(
            num_cpus=cores,
            num_gpus=crew.gpus,
            max_restarts=-1,  # of the actor; its tasks set the limit
            max_task_retries=crew.attempts - 1,
        )(_Worker)
        actors = [actor_class.remote(*worker.given) for _ in range(n)]
        given = zip(actors, blocks, strict=False)
        busy = {actor.classify.remote(block): (actor, block) for actor, block in given}
        while busy:
            [done], _ = ray.wait(list(busy))
            actor, block = busy.pop(done)
            try:
                result = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error  # the classifier's own
            except ray.exceptions.RayError as error:
                where = block.where if block else "while it made the classifier"
                raise RuntimeError(
                    f"{crew.attempts} times, a worker died {where}: {error}"
                ) from error
            for following in islice(blocks, 1):
                busy[actor.classify.remote(following)] = (actor, following)
            yield block, result
    finally:
        for actor in actors:
            ray.kill(actor)
        if started_here:
            ray.shutdown()


def _warn_if_too_small(nodes: list[Any], cpus: int, gpus: float) -> None:
    sizes = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(s.get("CPU", 0) >= cpus and s.get("GPU", 0) >= gpus for s in sizes):
        # A cluster may grow; until it does, Ray waits and says nothing.
        warnings.warn(
            f"A worker is to take {cpus} cores and {gpus:g} accelerators; no machine "
            "that Ray knows has them. Waiting for one.",
            stacklevel=4,
        )
