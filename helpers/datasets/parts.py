"""The parts of a data set, and the folder of the data that travel with the code."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "data"
SPLITS = ("train", "calibration", "test")


def part_of(key: str, shares: Sequence[float]) -> str:
    """The part that a key belongs to, by its hash.

    So it depends on the key alone: not on the order of the rows, nor on which other
    rows there are.

    Parameters
    ----------
    key : str
        What the rows that must stay together have in common.
    shares : sequence of float
        How much of all keys is to be in "train", in "calibration" and in "test". The
        last is not looked at: what the others leave is "test".

    Returns
    -------
    {"train", "calibration", "test"}

    Examples
    --------
    >>> part_of("Casablanca", (0.25, 0.25, 0.5))
    'test'
    """
    share = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 16**8
    edge = 0.0
    for split, width in zip(SPLITS[:-1], shares, strict=False):
        edge += width
        if share < edge:
            return split
    return SPLITS[-1]
