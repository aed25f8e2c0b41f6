"""Calibrated values, and which of their rows a calibrator was fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


class Calibrated(np.ndarray):
    """Calibrated values that know which of their rows a calibrator was fitted on.

    Selected and concatenated rows keep their marks. After any other operation all rows
    are marked if any was; joined with values of unknown origin, nothing is known to be
    held out. ``numpy.asarray`` and most of pandas remove marks: measure before making a
    table.

    Parameters
    ----------
    values : array-like of shape (n,) or (n, n_classes)
    fitted_on : array-like of bool, of shape (n,)
        True for the rows that the calibrator was fitted on.
    known : bool
        Whether it could be established which rows these are.

    Examples
    --------
    >>> p = Calibrated([0.2, 0.9], [False, True], known=True)
    >>> p.evaluation, p[:1].evaluation
    ('in-sample', 'held-out')
    """

    known: bool
    # Whether rows fitted on would have been recognised, by name or by score.
    can_tell: bool
    _marks: np.ndarray
    # A copy of the calibrator, and the scores of these rows; None for other values.
    _origin: tuple[Any, np.ndarray] | None = None

    def __new__(
        cls,
        values: ArrayLike,
        fitted_on: ArrayLike,
        *,
        known: bool,
        can_tell: bool = False,
    ) -> Calibrated:
        found = np.array(values).view(cls)
        marks = np.array(fitted_on, dtype=bool)
        if marks.shape != found.shape[:1]:
            raise ValueError(
                f"fitted_on must have one mark for each row of values of shape "
                f"{found.shape}, not shape {marks.shape}."
            )
        found._marks, found.known = marks, bool(known)
        found.can_tell = bool(known or can_tell)
        return found

    @property
    def fitted_on(self) -> np.ndarray:
        """Whether each row was fitted on."""
        if self._marks.shape == self.shape[:1]:
            return self._marks
        return np.full(self.shape[:1], self._marks.any())

    @property
    def evaluation(self) -> str:
        """Whether any row was fitted on: "in-sample", "held-out" or "unstated"."""
        if self.fitted_on.any():
            return "in-sample"
        return "held-out" if self.known else "unstated"

    @property
    def n_labels(self) -> int | None:
        """How many labels the map was fitted on; None if these rows do not say."""
        made = self._made_by()
        return None if made is None else made[0].n_

    def plausible(
        self, n: int, generator: np.random.Generator
    ) -> Iterator[np.ndarray] | None:
        """Probabilities that the labels fitted on leave possible, drawn n times."""
        made = self._made_by()
        if made is None or self.ndim > 1:
            return None
        return made[0]._plausible(made[1], n, generator)

    def _made_by(self) -> tuple[Any, np.ndarray] | None:
        """Where these values come from, if they are still what was predicted."""
        if self._origin is None:
            return None
        made = np.clip(self._origin[0]._map(self._origin[1]), 0, 1)
        made = made.max(axis=1) if made.ndim > self.ndim else made
        same = made.shape == self.shape and np.allclose(made, self, rtol=0, atol=1e-12)
        return self._origin if same else None

    def _mark(self, origins: Iterable[Any]) -> Calibrated:
        """Mark all rows if any of ``origins`` has a marked row."""
        parts = [part for part in origins if isinstance(part, Calibrated)]
        seen = any(part.fitted_on.any() for part in parts)
        self.known = bool(parts) and all(part.known for part in parts)
        self.can_tell = bool(parts) and all(part.can_tell for part in parts)
        self._marks = np.array(seen)
        return self

    def __array_finalize__(self, obj: Any) -> None:
        self._mark([obj])

    def __array_wrap__(
        self, array: np.ndarray, context: Any = None, return_scalar: bool = False
    ) -> Any:
        if return_scalar or array.dtype.kind != "f":
            return np.asarray(array)[()]
        found = array if isinstance(array, Calibrated) else array.view(Calibrated)
        return found._mark([self] if context is None else context[1])

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        found = super().__array_function__(func, types, args, kwargs)
        if not isinstance(found, np.ndarray) or found.dtype.kind != "f":
            return found
        # What these call has set the marks.
        if func in (np.vstack, np.max, np.amax):
            return found
        given = [*args, *kwargs.values()]
        lists = [part for part in given if isinstance(part, (list, tuple))]
        members = [part for some in lists for part in some]
        found = found.view(Calibrated)._mark([*given, *members])
        plain = (part for part in [*given, *members] if type(part) is np.ndarray)
        if any(part.dtype.kind == "f" for part in plain) or float in map(type, members):
            found.known = found.can_tell = False
        # Pandas joins the columns of a table so; each is to keep its own marks.
        if func is np.concatenate and not [*args[1:], kwargs.get("axis", 0)][0]:
            found._marks = np.concatenate(
                [getattr(one, "fitted_on", np.zeros(len(one), bool)) for one in members]
            )
        return found

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        rows, *others = key if isinstance(key, tuple) and key else (key,)
        in_rows = isinstance(rows, slice) or np.ndim(rows) == 1
        if not isinstance(found, Calibrated) or not found.ndim:
            return found
        if isinstance(rows, (int, np.integer)) and not isinstance(rows, bool):
            found._marks = np.array(self.fitted_on[rows])
        elif in_rows:
            marks = self.fitted_on[rows]
            # Indices in two dimensions put other things than rows first.
            if len(marks) == len(found) and all(np.ndim(at) < 2 for at in others):
                found._marks = marks.copy()
                if self._origin is not None and not others:
                    found._origin = self._origin[0], self._origin[1][rows]
        return found

    def max(self, *args: Any, **kwargs: Any) -> Any:
        """As NumPy's; with ``axis=1``, rows keep their marks."""
        found = super().max(*args, **kwargs)
        given = [*zip(("axis", "out"), args, strict=False), *kwargs.items()]
        told = {name: value for name, value in given if value is not None}
        if self.ndim == 2 and told in ({"axis": 1}, {"axis": -1}):
            found._marks, found._origin = self.fitted_on.copy(), self._origin
        return found

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if isinstance(value, Calibrated):
            self._mark([self, value])

    def sort(self, *args: Any, **kwargs: Any) -> None:
        """Sort in place; afterwards all rows are marked if any was."""
        super().sort(*args, **kwargs)
        self._mark([self])

    def __reduce__(self) -> Any:
        made = partial(Calibrated, known=self.known, can_tell=self.can_tell)
        return made, (np.asarray(self), self.fitted_on)
