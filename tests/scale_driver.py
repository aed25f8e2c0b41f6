"""Classifiers for tests of helpers.scale, and a driver that can be killed.

``python scale_driver.py slow SOURCE DESTINATION`` classifies slowly, on a Ray of its
own;
``python scale_driver.py peaks FOLDER`` writes its peak of memory after
each of four runs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

WORDS = "a warm and funny film the plot is a bore no way not dull".split()


def reviews(rows: int) -> pd.DataFrame:
    """Texts of different lengths, each with an id."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, 1 + at % 12)) + f" {at}" for at in range(rows)]
    return pd.DataFrame({"name": [f"r{at}" for at in range(rows)], "text": texts})


class ByLength:
    """Takes long texts for bad ones; refuses those that begin with ``refuse``."""

    def __init__(self, version: str = "1", slow: float = 0.0) -> None:
        self.version = version
        self.slow = slow

    def source(self) -> dict[str, str]:
        return {"model": f"by length {self.version}"}

    def score_table(self, texts: list[str]) -> pd.DataFrame:
        if any(text.startswith("refuse") for text in texts):
            raise ValueError("texts must not begin with 'refuse'.")
        time.sleep(self.slow * len(texts))
        good = np.array([1 / (1 + len(text) / 10) for text in texts])
        return pd.DataFrame(
            {
                "p_bad": 1 - good,
                "p_good": good,
                "off_label": 0.0,
                "prediction": np.where(good > 0.5, "good", "bad"),
                "confidence": np.maximum(good, 1 - good),
            }
        )


class Kills(ByLength):
    """Kills its process at a text, each time or once."""

    def __init__(self, marker: str, always: bool = False) -> None:
        super().__init__()
        self.marker = Path(marker)
        self.always = always

    @classmethod
    def factory(cls, *given: Any) -> Callable[[], Kills]:
        return partial(cls, *given)

    def score_table(self, texts: list[str]) -> pd.DataFrame:
        if "kill" in texts and (self.always or not self.marker.exists()):
            self.marker.touch()
            os.kill(os.getpid(), 9)
        return super().score_table(texts)


def fails() -> Any:
    """A factory that makes nothing."""
    raise ValueError("There is no such model.")


def dies() -> Any:
    """A factory that its process does not survive."""
    os.kill(os.getpid(), 9)


if __name__ == "__main__":
    from helpers.scale import classify_dataset

    what, *paths = sys.argv[1:]
    if what == "slow":
        make = partial(ByLength, slow=0.01)
        classify_dataset(*paths, make, rows_per_block=20, workers=2, progress=False)
    for name in ("1000.csv", "1000.parquet", "20000.csv", "20000.parquet"):
        if what == "peaks":
            classify_dataset(
                *(f"{paths[0]}/{name}", f"{paths[0]}/out of {name}", ByLength),
                workers=0,
                progress=False,
            )
            status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
            print(status.split()[0])
