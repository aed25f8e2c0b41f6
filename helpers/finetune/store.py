"""The folder of a training: checkpoints on the way, the result at its end.

Everything appears under its name whole or not at all, so that a training that was
killed at any moment goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..calibration.files import Count, Finite, NotNegative, Share, Stored, load
from .head import ConfidenceHead
from .settings import TrainingSettings

RECORD = "training.json"
HEAD = "head.safetensors"
_POINT = "checkpoint-"
_UNFINISHED = ".unfinished"


class Store:
    """The folder of one training."""

    def __init__(
        self, folder: Path, parts: dict[str, str], *, resume: bool = True
    ) -> None:
        self.folder = folder
        self.parts = parts
        self._claim()
        if not resume:
            (folder / RECORD).unlink(missing_ok=True)
            self._forget()
        if not (folder / RECORD).exists():
            self.write_record({"parts": parts, "finished": False})

    @property
    def finished(self) -> bool:
        """Whether the result is there."""
        return bool(read_record(self.folder)["finished"])

    def write_record(self, record: dict[str, Any]) -> None:
        """Write what is known of the training: ``parts``, ``finished`` and more."""
        unfinished = self.folder / f"{RECORD}{_UNFINISHED}"
        unfinished.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        os.replace(unfinished, self.folder / RECORD)

    def save_point(
        self,
        step: int,
        weights: dict[str, torch.Tensor],
        best: dict[str, torch.Tensor],
        optimiser: dict[str, Any],
        state: dict[str, Any],
    ) -> None:
        """Write a checkpoint, then delete the ones before it."""
        target = self.folder / f"{_POINT}{step:08d}"
        unfinished = target.with_name(target.name + _UNFINISHED)
        for path in (unfinished, target):
            shutil.rmtree(path, ignore_errors=True)
        unfinished.mkdir()
        safetensors.torch.save_file(weights, unfinished / "weights.safetensors")
        safetensors.torch.save_file(best, unfinished / "best.safetensors")
        torch.save(optimiser, unfinished / "optimiser.pt")
        (unfinished / "state.json").write_text(json.dumps(state), "utf-8")
        os.replace(unfinished, target)
        self._forget(keep=target)

    def last_point(self) -> dict[str, Any] | None:
        """What :meth:`save_point` was last given, by name; None before."""
        points = [p for p in self._points() if not p.name.endswith(_UNFINISHED)]
        if not points:
            return None
        place = max(points)
        return {
            "step": int(place.name.removeprefix(_POINT)),
            "weights": safetensors.torch.load_file(place / "weights.safetensors"),
            "best": safetensors.torch.load_file(place / "best.safetensors"),
            "optimiser": torch.load(place / "optimiser.pt", weights_only=True),
            "state": json.loads((place / "state.json").read_text("utf-8")),
        }

    def finish(self, record: dict[str, Any]) -> None:
        """Write the last record and delete the checkpoints: the result is there."""
        self.write_record({"parts": self.parts, **record, "finished": True})
        self._forget()

    def _claim(self) -> None:
        """Make the folder, or make sure that it is this training's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / RECORD).exists():
            strange = [
                path.name
                for path in self.folder.iterdir()
                if not path.name.endswith(_UNFINISHED)
            ]
            if strange:
                raise ValueError(
                    f"folder must be empty, or hold this training; {self.folder} has "
                    f"{sorted(strange)[:3]!r}."
                )
            return
        found = read_record(self.folder)["parts"]
        other = [name for name in self.parts if found.get(name) != self.parts[name]]
        if other:
            raise ValueError(
                f"folder must be empty, or hold this training; {self.folder} holds "
                f"one with other {', '.join(other)}. Name another folder."
            )

    def _points(self) -> list[Path]:
        return [path for path in self.folder.glob(f"{_POINT}*") if path.is_dir()]

    def _forget(self, keep: Path | None = None) -> None:
        for path in self._points():
            if path != keep:
                shutil.rmtree(path, ignore_errors=True)


def read_record(folder: Path) -> dict[str, Any]:
    """What is written down about a training; a ValueError where that does not hold."""
    if not (folder / RECORD).is_file():
        raise ValueError(f"folder must hold a training; {folder} has no {RECORD}.")
    return load(folder / RECORD, _checked_record)


class _Started(Stored):
    parts: dict[str, str]
    finished: bool


class _Base(Stored):
    name: str
    fingerprint: str
    dtype: str


class _Evaluation(Stored):
    step: Count
    epoch: NotNegative
    train_loss: Finite | None
    accuracy: Share
    log_loss: NotNegative | None
    brier: NotNegative
    ece: Share
    best: bool


class _Finished(_Started):
    date: str
    base: _Base
    labels: list[str]
    prompt: str
    n: Count
    n_held_out: Count
    loss: str
    head: dict[str, Any] | None
    settings: dict[str, Any]
    n_trainable: Count
    history: list[_Evaluation]
    versions: dict[str, str]


def _checked_record(stored: Any) -> dict[str, Any]:
    is_finished = isinstance(stored, dict) and stored.get("finished") is True
    found = (_Finished if is_finished else _Started).read(stored)
    if isinstance(found, _Finished):
        n_best = sum(row.best for row in found.history)
        if n_best != 1:
            raise ValueError(f"history must have one best row, not {n_best}.")
        try:
            TrainingSettings(**found.settings)
            ConfidenceHead(**(found.head or {}))
        except TypeError as error:
            raise ValueError(f"settings or head are not whole: {error}.") from error
    return dict(stored)
