"""Several adapters on one base, to see how far they disagree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..checks import check_count, check_distributions, check_groups, check_labels
from ..classifier import LLMClassifier
from ..prompted import check_texts
from .result import FineTuned
from .run import finetune
from .settings import TrainingSettings


def finetune_ensemble(
    classifier: LLMClassifier,
    X: Iterable[str],
    y: ArrayLike,
    *,
    validation: tuple[Iterable[str], ArrayLike],
    seeds: Sequence[int],
    bootstrap: bool = False,
    groups: Any = None,
    settings: TrainingSettings | None = None,
    folder: str | Path | None = None,
    sample_targets: ArrayLike | None = None,
    **options: Any,
) -> list[FineTuned]:
    """Train one adapter for each of several seeds.

    Members differ in their first weights, in the order of texts and in dropout, and
    with ``bootstrap`` in their data, too. All share the base's memory.

    Parameters
    ----------
    classifier : LLMClassifier
        How the model is asked.
    X : iterable of str
        Texts.
    y : array-like of str
        Their labels.
    validation : tuple of (iterable of str, array-like of str)
        Held-out texts and their labels, the same for all members.
    seeds : sequence of int
        One a member, none twice.
    bootstrap : bool, default=False
        Whether each member gets a resample of the data, drawn by its seed.
    groups : array-like of shape (n_texts,), optional
        What is drawn as one when resampling; without it, equal texts are.
    settings : TrainingSettings, optional
        How to train; its own seed does not count.
    folder : str or pathlib.Path, optional
        Where a folder ``seed-…`` for each member goes; without it, the user's cache.
    sample_targets : array-like of shape (n_texts, n_labels), optional
        Distributions to learn instead of the bare labels.
    **options : dict
        What else :func:`finetune` takes.

    Returns
    -------
    list of FineTuned
        In the order of the seeds.

    Raises
    ------
    ValueError
        No seeds, one of them twice, or what :func:`finetune` refuses.

    References
    ----------
    Lakshminarayanan, Pritzel and Blundell, Simple and scalable predictive uncertainty
    estimation using deep ensembles, NeurIPS 2017.
    """
    chosen = [check_count("seeds", seed, 0) for seed in seeds]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds must be one or more, none twice, not {chosen!r}.")
    texts = check_texts(X)
    truth = check_labels(y, "y", texts, X)
    settings = TrainingSettings() if settings is None else settings
    targets = None
    if sample_targets is not None:
        targets, _ = check_distributions(sample_targets, "sample_targets", texts, X)
    codes = check_groups(texts if groups is None else groups, texts, X)
    found = []
    for seed in chosen:
        rows = resampled(codes, seed) if bootstrap else np.arange(len(texts))
        found.append(
            finetune(
                classifier,
                [texts[row] for row in rows],
                truth[rows],
                validation=validation,
                settings=replace(settings, seed=seed),
                folder=None if folder is None else Path(folder) / f"seed-{seed}",
                sample_targets=None if targets is None else targets[rows],
                **options,
            )
        )
    return found


def members(ensemble: Sequence[FineTuned], X: Iterable[str]) -> np.ndarray:
    """Label probabilities by each member, for :func:`helpers.uncertainty.combine`.

    Parameters
    ----------
    ensemble : sequence of FineTuned
        At least one.
    X : iterable of str
        Texts.

    Returns
    -------
    numpy.ndarray of shape (n_members, n_texts, n_labels)
        Rows sum to one.

    Raises
    ------
    ValueError
        There is no member.
    """
    if not ensemble:
        raise ValueError("ensemble must have at least one member; there is none.")
    texts = check_texts(X)
    return np.stack([member.classifier.predict_proba(texts) for member in ensemble])


def resampled(groups: np.ndarray, seed: int) -> np.ndarray:
    """Rows of as many groups as there are, drawn with replacement."""
    rng = np.random.default_rng(seed)
    n = int(groups.max()) + 1
    order = np.argsort(groups, kind="stable")
    places = np.split(order, np.cumsum(np.bincount(groups, minlength=n))[:-1])
    return np.concatenate([places[at] for at in rng.integers(n, size=n)])
