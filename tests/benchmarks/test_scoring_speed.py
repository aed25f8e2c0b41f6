"""Label scoring side by side with the ways in common use; run by ``make bench``.

All ways score the same prompts by the same model in one run, since machines are noisy.
Some give the first token's distribution only, which says nothing about a label of
several tokens; some are so slow that they get fewer texts. What is compared is texts
a second. Times are printed, never asserted; results are.

The table is also written as CSV to the path that ``HOW_SURE_BENCH_CSV`` names.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cases import CASES, N_CHECKED, N_TEXTS, Case, Prepared
from rivals import Rival, all_rivals
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

CSV = "HOW_SURE_BENCH_CSV"
BEFORE = "HOW_SURE_BEFORE"  # environment variable: a worktree of an earlier commit
BUDGET = 1.0  # seconds of a run, of which the best of some counts
REPEATS = 3
COLUMNS = {
    "way": "way",
    "gives": "gives",
    "texts": "texts",
    "per_second": "texts/s",
    "ratio": "to float32",
    "share": "of limit",
    "difference": "difference",
}


def matrix_rate(repeats: int = 4) -> float:
    """Float32 operations a second of a large matrix product, as it goes just now."""
    a = torch.rand(2048, 2048)
    torch.mm(a, a)
    start = time.perf_counter()
    for _ in range(repeats):
        torch.mm(a, a)
    return 2 * 2048**3 * repeats / (time.perf_counter() - start)


def operations(work: Callable[[], object]) -> float:
    """Floating-point operations of the matrix products and attentions in a run."""

    def attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    # What torch computes attention with on a processor is not among what it counts.
    more = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=more) as counter:
        work()
    return float(counter.get_total_flops())


@dataclass(frozen=True)
class Timing:
    """The fastest run of a rival."""

    scores: np.ndarray
    each: float
    limit: float


def timed(rival: Rival) -> Timing:
    """As many texts as take about a second, at least one, or all of them for ours."""

    def run(n: int) -> Timing:
        if rival.warm:
            rival.fresh()
        before = matrix_rate()
        start = time.perf_counter()
        scores = rival.score(range(n))
        each = (time.perf_counter() - start) / n
        return Timing(scores, each, (before + matrix_rate()) / 2)

    if rival.warm:
        rival.fresh()
        rival.score([N_TEXTS])
    n = rival.at_least
    found = run(n)
    while found.each * n < BUDGET / 2 and n < N_TEXTS:
        n = min(N_TEXTS, math.ceil(min(8 * n, BUDGET / found.each)))
        found = run(n)
    if found.each * n < 3 * BUDGET or n == rival.at_least == N_TEXTS:
        runs = [found, *(run(n) for _ in range(REPEATS - 1))]
        found = min(runs, key=lambda one: one.each)
    return found


@pytest.fixture(scope="module")
def ways() -> Iterator[tuple[list[Rival], list[str]]]:
    with all_rivals() as found:
        yield found


@pytest.fixture(scope="module")
def results(ways: tuple[list[Rival], list[str]]) -> Iterator[list[dict[str, Any]]]:
    """Rows of the table, written to a file when all of them are there."""
    rows: list[dict[str, Any]] = []
    yield rows
    print(f"\n{torch.get_num_threads()} threads")
    for note in ways[1]:
        print(note)
    if path := os.environ.get(CSV):
        pd.DataFrame(rows).to_csv(path, index=False)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scoring_speed(
    case: Case, ways: tuple[list[Rival], list[str]], results: list[dict[str, Any]]
) -> None:
    rivals, _ = ways
    ours: Any = rivals[0]
    prepared = Prepared.of(case, ours.model)
    expected = {
        gives: prepared.reference(ours.model, gives)
        for gives in ("every label", "first token")
    }
    rows = []
    for rival in rivals:
        rival.prepare(prepared)
        timing = timed(rival)
        scores = timing.scores
        exact = expected[rival.gives][: len(scores)]
        size = np.abs(exact).max()  # of which a part is lost to rounding
        off = scores[:N_CHECKED] - exact
        rows.append(
            {
                "n_labels": len(case.labels),
                "shots": case.shots,
                "way": rival.name,
                "gives": rival.gives,
                "texts": len(scores),
                "per_second": 1 / timing.each,
                "limit": timing.limit,
                "difference": np.abs(off).max(),
                "close": np.allclose(off, 0, atol=1e-4 + 1e-5 * size),
                "float32": rival.float32,
            }
        )
    some = range(0, N_TEXTS, 4)
    work = operations(lambda: ours.score(some)) / len(some)
    for row in rows:
        row["ratio"] = row["per_second"] / rows[0]["per_second"]
        useful = row["gives"] == "every label" and row["float32"]
        share = work * row["per_second"] / row["limit"]
        row["share"] = share if useful else math.nan
    results += rows
    table = pd.DataFrame(rows).sort_values("per_second", ascending=False)
    mean = np.mean([len(ids) for ids in prepared.ids])
    shown = table[list(COLUMNS)].rename(columns=COLUMNS)
    shown["of limit"] = shown["of limit"].map("{:.2f}".format).replace("nan", "")
    formats = {
        "texts/s": "{:.3g}".format,
        "to float32": "{:.3f}".format,
        "difference": "{:.1e}".format,
    }
    limit = np.mean([row["limit"] for row in rows]) / 1e9
    print(f"\n\n{case}, prompts of {mean:.0f} tokens, limit about {limit:.0f} GFLOP/s")
    print(shown.to_string(index=False, formatters=formats))
    for row in rows:
        if row["float32"]:
            assert row["close"], row["way"]


@pytest.mark.skipif(BEFORE not in os.environ, reason=f"{BEFORE} names no worktree")
def test_many_labels_beside_an_earlier_commit() -> None:
    """Three turns of each, one thread; medians of texts a processor second."""
    here = Path(__file__).parent
    ways = {
        "before": (os.environ[BEFORE], []),
        "exact": (here.parents[1], []),
        "prune=1e-4": (here.parents[1], ["prune=1e-4"]),
    }
    rows = []
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                subprocess.Popen(
                    [sys.executable, here / "label_rows.py", "", *settings],
                    env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for name, (root, settings) in ways.items()
        }

        def rate(worker: Any, n_labels: int, shots: int) -> float:
            print(n_labels, shots, file=worker.stdin, flush=True)
            return float(worker.stdout.readline())

        for n_labels in (2, 26, 46, 77):
            for shots in (0, 8):
                turns = [
                    {name: rate(one, n_labels, shots) for name, one in workers.items()}
                    for _ in range(3)
                ]
                medians = pd.DataFrame(turns).median()
                ratios = (medians / medians["before"]).add_suffix(", ratio")[1:]
                case = {"labels": n_labels, "examples": shots}
                rows.append(case | medians.to_dict() | ratios.to_dict())
    print("\n", pd.DataFrame(rows).to_string(index=False, float_format="%.2f"))
    assert len(rows) == 8
