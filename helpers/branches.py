"""The nodes of a tree of answers as further positions behind a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .verbalizer import LabelTrie


@dataclass(frozen=True)
class Branches:
    """Positions behind a text, of which each sees the text and its own ancestors."""

    tokens: list[int]
    depths: list[int]
    ancestry: torch.Tensor

    @classmethod
    def of(cls, trie: LabelTrie, nodes: Sequence[int]) -> Branches:
        """Those of some nodes."""
        place = {node: at for at, node in enumerate(nodes)}
        ancestry = torch.zeros(len(nodes), len(nodes)).bool()
        for node, at in place.items():
            while node:
                ancestry[at, place[node]] = True
                node = trie.parents[node]
        return cls(
            [trie.tokens[node] for node in nodes],
            [trie.depths[node] - 1 for node in nodes],
            ancestry,
        )
