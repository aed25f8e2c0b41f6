"""Scores kept between runs, so that chapters and re-runs share them.

An entry is a row of numbers under a hash of the model, the prompt's tokens and the
labels' tokens. Texts are not kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import diskcache
import numpy as np

from .fetch import cache_dir
from .models import LanguageModel
from .progress import progress_bar
from .scoring import label_logprob_batches
from .verbalizer import LabelTokens


def score_cache() -> diskcache.Cache:
    """The user's store of scores: numbers under hashes, no texts.

    Returns
    -------
    diskcache.Cache
        Values are JSON, so reading a foreign one runs no code.
    """
    return diskcache.Cache(cache_dir() / "scores", disk=diskcache.JSONDisk)


def cached_label_logprobs(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    *,
    prefix: Sequence[int] = (),
    token_budget: int | None = None,
) -> np.ndarray:
    """What :func:`label_logprobs` gives, computing only what is not kept yet.

    Parameters and errors are those of :func:`label_logprobs`. Each batch is kept as
    soon as it is done, so that a run that was killed goes on where it stopped.

    Returns
    -------
    numpy.ndarray of shape (n_prompts, n_labels)
        Natural logarithms.
    """
    scores = np.empty((len(prompts), len(labels.labels)))
    with score_cache() as kept:
        keys = [_score_key(model, labels, ids) for ids in prompts]
        todo = []
        for at, key in enumerate(keys):
            value = kept.get(key)
            if value is None:
                todo.append(at)
            else:
                scores[at] = value
        batches = label_logprob_batches(
            model,
            [prompts[at] for at in todo],
            labels,
            prefix=prefix,
            token_budget=token_budget,
        )
        with progress_bar(total=len(todo)) as bar:
            for rows, values in batches:
                places = [todo[row] for row in rows]
                scores[places] = values
                with kept.transact():
                    for place, value in zip(places, values, strict=True):
                        kept.set(keys[place], value.tolist())
                bar.update(len(rows))
    return scores


def _score_key(model: LanguageModel, labels: LabelTokens, ids: Sequence[int]) -> str:
    identity = (model.fingerprint, labels.sequences, labels.owners, labels.stop_ids)
    text = repr((identity, labels.labels, tuple(ids)))
    return hashlib.sha256(text.encode()).hexdigest()
