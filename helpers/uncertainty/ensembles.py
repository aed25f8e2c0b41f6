"""Several rows of label probabilities for each text: how far they disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .rows import row_entropy, stack_rows


@dataclass(frozen=True)
class EnsembleDecomposition:
    """What the members of an ensemble say together, and how far they disagree.

    Attributes
    ----------
    mean : numpy.ndarray of shape (n, K)
        Mean of the members' probabilities.
    total : numpy.ndarray of shape (n,)
        Entropy of the mean, in nats.
    aleatoric : numpy.ndarray of shape (n,)
        Mean of the members' entropies: what each member by itself is unsure about.
    epistemic : numpy.ndarray of shape (n,)
        Total minus aleatoric, at least 0: the mutual information between label and
        member, what the members disagree about.
    agreement : numpy.ndarray of shape (n,)
        Share of the members whose prediction is that of the mean.
    """

    mean: np.ndarray
    total: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray
    agreement: np.ndarray


def combine(members: Any) -> EnsembleDecomposition:
    """Average the members of an ensemble and split the uncertainty of the mean.

    Parameters
    ----------
    members : array-like of shape (m, n, K), or sequence of (n, K) tables
        Label probabilities by each of m members for the same n rows. Data frames must
        have the same classes in the same order, and the same index; of one with
        ``p_`` columns, only these are read.

    Returns
    -------
    EnsembleDecomposition

    Raises
    ------
    ValueError
        No members, a bad row, or members of different shape, classes or index.

    Notes
    -----
    Probabilities are averaged, not logits: averaged logits give another distribution,
    whose entropy may be less than the members' mean entropy, so that nothing is left
    to split. Members that are wrong in the same way agree: epistemic uncertainty is
    only what these members can show.

    References
    ----------
    Lakshminarayanan, Pritzel and Blundell, Simple and scalable predictive uncertainty
    estimation using deep ensembles, NeurIPS 2017.

    Depeweg et al., Decomposition of uncertainty in Bayesian deep learning, ICML 2018.

    Examples
    --------
    >>> found = combine([[[0.9, 0.1]], [[0.6, 0.4]], [[0.3, 0.7]]])
    >>> found.mean.round(6).tolist(), found.epistemic.round(4).tolist()
    ([[0.6, 0.4]], [0.1367])
    """
    rows, _ = stack_rows(members, "members")
    mean = rows.mean(axis=0)
    total = row_entropy(mean)
    aleatoric = row_entropy(rows).mean(axis=0)
    votes = rows.argmax(axis=2) == mean.argmax(axis=1)
    epistemic = np.maximum(total - aleatoric, 0.0)
    return EnsembleDecomposition(
        mean, total, aleatoric, epistemic, votes.mean(axis=0, dtype=float)
    )
