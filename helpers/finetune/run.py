"""One call: train an adapter for a classifier, or load it where it was trained."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from filelock import FileLock
from numpy.typing import ArrayLike

from .. import __version__
from ..adapters import save_adapter
from ..checks import check_count
from ..classifier import LLMClassifier
from ..files import cache_dir, read_json, write_json
from ..models import LanguageModel
from ..prompted import check_texts
from .store import HEAD, RECORD, FineTuned, Record, load_finetuned
from .training import Task, Trainer, TrainingSettings

_CHECKPOINT = "checkpoint.pt"
_VERSIONS = ("torch", "transformers", "peft", "numpy")
_CARD = """# A fine-tuned classifier

The adapter is in the format of the package `peft`. The weights were chosen on the
held-out texts, so that the numbers below are a little too good; measure calibration on
texts of their own.

{facts}

## Held-out numbers by step

{history}
"""


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
    place.mkdir(parents=True, exist_ok=True)
    # Whoever asks for the same training at the same time waits for its result.
    with FileLock(place.with_name(place.name + ".lock")):
        if not _is_finished(place, task.parts):
            trainer = Trainer(task, place / _CHECKPOINT, on_evaluation)
            trainer.run()
            _write_result(trainer, task.model, classifier.render("{text}"))
            del trainer  # its network is read again
        return load_finetuned(place, classifier)


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


def _is_finished(folder: Path, parts: dict[str, str]) -> bool:
    """Whether the result of a training is there; an error where something else is."""
    finished = (folder / RECORD).exists()
    if finished:
        found = read_json(folder / RECORD, Record.read).parts
    elif (folder / _CHECKPOINT).exists():
        found = torch.load(folder / _CHECKPOINT, weights_only=True)["parts"]
    else:
        for path in sorted(folder.iterdir()):
            if path.suffix != ".unfinished":
                raise ValueError(
                    f"folder must be empty or hold a training; {folder} has "
                    f"{path.name!r}."
                )
        return False
    if other := [name for name in parts if found.get(name) != parts[name]]:
        raise ValueError(
            f"folder must hold this training; {folder} holds one with other "
            f"{', '.join(other)}. Name another folder."
        )
    return finished


def _write_result(trainer: Trainer, base: LanguageModel, prompt: str) -> None:
    """Write the adapter, the head, the card and, when they are there, the record."""
    task, settings, head = trainer.task, trainer.settings, trainer.head
    folder, history = trainer.checkpoint.parent, pd.DataFrame(trainer.history)
    history["best"] = history.index == history[settings.monitor].argmin()
    facts = {
        "date": date.today().isoformat(),
        "base": {
            "name": base.name,
            "fingerprint": base.fingerprint,
            "dtype": str(base.network.dtype),
        },
        "labels": list(task.labels.labels),
        "prompt": prompt,
        "n": len(task.prompts),
        "n_held_out": len(task.held_out),
        "loss": repr(settings.loss),
        "head": asdict(settings.head) if settings.head else None,
        "settings": settings.plain(),
        "n_trainable": sum(weight.numel() for weight in trainer.trained),
        "versions": {"how-sure": __version__} | {v: version(v) for v in _VERSIONS},
    }
    save_adapter(task.model.network, folder)
    if head is not None:
        safetensors.torch.save_file(head.state_dict(), folder / HEAD)
    lines = [f"- {name}: `{value!r}`" for name, value in facts.items()]
    shown = history.round(4).to_string(index=False, na_rep="")
    shown = textwrap.indent(shown, "    ")
    card = _CARD.format(facts="\n".join(lines), history=shown)
    (folder / "README.md").write_text(card, "utf-8")
    plain = history.astype(object).where(np.isfinite(history), None)
    record = {"parts": task.parts, **facts, "history": plain.to_dict("records")}
    write_json(record | {"finished": True}, folder / RECORD)
    trainer.checkpoint.unlink()
