"""Log-probabilities of the labels as :mod:`helpers.scoring` has them, with gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ..models import LanguageModel, check_logprobs
from ..packed import NodeLogits
from ..scoring import check_lengths, rope_changes, sequence_scores, tree_is_exact
from ..tree import batch_logits, nodes_to_read
from ..verbalizer import LabelTokens


def label_logprobs_with_gradient(
    model: LanguageModel, prompts: Sequence[Sequence[int]], labels: LabelTokens
) -> torch.Tensor:
    """Log-probability that the answer to each prompt is each label, to be trained on.

    The numbers are those of :func:`helpers.scoring.label_logprobs`. Logits are
    computed behind the prompt and within the labels only; all prompts make one batch.

    Parameters
    ----------
    model : LanguageModel
        The model.
    prompts : sequence of sequence of int
        Token ids of whole prompts, at least one.
    labels : LabelTokens
        The labels.

    Returns
    -------
    torch.Tensor of shape (n_prompts, n_labels)
        Natural logarithms; each row's probabilities sum to at most one.

    Raises
    ------
    ValueError
        There are no prompts, or one has no tokens or does not fit into the model's
        window.
    ModelError
        The network gives NaN or infinity, or none of the labels any probability.

    Examples
    --------
    >>> from helpers.verbalizer import Verbalizer
    >>> model = LanguageModel.load()
    >>> prompt = "The opposite of up is"
    >>> tokens = Verbalizer(["down", "left"]).tokens(model, after=prompt)
    >>> label_logprobs_with_gradient(model, [model.encode(prompt)], tokens).shape
    torch.Size([1, 2])
    """
    found = read_answers(model, prompts, labels)[0]
    check_logprobs(model, found.detach().cpu().numpy(), range(len(prompts)))
    return found


def true_label_logprobs_with_gradient(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    truth: Sequence[int],
) -> torch.Tensor:
    """Log-probability of each prompt's own label, reading no other label.

    With many labels this is much less work than the whole table, and enough for a
    loss that looks at nothing else.

    Parameters
    ----------
    model : LanguageModel
        The model.
    prompts : sequence of sequence of int
        Token ids of whole prompts, at least one.
    labels : LabelTokens
        The labels.
    truth : sequence of int
        The position of each prompt's label in ``labels.labels``.

    Returns
    -------
    torch.Tensor of shape (n_prompts,)
        Natural logarithms.

    Raises
    ------
    ValueError
        As in :func:`label_logprobs_with_gradient`, or there is not one label a prompt.
    """
    _check(model, prompts, labels)
    wrong = [at for at in truth if not 0 <= at < len(labels.labels)]
    if len(truth) != len(prompts) or wrong:
        raise ValueError(
            f"truth must have a position below {len(labels.labels)} for each of "
            f"{len(prompts)} prompts, not {list(truth)!r}."
        )
    spelled = [
        [at for at, owner in enumerate(labels.owners) if owner == label]
        for label in truth
    ]
    pairs = [(row, at) for row, found in enumerate(spelled) for at in found]
    values, _ = _read_pairs(model, prompts, labels, pairs)
    parts = values.split([len(found) for found in spelled])
    return torch.stack([part.logsumexp(0) for part in parts])


def read_answers(
    model: LanguageModel, prompts: Sequence[Sequence[int]], labels: LabelTokens
) -> tuple[torch.Tensor, torch.Tensor]:
    """The labels' log-probabilities, and the hidden states that answers start from."""
    _check(model, prompts, labels)
    longest = max(map(len, prompts)) + max(labels.trie.depths)
    if tree_is_exact(model, longest):
        with _seen_by_output(model) as seen:
            logits = batch_logits(model, prompts, labels)
        sequences = sequence_scores(NodeLogits(logits), labels)
        ends = seen[0][:, -len(nodes_to_read(labels))]
    else:
        n = len(labels.sequences)
        pairs = [(row, at) for row in range(len(prompts)) for at in range(n)]
        values, all_ends = _read_pairs(model, prompts, labels, pairs)
        sequences, ends = values.reshape(-1, n), all_ends[::n]
    owners = torch.tensor(labels.owners, device=sequences.device)
    columns = [
        sequences[:, owners == label].logsumexp(1)
        for label in range(len(labels.labels))
    ]
    return torch.stack(columns, dim=1), ends


def prompt_ends(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """The hidden state that answers start from, without reading any answer."""
    places = torch.tensor([[len(ids) - 1] for ids in prompts])
    return _read_places(model, prompts, places)[1][:, 0]


def _check(
    model: LanguageModel, prompts: Sequence[Sequence[int]], labels: LabelTokens
) -> None:
    if not len(prompts):
        raise ValueError("prompts must hold at least one prompt; there is none.")
    check_lengths(model, prompts, labels)


def _read_pairs(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    pairs: Sequence[tuple[int, int]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of one sequence behind one prompt, each pair a row of its own."""
    answers = [labels.sequences[at] for _, at in pairs]
    lengths = torch.tensor([len(answer) for answer in answers])
    # Without a stop token to follow, nothing is asked of the last token's successors.
    read = lengths + 1 if labels.stop_ids else lengths
    rows = [
        [*prompts[row], *answer[: int(n) - 1]]
        for (row, _), answer, n in zip(pairs, answers, read, strict=True)
    ]
    steps = torch.arange(int(read.max()))
    starts = torch.tensor([len(prompts[row]) - 1 for row, _ in pairs])
    places = starts[:, None] + steps.clamp(max=(read - 1)[:, None])
    logits, hidden = _read_places(model, rows, places)
    device = logits.device
    wide = torch.float if device.type == "mps" else torch.double
    tokens = pad_sequence([torch.tensor(answer) for answer in answers], True)
    n_tokens = tokens.shape[1]
    chosen = logits[:, :n_tokens].gather(2, tokens[:, :, None].to(device))[:, :, 0]
    normaliser = logits.logsumexp(-1)
    counts = (torch.arange(n_tokens) < lengths[:, None]).to(device)
    gained = torch.where(counts, chosen - normaliser[:, :n_tokens], 0)
    values = gained.to(wide).sum(1)
    if labels.stop_ids:
        every, last = torch.arange(len(pairs)), read - 1
        stops = torch.tensor(labels.stop_ids, device=device)
        ending = logits[every, last][:, stops].logsumexp(-1)
        values = values + (ending - normaliser[every, last]).to(wide)
    return values, hidden[:, 0]


def _read_places(
    model: LanguageModel, rows: Sequence[Sequence[int]], places: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and hidden states at some places of each row, and nowhere else."""
    config = model.network.config.get_text_config()
    if len(rows) > 1 and rope_changes(config, max(map(len, rows))):
        # A longer neighbour would change a row's positions.
        single = [
            _read_places(model, rows[at : at + 1], places[at : at + 1])
            for at in range(len(rows))
        ]
        return torch.cat([one[0] for one in single]), torch.cat([o[1] for o in single])
    ids = pad_sequence([torch.tensor(row) for row in rows], True, model.pad_id)
    every = torch.arange(len(rows))[:, None]

    def pick(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][every, places], *inputs[1:])

    output: Any = model.network.get_output_embeddings()
    with output.register_forward_pre_hook(pick), _seen_by_output(model) as seen:
        found = model.network(input_ids=ids.to(model.device), use_cache=False)
    return found.logits.float(), seen[0]


@contextmanager
def _seen_by_output(model: LanguageModel) -> Iterator[list[torch.Tensor]]:
    """Collect what the output embedding is given, one tensor a forward pass."""
    seen: list[torch.Tensor] = []
    output: Any = model.network.get_output_embeddings()
    with output.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        yield seen
