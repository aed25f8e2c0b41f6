"""Plain files that are there whole or not at all, and models of what they hold."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

T = TypeVar("T")
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


class Stored(BaseModel):
    """What a file holds: these fields, all of them, no others, and of these kinds."""

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
                said = f"{name} is {value:.80}; {rule}."
            raise ValueError(said) from None


def numbers(
    low: float = -math.inf,
    high: float = math.inf,
    *,
    least: int = 0,
    rising: bool = False,
) -> Any:
    """The kind of a column of finite numbers in a range, none below the one before."""

    def check(values: np.ndarray) -> np.ndarray:
        inside = np.isfinite(values) & (values >= low) & (values <= high)
        if values.ndim != 1 or len(values) < least or not inside.all():
            raise ValueError(
                f"it must be a list of {least} or more finite numbers from {low:g} to "
                f"{high:g}"
            )
        if rising and (np.diff(values) < 0).any():
            raise ValueError("it must not fall")
        return values

    return Annotated[np.ndarray, AfterValidator(check)]


def _different(names: list[Any]) -> list[Any]:
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError("it must hold two or more names, all different")
    return names


Classes = Annotated[list[str | int | float], AfterValidator(_different)]


def write_json(stored: Mapping[str, Any], path: str | Path) -> None:
    """Write a JSON file, whole or not at all; infinities are refused."""
    text = json.dumps(stored, indent=2, allow_nan=False, ensure_ascii=False)
    target = Path(path)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        unfinished = Path(folder) / target.name
        unfinished.write_text(text + "\n", encoding="utf-8")
        os.replace(unfinished, target)


def read_json(path: str | Path) -> Any:
    """What a JSON file holds, of whatever kind; a ValueError where it is none."""
    try:
        return json.loads(
            Path(path).read_bytes(), parse_constant=_refused, parse_float=_finite
        )
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from error


def load(path: str | Path, read: Callable[[Any], T]) -> T:
    """What ``read`` makes of a JSON file; its errors name the file."""
    stored = read_json(path)
    try:
        return read(stored)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _refused(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(word: str) -> float:
    return float(word) if math.isfinite(float(word)) else _refused(word)
