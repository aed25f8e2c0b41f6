"""What a training leaves: a tuned classifier, its history, and a folder with both."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from sklearn.base import clone
from torch import nn

from ..adapters import load_adapter, read_weights
from ..calibration import files
from ..classifier import LLMClassifier
from ..files import read_json
from ..models import LanguageModel
from ..tree import batches, positions_in_batch
from .label_scores import prompt_ends
from .losses import ConfidenceHead
from .training import Task, copy_of_base

RECORD, HEAD = "training.json", "head.safetensors"


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned classifier, and how it came about.

    Attributes
    ----------
    classifier : LLMClassifier
        Asks the tuned model as the base was asked, without a label prior.
    history : pandas.DataFrame
        One row an evaluation on the held-out texts: ``step``, ``epoch``, ``train_loss``
        (the mean since the last evaluation), ``accuracy``, ``log_loss``, ``brier``,
        ``ece`` (20 bins), and ``best``, which marks the weights that were kept.
    folder : pathlib.Path
        Where everything is kept, the adapter in the format of ``peft``.
    n_trainable : int
        Number of trained parameters, the head's included.
    head : torch.nn.Module or None
        The trained confidence head.
    """

    classifier: LLMClassifier
    history: pd.DataFrame = field(repr=False)
    folder: Path
    n_trainable: int
    head: nn.Module | None = field(default=None, repr=False)

    @property
    def model(self) -> LanguageModel:
        """The tuned model: its base with the adapter on it, unmerged."""
        return self.classifier.model  # type: ignore[return-value]

    @property
    def share_trainable(self) -> float:
        """The share of ``n_trainable`` of all numbers in the network and the head."""
        head = self.head.parameters() if self.head is not None else ()
        weights = [*self.model.network.parameters(), *head]
        return self.n_trainable / sum(weight.numel() for weight in weights)

    def confidence(self, X: Iterable[str]) -> np.ndarray:
        """The head's probability that the prediction for each text is right."""
        if self.head is None:
            raise ValueError(
                "confidence needs a head; this model was trained without one. Train "
                "with TrainingSettings(head=ConfidenceHead())."
            )
        model, _, prompts, _ = self.classifier.inputs(X)
        budget = positions_in_batch(model, self.classifier.token_budget)
        widths, found = [len(ids) for ids in prompts], np.empty(len(prompts))
        with torch.inference_mode():
            for rows in batches(widths, budget, len(prompts)) if prompts else ():
                ends = prompt_ends(model, [prompts[row] for row in rows])
                odds = self.head(ends.float()).double().cpu()
                model.check_logprobs(odds.numpy(), rows)
                found[rows] = odds[:, 0].sigmoid().numpy()
        return found


class _Evaluation(files.Stored):
    step: files.Count
    epoch: files.NotNegative
    train_loss: files.Finite | None
    accuracy: files.Share
    log_loss: files.NotNegative | None
    brier: files.NotNegative
    ece: files.Share
    best: bool


class Record(files.Stored, extra="allow"):
    """What is read again of a record; the rest is there to be looked at."""

    finished: Literal[True]
    parts: dict[str, str]
    base: Annotated[
        dict[Literal["name", "fingerprint", "dtype"], str], Field(min_length=3)
    ]
    head: dict[str, Any] | None
    n_trainable: files.Count
    history: list[_Evaluation]

    def table(self) -> pd.DataFrame:
        rows = [row.model_dump() for row in self.history]
        return pd.DataFrame(rows).astype({"train_loss": float, "log_loss": float})


def load_finetuned(folder: str | Path, classifier: LLMClassifier) -> FineTuned:
    """Load the result of :func:`finetune` from its folder.

    Parameters
    ----------
    folder : str or pathlib.Path
        The folder.
    classifier : LLMClassifier
        The classifier that was given to :func:`finetune`, on the base model.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file():
        raise ValueError(
            f"folder must hold a finished training; {folder} has no {RECORD}. If it "
            "was interrupted, call finetune again, and it will go on."
        )
    record = read_json(folder / RECORD, Record.read)
    if record.parts["prompt"] != Task.prompt_hash(classifier):
        raise ValueError(
            f"classifier must ask as in training; the model in {folder} was trained "
            "with another prompt, other examples or other labels."
        )
    base = classifier.inputs([])[0]
    # In another precision, the same weights have another hash.
    is_same_kind = record.base["dtype"] == str(base.network.dtype)
    if is_same_kind and record.base["fingerprint"] != base.fingerprint:
        raise ValueError(
            f"classifier must have the model that was trained; the adapter in {folder} "
            f"belongs to another one, {record.base['name']}."
        )
    network = copy_of_base(base)
    load_adapter(network, folder)
    head = None
    if record.head is not None:
        head = ConfidenceHead(**record.head).build(base)
        head.load_state_dict(read_weights(folder / HEAD))
        head.requires_grad_(False)
    network.requires_grad_(False)
    name = folder.resolve().name
    source = base.source and base.source._replace(name=str(folder.resolve()))
    asked = clone(classifier).set_params(
        model=LanguageModel(network, base.tokenizer, name=name, source=source),
        labels=classifier.classes_.tolist(),
        examples=list(classifier.examples_) or None,
        prior=None,
    )
    return FineTuned(asked, record.table(), folder, record.n_trainable, head)
