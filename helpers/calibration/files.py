"""JSON files, written whole or not at all, and checked when they are read back."""

from __future__ import annotations

import importlib
import math
from base64 import b64decode, b64encode
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_type_hints

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ..files import read_json, write_json

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


def packed(numbers: np.ndarray) -> str:
    """Hashes, or else floats in double precision, in base64."""
    kind = "<u8" if numbers.dtype.kind == "u" else "<f8"
    return b64encode(numbers.astype(kind).tobytes()).decode()


def _unpacked(kind: str, text: Any) -> np.ndarray:
    content = b64decode(text, validate=True) if isinstance(text, str) else b"?"
    if len(content) % 8:
        raise ValueError("it should be numbers in base64")
    found = np.frombuffer(content, kind)
    if not np.isfinite(found).all():
        raise ValueError("it must be finite numbers")
    return np.sort(found) if kind == "<u8" else found


Floats = Annotated[np.ndarray, BeforeValidator(partial(_unpacked, "<f8"))]
Hashes = Annotated[np.ndarray, BeforeValidator(partial(_unpacked, "<u8"))]


class Stored(BaseModel):
    """A stored record: exactly these fields, of these kinds."""

    model_config = ConfigDict(
        strict=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False
    )

    @classmethod
    def read(cls, stored: Any) -> Self:
        """Check what was stored; a ValueError names the first field that is wrong."""
        if not isinstance(stored, Mapping):
            raise ValueError(f"stored must be a mapping, not {type(stored).__name__}.")
        try:
            return cls.model_validate(dict(stored))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            if first["type"] == "missing":
                said = f"stored must have the field {name!r}."
            elif first["type"] == "extra_forbidden":
                said = f"stored must not have the field {name!r}."
            else:
                rule = first["msg"].removeprefix("Value error, ")
                rule = rule.replace("Input should", "it should", 1)
                value = " ".join(repr(first["input"]).split())
                said = f"{name} is {value:.80}; {rule.rstrip('.')}."
            raise ValueError(said) from None


def numbers(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    rising: bool = False,
    columns: bool = False,
) -> Any:
    """The kind of a column, or of rows, of finite numbers in a range."""

    def check(values: np.ndarray) -> np.ndarray:
        inside = np.isfinite(values) & (values >= low) & (values <= high)
        if values.ndim != 1 + columns or not inside.all():
            raise ValueError(f"it must be finite numbers from {low:g} to {high:g}")
        if rising and (np.diff(values) < 0).any():
            raise ValueError("it must not fall")
        return values

    return Annotated[np.ndarray, AfterValidator(check)]


def _different(names: list[Any]) -> list[Any]:
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError("it must hold two or more names, all different")
    return names


Classes = Annotated[list[str | int | float], AfterValidator(_different)]


class StoredEstimator(BaseEstimator):
    """An estimator of this package that JSON can hold: no code is stored or run."""

    # What predictions need of a fit, by name: the kinds that pydantic checks.
    _fitted: ClassVar[Mapping[str, Any]] = {}
    # Which of these are as long as another one, or longer by so many.
    _lengths: ClassVar[Mapping[str, tuple[str, int]]] = {}

    # Whether a fit may give one value for all scores.
    _may_be_constant: ClassVar[bool] = False

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if cls._fitted and cls.__module__.startswith("helpers."):
            _CLASSES[cls.__name__] = cls

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_")

    def to_dict(self) -> dict[str, Any]:
        """The calibrator as plain numbers, lists and strings, for :func:`from_dict`."""
        check_is_fitted(self)
        state = vars(self)
        return {
            "format": "helpers.calibration/1",
            **_settings(self),
            "fitted": {name: _encoded(state[name]) for name in self._kinds()},
            "source": state["source_"],
            "n": state["n_"],
            "fitted_at": state["fitted_at_"],
            "ids": state["ids_"] if state["ids_"] is None else packed(state["ids_"]),
            "score_hashes": packed(state["score_hashes_"]),
        }

    def _kinds(self) -> Mapping[str, Any]:
        """What is stored of this fit, by name."""
        constant = getattr(self, "constant_", None)
        return self._fitted if constant is None else {"constant_": Share}

    def _check_state(self) -> None:
        """Raise ValueError unless what was read fits together."""

    def save(self, path: str | Path) -> None:
        """Write the calibrator to a JSON file, whole or not at all."""
        write_json(self.to_dict(), path)

    def _check_parameters(self) -> None:
        """Raise ValueError for a parameter that is not of its annotated kind."""
        given, kind = self.get_params(deep=False), type(self)  # type: Any, Any
        _parameters_of(kind).read(
            {k: v.tolist() if hasattr(v, "tolist") else v for k, v in given.items()}
        )


@cache
def _parameters_of(made: type[StoredEstimator]) -> type[Stored]:
    kinds: Any = get_type_hints(made, include_extras=True)
    rules: Any = {k: (kinds.get(k, Any), ...) for k in made._get_param_names()}
    return create_model(made.__name__, __base__=Stored, **rules)


_CLASSES: dict[str, type[StoredEstimator]] = {}


class _Calibrator(Stored):
    format: Literal["helpers.calibration/1"]
    kind: str = Field(alias="class")
    parameters: dict[str, Any]
    fitted: dict[str, Any]
    source: dict[str, str] | None
    n: int = Field(ge=1)
    fitted_at: str
    ids: Hashes | None
    score_hashes: Hashes


def load_calibrator(path: str | Path) -> Any:
    """The calibrator that ``save`` wrote to a file; a ValueError says what is wrong.

    Parameters
    ----------
    path : str or pathlib.Path

    Examples
    --------
    >>> import tempfile
    >>> from helpers.calibration import PlattScalingCalibrator
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     PlattScalingCalibrator().fit([0.2, 0.7, 0.8], [0, 1, 0]).save(file.name)
    ...     load_calibrator(file.name)
    PlattScalingCalibrator()
    """
    return read_json(path, from_dict)


def from_dict(stored: Mapping[str, Any]) -> Any:
    """The calibrator that ``to_dict`` described.

    Parameters
    ----------
    stored : mapping

    Examples
    --------
    >>> from helpers.calibration import PlattScalingCalibrator
    >>> from_dict(PlattScalingCalibrator().fit([0.2, 0.7, 0.8], [0, 1, 0]).to_dict())
    PlattScalingCalibrator()
    """
    try:
        found = _Calibrator.read(stored)
        made = _unfitted(found.kind, found.parameters)
        values = {name: _decoded(value) for name, value in found.fitted.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"a field is not what it should be: {error!r}.") from error
    if "constant_" in values and made._may_be_constant:
        made.constant_ = values["constant_"]
    rules: Any = {name: (kind, ...) for name, kind in made._kinds().items()}
    state = dict(create_model(found.kind, __base__=Stored, **rules).read(values))
    for name, (other, more) in made._lengths.items():
        if name in state and len(state[name]) != (due := len(state[other]) + more):
            raise ValueError(f"{name} must have {due} values, by {other}.")
    for hashes in (found.ids, found.score_hashes):
        if hashes is not None and len(hashes) != found.n:
            raise ValueError(f"n must be the number of hashes, {len(hashes)}.")
    state |= {"n_": found.n, "fitted_at_": found.fitted_at, "source_": found.source}
    state |= {"ids_": found.ids, "score_hashes_": found.score_hashes}
    made.__dict__.update(state)
    made._check_state()
    return made


def _settings(estimator: StoredEstimator) -> dict[str, Any]:
    parameters = estimator.get_params(deep=False)
    return {
        "class": type(estimator).__name__,
        "parameters": {name: _encoded(value) for name, value in parameters.items()},
    }


def _unfitted(name: str, stored: Mapping[str, Any]) -> StoredEstimator:
    if name not in _CLASSES:
        importlib.import_module("helpers.uncertainty")  # which adds one class
    if name not in _CLASSES:
        raise ValueError(f"class must be one of {sorted(_CLASSES)}, not {name!r}.")
    due = _CLASSES[name]._get_param_names()
    if stored.get("bounds") == [-10.0, 10.0]:  # of files from before they were fixed
        stored = {key: stored[key] for key in stored if key != "bounds"}
    if set(stored) != set(due):
        raise ValueError(f"parameters of {name} must be {due}, not {sorted(stored)!r}.")
    parameters = {
        key: tuple(value) if isinstance(value, list) else _decoded(value)
        for key, value in stored.items()
    }
    made = _CLASSES[name](**parameters)
    made._check_parameters()
    return made


def _encoded(value: Any) -> Any:
    if isinstance(value, StoredEstimator):
        return value.to_dict() if hasattr(value, "n_") else _settings(value)
    if isinstance(value, dict):
        return {"pairs": [[_encoded(k), _encoded(v)] for k, v in value.items()]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": value.tolist()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_encoded(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def _decoded(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "format" in value:
        return from_dict(value)
    if "class" in value:
        return _unfitted(value["class"], value["parameters"])
    if "pairs" in value:
        return {name: _decoded(part) for name, part in value["pairs"]}
    return np.array(value["array"], dtype=float)
