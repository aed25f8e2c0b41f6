"""Classify a data set of any size, on one machine or many, and go on after a crash."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import check_count, check_not_negative
from ..progress import progress_bar
from .blocks import BlockDone, BlockWorker
from .cluster import cluster_blocks
from .plan import Plan, choose_columns, fingerprint, make_plan
from .sources import find_files
from .store import Store


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
        or a folder.
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
        An argument breaks its rule, a column is missing, or the destination holds a
        run of other files, columns or blocks, or results of another classifier. So
        does an error of the classifier that is no text's fault.
    RuntimeError
        Workers died of the same block again and again, or another run writes to the
        destination.
    ImportError
        Ray is not installed, and ``workers`` is not 0.

    Notes
    -----
    A row is bad where the text is missing, empty or no UTF-8, a CSV row has too many
    or too few fields, the truth is no label, or the classifier refuses the text with a
    ValueError, as for one that is too long. It goes to a table of its own with the
    reason; rows in the table and bad rows together are always as many as the source
    has, which is counted in the end.

    Ray Data is not used: its checkpoints want a column of unique ids and hold all those
    done in memory, and its files do not tell which rows are in them, whereas here a
    shard's name says which block it is.

    On a cluster, all machines must see source and destination under the same path, and
    have this package. Scores need not be kept twice: give ``cache=False`` to an
    LLMClassifier, and a journal of its own to a HostedClassifier on each machine.

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
       row                reason
    0    1  The text is missing.
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
    files = find_files(given)
    columns = choose_columns(files, text=text, id=id, truth=truth, keep=keep)
    store = Store(folder)
    with store.claimed(fingerprint(files, columns, rows_per_block)):
        plan = make_plan(files, columns, rows_per_block, store.manifest.get("files"))
        before, good, bad = store.done(plan)
        todo = [at for at in range(len(plan)) if at not in before]
        rows_before = good + bad
        measured = list(zip(plan.rows_in, plan.starts, strict=True))
        # A run that has finished stays so while its classifier is looked at.
        finished = store.manifest["finished"] and not todo
        store.update(files=measured, finished=finished)
        if len(plan):
            if workers:
                blocks = cluster_blocks(
                    classifier_factory,
                    plan,
                    store,
                    todo,
                    workers=workers,
                    cpus=cpus_per_worker,
                    gpus=gpus_per_worker,
                    address=address,
                    attempts=attempts,
                )
            else:
                blocks = _blocks_here(classifier_factory, plan, store, todo)
            bar = progress_bar(
                total=plan.rows, initial=rows_before, unit="row", show=progress
            )
            with closing(blocks), bar:
                for block in blocks:
                    if block is None:
                        bar.unpause()  # what it took to begin tells nothing
                    else:
                        bar.update(block.rows)
        now, good, bad = store.done(plan)
        missing = sorted(set(range(len(plan))) - now)
        if missing:
            raise RuntimeError(
                f"Of {len(plan)} blocks, {len(missing)} are not whole, such as "
                f"{plan.where(missing[0])}: something else changes {folder}."
            )
        store.update(finished=True, rows=good, bad_rows=bad)
    return DatasetRun(
        rows=plan.rows,
        bad_rows=bad,
        blocks_now=len(todo),
        blocks_before=len(before),
        rows_now=plan.rows - rows_before,
        seconds=time.perf_counter() - began,
        table=store.table,
        bad=store.bad,
    )


def _blocks_here(
    factory: Callable[[], Any], plan: Plan, store: Store, todo: Sequence[int]
) -> Generator[BlockDone | None]:
    """Blocks by this process."""
    worker = BlockWorker(factory, plan, store.folder)
    store.admit(worker.load())
    yield None
    for number in todo:
        yield worker.classify(number)
