"""What is known of many texts at once, from lists of tokens, from votes, from words."""

from __future__ import annotations

import re
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
    """Label probabilities of texts, and between which limits they lie.

    Attributes
    ----------
    shares : numpy.ndarray of shape (n, K)
        Probabilities, normalised over the labels; inside the limits.
    low, high : numpy.ndarray of shape (n, K)
        Limits of the normalised probabilities.
    best : numpy.ndarray of int, of shape (n,)
        The label predicted.
    decided : numpy.ndarray of bool, of shape (n,)
        Whether no other label can be more probable.
    off_label, off_list, unlisted, unresolved : numpy.ndarray of shape (n,)
        Probability outside the labels: all that is not known to be a label's, and its
        parts; NaN where there is no such thing.
    calls : numpy.ndarray of int, of shape (n,)
        How many requests each text took.
    problems : list of (str or None)
        Why nothing is known, where that is so.
    """

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

    def take(self, rows: Sequence[int]) -> HostedScores:
        """Some of the rows, in another order or several times.

        Parameters
        ----------
        rows : sequence of int
            Which ones.

        Returns
        -------
        HostedScores
        """
        at = np.asarray(rows, dtype=np.intp)
        arrays = {
            name: value[at] for name, value in vars(self).items() if name != "problems"
        }
        return HostedScores(**arrays, problems=[self.problems[row] for row in at])

    def table(self, labels: Sequence[str], index: pd.Index | None) -> pd.DataFrame:
        """One tidy row a text.

        Parameters
        ----------
        labels : sequence of str
            The labels, in the order of the columns.
        index : pandas.Index or None
            Names of the rows.

        Returns
        -------
        pandas.DataFrame
        """
        names = np.asarray(labels)
        table = pd.DataFrame(
            self.shares, columns=[f"p_{label}" for label in labels], index=index
        )
        table["off_label"] = self.off_label
        table["prediction"] = names[self.best]
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
    """Scores from what lists of tokens hold, and what they leave open.

    Parameters
    ----------
    found : sequence of LabelMass
        One a text.
    n_labels : int
        Number of labels.
    calls, problems
        Those of :class:`HostedScores`.

    Returns
    -------
    HostedScores
        The point is the known probability of each label, divided by that of all. Where
        none is known, it is what each could have, divided by what all could.
    """
    rows, limits = [], []
    for mass in found:
        low, high = share_bounds(
            mass.lower, mass.gain, mass.others, np.zeros(len(mass.lower))
        )
        known = mass.lower if mass.lower.any() else mass.gain
        total = known.sum()
        share = known / total if total else np.full(n_labels, 1 / n_labels)
        # What rounding takes off an end.
        limits.append((share, np.minimum(low, share), np.maximum(high, share)))
        rows.append(leader(mass.lower, np.minimum(mass.lower + mass.gain, 1.0))[1])
    shares, low, high = np.reshape(limits, (-1, 3, n_labels)).transpose(1, 0, 2)
    known = np.array([mass.lower.sum() for mass in found], dtype=float)
    return HostedScores(
        shares=shares,
        low=low,
        high=high,
        best=shares.argmax(axis=1),
        decided=np.array(rows, dtype=bool),
        off_label=np.clip(1 - known, 0, 1),
        off_list=np.array([mass.off_list for mass in found], dtype=float),
        unlisted=np.array([mass.unlisted for mass in found], dtype=float),
        unresolved=np.array([mass.unresolved for mass in found], dtype=float),
        calls=np.array(calls, dtype=int),
        problems=list(problems),
    )


def vote_scores(counts: np.ndarray, *, level: float = 0.95) -> HostedScores:
    """Scores from counted answers.

    Parameters
    ----------
    counts : numpy.ndarray of int, of shape (n, K + 1)
        Answers that are each label, and in the last column those that are none.
    level : float, default=0.95
        Level of the Wilson intervals.

    Returns
    -------
    HostedScores
        Of the answers that are labels, each label's part, with its interval. "Decided"
        is a text where the interval of one label lies above all others.

    Examples
    --------
    >>> found = vote_scores(np.array([[5, 0, 0]]))
    >>> found.shares.tolist(), found.low.round(3).tolist()
    ([[1.0, 0.0]], [[0.566, 0.0]])
    """
    votes, n_labels = counts[:, :-1], counts.shape[1] - 1
    valid = votes.sum(axis=1)
    some = valid[:, None] > 0
    tries = np.maximum(valid, 1)[:, None]
    shares = np.where(some, votes / tries, 1 / n_labels)
    low, high = proportion_confint(votes, tries, alpha=1 - level, method="wilson")
    low = np.where(some, np.clip(low, 0, shares), 0.0)
    high = np.where(some, np.clip(high, shares, 1), 1.0)
    decided = [leader(*ends)[1] for ends in zip(low, high, strict=True)]
    missing = np.full(len(counts), np.nan)
    return HostedScores(
        shares=shares,
        low=low,
        high=high,
        best=shares.argmax(axis=1),
        decided=np.array(decided, dtype=bool),
        off_label=counts[:, -1] / counts.sum(axis=1),
        off_list=missing,
        unlisted=missing,
        unresolved=missing,
        calls=counts.sum(axis=1),
        problems=[None if n else "No answer is a label." for n in valid],
    )


def report_scores(
    given: Sequence[int | None],
    reports: Sequence[float],
    problems: Sequence[str | None],
    n_labels: int,
) -> HostedScores:
    """Scores from labels given in words, and how sure the model says it is of them.

    Parameters
    ----------
    given : sequence of (int or None)
        The label of each text; None where the answer is none.
    reports : sequence of float
        How sure the model says it is, in [0, 1]; NaN where it does not.
    problems : sequence of (str or None)
        Why there is no label, or no report.
    n_labels : int
        Number of labels.

    Returns
    -------
    HostedScores
        The label has what the model says, the others the rest in equal parts. That
        bounds nothing: the limits are 0 and 1, and no text is decided.
    """
    n = len(given)
    shares = np.full((n, n_labels), 1 / n_labels)
    for row, (label, report) in enumerate(zip(given, reports, strict=True)):
        if label is not None and not np.isnan(report):
            shares[row] = (1 - report) / (n_labels - 1)
            shares[row, label] = report
    missing = np.full(n, np.nan)
    return HostedScores(
        shares=shares,
        low=np.zeros_like(shares),
        high=np.ones_like(shares),
        best=np.array([label or 0 for label in given], dtype=np.intp),
        decided=np.zeros(n, dtype=bool),
        off_label=missing,
        off_list=missing,
        unlisted=missing,
        unresolved=missing,
        calls=np.array([1 if label is None else 2 for label in given], dtype=int),
        problems=list(problems),
    )


def read_label(answer: Answer, texts: LabelTexts) -> int | None:
    """The label that an answer without log-probabilities expresses.

    Parameters
    ----------
    answer : Answer
        The answer.
    texts : LabelTexts
        What counts as a label, and what must follow it. Without a terminator, a label
        must end where a word does.

    Returns
    -------
    int or None
        The index of the label; None if the answer is none.

    Examples
    --------
    >>> from helpers.hosted import TokenUsage
    >>> said = Answer("Note that", (), "stop", None, TokenUsage(), "m", None)
    >>> read_label(said, LabelTexts.build(["No", "Yes"])) is None
    True
    """
    said = answer.text.strip()
    forms = {data.decode("utf-8").strip(): at for data, at in texts.owners.items()}
    for form in sorted(forms, key=len, reverse=True):
        rest = answer.text.lstrip()[len(form) :]
        if not said.startswith(form):
            continue
        if not texts.has_end:
            if not re.match(r"\w", rest):
                return forms[form]
        elif rest.startswith(texts.ends) or (texts.turn_ends and not rest.strip()):
            return forms[form]
    return None
