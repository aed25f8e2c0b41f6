"""Whether new rows are like those that a policy was certified on."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.stats import ks_2samp

from ..calibration.files import Floats, Hashes, Stored, packed
from ..checks import plain_text
from ..decisions import Policy

_LEVEL = 0.01  # of a false alarm, once for all measures
_MOST = 1000  # new rows that are compared; more take long and tell no more
_NONE = np.empty(0)
_NAMES = {
    "confidences": "their confidences",
    "unseen": "the shares of their words that no text learned from has",
    "off_label": "their probabilities of no label",
}
BEYOND = "more of the model's answer is on no label than for any row certified on"


@dataclass(frozen=True, eq=False)
class Likeness:
    """What rows certified on are like: one value a row, of copies and groups one.

    Parameters
    ----------
    confidences : numpy.ndarray
        Calibrated confidences.
    words : numpy.ndarray of uint64
        Hashes of the words of texts that were learned from, which are other rows.
    unseen : numpy.ndarray
        The share of words of each text that are not among these; may be empty.
    off_label : numpy.ndarray
        The model's probability on no label; empty where the candidate tells none.
    """

    confidences: np.ndarray
    words: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    unseen: np.ndarray = field(default_factory=lambda: _NONE)
    off_label: np.ndarray = field(default_factory=lambda: _NONE)

    @classmethod
    def of(
        cls, judged: pd.DataFrame, groups: np.ndarray, learned: Iterable[str] = ()
    ) -> Self:
        """Of rows with ``text``, ``confidence`` and, it may be, ``off_label``."""
        rows = judged[~pd.Series(groups, judged.index).duplicated()]
        words = np.unique(_hashes(" ".join(learned)))
        return cls(
            rows["confidence"].to_numpy(float),
            words,
            _unseen(rows["text"], words) if len(words) else _NONE,
            rows["off_label"].to_numpy(float) if "off_label" in rows else _NONE,
        )

    def is_beyond(self, off_label: pd.Series) -> pd.Series:
        """Whether more probability is on no label than for any row certified on."""
        # A text is read in another batch, which moves the last digits.
        return off_label > self.off_label.max(initial=0) + 1e-5

    def warnings(self, decided: pd.DataFrame) -> list[str]:
        """Sentences on how decided rows differ from those certified on.

        Each measure is compared by Kolmogorov and Smirnov's test, so that of tables
        with rows like those certified on, 1 in 100 at most gets such a sentence. Beside
        that, rows are counted that go to review for their off-label mass.
        """
        told = []
        if n := int((decided["reason"] == BEYOND).sum()):
            expected = len(decided) / (len(self.off_label) + 1)
            told.append(
                f"{n} rows go to review, although they are sure enough: {BEYOND}. Of "
                f"rows like those, up to {expected:.1f} would be expected."
            )
        first = ~decided["text"].map(plain_text).duplicated()
        rows = decided[first & decided["confidence"].notna()]
        if len(rows) > _MOST:
            rows = rows.sample(_MOST, random_state=0)
        if len(rows) < 2:
            return told
        new = {"confidences": rows["confidence"].to_numpy(float)}
        if len(self.unseen):
            new["unseen"] = _unseen(rows["text"], self.words)
        if len(self.off_label):
            new["off_label"] = rows["off_label"].to_numpy(float)
        for name, values in new.items():
            then = getattr(self, name)
            # With ties, the p-value is too high, which is the safe side.
            with warnings.catch_warnings(action="ignore"):  # of many rows: not exact
                found = ks_2samp(then, values)
            if found.pvalue <= _LEVEL / len(new):
                told.append(
                    f"These rows are unlike those certified on: {_NAMES[name]} are "
                    f"distributed otherwise, on average {values.mean():.3f} where "
                    f"{then.mean():.3f} was (Kolmogorov–Smirnov {found.statistic:.2f}, "
                    f"p = {found.pvalue:.2g}). The promise may not hold for them: "
                    "label some, drawn at random, and check."
                )
        return told

    def to_dict(self) -> dict[str, str]:
        """The same as JSON-serialisable strings."""
        return {
            name: packed(getattr(self, name)) for name in _StoredLikeness.model_fields
        }

    @classmethod
    def from_dict(cls, stored: Any) -> Self:
        """What :meth:`to_dict` described."""
        return cls(**dict(_StoredLikeness.read(stored)))


def act(
    policy: Policy,
    scored: pd.DataFrame,
    texts: pd.Series,
    likeness: Likeness,
    *,
    source: Any = None,
) -> pd.DataFrame:
    """Decisions on scored rows; those beyond all off-label mass certified on wait."""
    decided = policy.apply(scored, source=source)
    found = pd.DataFrame(
        {
            "text": texts[decided.index],
            "prediction": decided["prediction"],
            "confidence": decided["decided_on"],
            "action": decided["action"],
            "reason": decided["reason"],
        }
    )
    if "off_label" in decided:
        cautious, accept = policy.buckets.names
        beyond = likeness.is_beyond(decided["off_label"])
        beyond &= found["action"] == accept
        found.loc[beyond, ["action", "reason"]] = [cautious, BEYOND]
        found["off_label"] = decided["off_label"]
    return found


def _hashes(text: str) -> np.ndarray:
    words = re.findall(r"\w+", plain_text(text))
    return pd.util.hash_array(np.array(words, dtype=object))


def _unseen(texts: pd.Series, words: np.ndarray) -> np.ndarray:
    """The share of the words of each text that are not among these."""
    own = [_hashes(text) for text in texts]
    return np.array([1 - np.isin(x, words).mean() if len(x) else 1.0 for x in own])


class _StoredLikeness(Stored):
    confidences: Floats
    words: Hashes
    unseen: Floats
    off_label: Floats
