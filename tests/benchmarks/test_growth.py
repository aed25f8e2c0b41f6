"""How the time to score grows with the number of texts and of tokens; ``make bench``.

Nothing is asserted: what is printed depends on what else the machine does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from cases import BODY_PARTS, INTENTS
from scipy.stats import linregress

from helpers import EMBEDDED
from helpers.models import LanguageModel
from helpers.scoring import label_logprobs
from helpers.tree import nodes_to_read
from helpers.verbalizer import LabelTokens, Verbalizer

SIZES = (100, 300, 1_000, 3_000, 10_000)
LENGTHS = (10, 20, 40, 80, 160, 300)
PREFIX = "Which part of the body was hurt?\nNarrative:"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel.load(EMBEDDED, device="cpu")


def prompts(model: LanguageModel, lengths: Sequence[int]) -> list[list[int]]:
    """Prompts that begin alike and go on with so many random tokens of their own."""
    rng, start = np.random.default_rng(0), model.encode(PREFIX)
    return [start + rng.integers(100, 40_000, length).tolist() for length in lengths]


def best(
    model: LanguageModel, ids: list[list[int]], tokens: LabelTokens, runs: int
) -> float:
    """Seconds of the fastest of some runs."""
    prefix = model.encode(PREFIX)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        label_logprobs(model, ids, tokens, prefix=prefix, progress=False)
        times.append(time.perf_counter() - start)
    return min(times)


def test_time_is_linear_in_texts(model: LanguageModel) -> None:
    tokens = Verbalizer(["finger", "head"]).tokens(model, after="part:")
    # One to five tokens each, as often at every size.
    lengths = 1 + np.random.default_rng(1).permutation(max(SIZES)) % 5
    texts = prompts(model, lengths.tolist())
    best(model, texts[:100], tokens, 1)  # warm up
    times = [best(model, texts[:n], tokens, 3 if n < 3_000 else 1) for n in SIZES]
    fit = linregress(np.log(SIZES), np.log(times))
    print("\n\nTime against the number of texts (1 to 5 tokens each, 2 labels)")
    for n, took in zip(SIZES, times, strict=True):
        print(f"  {n:6,} texts {took:8.2f} s {n / took:8.1f} texts/s")
    print(f"  exponent {fit.slope:.3f}, standard error {fit.stderr:.3f}")


def test_cost_is_that_of_the_positions(model: LanguageModel) -> None:
    rows = []
    for labels in (["finger", "head"], BODY_PARTS, INTENTS):
        tokens = Verbalizer(labels).tokens(model, after="part:")
        tree = len(nodes_to_read(tokens)) - 1
        for length in LENGTHS:
            ids = prompts(model, [length] * max(2, 900 // (length + tree)))
            best(model, ids[:2], tokens, 1)  # warm up
            took = best(model, ids, tokens, 2) / len(ids)
            rows.append((len(labels), length, tree, took))
    table = pd.DataFrame(rows, columns=["labels", "own", "tree", "seconds"])
    positions = table["own"] + table["tree"]
    constant = np.exp(np.log(table["seconds"] / positions).mean())
    table["predicted"] = constant * positions
    table["deviation"] = table["seconds"] / table["predicted"] - 1
    # A position whose distribution is read costs more than one of the text.
    parts = np.column_stack([table["own"], table["tree"] + 1])
    scaled = parts / table["seconds"].to_numpy()[:, None]
    own, read = np.linalg.lstsq(scaled, np.ones(len(table)), rcond=None)[0]
    two = table["seconds"] / (parts @ [own, read]) - 1
    print(
        "\n\nSeconds a text against tokens of its own and positions of the label tree"
    )
    print(table.to_string(index=False, float_format="{:.4f}".format))
    print(f"  {1e3 * constant:.3f} ms a position; largest deviation", end=" ")
    print(f"{table['deviation'].abs().max():.0%} (goal: 20%)")
    print(
        f"  {1e3 * own:.3f} ms a token, {1e3 * read:.3f} ms a distribution read;",
        end="",
    )
    print(f" largest deviation {two.abs().max():.0%}")
