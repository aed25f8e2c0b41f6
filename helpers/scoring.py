"""Exact log-probability of every label for many texts, one forward pass a batch.

One pass reads the prompt and the tree of all labels behind it: see
:mod:`helpers.tree`. Where that would be wrong (sliding windows shorter than the prompt,
recurrent layers, positions that do not come from position ids) each sequence is scored
on its own instead; a short trial on the model itself decides.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from scipy.special import logsumexp
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig

from .int8 import unrounded_inputs
from .logits import NodeLogits
from .models import LanguageModel, check_logprobs
from .packed import VECTOR, attention_dtype
from .progress import progress_bar
from .tree import (
    LOGIT_BUDGET,
    PADDED_BUDGET,
    batches,
    is_packed,
    never_pack,
    nodes_to_read,
    positions_in_batch,
    tree_logits,
)
from .verbalizer import LabelTokens

# Absolute and relative. Right ways to compute a log-probability of -30 differ by up to
# 0.5 in half precision, wrong ones by more than 1.5.
_PRECISE, _ROUGH = (1e-4, 1e-5), (0.5, 0.01)

_log = logging.getLogger(__name__)
_trials: WeakKeyDictionary[LanguageModel, dict[Any, bool]] = WeakKeyDictionary()


def label_logprobs(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    *,
    prefix: Sequence[int] = (),
    token_budget: int | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Log-probability that the answer to each prompt is each label.

    The probability of a label is the sum over its token sequences of the product of
    the tokens' conditional probabilities, times the probability that a stop token
    follows where there are stop tokens.

    Parameters
    ----------
    model : LanguageModel
        The model.
    prompts : sequence of sequence of int
        Token ids of whole prompts, as :meth:`LanguageModel.encode` gives them.
    labels : LabelTokens
        What :meth:`Verbalizer.tokens` gives.
    prefix : sequence of int, optional
        Tokens that these and later prompts begin with; their cache is kept for the
        next call. Without it, what the prompts happen to share is used.
    token_budget : int, optional
        The most positions in one batch: memory follows it, not the number of texts.
        Without it, 1,024 on a processor, twice that where texts are read without
        padding, and 16,384 on an accelerator.
    progress : bool, default=True
        Whether a run of more than a few seconds shows a bar.

    Returns
    -------
    numpy.ndarray of shape (n_prompts, n_labels)
        Natural logarithms; each row's probabilities sum to at most one.

    Raises
    ------
    ValueError
        A prompt has no tokens, or does not fit into the model's window.
    ModelError
        The network gives NaN or infinity, or none of the labels any probability.

    Examples
    --------
    >>> from helpers.verbalizer import Verbalizer
    >>> model = LanguageModel.load()
    >>> prompt = "The opposite of up is"
    >>> tokens = Verbalizer(["down", "left"]).tokens(model, after=prompt)
    >>> scores = label_logprobs(model, [model.encode(prompt)], tokens)
    >>> bool(scores[0, 0] > scores[0, 1])
    True
    """
    check_lengths(model, prompts, labels)
    scores = np.empty((len(prompts), len(labels.labels)))
    parts = label_logprob_batches(
        model, prompts, labels, prefix=prefix, token_budget=token_budget
    )
    with progress_bar(total=len(prompts), show=progress) as bar:
        for rows, values in parts:
            scores[rows] = values
            bar.update(len(rows))
    return scores


def label_logprob_batches(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    *,
    rows: Sequence[int] | None = None,
    prefix: Sequence[int] = (),
    token_budget: int | None = None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield the rows of :func:`label_logprobs` batch by batch, as they are done."""
    owners = np.asarray(labels.owners)
    for done, values in _sequence_batches(
        model, prompts, labels, prefix, token_budget, rows
    ):
        columns = [
            logsumexp(values[:, owners == index], axis=1)
            for index in range(len(labels.labels))
        ]
        yield done, np.column_stack(columns)


def sequence_logprobs(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    *,
    prefix: Sequence[int] = (),
    token_budget: int | None = None,
) -> np.ndarray:
    """Log-probability of every token sequence of every label after each prompt."""
    scores = np.empty((len(prompts), len(labels.sequences)))
    for rows, values in _sequence_batches(model, prompts, labels, prefix, token_budget):
        scores[rows] = values
    return scores


def room_for_prompt(model: LanguageModel, labels: LabelTokens) -> float:
    """The most tokens a prompt may have so that every label still fits behind it."""
    return (model.window or math.inf) - max(labels.trie.depths)


def check_lengths(
    model: LanguageModel, prompts: Sequence[Sequence[int]], labels: LabelTokens
) -> None:
    """Raise ValueError, naming its index, if a prompt is empty or too long."""
    room = room_for_prompt(model, labels)
    for index, ids in enumerate(prompts):
        if not len(ids):
            raise ValueError(f"prompt {index} has no tokens.")
        if len(ids) > room:
            raise ValueError(
                f"text {index} makes a prompt of {len(ids)} tokens; with the labels, "
                f"{model.name} has room for {int(room)}. Shorten it, or ask for texts "
                "to be cut."
            )


def _sequence_batches(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    prefix: Sequence[int],
    token_budget: int | None,
    rows: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    budget = positions_in_batch(model, token_budget, packed=is_packed(model))
    check_lengths(model, prompts, labels)
    rows = range(len(prompts)) if rows is None else rows
    asked = [prompts[row] for row in rows]
    if not asked:
        return
    longest = max(map(len, asked)) + max(labels.trie.depths)
    score = _score_by_tree if tree_is_exact(model, longest) else _score_one_by_one
    for part, values in score(model, asked, labels, prefix, budget):
        done = [rows[at] for at in part]
        check_logprobs(model, values, done)
        yield done, values


def tree_is_exact(model: LanguageModel, length: int) -> bool:
    """Whether a tree gives the model's own probabilities in rows of that length."""
    if getattr(model.network, "_is_stateful", False):
        return False
    config = model.network.config.get_text_config()
    if "local" in getattr(config, "attention_layers", ()):  # GPT-Neo's own window
        return False
    if rope_changes(config, length):
        return False
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    windows = {
        "sliding_attention": getattr(config, "sliding_window", None),
        "chunked_attention": getattr(config, "attention_chunk_size", None),
    }
    if not hasattr(config, "layer_types") and windows["sliding_attention"]:
        layers = {"sliding_attention"}
    if layers - {"full_attention", *windows}:
        return False
    if any(length > (windows[layer] or math.inf) for layer in layers & set(windows)):
        return False
    known = _trials.setdefault(model, {})
    kind = (model.device.type, model.network.dtype)
    if (is_packed(model), *kind) not in known:
        # All ways at once: later, somebody may be listening to the network's parts.
        known |= {(packed, *kind): same for packed, same in _trial(model).items()}
    return known[is_packed(model), *kind]


def rope_changes(config: PreTrainedConfig, length: int) -> bool:
    """Whether rows of this length get other rotary positions than shorter ones."""
    rope = getattr(config, "rope_parameters", None) or {}
    return any(
        kind.get("rope_type") in ("dynamic", "longrope")
        and length > kind.get("original_max_position_embeddings", math.inf)
        for kind in (rope, *rope.values())
        if isinstance(kind, dict)
    )


def _trial(model: LanguageModel) -> dict[bool, bool]:
    """Score a small made-up case; a tree that differs or fails is out."""
    # From all over the vocabulary: at its beginning are special tokens, far from
    # anything a network was trained on, where rounding is at its worst.
    embeddings: Any = model.network.get_input_embeddings()
    last = min(len(embeddings.weight), len(model.tokenizer)) - 1
    ids = [int(token_id) for token_id in np.linspace(3, last, 20)]
    if len(set(ids)) < len(ids):
        return {True: False, False: False}
    # So much that some of it is read apart from the texts, and some of it with them.
    shared = (VECTOR * ids[:4])[: VECTOR + 3]
    prompts = [shared + ids[5:9], shared + ids[9:11]]
    sequences = (tuple(ids[1:4]), tuple(ids[1:3]) + (ids[7],), (ids[8],))
    labels = LabelTokens(("a", "b", "c"), sequences, (0, 1, 2), (ids[0],))

    def scores(score: Any, **way: bool) -> np.ndarray:
        values = np.empty((len(prompts), len(sequences)))
        for rows, part in score(model, prompts, labels, (), PADDED_BUDGET, **way):
            values[rows] = part
        return values

    precise = attention_dtype(model.network) in (torch.float32, torch.float64)
    absolute, relative = _PRECISE if precise else _ROUGH

    def agrees(packed: bool) -> bool:
        try:
            found = scores(_score_by_tree, packed=packed)
        except MemoryError:
            raise
        except Exception:  # each architecture refuses in its own way
            _log.debug("%s cannot read labels as a tree", model.name, exc_info=True)
            return False
        return np.allclose(expected, found, rtol=relative, atol=absolute)

    with unrounded_inputs():
        expected = scores(_score_one_by_one)
        ways = [True, False] if is_packed(model) else [False]
        found = {packed: agrees(packed) for packed in ways}
    if not found.get(True, True):
        _log.debug("%s is read with padding", model.name)
        never_pack(model)
    return found


@torch.inference_mode()  # of a generator: on while it runs, off while it waits
def _score_by_tree(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    prefix: Sequence[int],
    token_budget: int,
    packed: bool | None = None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield rows and their scores, batch by batch, longest texts first."""
    for rows, logits in tree_logits(
        model, prompts, labels, prefix=prefix, token_budget=token_budget, packed=packed
    ):
        yield rows, sequence_scores(logits, labels).cpu().numpy()


def sequence_scores(logits: NodeLogits, labels: LabelTokens) -> torch.Tensor:
    """Log-probability of each sequence and its stop, from logits at a tree's nodes."""
    trie = labels.trie
    place = {node: at for at, node in enumerate(nodes_to_read(labels))}
    edges = range(1, len(trie.tokens))
    parents = [place[trie.parents[node]] for node in edges]
    chosen = logits.of(parents, [trie.tokens[node] for node in edges])
    normaliser = logits.normaliser()
    # A logit that is infinite would count as the certain token, and others as none.
    normaliser = normaliser.where(normaliser.isfinite(), math.nan)
    wide = torch.float if chosen.device.type == "mps" else torch.double
    gained = (chosen - normaliser[:, parents]).to(wide)
    totals = [torch.zeros_like(gained[:, 0])]
    for node in edges:
        totals.append(totals[trie.parents[node]] + gained[:, node - 1])
    scores = torch.stack([totals[leaf] for leaf in trie.leaves], dim=1)
    if labels.stop_ids:
        ends = [place[leaf] for leaf in trie.leaves]
        ending = logits.each(ends, labels.stop_ids).logsumexp(-1)
        scores = scores + (ending - normaliser[:, ends]).to(wide)
    return scores


@torch.inference_mode()
def _score_one_by_one(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    prefix: Sequence[int],
    token_budget: int,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield one prompt's scores at a time, every sequence read as a row of its own."""
    device = model.device
    vocabulary = model.network.get_output_embeddings().weight.shape[0]
    for index, prompt in enumerate(prompts):
        whole = [list(prompt) + list(sequence) for sequence in labels.sequences]
        scores = np.empty(len(whole))
        longest = max(map(len, whole))
        most = max(1, LOGIT_BUDGET // (longest * vocabulary))
        if rope_changes(model.network.config.get_text_config(), longest):
            most = 1  # a longer neighbour would change a row's positions
        for rows in batches([len(ids) for ids in whole], token_budget, most):
            ids = pad_sequence(
                [torch.tensor(whole[row]) for row in rows],
                batch_first=True,
                padding_value=model.pad_id,
            ).to(device)
            logits = model.network(input_ids=ids, use_cache=False).logits
            for at, row in enumerate(rows):
                answer = torch.tensor(labels.sequences[row], device=device)
                behind = logits[at, len(prompt) - 1 : len(whole[row])].float()
                logprobs = behind.log_softmax(-1)
                steps = logprobs[:-1].gather(1, answer[:, None])
                total = steps.double().sum()
                if labels.stop_ids:
                    stops = torch.tensor(labels.stop_ids, device=device)
                    total += logprobs[-1, stops].logsumexp(-1)
                scores[row] = float(total)
        yield [index], scores[None]
