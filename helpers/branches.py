"""The nodes of a tree of answers as further positions behind a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .verbalizer import LabelTrie


@dataclass(frozen=True)
class Branches:
    """Positions behind a text, of which each sees the text and its own ancestors.

    Attributes
    ----------
    tokens : list of int
        The token at each.
    depths : list of int
        How many of the tree's tokens come before each.
    ancestry : torch.Tensor of shape (n_nodes, n_nodes)
        Whether the column's node is the row's node or an ancestor of it.
    """

    tokens: list[int]
    depths: list[int]
    ancestry: torch.Tensor

    @classmethod
    def of(cls, trie: LabelTrie, nodes: Sequence[int]) -> Branches:
        """Those of some nodes.

        Parameters
        ----------
        trie : LabelTrie
            The tree.
        nodes : sequence of int
            Nodes other than the root; with each, its ancestors.

        Returns
        -------
        Branches

        Examples
        --------
        >>> trie = LabelTrie.build([(5, 6, 7), (5, 8, 9)])
        >>> found = Branches.of(trie, [node for node in range(1, 4)])
        >>> found.tokens, found.depths
        ([5, 6, 7], [0, 1, 2])
        """
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
