"""Self-consistency: sample several answers to a text, with one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import transformers
from numpy.typing import ArrayLike
from scipy.special import logsumexp
from scipy.stats import entropy, poisson
from statsmodels.stats.proportion import proportion_confint

from .checks import (
    check_between,
    check_count,
    check_interval,
    check_probabilities,
    check_table,
    check_truth,
)
from .classifier import LLMClassifier
from .models import LanguageModel, check_sampling
from .progress import progress_bar
from .scoring import tree_is_exact
from .tree import nodes_to_read, tree_logits
from .verbalizer import LabelTokens

INVALID = "invalid"  # the column of answers that are no label
Method = Literal["wilson", "clopper-pearson"]


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
    """Let the model answer each text several times (Wang et al., ICLR 2023), and count.

    At temperature 1, without ``top_k`` and ``top_p``, the share of a label estimates
    the model's own probability of it (:meth:`LLMClassifier.raw_log_proba`). Label
    priors are not applied.

    Parameters
    ----------
    classifier : LLMClassifier
        Its model, prompt, labels and terminator are used.
    X : iterable of str
        Texts; the index of a pandas Series is kept.
    n, seed : int
        Number of answers for each text (10), and seed (0).
    temperature : float, default=1.0
        Above 0.
    top_k, top_p : int and float, optional
        Sample only from the k most probable tokens, and from the smallest set of tokens
        with probability p.

    Returns
    -------
    pandas.DataFrame
        Counts for each text: one column a label, and "invalid". Rows sum to n.

    Examples
    --------
    >>> prompt = "Review: A joy.\\nSentiment: good\\n\\nReview: {text}\\nSentiment:"
    >>> classifier = LLMClassifier(labels=["good", "bad"], prompt=prompt)
    >>> sample_votes(classifier, ["A delight."], n=50).sum(axis=1).tolist()
    [50]
    """
    check_count("n", n)
    check_count("seed", seed, 0)
    if not temperature > 0:
        raise ValueError(
            f"temperature must be above 0, not {temperature!r}: without chance all "
            "answers are the same."
        )
    index = X.index if isinstance(X, pd.Series) else None
    model, labels, prompts, prefix = classifier.inputs(X)
    if INVALID in labels.labels:
        raise ValueError(f"labels must not contain {INVALID!r}, the name of no label.")
    rng = np.random.default_rng(seed)
    seeds = rng.integers(2**63, size=len(prompts))
    counts = np.zeros((len(prompts), len(labels.labels) + 1), dtype=int)
    settings = {"prefix": prefix, "token_budget": classifier.token_budget}
    read = _node_logits(model, prompts, labels, **settings)
    for row, logits in progress_bar(read, total=len(prompts)):
        model.check_logprobs(logits, [row] * len(logits))
        chances = [
            sampling_probabilities(
                node, temperature=temperature, top_k=top_k, top_p=top_p
            )
            for node in logits - logsumexp(logits, axis=1, keepdims=True)
        ]
        # Seeded by row, so that the order of batches does not matter.
        own = np.random.default_rng(seeds[row])
        counts[row] = _walk(labels, chances, n, own)
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


@torch.inference_mode()  # of a generator: on while it runs, off while it waits
def _node_logits(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    **settings: Any,
) -> Iterator[tuple[int, np.ndarray]]:
    """Next-token logits of each prompt in turn, at the nodes to read."""
    longest = max(map(len, prompts), default=0) + max(labels.trie.depths)
    if prompts and tree_is_exact(model, longest):
        for rows, logits in tree_logits(model, prompts, labels, **settings):
            for row, values in zip(rows, logits.whole(), strict=True):
                yield row, values.double().cpu().numpy()
        return
    trie = labels.trie
    paths: list[list[int]] = [[]]
    for parent, token in zip(trie.parents[1:], trie.tokens[1:], strict=True):
        paths.append([*paths[parent], token])
    for row, prompt in enumerate(prompts):
        found = []
        for node in nodes_to_read(labels):
            ids = torch.tensor([[*prompt, *paths[node]]], device=model.device)
            out = model.network(input_ids=ids, use_cache=False)
            found.append(out.logits[0, -1].double().cpu().numpy())
        yield row, np.stack(found)


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


def agreement(
    votes: pd.DataFrame,
    *,
    prediction: ArrayLike | None = None,
    method: Method = "wilson",
    level: float = 0.95,
) -> pd.DataFrame:
    """How many of the answers agree, with an interval.

    Parameters
    ----------
    votes : pandas.DataFrame
        From :func:`sample_votes`.
    prediction : array-like of shape (n_texts,), optional
        The label whose share is wanted. Default: the label with the most votes, whose
        share is too high on average: see :func:`winners_share`.
    method, level
        The interval, "wilson" (default) or "clopper-pearson", and its level (0.95).

    Returns
    -------
    pandas.DataFrame
        One row a text: ``prediction`` (the first label of a tie), its ``votes``, ``n``
        (invalid answers included), ``agreement`` with ``low`` and ``high``, and the
        ``entropy`` of the votes in nats.

    Examples
    --------
    >>> votes = pd.DataFrame({"yes": [5], "no": [0], "invalid": [0]})
    >>> agreement(votes)[["agreement", "low"]].round(3).to_numpy().tolist()
    [[1.0, 0.566]]
    """
    counts = _checked(votes)
    labels = [column for column in votes.columns if column != INVALID]
    if prediction is None:
        chosen = np.array(labels, dtype=object)[votes[labels].to_numpy().argmax(axis=1)]
    else:
        places = check_truth(prediction, labels, votes, name="prediction")
        chosen = np.array(labels, dtype=object)[places]
    place = votes.columns.get_indexer(chosen)
    won, n = counts[np.arange(len(counts)), place], counts.sum(axis=1)
    check_between("level", level, 0, 1)
    low, high = proportion_confint(won, n, 1 - level, check_interval(method))
    return pd.DataFrame(
        {
            "prediction": chosen,
            "votes": won,
            "n": n,
            "agreement": won / n,
            # Exact at the ends, where rounding leaves 1e-17.
            "low": np.clip(low, 0, won / n),
            "high": np.clip(high, won / n, 1),
            "entropy": entropy(counts, axis=1),
        },
        index=votes.index,
    )


def winners_share(probabilities: ArrayLike, n: int) -> float:
    """The share that the winner of n votes has on average: E[largest count] / n, exact.

    Parameters
    ----------
    probabilities : array-like of shape (n_outcomes,)
        Probabilities of the outcomes, which sum to one.
    n : int
        Number of votes.

    Examples
    --------
    >>> round(winners_share([0.5, 0.5], 5), 4)
    0.6875
    """
    check_count("n", n)
    p = check_probabilities(probabilities, "probabilities").astype(float)
    if abs(p.sum() - 1) > 1e-6:
        raise ValueError(f"probabilities must sum to one, not {probabilities!r}.")
    # Counts of n votes are independent Poisson counts, given that they sum to n.
    singly = poisson.pmf(np.arange(n + 1), n * p[:, None])
    fewest = -(-n // len(p))  # somebody has at least as many
    total = float(n)
    for most in range(fewest, n):
        together = np.array([1.0])
        for row in singly:
            together = np.convolve(together, row[: most + 1])[: n + 1]
        reached = together[n] if len(together) > n else 0.0
        total -= float(reached / poisson.pmf(n, n))
    return total / n


def _checked(votes: Any) -> np.ndarray:
    check_table(votes, name="votes")
    counts = np.asarray(votes)
    if counts.shape[1] < 2:
        raise ValueError("votes must have a column for each of two or more labels.")
    if counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError("votes must be whole numbers of 0 or more.")
    if (counts.sum(axis=1) == 0).any():
        at = int(np.flatnonzero(counts.sum(axis=1) == 0)[0])
        raise ValueError(f"votes must have an answer in each row; row {at} has none.")
    return counts
