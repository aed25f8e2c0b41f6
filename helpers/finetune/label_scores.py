"""Log-probabilities of the labels as :mod:`helpers.scoring` has them, with gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ..models import LanguageModel
from ..packed import NodeLogits
from ..scoring import rope_changes, sequence_scores, tree_is_exact
from ..tree import batch_logits, nodes_to_read
from ..verbalizer import LabelTokens


def label_scores(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    labels: LabelTokens,
    truth: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A row a prompt and a column a label, and hidden states at the prompts' ends.

    With label positions in ``truth``, there is one column, of each prompt's own label.
    """
    if truth is not None:
        pairs = [(row, labels.owners.index(label)) for row, label in enumerate(truth)]
        values, ends = _read_pairs(model, prompts, labels, pairs)
        return values[:, None], ends
    longest = max(map(len, prompts)) + max(labels.trie.depths)
    if tree_is_exact(model, longest):
        seen: list[torch.Tensor] = []
        output: Any = model.network.get_output_embeddings()
        with output.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
            logits = batch_logits(model, prompts, labels)
        sequences = sequence_scores(NodeLogits(logits), labels)
        ends = seen[0][:, -len(nodes_to_read(labels))]
    else:
        n = len(labels.sequences)
        pairs = [(row, at) for row in range(len(prompts)) for at in range(n)]
        values, all_ends = _read_pairs(model, prompts, labels, pairs)
        sequences, ends = values.reshape(-1, n), all_ends[::n]
    owners = torch.tensor(labels.owners, device=sequences.device)
    own = [sequences[:, owners == at].logsumexp(1) for at in range(len(labels.labels))]
    return torch.stack(own, dim=1), ends


def prompt_ends(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
    """The hidden state that answers start from, without reading any answer."""
    places = torch.tensor([[len(ids) - 1] for ids in prompts])
    return _read_places(model, prompts, places)[1][:, 0]


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
        pairs = zip(rows, places, strict=True)
        single = [_read_places(model, [row], at[None]) for row, at in pairs]
        logits, hidden = zip(*single, strict=True)
        return torch.cat(logits), torch.cat(hidden)
    ids = pad_sequence([torch.tensor(row) for row in rows], True, model.pad_id)
    every = torch.arange(len(rows))[:, None]

    seen: list[torch.Tensor] = []

    def pick(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        seen.append(inputs[0][every, places])
        return (seen[0], *inputs[1:])

    output: Any = model.network.get_output_embeddings()
    with output.register_forward_pre_hook(pick):
        found = model.network(input_ids=ids.to(model.device), use_cache=False)
    return found.logits.float(), seen[0]
