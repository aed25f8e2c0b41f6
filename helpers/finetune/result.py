"""What a training leaves: a tuned classifier, its history, and a folder with both."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
from sklearn.base import clone
from torch import nn

from .. import __version__
from ..adapters import adapter_parameters, load_adapter, read_weights, save_adapter
from ..classifier import LLMClassifier
from ..models import LanguageModel
from ..tree import positions_in_batch
from .card import model_card
from .head import ConfidenceHead, head_confidence
from .store import HEAD, Store, read_record
from .task import Task, prompt_hash
from .training import Trainer, copy_of_base

_VERSIONS = ("torch", "transformers", "peft", "numpy")


@dataclass(frozen=True)
class FineTuned:
    """A fine-tuned classifier, and how it came about.

    Attributes
    ----------
    classifier : LLMClassifier
        It asks the tuned model exactly as the base was asked, without a label prior.
    history : pandas.DataFrame
        One row an evaluation on the held-out texts: ``step`` and ``epoch`` (how far
        the training was), ``train_loss`` (the mean since the evaluation before),
        ``accuracy``, ``log_loss``, ``brier``, ``ece`` (20 bins), and ``best``, which
        is true for the one row whose weights these are.
    folder : pathlib.Path
        Where everything is kept, the adapter in the format of ``peft``.
    head : torch.nn.Module or None
        The trained confidence head.
    """

    classifier: LLMClassifier
    history: pd.DataFrame = field(repr=False)
    folder: Path
    head: nn.Module | None = field(default=None, repr=False)

    @property
    def model(self) -> LanguageModel:
        """The tuned model: its base with the adapter on it, unmerged."""
        model = self.classifier.model
        assert isinstance(model, LanguageModel)
        return model

    @property
    def n_trainable(self) -> int:
        """How many numbers were trained, a head's among them."""
        return _n_trainable(self.model, self.head)

    @property
    def share_trainable(self) -> float:
        """Their share of all numbers in the network and the head."""
        count = sum(weight.numel() for weight in self.model.network.parameters())
        if self.head is not None:
            count += sum(weight.numel() for weight in self.head.parameters())
        return self.n_trainable / count

    def confidence(self, X: Iterable[str]) -> np.ndarray:
        """The head's probability that the prediction for each text is right.

        Parameters
        ----------
        X : iterable of str
            Texts.

        Returns
        -------
        numpy.ndarray of shape (n_texts,)
            In (0, 1).

        Raises
        ------
        ValueError
            It was trained without a head.
        """
        if self.head is None:
            raise ValueError(
                "confidence needs a head; this model was trained without one. Call "
                "finetune with head=ConfidenceHead()."
            )
        model, _, prompts, _ = self.classifier.inputs(X)
        budget = positions_in_batch(model, self.classifier.token_budget)
        return head_confidence(self.head, model, prompts, token_budget=budget)


def load_finetuned(folder: str | Path, classifier: LLMClassifier) -> FineTuned:
    """Load what :func:`finetune` has left in a folder.

    Parameters
    ----------
    folder : str or pathlib.Path
        The folder.
    classifier : LLMClassifier
        The classifier that was given to :func:`finetune`, on the base model.

    Returns
    -------
    FineTuned

    Raises
    ------
    ValueError
        There is no finished training in the folder, or it was made for another prompt,
        other labels or another base model.
    """
    folder = Path(folder)
    record = read_record(folder)
    if not record["finished"]:
        raise ValueError(
            f"folder must hold a finished training; the one in {folder} is not: call "
            "finetune again, and it will go on."
        )
    if record["parts"]["prompt"] != prompt_hash(classifier):
        raise ValueError(
            f"classifier must ask as in training; the model in {folder} was trained "
            "with another prompt, other examples or other labels."
        )
    base, was = classifier.inputs([])[0], record["base"]
    # In another precision, the same weights have another hash.
    is_same_kind = was["dtype"] == str(base.network.dtype)
    if is_same_kind and was["fingerprint"] != base.fingerprint:
        raise ValueError(
            f"classifier must have the model that was trained; the adapter in {folder} "
            f"belongs to another one, {was['name']}."
        )
    network = copy_of_base(base)
    load_adapter(network, folder)
    model = LanguageModel(network, base.tokenizer, name=folder.resolve().name)
    head = None
    if record["head"] is not None:
        head = ConfidenceHead(**record["head"]).build(model)
        head.load_state_dict(read_weights(folder / HEAD))
    history = pd.DataFrame(record["history"]).astype(
        {"train_loss": float, "log_loss": float}
    )
    return finetuned(classifier, model, history, folder, head)


def finetuned(
    classifier: LLMClassifier,
    model: LanguageModel,
    history: pd.DataFrame,
    folder: Path,
    head: nn.Module | None,
) -> FineTuned:
    """Put a result together; its weights take no more gradients."""
    base = classifier.inputs([])[0]
    source = None
    if base.source is not None:
        source = base.source._replace(name=str(folder.resolve()))
    # A new object: nothing is kept of the weights on the way.
    tuned = LanguageModel(
        model.network, model.tokenizer, name=folder.resolve().name, source=source
    )
    for part in (tuned.network, head):
        if part is not None:
            part.requires_grad_(False)
    asked = clone(classifier).set_params(
        model=tuned,
        labels=classifier.classes_.tolist(),
        examples=list(classifier.examples_) or None,
        prior=None,
    )
    return FineTuned(asked, history, folder, head)


def write_result(task: Task, trainer: Trainer, store: Store) -> pd.DataFrame:
    """Write the adapter, the head, the card and the record; give the history."""
    history = pd.DataFrame(trainer.history)
    at = history[task.settings.monitor].idxmin()
    history["best"] = history.index == at
    rows = history.to_dict("records")
    record: dict[str, Any] = {
        "date": date.today().isoformat(),
        "base": {
            "name": task.model.name,
            "fingerprint": task.model.fingerprint,
            "dtype": str(task.model.network.dtype),
        },
        "labels": list(task.labels.labels),
        "prompt": task.classifier.render("{text}"),
        "n": len(task.prompts),
        "n_held_out": len(task.held_out),
        "loss": repr(task.loss),
        "head": asdict(task.head) if task.head else None,
        "settings": asdict(task.settings),
        "n_trainable": _n_trainable(trainer.model, trainer.head),
        "history": [{name: _plain(row[name]) for name in row} for row in rows],
        "versions": {"how-sure": __version__}
        | {name: version(name) for name in _VERSIONS},
    }
    save_adapter(trainer.model.network, store.folder)
    if trainer.head is not None:
        safetensors.torch.save_file(trainer.head_weights(), store.folder / HEAD)
    card = store.folder / "README.md.unfinished"
    card.write_text(model_card(record), "utf-8")
    os.replace(card, store.folder / "README.md")
    store.finish(record)
    return history


def _n_trainable(model: LanguageModel, head: nn.Module | None) -> int:
    weights = adapter_parameters(model.network)
    weights += list(head.parameters()) if head is not None else []
    return sum(weight.numel() for weight in weights)


def _plain(value: Any) -> Any:
    """A value as JSON has it, which knows neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
