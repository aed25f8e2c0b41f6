"""What a policy does with the rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..calibration import Calibrated, Calibrator, MulticlassCalibrator
from ..calibration.base import check_source
from ..checks import check_table
from .policy_words import reasons

if TYPE_CHECKING:
    from .policy import Policy

_NO_CONFIDENCE = "no confidence is known"
_NO_PREDICTION = "no prediction is known"


def check_mapping(name: str, value: Any, of: str) -> None:
    """Raise an error unless this is a mapping, from and to what ``of`` says."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of {of}, not {value!r}.")


def apply_policy(
    policy: Policy, table: pd.DataFrame, source: Mapping[str, str] | None
) -> tuple[pd.DataFrame, int]:
    """The table with its actions, and how many rows the calibrator has seen."""
    check_table(table, ("prediction", "confidence"), empty=True)
    _check_read(table, policy, source)
    scores = _read_scores(table, policy.calibrator)
    labels = table["prediction"].astype(object)
    known = scores.notna().to_numpy().all(axis=1) & labels.notna().to_numpy()
    _check_types(labels[known], policy.by_label)
    decided_on = np.full(len(table), np.nan)
    n_seen = 0
    if known.any():
        found = _calibrated(scores[known], labels[known], policy.calibrator)
        decided_on[known] = np.asarray(found)
        n_seen = int(found.fitted_on.sum()) if isinstance(found, Calibrated) else 0
    codes = np.zeros(len(table), dtype=int)
    reason = np.where(labels.isna(), _NO_PREDICTION, _NO_CONFIDENCE).astype(object)
    what = "confidence" if policy.calibrator is None else "calibrated confidence"
    groups = [(~labels.isin(list(policy.by_label)), policy.buckets, "")]
    groups += [
        (labels == label, buckets, f" for {label!r}")
        for label, buckets in policy.by_label.items()
    ]
    for member, buckets, whose in groups:
        rows = np.flatnonzero(member.to_numpy() & known)
        if len(rows):
            values = decided_on[rows]
            codes[rows] = buckets.codes(values)
            reason[rows] = reasons(values, codes[rows], buckets, what, whose)
    applied = table.assign(
        decided_on=decided_on,
        action=np.array(policy.buckets.names, dtype=object)[codes],
        reason=reason,
    )
    return applied, n_seen


def _check_read(
    table: pd.DataFrame, policy: Policy, source: Mapping[str, str] | None
) -> None:
    """Whether the table has what every policy reads, from the source it is for."""
    if source is not None:
        check_mapping("source", source, "what is said of scores to its value")
    if policy.source is not None:
        given = table.attrs.get("source") if source is None else source
        if not isinstance(given, Mapping) or set(policy.source) - set(given):
            raise ValueError(
                "table must say what its confidences come from, in attrs['source'] "
                f"or as source: this policy is for {dict(policy.source)}."
            )
        check_source(given, policy.source, "this policy is for")


def _read_scores(
    table: pd.DataFrame, calibrator: Calibrator | MulticlassCalibrator | None
) -> pd.DataFrame:
    """The columns that the confidence is made of."""
    if not isinstance(calibrator, MulticlassCalibrator):
        return _numbers(table, "confidence").astype(float).to_frame()
    columns = [f"p_{label}" for label in calibrator.classes_]
    check_table(table, columns, empty=True)
    numbers = {name: _numbers(table, name).to_numpy(float) for name in columns}
    return pd.DataFrame(numbers, index=table.index)


def _numbers(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as numbers, NaN only where it has none."""
    numbers = pd.to_numeric(table[column], errors="coerce")
    wrong = (numbers.isna() & table[column].notna()).to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        value = table[column].iloc[row]
        raise ValueError(f"{column} must be numbers; row {row} is {value!r}.")
    return numbers


def _check_types(labels: pd.Series, by_label: Mapping[str | int, Any]) -> None:
    # 71 is not "71": the label's own ranges would not be found, and not missed.
    ours = {isinstance(label, str) for label in by_label}
    theirs = {isinstance(label, str) for label in labels}
    if ours and theirs and not ours & theirs:
        raise ValueError(
            f"prediction must be of the type of by_label's {list(by_label)}; "
            f"the first is {labels.iloc[0]!r}."
        )


def _calibrated(
    scores: pd.DataFrame,
    labels: pd.Series,
    calibrator: Calibrator | MulticlassCalibrator | None,
) -> Any:
    """The confidence in each prediction, and which rows were fitted on."""
    scores.attrs = {}  # the source was checked
    if not isinstance(calibrator, MulticlassCalibrator):
        column = scores["confidence"]
        return column if calibrator is None else calibrator.predict(column)
    found = calibrator.predict(scores)
    classes = calibrator.classes_
    at = pd.Index(classes).get_indexer(labels.to_numpy())
    # A calibrator of all probabilities may prefer another label by now; what is acted
    # on is still the prediction in the table.
    if found.ndim == 2 and (at >= 0).all():
        values = np.asarray(found)[np.arange(len(at)), at]
        return Calibrated(values, found.fitted_on, known=found.known)
    top = scores.to_numpy().argmax(axis=1)
    wrong = np.flatnonzero(at != top)
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            "prediction must be the most probable label, the one that the "
            f"calibrator of this policy is about; the first that is not is "
            f"{labels.iloc[row]!r} where {classes[top[row]]!r} is."
        )
    return found
