"""Next-token logits at the nodes of a tree, of which only a few numbers are needed.

To score labels it takes the logits of their own tokens and, at each node, the logarithm
of the sum over the whole vocabulary. :class:`ProjectedLogits` computes just these, a
slice of the vocabulary at a time, so that all logits are never in memory at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

_SLICE = 2**20  # logits computed at a time: 4 MB in float32, which a cache can hold


class NodeLogits(Protocol):
    """Logits of some texts at the nodes that are read."""

    def whole(self) -> torch.Tensor:
        """All of them, shape (n_texts, n_nodes, vocabulary), in float32."""

    def of(self, nodes: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """One token at each node, shape (n_texts, len(nodes))."""

    def each(self, nodes: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Every token at each node, shape (n_texts, len(nodes), len(tokens))."""

    def normaliser(self) -> torch.Tensor:
        """Logarithm of the sum of all exponentials, shape (n_texts, n_nodes)."""


class WholeLogits:
    """Logits that are there already."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits.float()

    def whole(self) -> torch.Tensor:
        """All of them, shape (n_texts, n_nodes, vocabulary), in float32."""
        return self._logits

    def of(self, nodes: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """One token at each node, shape (n_texts, len(nodes))."""
        return self._logits[:, nodes, tokens]

    def each(self, nodes: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Every token at each node, shape (n_texts, len(nodes), len(tokens))."""
        return self._logits[:, nodes][..., list(tokens)]

    def normaliser(self) -> torch.Tensor:
        """Logarithm of the sum of all exponentials, shape (n_texts, n_nodes)."""
        # Text by text, since what logsumexp works in is as large as what it is given.
        return torch.stack([text.logsumexp(-1) for text in self._logits])


class ProjectedLogits:
    """Logits that are computed when they are asked for."""

    def __init__(self, states: torch.Tensor, weight: torch.Tensor) -> None:
        self._states = states.float()
        self._weight = weight

    def whole(self) -> torch.Tensor:
        """All of them, shape (n_texts, n_nodes, vocabulary), in float32."""
        return self._states @ self._weight.float().T

    def of(self, nodes: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """One token at each node, shape (n_texts, len(nodes))."""
        found = self._states.new_empty(len(self._states), len(nodes))
        wanted, places = torch.tensor(tokens), torch.tensor(nodes)
        for node in set(nodes):
            at = (places == node).nonzero()[:, 0]
            weight = self._weight[wanted[at]].float()
            found[:, at] = self._states[:, node] @ weight.T
        return found

    def each(self, nodes: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Every token at each node, shape (n_texts, len(nodes), len(tokens))."""
        return self._states[:, nodes] @ self._weight[list(tokens)].float().T

    def normaliser(self) -> torch.Tensor:
        """Logarithm of the sum of all exponentials, shape (n_texts, n_nodes)."""
        states = self._states.flatten(0, 1)
        width = max(64, _SLICE // len(states))
        sums = []
        for part in self._weight.split(width):
            logits = torch.mm(states, part.float().T)
            top = logits.amax(-1, keepdim=True)
            sums.append(top[:, 0] + logits.sub_(top).exp_().sum(-1).log())
        return torch.stack(sums).logsumexp(0).view(self._states.shape[:2])
