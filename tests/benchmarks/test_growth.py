"""How the time to score grows with the number of texts and of tokens; ``make bench``.

Nothing is asserted: what is printed depends on what else the machine does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from cases import BODY_PARTS, INTENTS, seconds
from scipy.stats import linregress
from test_scoring_speed import matrix_rate

from helpers import EMBEDDED
from helpers.models import LanguageModel
from helpers.scoring import label_logprobs
from helpers.tree import nodes_to_read
from helpers.verbalizer import LabelTokens, Verbalizer

SIZES = (100, 300, 1_000, 3_000, 10_000)
LENGTHS = (10, 20, 40, 80, 160, 300)
REPEATS = 5
PREFIX = "Which part of the body was hurt?\nNarrative:"


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel.load(EMBEDDED, device="cpu")


def prompts(model: LanguageModel, lengths: Sequence[int]) -> list[list[int]]:
    """Prompts that begin alike and go on with so many random tokens of their own."""
    rng, start = np.random.default_rng(0), model.encode(PREFIX)
    return [start + rng.integers(100, 40_000, length).tolist() for length in lengths]


def took(model: LanguageModel, ids: list[list[int]], tokens: LabelTokens) -> float:
    """Seconds of one run."""
    settings: dict = {"prefix": model.encode(PREFIX), "progress": False}
    return seconds(lambda: label_logprobs(model, ids, tokens, **settings))


def test_time_is_linear_in_texts(model: LanguageModel) -> None:
    tokens = Verbalizer(["finger", "head"]).tokens(model, after="part:")
    # One to five tokens each, as often at every size.
    lengths = 1 + np.random.default_rng(1).permutation(max(SIZES)) % 5
    texts = prompts(model, lengths.tolist())
    took(model, texts[:100], tokens)  # warm up
    times = [
        min(took(model, texts[:n], tokens) for _ in range(3 if n < 3_000 else 1))
        for n in SIZES
    ]
    fit = linregress(np.log(SIZES), np.log(times))
    print("\n\nTime against the number of texts (1 to 5 tokens each, 2 labels)")
    for n, whole in zip(SIZES, times, strict=True):
        print(f"  {n:6,} texts {whole:8.2f} s {n / whole:8.1f} texts/s")
    print(f"  exponent {fit.slope:.3f}, standard error {fit.stderr:.3f}")


def test_cost_is_that_of_the_positions(model: LanguageModel) -> None:
    cells = []
    for labels in (["finger", "head"], BODY_PARTS, INTENTS):
        tokens = Verbalizer(labels).tokens(model, after="part:")
        tree = len(nodes_to_read(tokens)) - 1
        for length in LENGTHS:
            ids = prompts(model, [length] * max(2, 900 // (length + tree)))
            cells.append((len(labels), length, tree, ids, tokens))
    works: list[list[float]] = [[] for _ in cells]
    for _ in range(REPEATS + 1):  # all in turn, the first time to warm up
        for (*_, ids, tokens), work in zip(cells, works, strict=True):
            before = matrix_rate()
            each = took(model, ids, tokens) / len(ids)
            # What a processor can do changes from one second to the next.
            work.append(each * (before + matrix_rate()) / 2)
    table = pd.DataFrame(
        [cell[:3] for cell in cells], columns=["labels", "own", "tree"]
    )
    table["work"] = [np.median(work[1:]) / 1e9 for work in works]
    # All labels' first tokens are read off the last position of the text.
    positions = table["own"] + table["tree"]
    constant = np.exp(np.log(table["work"] / positions).mean())
    table["predicted"] = constant * positions
    table["deviation"] = table["work"] / table["predicted"] - 1
    print("\n\nWork of a text, in products of large matrices that take as long (GFLOP)")
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(f"  {constant:.3f} a position; largest deviation", end=" ")
    print(f"{table['deviation'].abs().max():.0%} (goal: 20%)")
