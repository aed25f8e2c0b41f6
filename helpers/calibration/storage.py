"""Calibrators read back from what they stored: plain JSON, nothing that runs."""

from __future__ import annotations

import base64
import importlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, create_model

from .base import BaseCalibrator
from .files import Stored, load

# Calibrators of later modules, which are imported when a file names one.
_LATER = {"CombinedConfidence": "helpers.uncertainty"}


def _dated(text: str) -> str:
    datetime.fromisoformat(text)
    return text


class _Calibrator(Stored):
    format: Literal["helpers.calibration/1"]
    kind: str = Field(alias="class")
    parameters: dict[str, Any]
    fitted: dict[str, Any]
    source: dict[str, str] | None
    n: int = Field(ge=1)
    fitted_at: Annotated[str, AfterValidator(_dated)]
    ids: str | None
    score_hashes: str


def load_calibrator(path: str | Path) -> BaseCalibrator:
    """The calibrator that ``save`` wrote to a file.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    BaseCalibrator
        It predicts what the one that was stored predicts, to the last bit, and knows
        the rows and the source that one was fitted on.

    Raises
    ------
    ValueError
        The file is no JSON, or holds no calibrator of this package.

    Examples
    --------
    >>> import os, tempfile
    >>> from helpers.calibration import PlattScalingCalibrator
    >>> platt = PlattScalingCalibrator().fit([0.2, 0.7, 0.8, 0.9], [0, 1, 0, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     platt.save(os.path.join(folder, "platt.json"))
    ...     again = load_calibrator(os.path.join(folder, "platt.json"))
    >>> bool(again.slope_ == platt.slope_)
    True
    """
    return load(path, from_dict)


def from_dict(stored: Mapping[str, Any]) -> BaseCalibrator:
    """The calibrator that ``to_dict`` described.

    Parameters
    ----------
    stored : mapping
        What ``to_dict`` gave.

    Returns
    -------
    BaseCalibrator

    Raises
    ------
    ValueError
        It describes no calibrator of this package, or one that is not whole.

    Examples
    --------
    >>> from_dict({"n": 9})
    Traceback (most recent call last):
    ...
    ValueError: stored must have the field 'format'.
    """
    found = _Calibrator.read(stored)
    try:
        return _restored(found)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"a field is not what it should be: {error!r}.") from error


def _restored(stored: _Calibrator) -> BaseCalibrator:
    calibrator = _unfitted(stored.kind, stored.parameters)
    rules: Any = {name: (kind, ...) for name, kind in calibrator._fitted.items()}
    fitted = create_model(stored.kind, __base__=Stored, **rules).read(
        {name: _decoded(value) for name, value in stored.fitted.items()}
    )
    for name in rules:
        setattr(calibrator, name, getattr(fitted, name))
    _check_together(calibrator)
    calibrator.n_ = stored.n
    calibrator.fitted_at_ = stored.fitted_at
    calibrator.source_ = stored.source
    calibrator.score_hashes_ = _unpacked("score_hashes", stored.score_hashes, stored.n)
    ids = stored.ids
    calibrator.ids_ = None if ids is None else _unpacked("ids", ids, stored.n)
    return calibrator


def _check_together(calibrator: BaseCalibrator) -> None:
    """Raise ValueError for fitted values that do not fit one another."""
    for name, (other, more) in calibrator._lengths.items():
        n, due = len(getattr(calibrator, name)), len(getattr(calibrator, other)) + more
        if n != due:
            raise ValueError(f"{name} must have {due} values, by {other}, not {n}.")
    for name in calibrator._fitted:
        value = getattr(calibrator, name)
        if isinstance(value, dict) and not set(value) <= set(calibrator.classes_):
            raise ValueError(f"{name} must be of classes_, not {list(value)!r}.")


def _unfitted(name: str, stored: Mapping[str, Any]) -> BaseCalibrator:
    if name in _LATER:
        importlib.import_module(_LATER[name])
    classes = {made.__name__: made for made in _subclasses(BaseCalibrator)}
    if name not in classes:
        known = ", ".join(sorted({*classes, *_LATER}))
        raise ValueError(f"class must be one of {known}; not {name!r}.")
    made = classes[name]
    parameters = {
        key: tuple(value) if isinstance(value, list) else _decoded(value)
        for key, value in stored.items()
    }
    if set(parameters) != set(made._get_param_names()):
        raise ValueError(
            f"parameters of {name} must be {made._get_param_names()!r}, not "
            f"{sorted(parameters)!r}."
        )
    calibrator: BaseCalibrator = made(**parameters)
    calibrator._check_parameters()
    return calibrator


def _subclasses(base: type[BaseCalibrator]) -> list[type[BaseCalibrator]]:
    """Calibrators of this package; those of a user are not stored."""
    found = []
    for made in base.__subclasses__():
        if made.__module__.startswith("helpers."):
            found += [*([made] if made._fitted else []), *_subclasses(made)]
    return found


def _decoded(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "format" in value:
            return from_dict(value)
        if "class" in value:
            return _unfitted(value["class"], value["parameters"])
        if "pairs" in value:
            pairs = {_decoded(k): _decoded(v) for k, v in value["pairs"]}
            if len(pairs) < len(value["pairs"]):
                raise ValueError(f"pairs must name each class once, not {[*pairs]!r}.")
            return pairs
        array = np.asarray(value["array"], dtype=object)
        if not {type(number) for number in array.flat} <= {int, float}:
            raise ValueError("array must hold numbers alone.")
        return array.astype(float)
    if isinstance(value, list):
        return [_decoded(part) for part in value]
    return value


def _unpacked(name: str, text: str, n: int) -> np.ndarray:
    try:
        hashes = np.frombuffer(base64.b64decode(text, validate=True), dtype="<u8")
    except ValueError as error:
        raise ValueError(f"{name} must be hashes in base64, not {text!r}.") from error
    if len(hashes) != n or (hashes[1:] < hashes[:-1]).any():
        raise ValueError(f"{name} must be {n} hashes in order, as many as n.")
    return hashes.astype(np.uint64)
