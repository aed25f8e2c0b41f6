"""A bar for work that takes a while."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    initial: int = 0,
    unit: str = "text",
    show: bool = True,
) -> tqdm[Any]:
    """A bar that shows after three seconds, unless nobody wants one.

    Parameters
    ----------
    items : iterable, optional
        What to go through.
    total : int, optional
        How many there are, where they are not given.
    initial : int, default=0
        How many were done before.
    unit : str, default="text"
        What one of them is called.
    show : bool, default=True
        Whether there is to be a bar at all. Where there is, tqdm's own environment
        variables, such as TQDM_DISABLE, still have their say.

    Returns
    -------
    tqdm.tqdm

    Examples
    --------
    >>> list(progress_bar([1, 2], show=False))
    [1, 2]
    """
    # An explicit disable=False would overrule TQDM_DISABLE.
    off: dict[str, Any] = {} if show else {"disable": True}
    given: Any = items  # tqdm's annotations know either items or none
    return tqdm(given, total=total, initial=initial, unit=unit, delay=3, **off)
