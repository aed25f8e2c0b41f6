"""Which candidate is best, by texts that it has not learned from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..calibration import ProbabilityCalibrator, cross_fitted
from ..checks import plain_text
from ..logistic import grouped_folds
from ..metrics import auroc, paired_difference, risk_coverage_curve
from .candidates import Candidate
from .table import Rows

MEASURES = ["accuracy", "brier", "auroc", "coverage", "seconds"]
_FOLDS = 5
Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen candidate, fitted, with its calibrator, and how all of them did."""

    candidate: Candidate
    calibrator: ProbabilityCalibrator
    candidates: pd.DataFrame
    differences: pd.DataFrame
    n: int
    n_compared: int
    notes: tuple[str, ...]


def choose(
    candidates: Sequence[Candidate],
    rows: Rows,
    *,
    names: Sequence[str],
    risk: float,
    seed: int = 0,
    tell: Tell = lambda said: None,
) -> Choice:
    """The candidate of least Brier score on folds that it was not fitted on.

    Scores and their calibration are cross-fitted, groups in one fold; the chosen
    candidate is to be fitted again, on all these rows. ``names`` are all labels,
    sorted.
    """
    labels, codes = rows.labels, rows.groups
    columns = [f"p_{name}" for name in names]
    folds = grouped_folds(labels, codes, _FOLDS, seed)
    is_true = labels[:, None] == np.array(names)
    raw, calibrated_as, seconds, notes = {}, {}, {}, []
    for one in candidates:
        start = time.perf_counter()
        try:
            found = one.held_out_proba(rows, names, folds)
            known = ~np.isnan(found).any(axis=1)
            own = pd.DataFrame(found[known], columns=columns)
            of_calibrators = cross_fitted(
                ProbabilityCalibrator(),
                own,
                labels[known],
                groups=codes[known],
                n_splits=len(folds),
                seed=seed,
            )
        except ValueError as error:
            notes.append(f"{one.name} is left out: {error}")
            continue
        notes += one.notes
        raw[one.name] = own, known
        shares = calibrated_as[one.name] = np.full(found.shape, np.nan)
        shares[known] = of_calibrators
        seconds[one.name] = time.perf_counter() - start
        right = shares[known].argmax(axis=1) == is_true[known].argmax(axis=1)
        tell(f"{one.name}: accuracy {right.mean():.1%}")
    if not raw:
        raise ValueError("No candidate could be used. " + " ".join(notes))
    common = np.all([known for _, known in raw.values()], axis=0)
    measured, judged = {}, {}
    for name, found in calibrated_as.items():
        shares, true = found[common], is_true[common]
        right, sure = true[np.arange(len(true)), shares.argmax(1)], shares.max(1)
        judged[name] = sure, right
        measured[name] = {
            "accuracy": right.mean(),
            "brier": ((shares - true) ** 2).sum(axis=1).mean(),
            "auroc": auroc(sure, right) if 0 < right.sum() < len(right) else np.nan,
            "coverage": _coverage(sure, right, risk),
            "seconds": seconds[name],
        }
    table = pd.DataFrame(measured).T
    best = str(table["brier"].idxmin())
    winner = next(one for one in candidates if one.name == best)
    differences = {
        name: paired_difference(
            judged[best], judged[name], "accuracy", groups=codes[common], rng=seed
        )
        for name in measured
        if name != best
    }
    own, known = raw[best]
    ids = [plain_text(rows.texts[at]) for at in np.flatnonzero(known).tolist()]
    calibrator = ProbabilityCalibrator().fit(own, labels[known], ids=ids)
    return Choice(
        winner,
        calibrator,
        table,
        pd.DataFrame(differences, ["value", "low", "high"], dtype=float).T,
        len(labels),
        int(common.sum()),
        tuple(notes),
    )


def _coverage(confidence: np.ndarray, right: np.ndarray, risk: float) -> float:
    """The largest share of rows, the surest first, with so few errors among them."""
    curve = risk_coverage_curve(confidence, right)
    return max([0.0, *curve.loc[curve["risk"] <= risk, "coverage"]])
