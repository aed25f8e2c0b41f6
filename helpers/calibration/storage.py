"""Calibrators read back from what they stored: plain JSON, nothing that runs."""

from __future__ import annotations

import base64
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import check_count
from .base import FORMAT, BaseCalibrator, told_source
from .files import read_json

# Calibrators of later modules, which are imported when a file names one.
_LATER = {"CombinedConfidence": "helpers.uncertainty"}
_FIELDS = (
    "class",
    "parameters",
    "fitted",
    "source",
    "n",
    "fitted_at",
    "ids",
    "score_hashes",
)


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
    stored = read_json(path)
    try:
        return from_dict(stored)
    except ValueError as error:
        raise ValueError(f"{path} holds no calibrator: {error}") from error


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
    >>> from_dict({"format": "helpers.calibration/9"})
    Traceback (most recent call last):
    ...
    ValueError: format must be 'helpers.calibration/1', not 'helpers.calibration/9'.
    """
    if not isinstance(stored, Mapping):
        raise ValueError(f"it must be a mapping, not {type(stored).__name__}.")
    if stored.get("format") != FORMAT:
        raise ValueError(f"format must be {FORMAT!r}, not {stored.get('format')!r}.")
    missing = [name for name in _FIELDS if name not in stored]
    if missing:
        raise ValueError(f"it must have the field {missing[0]!r}.")
    try:
        return _restored(stored)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"a field is not what it should be: {error!r}.") from error


def _restored(stored: Mapping[str, Any]) -> BaseCalibrator:
    calibrator = _unfitted(stored)
    for name in calibrator._fitted:
        if name not in stored["fitted"]:
            raise ValueError(f"fitted must have the field {name!r}.")
        value = _decoded(stored["fitted"][name])
        if value is None or isinstance(value, str):
            raise ValueError(f"{name} must be numbers, not {value!r}.")
        setattr(calibrator, name, value)
    calibrator.n_ = check_count("n", stored["n"])
    calibrator.fitted_at_ = str(stored["fitted_at"])
    calibrator.source_ = told_source(None, stored["source"])
    ids = stored["ids"]
    calibrator.ids_ = None if ids is None else _unpacked("ids", ids)
    calibrator.score_hashes_ = _unpacked("score_hashes", stored["score_hashes"])
    return calibrator


def _unfitted(stored: Mapping[str, Any]) -> BaseCalibrator:
    name = stored["class"]
    if name in _LATER:
        importlib.import_module(_LATER[name])
    classes = {made.__name__: made for made in _subclasses(BaseCalibrator)}
    if name not in classes:
        known = ", ".join(sorted({*classes, *_LATER}))
        raise ValueError(f"class must be one of {known}; not {name!r}.")
    made = classes[name]
    parameters = {
        key: tuple(value) if isinstance(value, list) else _decoded(value)
        for key, value in stored["parameters"].items()
    }
    strange = sorted(set(parameters) - set(made._get_param_names()))
    if strange:
        raise ValueError(f"parameters of {name} must not have {strange[0]!r}.")
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
            return _unfitted(value)
        if "pairs" in value:
            return {_decoded(k): _decoded(v) for k, v in value["pairs"]}
        return np.asarray(value["array"], dtype=float)
    if isinstance(value, list):
        return [_decoded(part) for part in value]
    return value


def _unpacked(name: str, text: Any) -> np.ndarray:
    try:
        hashes = np.frombuffer(base64.b64decode(text, validate=True), dtype="<u8")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be hashes in base64, not {text!r}.") from error
    return hashes.astype(np.uint64)
