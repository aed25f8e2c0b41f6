"""A threshold chosen on some labels, with a guarantee; and checked on others.

The error rate above a threshold, read off the labels that the threshold was chosen on,
is too low: of many thresholds the luckiest looks best. Here each threshold has to pass
a test, in an order fixed beforehand, so that all that pass hold together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from ..checks import (
    check_between,
    check_labels,
    check_not_fitted_on,
    check_probabilities,
    check_rows,
)
from ..metrics.bins import at_least
from ..metrics.resampling import Interval
from .risk import (
    Verification,
    labels_to_certify,
    one_row_each,
    passed_tests,
    sequence_starts,
    upper_limits,
    verify_accepted,
)

_RANKS, _RANKS_WELL = 0.6, 0.75  # an AUROC below the first is hardly above chance


@dataclass(frozen=True)
class CertifiedThreshold:
    """The lowest threshold that passed, or why there is none.

    Attributes
    ----------
    threshold : float or None
        Accept what has at least this confidence, in single precision: the same rows
        in whatever precision a table is stored. None if no threshold passed. Of
        several that accept the same labelled items, the highest.
    max_risk, delta : float
        What is certified: the share of errors among accepted items is at most
        ``max_risk``, and this statement is false with a probability of at most
        ``delta``.
    n_labels : int
        Rows used; with groups, one of each.
    n_accepted, n_errors : int
        Of these, how many have the threshold's confidence or more, and how many of
        them are wrong; 0 without a threshold.
    coverage : float
        Share of the labelled items that are accepted.
    labels_needed : int or None
        About how many labels it would take, where no threshold passed: with so many,
        one passes with a probability of 0.8 if risks are what they seem to be, with
        one error more among ``1 / max_risk`` more rows. In simulations with 50 to 200
        labels, certification then succeeded in 75 to 98 % of cases where the risk is
        lowest at the top, often with more than twice the labels it takes, and in 44 %
        where the highest scores are the worst. Where no error was seen at all, it is
        the fewest with which a threshold could pass. None if a threshold passed, or if
        no number of labels would do. In words, it is rounded up to two digits, except
        where no error was seen.
    auroc : Interval or None
        Where no threshold passed: the probability that the confidence of a right item
        is above that of a wrong one, with DeLong's interval at 95 %, which is NaN where
        one side has one item, or all are told apart. None if a threshold passed, or
        where all items are right, or all wrong.
    tested : pandas.DataFrame
        Every threshold with rows above it, from the highest: ``threshold``, ``n``,
        ``errors``, ``risk``, ``upper`` (Clopper and Pearson's limit of the risk, at
        the level of one of the tests) and ``passed``.
    """

    threshold: float | None
    max_risk: float
    delta: float
    n_labels: int
    n_accepted: int
    n_errors: int
    coverage: float
    labels_needed: int | None
    tested: pd.DataFrame
    auroc: Interval | None = None

    @property
    def can_rank(self) -> bool:
        """Whether the confidence parts right from wrong as far as it has to.

        False where accepting everything has too high a risk, and the AUROC is below
        0.6 and its interval below 0.75: then more labels will hardly bring a threshold,
        another confidence might.
        """
        if self.auroc is None or not len(self.tested):
            return True
        risk_of_all = self.tested["risk"].iloc[-1]
        poor = self.auroc.value < _RANKS and self.auroc.high < _RANKS_WELL
        return bool(not poor or risk_of_all <= self.max_risk)

    def __str__(self) -> str:
        aim = f"a risk of at most {self.max_risk:g} at {1 - self.delta:.4g} confidence"
        if self.threshold is not None:
            return (
                f"Accept from {self.threshold:g}: {aim}. {self.n_accepted} of "
                f"{self.n_labels} labelled items are accepted, {self.n_errors} wrong."
            )
        text = f"No threshold can be certified for {aim}"
        if not len(self.tested):
            return f"{text} with {self.n_labels} labels."
        best = self.tested.iloc[int(self.tested["upper"].argmin())]
        why = "the labels are too few"
        if not self.can_rank:
            why = "the confidence hardly ranks errors"
        elif self.labels_needed is None:
            why = "the confidence has too many errors where it is highest"
        ranks = "all wrong" if self.tested["risk"].iloc[-1] else "none of them wrong"
        if self.auroc is not None:
            value, low, high = self.auroc
            interval = f"{low:.3f} to {high:.3f}" if low <= high else "no interval"
            ranks = f"AUROC {value:.3f}, {interval}; 0.5 is chance"
        text += (
            f": {why} ({ranks}), and the tightest bound is {best['upper']:.1%}, at a "
            f"coverage of {best['n'] / self.n_labels:.1%}, with {self.n_labels} labels."
        )
        if self.labels_needed is None:
            return f"{text} It seems that no number of labels would do."
        if not self.can_rank:
            return f"{text} More labels alone will hardly do."
        needed = self.labels_needed
        if self.tested["errors"].any():
            # Upwards, so that it stays above the number of labels that were too few.
            unit = 10 ** max(len(str(needed)) - 2, 0)
            needed = -(-needed // unit) * unit
        return f"{text} It may take about {needed:,}, or more."


def choose_threshold(
    scores: ArrayLike,
    correct: ArrayLike,
    max_risk: float,
    delta: float = 0.05,
    *,
    grid: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    rng: np.random.Generator | int | None = 0,
) -> CertifiedThreshold:
    """The lowest threshold above which the risk is certainly low enough.

    The hypothesis that the risk above a threshold is more than ``max_risk`` is tested
    with the binomial distribution, from high thresholds to low ones, until one fails:
    fixed-sequence testing, which needs no correction for the number of thresholds. It
    would often fail at its first and smallest group of items. So with many labels there
    are up to four such sequences, which begin where there are m, 4m, 16m and 64m items
    above the threshold, m being the fewest with which a test can pass at all; they
    share ``delta`` equally. How many there are depends on the number of labels only.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Confidences in [0, 1] of items that were labelled, a random sample of those to
        come. Neither the model nor a calibrator may have been fitted on them; what a
        calibrator marked as such is refused.
    correct : array-like of shape (n,)
        1 or True where the prediction was correct, else 0.
    max_risk : float
        The most errors among accepted items, as a share in (0, 1).
    delta : float, default=0.05
        Probability that the statement is false, in (0, 1).
    grid : array-like of float, optional
        Thresholds to consider, in [0, 1]. They must not depend on ``correct`` or on
        these scores; others, such as quantiles of unlabelled scores, may be used. The
        default is 0, 0.01, … 0.99 and, where scores near one crowd, 0.992 … 0.9999.
    groups : array-like of shape (n,), optional
        What each row belongs to. Rows with the same value, such as pages of a
        document, are not independent: one row of each group, drawn at random, is used,
        so that the test is exact.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance, for that draw.

    Returns
    -------
    CertifiedThreshold

    Raises
    ------
    ValueError
        Bad data, or a number out of range.

    Notes
    -----
    At a threshold that was fixed beforehand, the errors among the rows above it are
    binomial. The sequences begin at row counts, not at fixed thresholds. For the first
    one that changes nothing, whatever shape the risk has: fewer rows than it begins
    with could not pass. For the others the guarantee is exact where the risk does not
    fall as the threshold falls; for other shapes it was checked by simulation.

    Rows must be independent: with several rows of one document or person, the
    guarantee does not hold without ``groups``. With them, it is about a random row of
    a random group, where a group with many rows counts no more than one with few. The
    draw looks at neither scores nor outcomes, only at the places of the rows: in
    another order, or with another ``rng``, other rows are drawn. To try several and
    keep the best would void the guarantee.

    References
    ----------
    Angelopoulos, Bates, Candès, Jordan and Lei, Learn then Test: calibrating
    predictive algorithms to achieve risk control, Annals of Applied Statistics 19,
    2025. Clopper and Pearson, Biometrika 26, 1934.

    Examples
    --------
    >>> scores = [0.95] * 100 + [0.6] * 100
    >>> correct = [1] * 99 + [0] + [1, 0] * 50
    >>> print(choose_threshold(scores, correct, max_risk=0.1))
    Accept from 0.95: a risk of at most 0.1 at 0.95 confidence. 100 of 200 labelled \
items are accepted, 1 wrong.
    >>> print(choose_threshold(scores[:20], correct[:20], max_risk=0.1))
    No threshold can be certified for a risk of at most 0.1 at 0.95 confidence: the \
labels are too few (none of them wrong), and the tightest bound is 13.9%, at a \
coverage of 100.0%, with 20 labels. It may take about 29, or more.
    """
    check_between("max_risk", max_risk, 0, 1)
    check_between("delta", delta, 0, 1)
    values, outcome, codes = check_rows(scores, correct, groups, name="scores")
    check_not_fitted_on(scores, "scores")
    points = _grid(grid)
    used = one_row_each(codes, len(values), rng)
    return _certified(values[used], outcome[used], max_risk, delta, points)


def choose_thresholds_per_class(
    scores: ArrayLike,
    correct: ArrayLike,
    predicted: Any,
    max_risk: float,
    delta: float = 0.05,
    *,
    grid: ArrayLike | None = None,
    together: bool = True,
    groups: ArrayLike | None = None,
    rng: np.random.Generator | int | None = 0,
) -> dict[Any, CertifiedThreshold]:
    """A threshold for each predicted label.

    Parameters
    ----------
    scores, correct, max_risk, delta, grid
        As for :func:`choose_threshold`.
    predicted : array-like of shape (n,)
        The predicted label of each row.
    together : bool, default=True
        Whether all statements are to hold at once, with probability ``1 - delta``.
        Otherwise each holds with that probability, and some may well be false.
    groups, rng
        As for :func:`choose_threshold`. One row of each group is drawn, whatever its
        label, and the rows drawn are then parted by label.

    Returns
    -------
    dict
        A :class:`CertifiedThreshold` for each label in ``predicted``, in its order;
        its ``delta`` is the share that the label was given.

    Raises
    ------
    ValueError
        Bad data, or a number out of range.

    Examples
    --------
    >>> found = choose_thresholds_per_class(
    ...     [0.9] * 80, [1] * 80, ["a"] * 40 + ["b"] * 40, max_risk=0.1
    ... )
    >>> {label: one.threshold for label, one in found.items()}
    {'a': 0.9, 'b': 0.9}
    """
    check_between("max_risk", max_risk, 0, 1)
    check_between("delta", delta, 0, 1)
    values, outcome, codes = check_rows(scores, correct, groups, name="scores")
    labels = pd.Series(check_labels(predicted, "predicted", scores, correct))
    check_not_fitted_on(scores, "scores")
    points = _grid(grid)
    used = one_row_each(codes, len(values), rng)
    # Of all labels, also those of which no row is drawn: the share is fixed before.
    kinds = labels.unique()
    share = delta / len(kinds) if together else delta
    values, outcome, labels = values[used], outcome[used], labels.iloc[used]
    found = {}
    for kind in kinds:
        own = (labels == kind).to_numpy()
        found[kind] = _certified(values[own], outcome[own], max_risk, share, points)
    return found


def verify(
    threshold: float | CertifiedThreshold,
    scores: ArrayLike,
    correct: ArrayLike,
    max_risk: float | None = None,
    delta: float | None = None,
    *,
    groups: ArrayLike | None = None,
    rng: np.random.Generator | int | None = 0,
) -> Verification:
    """What labels that the threshold was not chosen on say of it.

    Parameters
    ----------
    threshold : float or CertifiedThreshold
        Items with at least this confidence are accepted.
    scores, correct : array-like of shape (n,)
        Confidences and outcomes of other items.
    max_risk : float, optional
        The most errors among accepted items, as a share in (0, 1). By default what the
        threshold was certified for; needed with a number.
    delta : float, optional
        Probability that a verdict of "holds", or one of "fails", is false, in (0, 1).
        By default that of the certificate, and 0.05 with a number.
    groups : array-like of shape (n,), optional
        What each row belongs to. Rows with the same value, such as pages of a
        document, are not independent: one row of each group, drawn at random, is used,
        so that the test is exact. It is then one of a random row of a random group.
    rng : numpy.random.Generator, int or None, default=0
        Source or seed of chance, for that draw.

    Returns
    -------
    Verification

    Raises
    ------
    ValueError
        Bad data, a number out of range, no threshold was certified, or a number comes
        without ``max_risk``.

    Examples
    --------
    >>> found = verify(0.9, [0.95] * 200 + [0.5] * 50, [1] * 195 + [0] * 55, 0.05)
    >>> found.verdict, found.n_errors, round(found.high, 3)
    ('not enough data', 5, 0.052)
    >>> certified = choose_threshold([0.9] * 60, [1] * 60, max_risk=0.1)
    >>> print(verify(certified, [0.95] * 40 + [0.5] * 10, [1] * 50))
    Accept from 0.9: a risk of at most 0.1 holds at 0.95 confidence. 40 of 50 labelled \
items are accepted (80.0%), 0 wrong (0.00%; at most 7.22%, and at least 0.00%, \
each at 0.95 confidence).
    """
    if isinstance(threshold, CertifiedThreshold):
        if threshold.threshold is None:
            raise ValueError(f"threshold must be one that passed. {threshold}")
        max_risk = threshold.max_risk if max_risk is None else max_risk
        delta = threshold.delta if delta is None else delta
        threshold = threshold.threshold
    least = check_between("threshold", threshold, 0, 1, closed=True)
    if max_risk is None:
        raise ValueError("max_risk must be given where threshold is a plain number.")
    limit = check_between("max_risk", max_risk, 0, 1)
    level = 0.05 if delta is None else delta
    values, outcome, codes = check_rows(scores, correct, groups, name="scores")
    check_not_fitted_on(scores, "scores")
    accepted = at_least(values, least)
    found = verify_accepted(accepted, outcome, limit, level, groups=codes, rng=rng)
    return replace(found, threshold=least)


def verify_per_class(
    thresholds: Mapping[Any, CertifiedThreshold | float | None],
    scores: ArrayLike,
    correct: ArrayLike,
    predicted: Any,
    max_risk: float | None = None,
    delta: float = 0.05,
    *,
    together: bool = True,
    groups: ArrayLike | None = None,
    rng: np.random.Generator | int | None = 0,
) -> dict[Any, Verification]:
    """What labels that the thresholds were not chosen on say of each of them.

    Parameters
    ----------
    thresholds : mapping of label to CertifiedThreshold, float or None
        Rows with this predicted label and at least this confidence are accepted. Labels
        without a threshold are left out, and nothing is accepted of labels that are
        not named.
    scores, correct, predicted : array-like of shape (n,)
        Confidences, outcomes and predicted labels of other items.
    max_risk : float, optional
        As for :func:`verify`: by default what each threshold was certified for.
    delta : float, default=0.05
        Probability that any of the verdicts "holds", or any of the verdicts "fails", is
        false, in (0, 1). That of a certificate is not used, since it may be a share.
    together : bool, default=True
        Whether ``delta`` is for all verdicts together, so that each threshold is
        tested at ``delta`` over the number of thresholds; otherwise for each.
    groups, rng
        As for :func:`verify`. One row of each group is drawn, whatever its label.

    Returns
    -------
    dict
        A :class:`Verification` for each label with a threshold. ``n_labels`` is the
        number of rows used, of all labels, and ``coverage`` the share of them that is
        accepted with this label.

    Raises
    ------
    ValueError
        Bad data, a number out of range, plain numbers without ``max_risk``, no label
        is named, or none of those named is in ``predicted``, as where 1 stands for "1".
        Where others are there, a label that is not has "not enough data".
    TypeError
        The thresholds are no mapping.

    Examples
    --------
    >>> found = verify_per_class(
    ...     {"a": 0.9, "b": 0.7, "c": None},
    ...     [0.95] * 200,
    ...     [1] * 100 + [1, 0] * 50,
    ...     ["a"] * 100 + ["b"] * 100,
    ...     max_risk=0.1,
    ... )
    >>> {label: one.verdict for label, one in found.items()}
    {'a': 'holds', 'b': 'fails'}
    """
    check_between("delta", delta, 0, 1)
    if not isinstance(thresholds, Mapping):
        raise TypeError(
            f"thresholds must be a mapping of labels to thresholds, not {thresholds!r}."
        )
    if not thresholds:
        raise ValueError("thresholds must name at least one label; there is none.")
    rules = {}
    for label, one in thresholds.items():
        limit = max_risk
        if isinstance(one, CertifiedThreshold):
            limit = one.max_risk if max_risk is None else max_risk
            one = one.threshold
        if one is None:
            continue
        least = check_between(f"thresholds[{label!r}]", one, 0, 1, closed=True)
        if limit is None:
            raise ValueError(
                "max_risk must be given where thresholds are plain numbers, as that of "
                f"{label!r} is."
            )
        rules[label] = least, check_between("max_risk", limit, 0, 1)
    values, outcome, codes = check_rows(scores, correct, groups, name="scores")
    labels = pd.Series(check_labels(predicted, "predicted", scores, correct))
    check_not_fitted_on(scores, "scores")
    if not any((labels == label).any() for label in thresholds):
        raise ValueError(
            "thresholds must name labels as predicted has them; none of "
            f"{_first(thresholds)} is among {_first(labels.unique())}."
        )
    used = one_row_each(codes, len(values), rng)
    values, outcome, labels = values[used], outcome[used], labels.iloc[used]
    share = delta / len(rules) if together and rules else delta
    found = {}
    for label, (least, limit) in rules.items():
        accepted = (labels == label).to_numpy() & at_least(values, least)
        checked = verify_accepted(accepted, outcome, limit, share)
        found[label] = replace(checked, threshold=least)
    return found


def _certified(
    scores: np.ndarray,
    correct: np.ndarray,
    max_risk: float,
    delta: float,
    points: np.ndarray,
) -> CertifiedThreshold:
    """The choice among these thresholds, on independent rows, which may be none."""
    total = len(scores)
    n, errors = _counts(scores, correct, points)
    starts = sequence_starts(total, max_risk, delta)
    level = delta / len(starts)
    passed = passed_tests(n, errors, starts, max_risk, level)
    tested = pd.DataFrame(
        {
            "threshold": points,
            "n": n,
            "errors": errors,
            "risk": np.divide(errors, n, where=n > 0, out=np.full(len(n), np.nan)),
            "upper": upper_limits(errors, n, level),
            "passed": passed,
        }
    )[n > 0].reset_index(drop=True)
    chosen = needed = None
    if passed.any():
        # Of those that accept the same rows the highest: between them nothing was seen.
        lowest = np.flatnonzero(passed)[-1]
        chosen = int(np.flatnonzero(passed & (n == n[lowest]))[0])
    else:
        needed = labels_to_certify(n, errors, total, max_risk, delta)
    return CertifiedThreshold(
        threshold=None if chosen is None else float(points[chosen]),
        max_risk=float(max_risk),
        delta=float(delta),
        n_labels=total,
        n_accepted=0 if chosen is None else int(n[chosen]),
        n_errors=0 if chosen is None else int(errors[chosen]),
        coverage=0.0 if chosen is None else float(n[chosen] / total),
        labels_needed=needed,
        tested=tested,
        auroc=None if chosen is not None else _auroc(scores, correct),
    )


def _auroc(scores: np.ndarray, correct: np.ndarray) -> Interval | None:
    """AUROC with the interval of DeLong, DeLong and Clarke-Pearson (1988)."""
    right, wrong = scores[correct], scores[~correct]
    if not len(right) or not len(wrong):
        return None
    everywhere = rankdata(np.append(right, wrong))
    # The share of the other side that each item is above, a tie for a half.
    above = (everywhere[: len(right)] - rankdata(right)) / len(wrong)
    below = 1 - (everywhere[len(right) :] - rankdata(wrong)) / len(right)
    value, half = float(above.mean()), np.nan
    if min(len(right), len(wrong)) > 1 and 0 < value < 1:
        variance = sum(np.var(x) / (len(x) - 1) for x in (above, below))
        half = 1.96 * float(np.sqrt(variance))
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))


def _first(labels: Iterable[Any], most: int = 5) -> str:
    words = [repr(label) for label in labels]
    return ", ".join(words[:most]) + (", …" if len(words) > most else "")


def _grid(grid: ArrayLike | None) -> np.ndarray:
    if grid is None:
        near_one = 1 - np.array([8, 6, 4, 2, 1, 0.5, 0.1]) / 1000
        points = np.append(np.arange(100) / 100, near_one)
    else:
        points = check_probabilities(grid, "grid").astype(float)
    return np.unique(points)[::-1]


def _counts(
    scores: np.ndarray, correct: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows at or above each threshold, and errors among them."""
    scores = scores.astype(np.float32)  # as a policy compares them
    order = np.argsort(scores, kind="stable")
    wrong = np.append(0, np.cumsum(~correct[order]))
    below = np.searchsorted(scores[order], points.astype(np.float32), side="left")
    return len(scores) - below, wrong[-1] - wrong[below]
