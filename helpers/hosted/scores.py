"""What is known of many texts at once, from lists of tokens, from votes, from words.

What is not known is NaN, and no label: half and half would look like an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from ..bounds import leader, share_bounds
from .answers import Answer
from .spelling import LabelTexts
from .tree import LabelMass


@dataclass(frozen=True)
class HostedScores:
    """Label probabilities of texts, and between which limits they lie."""

    shares: np.ndarray
    low: np.ndarray
    high: np.ndarray
    best: np.ndarray
    decided: np.ndarray
    off_label: np.ndarray
    off_list: np.ndarray
    unlisted: np.ndarray
    unresolved: np.ndarray
    calls: np.ndarray
    problems: list[str | None]

    @property
    def known(self) -> np.ndarray:
        """Whether a text has a confidence."""
        return ~np.isnan(self.shares[:, 0])

    def take(self, rows: Sequence[int]) -> HostedScores:
        """Some of the rows, in another order or several times."""
        at = np.asarray(rows, dtype=np.intp)
        arrays = {
            name: value[at] for name, value in vars(self).items() if name != "problems"
        }
        return HostedScores(**arrays, problems=[self.problems[row] for row in at])

    def predictions(self, labels: Sequence[str]) -> np.ndarray:
        """The label of each text, None for none."""
        names = np.asarray([*labels, None], dtype=object)[self.best]
        return names if (self.best < 0).any() else names.astype(str)

    def table(self, labels: Sequence[str], index: pd.Index | None) -> pd.DataFrame:
        """One tidy row a text."""
        table = pd.DataFrame(
            self.shares, columns=[f"p_{label}" for label in labels], index=index
        )
        table["off_label"] = self.off_label
        table["prediction"] = self.predictions(labels)
        table["confidence"] = self.shares[np.arange(len(self.best)), self.best]
        for at, label in enumerate(labels):
            table[f"lower_{label}"] = self.low[:, at]
            table[f"upper_{label}"] = self.high[:, at]
        for name in ("decided", "unlisted", "off_list", "unresolved", "calls"):
            table[name] = getattr(self, name)
        table["problem"] = pd.Series(self.problems, index=table.index, dtype=object)
        return table


def mass_scores(
    found: Sequence[LabelMass],
    n_labels: int,
    calls: Sequence[int],
    problems: Sequence[str | None],
) -> HostedScores:
    """Scores from what lists of tokens hold, and what they leave open."""
    rows, limits = [], []
    for mass in found:
        low, high = share_bounds(
            mass.lower, mass.gain, mass.others, np.zeros(len(mass.lower))
        )
        total = mass.lower.sum()
        share = mass.lower / total if total else np.full(n_labels, np.nan)
        # What rounding takes off an end.
        limits.append((share, np.fmin(low, share), np.fmax(high, share)))
        rows.append(leader(mass.lower, np.minimum(mass.lower + mass.gain, 1.0))[1])
    shares, low, high = np.reshape(limits, (-1, 3, n_labels)).transpose(1, 0, 2)
    known = np.array([mass.lower.sum() for mass in found], dtype=float)
    return HostedScores(
        shares=shares,
        low=low,
        high=high,
        best=_best(shares),
        decided=np.array(rows, dtype=bool),
        off_label=np.clip(1 - known, 0, 1),
        off_list=np.array([mass.off_list for mass in found], dtype=float),
        unlisted=np.array([mass.unlisted for mass in found], dtype=float),
        unresolved=np.array([mass.unresolved for mass in found], dtype=float),
        calls=np.array(calls, dtype=int),
        problems=[
            why if total else why or "The server lists nothing that is a label."
            for why, total in zip(problems, known, strict=True)
        ],
    )


def vote_scores(
    counts: np.ndarray,
    calls: np.ndarray,
    problems: Sequence[str | None],
    *,
    level: float = 0.95,
) -> HostedScores:
    """Scores from counted answers, each label's and in the last column no label's.

    Shares are of the answers that are labels, with Wilson intervals; a text is decided
    where the interval of one label lies above all others.
    """
    votes = counts[:, :-1]
    valid = votes.sum(axis=1)
    some = valid[:, None] > 0
    missing = np.full(len(counts), np.nan)
    tries = np.maximum(valid, 1)[:, None]
    shares = np.where(some, votes / tries, np.nan)
    low, high = proportion_confint(votes, tries, alpha=1 - level, method="wilson")
    low = np.where(some, np.clip(low, 0, shares), 0.0)
    high = np.where(some, np.clip(high, shares, 1), 1.0)
    answers = counts.sum(axis=1)
    off_label = np.divide(counts[:, -1], answers, out=missing.copy(), where=answers > 0)
    decided = [leader(*ends)[1] for ends in zip(low, high, strict=True)]
    return HostedScores(
        shares=shares,
        low=low,
        high=high,
        best=_best(shares),
        decided=np.array(decided, dtype=bool),
        off_label=off_label,
        off_list=missing,
        unlisted=missing,
        unresolved=missing,
        calls=calls,
        problems=[
            why if n else why or "No answer is a label."
            for why, n in zip(problems, valid, strict=True)
        ],
    )


def report_scores(
    given: Sequence[int | None],
    reports: Sequence[float],
    problems: Sequence[str | None],
    n_labels: int,
) -> HostedScores:
    """Scores from labels given in words, and how sure the model says it is of them."""
    n = len(given)
    shares = np.full((n, n_labels), np.nan)
    for row, (label, report) in enumerate(zip(given, reports, strict=True)):
        if label is not None and not np.isnan(report):
            shares[row] = (1 - report) / (n_labels - 1)
            shares[row, label] = report
    missing = np.full(n, np.nan)
    return HostedScores(
        shares=shares,
        low=np.zeros_like(shares),
        high=np.ones_like(shares),
        best=np.array([-1 if label is None else label for label in given], int),
        decided=np.zeros(n, dtype=bool),
        off_label=missing,
        off_list=missing,
        unlisted=missing,
        unresolved=missing,
        calls=np.array([1 if label is None else 2 for label in given], dtype=int),
        problems=list(problems),
    )


def _best(shares: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(shares[:, 0]), -1, shares.argmax(axis=1))


def read_label(answer: Answer, texts: LabelTexts) -> int | None:
    """The label that an answer without log-probabilities is; None if it is none.

    It must be the label and nothing else, but for white space, quotes, Markdown and a
    full stop. A label in a sentence may be denied there, or be one of several.
    """
    said = answer.text.lstrip()
    found = [at for end in texts.ends if (at := said.find(end)) >= 0]
    if found:
        said = said[: min(found)]
    elif answer.finish_reason == "length" or (texts.ends and not texts.turn_ends):
        return None  # it may go on
    forms = {data.decode("utf-8").strip(): at for data, at in texts.owners.items()}
    if said.strip() in forms:
        return forms[said.strip()]
    alike = {at for form, at in forms.items() if _bare(form) == _bare(said)}
    return alike.pop() if len(alike) == 1 else None


def _bare(text: str) -> str:
    marks = " \t\r\n\"'`*_“”"
    return text.strip(marks).removesuffix(".").strip(marks)
