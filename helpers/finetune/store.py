"""What a training leaves: a tuned classifier, its history, and a folder with both."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from pydantic import Field
from sklearn.base import clone
from torch import nn

from .. import __version__
from ..adapters import load_adapter, read_weights, save_adapter
from ..calibration import files
from ..classifier import LLMClassifier
from ..files import read_json, write_json
from ..models import LanguageModel
from ..tree import positions_in_batch
from .losses import ConfidenceHead, head_confidence
from .training import Trainer, copy_of_base, plain_hash

CHECKPOINT = "checkpoint.pt"
_RECORD, _HEAD = "training.json", "head.safetensors"
_VERSIONS = ("torch", "transformers", "peft", "numpy")
_CARD = """# A fine-tuned classifier

The adapter is in the format of the package `peft`. The weights were chosen on the
held-out texts, so that the numbers below are a little too good; measure calibration on
texts of their own.

{facts}

## Held-out numbers by step

{history}
"""


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
        return head_confidence(self.head, model, prompts, budget)


class _Evaluation(files.Stored):
    step: files.Count
    epoch: files.NotNegative
    train_loss: files.Finite | None
    accuracy: files.Share
    log_loss: files.NotNegative | None
    brier: files.NotNegative
    ece: files.Share
    best: bool


class _Record(files.Stored):
    parts: dict[str, str]
    date: str
    base: Annotated[
        dict[Literal["name", "fingerprint", "dtype"], str], Field(min_length=3)
    ]
    labels: list[str]
    prompt: str
    n: files.Count
    n_held_out: files.Count
    loss: str
    head: dict[str, Any] | None
    settings: dict[str, Any]
    n_trainable: files.Count
    history: list[_Evaluation]
    versions: dict[str, str]
    finished: Literal[True]

    def table(self) -> pd.DataFrame:
        rows = [row.model_dump() for row in self.history]
        return pd.DataFrame(rows).astype({"train_loss": float, "log_loss": float})

    def card(self) -> str:
        history = self.table().round(4).to_string(index=False, na_rep="")
        facts = self.model_dump(exclude={"parts", "history", "finished"})
        lines = [f"- {name}: `{value!r}`" for name, value in facts.items()]
        history = textwrap.indent(history, "    ")
        return _CARD.format(facts="\n".join(lines), history=history)


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
    record = _read(folder)
    if record.parts["prompt"] != prompt_hash(classifier):
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
        head.load_state_dict(read_weights(folder / _HEAD))
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


def is_finished(folder: Path, parts: dict[str, str]) -> bool:
    """Whether the result of a training is there; an error where something else is."""
    finished = (folder / _RECORD).exists()
    if finished:
        found = _read(folder).parts
    elif (folder / CHECKPOINT).exists():
        found = torch.load(folder / CHECKPOINT, weights_only=True)["parts"]
    else:
        names = sorted(path.name for path in folder.iterdir())
        if strange := [name for name in names if not name.endswith(".unfinished")]:
            raise ValueError(
                f"folder must be empty or hold a training; {folder} has {strange[0]!r}."
            )
        return False
    if other := [name for name in parts if found.get(name) != parts[name]]:
        raise ValueError(
            f"folder must hold this training; {folder} holds one with other "
            f"{', '.join(other)}. Name another folder."
        )
    return finished


def write_result(trainer: Trainer, base: LanguageModel, prompt: str) -> None:
    """Write the adapter, the head, the card and, when they are there, the record."""
    task, settings = trainer.task, trainer.settings
    folder, head = trainer.checkpoint.parent, trainer.head
    at = int(np.nanargmin([row[settings.monitor] for row in trainer.history]))
    history = [
        {k: v if math.isfinite(v) else None for k, v in row.items()} | {"best": n == at}
        for n, row in enumerate(trainer.history)
    ]
    record = _Record(
        parts=trainer.parts,
        date=date.today().isoformat(),
        base={
            "name": base.name,
            "fingerprint": base.fingerprint,
            "dtype": str(base.network.dtype),
        },
        labels=list(task.labels.labels),
        prompt=prompt,
        n=len(task.prompts),
        n_held_out=len(task.held_out),
        loss=repr(settings.loss),
        head=asdict(settings.head) if settings.head else None,
        settings=settings.plain(),
        n_trainable=sum(weight.numel() for weight in trainer.trained),
        history=[_Evaluation.model_validate(row) for row in history],
        versions={"how-sure": __version__, **{v: version(v) for v in _VERSIONS}},
        finished=True,
    )
    save_adapter(task.model.network, folder)
    if head is not None:
        weights = {k: v.cpu().contiguous() for k, v in head.state_dict().items()}
        safetensors.torch.save_file(weights, folder / _HEAD)
    (folder / "README.md").write_text(record.card(), "utf-8")
    write_json(record.model_dump(), folder / _RECORD)
    trainer.checkpoint.unlink()


def prompt_hash(classifier: LLMClassifier) -> str:
    """A hash of how a model is asked, its prior left out."""
    _, labels, _, _ = classifier.inputs([])
    spelled = [labels.labels, labels.sequences, labels.owners, labels.stop_ids]
    return plain_hash([classifier.render("A"), classifier.too_long, *spelled])


def _read(folder: Path) -> _Record:
    if not (folder / _RECORD).is_file():
        raise ValueError(
            f"folder must hold a finished training; {folder} has no {_RECORD}. If it "
            "was interrupted, call finetune again, and it will go on."
        )
    return read_json(folder / _RECORD, _Record.read)
