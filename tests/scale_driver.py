"""Classifiers for tests of helpers.scale, and a driver that can be killed.

``python scale_driver.py SETTINGS`` runs classify_dataset with the settings, which are
JSON: the arguments, and ``classifier`` with the name and the arguments of a factory.
"""

from __future__ import annotations

import json
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


class NotesPeak(ByLength):
    """Writes down the most memory that its process has had."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def score_table(self, texts: list[str]) -> pd.DataFrame:
        note_peak(Path(self.folder))
        return super().score_table(texts)


class Kills(ByLength):
    """Kills its process at a text, each time or once."""

    def __init__(self, marker: str, always: bool = False) -> None:
        super().__init__()
        self.marker = Path(marker)
        self.always = always

    def score_table(self, texts: list[str]) -> pd.DataFrame:
        if "kill" in texts and (self.always or not self.marker.exists()):
            self.marker.touch()
            os.kill(os.getpid(), 9)
        return super().score_table(texts)


def note_peak(folder: Path) -> None:
    """Write down the most memory that this process has had, in kB."""
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    (folder / f"{os.getpid()}.peak").write_text(peak.split()[1])


def tiny(folder: str) -> Any:
    """A classifier over a tiny model that lies in a folder."""
    from helpers.classifier import LLMClassifier
    from helpers.models import LanguageModel

    model = LanguageModel.load(folder, device="cpu")
    prompt = "Review: {text}\nSentiment:"
    return LLMClassifier(model, ["positive", "negative"], prompt, cache=False)


def fails() -> Any:
    """A factory that makes nothing."""
    raise ValueError("There is no such model.")


def dies() -> Any:
    """A factory that its process does not survive."""
    os.kill(os.getpid(), 9)


def factory(kind: str, *given: Any) -> Callable[[], Any]:
    """Something to call for a classifier, by name."""
    return partial(globals()[kind], *given)


def main(settings: dict[str, Any]) -> None:
    """Run what the settings say."""
    from helpers.scale import classify_dataset

    classify_dataset(
        classifier_factory=factory(*settings.pop("classifier")),
        **{key: settings[key] for key in settings if key != "peaks"},
    )
    if "peaks" in settings:
        note_peak(Path(settings["peaks"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
