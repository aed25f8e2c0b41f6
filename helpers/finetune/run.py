"""One call: train an adapter for a classifier, or load it where it was trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..checks import check_count
from ..classifier import LLMClassifier
from ..files import cache_dir
from ..prompted import check_texts
from .store import FineTuned, trained
from .training import Task, TrainingSettings


def finetune(
    classifier: LLMClassifier,
    X: Iterable[str],
    y: ArrayLike,
    *,
    validation: tuple[Iterable[str], ArrayLike],
    sample_targets: ArrayLike | None = None,
    settings: TrainingSettings | None = None,
    folder: str | Path | None = None,
    on_evaluation: Callable[[dict[str, float]], None] | None = None,
) -> FineTuned:
    """Train a low-rank adapter on what a classifier asks its model.

    The base model stays unchanged; the tuned one shares its memory. The weights with
    the best held-out measure are kept (possibly the untrained ones), so measure on
    other texts. On a processor, results are reproducible, interrupted or not. A loss
    that is not a number (too high a learning rate) raises FloatingPointError.

    Parameters
    ----------
    classifier : LLMClassifier
        How the model is asked. Its prior is ignored.
    X : iterable of str
        Texts.
    y : array-like of str
        Their labels.
    validation : tuple of (iterable of str, array-like of str)
        Held-out texts and their labels; none may be among X.
    sample_targets : array-like of shape (n_texts, n_labels), optional
        Distributions to learn instead of the bare labels, columns in the order of
        ``classes_``: see :func:`agreement_targets`.
    settings : TrainingSettings, optional
        What is minimised, and how.
    folder : str or pathlib.Path, optional
        Where to keep checkpoints and the result; by default in the user's cache, under
        a hash of all inputs. An interrupted training continues there, and a finished
        one is loaded.
    on_evaluation : callable, optional
        Called after each evaluation with its row of the history.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from helpers.finetune import Lora
    >>> classifier = LLMClassifier(labels=["good", "bad"], prompt="{text}\\nSentiment:")
    >>> X, y = ["A joy.", "A bore."], ["good", "bad"]
    >>> settings = TrainingSettings(Lora(layers=1), epochs=1)
    >>> with TemporaryDirectory() as folder:
    ...     tuned = finetune(classifier, X, y, validation=(["Fun!", "Dull."], y),
    ...                      settings=settings, folder=folder)
    >>> tuned.history["step"].tolist()
    [0, 1]
    """
    task = Task(classifier, X, y, validation, sample_targets, settings)
    place = Path(folder or cache_dir() / "adapters" / task.key)
    return trained(task, classifier, place, on_evaluation)


def finetune_ensemble(
    classifier: LLMClassifier,
    X: Sequence[str],
    y: ArrayLike,
    *,
    validation: tuple[Iterable[str], ArrayLike],
    seeds: Sequence[int],
    settings: TrainingSettings | None = None,
    folder: str | Path | None = None,
    **options: Any,
) -> list[FineTuned]:
    """Train one adapter for each of several seeds; all share the base's memory.

    See Lakshminarayanan, Pritzel and Blundell, Simple and scalable predictive
    uncertainty estimation using deep ensembles, NeurIPS 2017.

    Parameters
    ----------
    classifier, X, y, validation, settings, **options
        As for :func:`finetune`; the seed in the settings is ignored.
    seeds : sequence of int
        One a member, all different.
    folder : str or pathlib.Path, optional
        Where each member's folder ``seed-…`` goes; by default the user's cache.
    """
    chosen = [check_count("seeds", seed, 0) for seed in seeds]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"seeds must be one or more, none twice, not {chosen!r}.")
    found = []
    for seed in chosen:
        options["settings"] = replace(settings or TrainingSettings(), seed=seed)
        options["folder"] = Path(folder) / f"seed-{seed}" if folder else None
        found.append(finetune(classifier, X, y, validation=validation, **options))
    return found


def members(ensemble: Sequence[FineTuned], X: Iterable[str]) -> np.ndarray:
    """Label probabilities by each member, shape (n_members, n_texts, n_labels).

    They are the input of :func:`helpers.uncertainty.combine`.
    """
    if not ensemble:
        raise ValueError("ensemble must have at least one member; there is none.")
    texts = check_texts(X)
    return np.stack([member.classifier.predict_proba(texts) for member in ensemble])
