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
    """A bar that shows after three seconds, unless nobody wants one."""
    # An explicit disable=False would overrule TQDM_DISABLE.
    off: dict[str, Any] = {} if show else {"disable": True}
    given: Any = items  # tqdm's annotations know either items or none
    return tqdm(given, total=total, initial=initial, unit=unit, delay=3, **off)
