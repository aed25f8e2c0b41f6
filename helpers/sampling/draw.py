"""Answers drawn from the model's own distribution, token by token.

One forward pass a text is enough for any number of answers: it gives the next-token
distribution at every beginning of a label, and an answer that leaves all labels is
invalid from there on, whatever it would go on to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from scipy.special import logsumexp

from ..checks import check_count
from ..classifier import LLMClassifier
from ..models import LanguageModel, check_logprobs, check_sampling
from ..progress import progress_bar
from ..scoring import tree_is_exact
from ..tree import is_packed, nodes_to_read, positions_in_batch, tree_logits
from ..verbalizer import LabelTokens
from .votes import INVALID


def sample_votes(
    classifier: LLMClassifier,
    X: Iterable[str],
    *,
    n: int = 10,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Let the model answer each text several times, and count the labels.

    At temperature 1, without ``top_k`` and ``top_p``, the votes for a label are
    binomial with the model's own probability of it (what
    :meth:`LLMClassifier.raw_log_proba` gives), so that their share estimates it.
    Another temperature estimates another distribution. A label prior has no part in
    this: it cannot be sampled.

    Parameters
    ----------
    classifier : LLMClassifier
        Its model, prompt and labels are used; its terminator decides where an answer
        ends.
    X : iterable of str
        Texts; the index of a pandas Series is kept.
    n : int, default=10
        Answers for each text.
    temperature : float, default=1.0
        Above 0. At 0 all answers are the same, and agreement says nothing.
    top_k : int, optional
        Sample from the k most probable tokens only.
    top_p : float, optional
        Sample from the smallest set of tokens that holds this probability.
    seed : int, default=0
        Same seed, same answers.

    Returns
    -------
    pandas.DataFrame
        One row a text, one column of counts a label, and "invalid": answers that are
        no label. Rows sum to n.

    Raises
    ------
    ValueError
        No answers, a temperature that is not above 0, a label called "invalid", or a
        text that does not fit the model.

    References
    ----------
    Wang et al., Self-consistency improves chain of thought reasoning in language
    models, ICLR 2023.

    Examples
    --------
    >>> classifier = LLMClassifier(
    ...     labels=["positive", "negative"],
    ...     prompt="Review: {text}\\nSentiment:",
    ...     examples=[("A joy.", "positive"), ("A bore.", "negative")],
    ... )
    >>> votes = sample_votes(classifier, ["A delightful, moving film."], n=50)
    >>> votes.sum(axis=1).tolist(), votes.idxmax(axis=1).tolist()
    ([50], ['positive'])
    """
    check_count("n", n)
    check_count("seed", seed, 0)
    if not temperature > 0:
        raise ValueError(
            f"temperature must be above 0, not {temperature!r}: without chance all "
            "answers are the same, and their agreement says nothing."
        )
    index = X.index if isinstance(X, pd.Series) else None
    model, labels, prompts, prefix = classifier.inputs(X)
    if INVALID in labels.labels:
        raise ValueError(f"labels must not contain {INVALID!r}, the name of no label.")
    rng = np.random.default_rng(seed)
    seeds = rng.integers(2**63, size=len(prompts))
    counts = np.zeros((len(prompts), len(labels.labels) + 1), dtype=int)
    with progress_bar(total=len(prompts)) as bar:
        for row, logits in _node_logits(
            model, prompts, labels, prefix, classifier.token_budget
        ):
            check_logprobs(model, logits, [row] * len(logits))
            logprobs = logits - logsumexp(logits, axis=1, keepdims=True)
            chances = [
                sampling_probabilities(
                    node, temperature=temperature, top_k=top_k, top_p=top_p
                )
                for node in logprobs
            ]
            # Seeded by row, so that the order of batches does not matter.
            own = np.random.default_rng(seeds[row])
            counts[row] = _walk(labels, chances, n, own)
            bar.update()
    table = pd.DataFrame(counts, columns=[*labels.labels, INVALID], index=index)
    table.attrs["source"] = classifier.source()
    return table


def sampling_probabilities(
    logprobs: np.ndarray,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> np.ndarray:
    """The probability with which sampling draws each token, as ``transformers`` does.

    Parameters
    ----------
    logprobs : numpy.ndarray of shape (vocabulary,)
        From :meth:`LanguageModel.next_logprobs`.
    temperature : float, default=1.0
        Divides log-probabilities; at 0, all goes to the best token.
    top_k : int, optional
        Keep the k most probable tokens.
    top_p : float, optional
        Then keep the smallest set of tokens that holds this probability.

    Examples
    --------
    >>> sampling_probabilities(np.log([0.6, 0.3, 0.1]), top_k=2).round(3)
    array([0.667, 0.333, 0.   ])
    """
    check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        return (np.arange(len(logprobs)) == np.argmax(logprobs)).astype(float)
    scores = torch.tensor(np.asarray(logprobs, dtype=float))[None]
    steps: list[Any] = [transformers.TemperatureLogitsWarper(float(temperature))]
    if top_k is not None:
        steps.append(transformers.TopKLogitsWarper(top_k))
    if top_p is not None:
        steps.append(transformers.TopPLogitsWarper(top_p))
    for step in steps:
        scores = step(torch.empty((1, 0), dtype=torch.long), scores)
    return scores.softmax(-1)[0].numpy()


def _node_logits(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    prefix: Sequence[int],
    token_budget: int | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Next-token logits of one prompt after the other, at the nodes to read."""
    longest = max(map(len, prompts), default=0) + max(labels.trie.depths)
    budget = positions_in_batch(model, token_budget, packed=is_packed(model))
    with torch.inference_mode():
        if prompts and tree_is_exact(model, longest):
            for rows, logits in tree_logits(
                model, prompts, labels, prefix=prefix, token_budget=budget
            ):
                for row, values in zip(rows, logits.whole(), strict=True):
                    yield row, values.double().cpu().numpy()
            return
        paths = [_path(labels, node) for node in nodes_to_read(labels)]
        for row, prompt in enumerate(prompts):
            found = []
            for path in paths:
                ids = torch.tensor([[*prompt, *path]], device=model.device)
                out = model.network(input_ids=ids, use_cache=False)
                found.append(out.logits[0, -1].double().cpu().numpy())
            yield row, np.stack(found)


def _path(labels: LabelTokens, node: int) -> list[int]:
    """Tokens from the root to a node."""
    path: list[int] = []
    while node:
        path.insert(0, labels.trie.tokens[node])
        node = labels.trie.parents[node]
    return path


def _walk(
    labels: LabelTokens,
    chances: Sequence[np.ndarray],
    n: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw n answers down the tree; counts of the labels, and of none."""
    trie, stops = labels.trie, set(labels.stop_ids)
    child = {
        (trie.parents[node], trie.tokens[node]): node
        for node in range(1, len(trie.tokens))
    }
    owner = {leaf: labels.owners[sequence] for sequence, leaf in enumerate(trie.leaves)}
    counts = np.zeros(len(labels.labels) + 1, dtype=int)
    waiting = {0: n}
    for node, chance in zip(nodes_to_read(labels), chances, strict=True):
        total = np.cumsum(chance)
        drawn = np.searchsorted(
            total, rng.random(waiting.pop(node, 0)) * total[-1], side="right"
        )
        for token in drawn.tolist():
            following = child.get((node, token))
            if node in owner and token in stops:
                counts[owner[node]] += 1
            elif following is None:
                counts[-1] += 1
            elif following in owner and not stops:
                counts[owner[following]] += 1
            else:
                waiting[following] = waiting.get(following, 0) + 1
    return counts
