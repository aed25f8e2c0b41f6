"""The parts of a data set, and the folder of the data that travel with the code."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "data"
SPLITS = ("train", "calibration", "test")


def part_of(key: str, shares: Sequence[float]) -> str:
    """The part that a key belongs to, by its hash, whatever other rows there are.

    Parameters
    ----------
    key : str
        What the rows that must stay together have in common.
    shares : sequence of float
        Shares of keys in "train", "calibration" and "test", which takes the rest.

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
