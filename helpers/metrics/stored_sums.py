"""The names of the sums of rows, and how they are written down and read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..checks import check_between, check_count, check_not_negative
from .binning import BinSums

if TYPE_CHECKING:
    from .sums import RowSums

CELLS = ("count", "confidence", "correct")
_UNLABELLED = ("n_unlabelled", "unlabelled_confidence")
SCALARS = ("squared", "loss", "n_impossible", *_UNLABELLED)
_CLASSES = (*CELLS, *_UNLABELLED)
_FORMAT = "helpers.metrics.CalibrationSums/1"
_WHOLE = ("count", "correct", "n_impossible", "n_unlabelled")
_AT_MOST = {
    "correct": "count",
    "confidence": "count",
    "unlabelled_confidence": "n_unlabelled",
}


def class_frame(names: list[str], columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """The sums of predicted classes as a table, one row a class."""
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object, name="class"))


def write_sums(sums: RowSums) -> dict[str, Any]:
    """Sums as plain JSON."""
    return {
        "format": _FORMAT,
        "clip": sums.clip,
        **{name: getattr(sums.cells, name).tolist() for name in CELLS},
        **{name: getattr(sums, name) for name in SCALARS},
        "classes": sums.classes.index.tolist(),
        "by_class": {name: sums.classes[name].tolist() for name in _CLASSES},
    }


def read_sums(stored: Any) -> dict[str, Any]:
    """The fields of the sums that :func:`write_sums` wrote down, each checked."""
    if not isinstance(stored, Mapping):
        raise ValueError(f"stored must be a mapping, not {type(stored).__name__}.")
    if stored.get("format") != _FORMAT:
        raise ValueError(f"format must be {_FORMAT!r}, not {stored.get('format')!r}.")
    due = {"format", "clip", *CELLS, *SCALARS, "classes", "by_class"}
    for name in sorted(due ^ set(stored)):
        must = "must" if name in due else "must not"
        raise ValueError(f"stored {must} have the field {name!r}.")
    if stored["clip"] is not None:
        check_between("clip", stored["clip"], 0, 0.5)
    cells = _read_columns(stored, CELLS, None)
    check_count("the number of cells", len(cells["count"]))
    scalars = {name: _read_number(stored[name], name) for name in SCALARS}
    n = int(cells["count"].sum())
    for name, most in zip(
        ("squared", "n_impossible", "unlabelled_confidence"),
        (n * (1 + 1e-9), n, scalars["n_unlabelled"] * (1 + 1e-9)),
        strict=True,
    ):
        if scalars[name] > most:
            raise ValueError(f"{name} must be at most {most:g}, not {scalars[name]!r}.")
    return {
        "cells": BinSums(**cells),
        "classes": _read_classes(stored["classes"], stored["by_class"]),
        "clip": stored["clip"],
        **scalars,
    }


def _read_classes(names: Any, by_class: Any) -> pd.DataFrame:
    if not (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and len(set(names)) == len(names)
    ):
        raise ValueError(f"classes must be a list of different texts, not {names!r}.")
    if not isinstance(by_class, Mapping):
        raise ValueError(f"by_class must be a mapping, not {by_class!r}.")
    strange = sorted(set(by_class) - set(_CLASSES))
    if strange:
        raise ValueError(f"by_class must not have the field {strange[0]!r}.")
    return class_frame(names, _read_columns(by_class, _CLASSES, len(names)))


def _read_number(value: Any, name: str) -> float:
    if name in _WHOLE:
        return check_count(name, value, 0)
    return check_not_negative(name, value)


def _read_columns(
    stored: Mapping[str, Any], names: tuple[str, ...], n: int | None
) -> dict[str, np.ndarray]:
    """Stored lists of sums as arrays, if they are of one length and go together."""
    columns = {}
    for name in names:
        numbers = stored.get(name)
        if not isinstance(numbers, list):
            raise ValueError(f"{name} must be a list, not {type(numbers).__name__}.")
        n = len(numbers) if n is None else n
        if len(numbers) != n:
            raise ValueError(f"{name} must have {n} numbers, not {len(numbers)}.")
        kind = np.int64 if name in _WHOLE else np.float64
        columns[name] = np.array([_read_number(x, name) for x in numbers], dtype=kind)
    for part, whole in _AT_MOST.items():
        if part in columns and (columns[part] > columns[whole]).any():
            at = int(np.argmax(columns[part] > columns[whole]))
            raise ValueError(
                f"{part} must be at most {whole}; number {at} is "
                f"{columns[part][at].item()!r}, of {columns[whole][at].item()!r}."
            )
    return columns
