"""Probabilities of labels where beginnings that hardly matter are not followed.

The texts are read first, then the tokens of labels, likeliest beginnings first, until
those that were not followed have too little mass to matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from .models import LanguageModel
from .packed import KeptTexts, PackedReader, ProjectedLogits
from .tree import (
    batches,
    nodes_to_read,
    positions_in_batch,
    prefix_cache,
    shared_prefix,
)
from .verbalizer import LabelTokens

# Keys and values are kept of as many budgets of positions at most: a step reads few
# tokens of each text, so that many texts are needed to keep a processor busy.
_KEPT_BUDGETS = 4
# How much of the mass that is followed is expected to end in labels: rather little, as
# a token too many costs less than one more step.
_ARRIVES = 0.3


@torch.inference_mode()
def pruned_scores(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    prune: float,
    *,
    prefix: Sequence[int] = (),
    token_budget: int | None = None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Rows and log-probabilities, of each sequence and of all that was not followed."""
    shared = shared_prefix(prompts, prefix)
    cache = prefix_cache(model, shared, is_named=shared == tuple(prefix))
    reader = PackedReader(model.network, cache)
    budget = positions_in_batch(model, token_budget, packed=True)
    walk = _Walk(labels, prune / (1 - prune), budget)
    own = [len(ids) - len(shared) for ids in prompts]
    n_nodes = len(walk.read) - 1
    widths = [max(n, math.ceil((n + n_nodes) / _KEPT_BUDGETS)) for n in own]
    for rows in batches(widths, budget, len(widths)):
        kept = KeptTexts(reader, [prompts[row][len(shared) :] for row in rows])
        yield rows, walk.scores(kept)


class _Text:
    """What is known of one text: sequences' scores, and beginnings not followed."""

    def __init__(self, n_sequences: int) -> None:
        self.scores = np.full(n_sequences, -np.inf)
        self.open: dict[int, float] = {}
        self.paths: dict[int, list[int]] = {}

    def left(self) -> float:
        return float(np.logaddexp.reduce([*self.open.values(), -np.inf]))

    def row(self) -> np.ndarray:
        left = self.left()
        return np.append(np.where(np.isnan(left), left, self.scores), left)

    def to_follow(self, odds: float) -> list[int]:
        """The likeliest beginnings, so many that the others should not matter."""
        total = np.logaddexp(self.left(), np.logaddexp.reduce(self.scores))
        if not np.isfinite(total):  # no numbers, or no probability at all
            return []
        nodes = sorted(self.open, key=self.open.__getitem__)
        masses = np.exp(np.array([self.open[node] for node in nodes]) - total)
        rest = masses.cumsum()
        found = np.exp(self.scores - total).sum()
        if not nodes or rest[-1] <= odds * found:
            return []
        later = _ARRIVES * (rest[-1] - rest)
        return nodes[min((rest <= odds * (found + later)).sum(), len(nodes) - 1) :]


class _Walk:
    """The labels' tree, walked from the likeliest beginnings on."""

    def __init__(self, labels: LabelTokens, odds: float, budget: int) -> None:
        self.odds, self.budget = odds, budget
        self.stop_ids = list(labels.stop_ids)
        self.read = set(nodes_to_read(labels))
        self.tokens = labels.trie.tokens
        self.ends = {leaf: at for at, leaf in enumerate(labels.trie.leaves)}
        self.children: dict[int, list[int]] = {node: [] for node in self.read}
        for node, parent in enumerate(labels.trie.parents[1:], start=1):
            self.children[parent].append(node)

    def scores(self, kept: KeptTexts) -> np.ndarray:
        texts = [_Text(len(self.ends)) for _ in kept.paths]
        self._take([(text, 0, 0.0) for text in texts], kept.paths, kept.logits)
        while step := [
            (text, node, text.open.pop(node))
            for text in texts
            for node in text.to_follow(self.odds)
        ]:
            for start in range(0, len(step), self.budget):
                self._follow(kept, step[start : start + self.budget])
        return np.stack([text.row() for text in texts])

    def _follow(self, kept: KeptTexts, step: list[tuple[_Text, int, float]]) -> None:
        paths = [text.paths.pop(node) for text, node, _ in step]
        tokens = [self.tokens[node] for _, node, _ in step]
        self._take(step, *kept.step(paths, tokens))

    def _take(
        self,
        step: list[tuple[_Text, int, float]],
        paths: Sequence[list[int]],
        logits: ProjectedLogits,
    ) -> None:
        """Take what is read at a node of some texts: what follows, and what ends."""
        edges = [
            (at, child)
            for at, (_, node, _) in enumerate(step)
            for child in self.children[node]
        ]
        normaliser = logits.normaliser()
        normaliser = normaliser.where(normaliser.isfinite(), np.nan)[:, 0]
        rows = [at for at, _ in edges]
        chosen = logits.at(rows, [self.tokens[child] for _, child in edges])
        gained = (chosen - normaliser[rows]).double().tolist()
        for (at, child), gain in zip(edges, gained, strict=True):
            text, _, mass = step[at]
            if child in self.read:
                text.open[child], text.paths[child] = mass + gain, paths[at]
            if child in self.ends and not self.stop_ids:
                text.scores[self.ends[child]] = mass + gain
        if self.stop_ids:
            stops = logits.each([0], self.stop_ids)[:, 0].logsumexp(-1) - normaliser
            for (text, node, mass), stop in zip(step, stops.tolist(), strict=True):
                if node in self.ends:
                    text.scores[self.ends[node]] = mass + stop
