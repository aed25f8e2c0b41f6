"""A decision rule that can be read, checked, stored and applied."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import groupby
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pydantic import Field

from ..calibration import Calibrator, MulticlassCalibrator
from ..calibration.base import check_source
from ..calibration.files import Stored, from_dict
from ..checks import (
    check_between,
    check_choice,
    check_groups,
    check_not_fitted_on,
    check_table,
)
from ..files import read_json, write_json
from .rules import Buckets
from .thresholds import CertifiedThreshold
from .verification import Verification, verify_accepted


@dataclass(frozen=True)
class Policy:
    """What is done with each prediction, by its confidence.

    Parameters
    ----------
    buckets : Buckets
        Ranges of confidence; their names are the actions, the most cautious first.
    calibrator : Calibrator or MulticlassCalibrator, optional
        Applied to a table's confidence, or to its label probabilities.
    by_label : mapping of str or int to Buckets, optional
        Other ranges, with the same actions, for some predicted labels.
    source : mapping of str to str, optional
        A score table's ``attrs["source"]``. Default: that of the calibrator.
    verified, name, note
        What :meth:`verify` found, and texts for the card; optional.

    Examples
    --------
    >>> from helpers.decisions import TRUST_BUCKETS
    >>> table = pd.DataFrame({"prediction": ["a", "b"], "confidence": [0.95, 0.6]})
    >>> Policy(TRUST_BUCKETS).apply(table)["action"].tolist()
    ['trust', 'warn']
    """

    buckets: Buckets
    calibrator: Calibrator | MulticlassCalibrator | None = None
    by_label: Mapping[str | int, Buckets] = field(default_factory=dict)
    source: Mapping[str, str] | None = None
    verified: Sequence[Verification] = ()
    name: str = "policy"
    note: str = ""

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            _check_kind(name, getattr(self, name), *kinds)
        for label, what in self.by_label.items():
            _check_kind("a label of by_label", label, str, int)
            _check_kind(f"by_label[{label!r}]", what, Buckets)
            if what.names != self.buckets.names:
                raise ValueError(
                    f"by_label must have the actions {list(self.buckets.names)}, not "
                    f"{list(what.names)}."
                )
        known = None if self.calibrator is None else self.calibrator.source_
        source = known if self.source is None else self.source
        check_source(source, known, "the calibrator was fitted on")
        verified = tuple(self.verified)
        vars(self).update(source=source, verified=verified, by_label={**self.by_label})
        for one in verified:
            _check_kind("each of verified", one, Verification)
            if one.rule != self.rule:
                raise ValueError(
                    f"verified must be what this policy's verify gave, of the rule "
                    f"{self.rule}; one is of the rule {one.rule}."
                )

    @property
    def rule(self) -> str:
        """Twelve hexadecimal digits that identify the ranges, calibrator and source."""
        text = json.dumps(_undated(self._describe_rule()), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @classmethod
    def from_threshold(
        cls,
        threshold: float,
        *,
        accept: str = "accept",
        otherwise: str = "review",
        **more: Any,
    ) -> Self:
        """The policy that accepts from a threshold on; infinite: nothing.

        Examples
        --------
        >>> Policy.from_threshold(0.9, accept="post", otherwise="ask").buckets.ranges()
        ['< 0.9', '≥ 0.9']
        """
        return cls(_ranges(threshold, accept, otherwise), **more)

    @classmethod
    def from_certified(
        cls,
        certified: CertifiedThreshold | Mapping[Any, CertifiedThreshold],
        *,
        accept: str = "accept",
        otherwise: str = "review",
        **more: Any,
    ) -> Self:
        """The policy that accepts from a certified threshold, or one for each label.

        Labels without a certified threshold are not accepted. Other arguments are those
        of :meth:`from_threshold`.
        """

        _check_kind("certified", certified, CertifiedThreshold, Mapping)
        if isinstance(certified, CertifiedThreshold):
            buckets = _ranges(certified.threshold, accept, otherwise)
            return cls(buckets, **{"note": str(certified), **more})
        by_label = {}
        for label, one in certified.items():
            _check_kind(f"certified[{label!r}]", one, CertifiedThreshold)
            by_label[label] = _ranges(one.threshold, accept, otherwise)
        note = "\n".join(f"{label}: {one}" for label, one in certified.items())
        rest = _ranges(None, accept, otherwise)
        return cls(rest, by_label=by_label, **{"note": note, **more})

    def apply(
        self, table: pd.DataFrame, *, source: Mapping[str, str] | None = None
    ) -> pd.DataFrame:
        """The table with ``decided_on`` (confidence used), ``action`` and ``reason``.

        Without a confidence or a prediction, a row gets the most cautious action.

        Parameters
        ----------
        table : pandas.DataFrame
            As ``score_table`` gives it: ``prediction``, ``confidence`` and, for a
            calibrator of label probabilities, ``p_<label>``.
        source : mapping of str to str, optional
            What the confidences come from, which must be what the policy is for.
            Default: ``attrs["source"]``, which pandas loses when tables are joined.
        """
        return self._apply(table, source)[0]

    def verify(
        self,
        table: pd.DataFrame,
        max_risk: float,
        delta: float = 0.05,
        *,
        action: str | None = None,
        by: str | None = None,
        source: Mapping[str, str] | None = None,
        groups: ArrayLike | None = None,
        rng: np.random.Generator | int | None = 0,
    ) -> Self:
        """The same policy with a :class:`Verification` of one action on other rows.

        Parameters
        ----------
        table, source
            As for :meth:`apply`; with ``correct``, of rows that chose no threshold.
        max_risk, delta, groups, rng
            As for :func:`helpers.decisions.verify`.
        action : str, optional
            Which action. Default: the one at the highest confidence.
        by : str, optional
            A column of the table. Each of its values is verified, too, at a level at
            which the statements on all values hold together; the card names the worst.

        Examples
        --------
        >>> table = pd.DataFrame({"prediction": "a", "confidence": [0.95] * 99 + [0.5]})
        >>> policy = Policy.from_threshold(0.9)
        >>> policy.verify(table.assign(correct=1), max_risk=0.05).verified[-1].verdict
        'holds'
        """
        action = self.buckets.names[-1] if action is None else action
        check_choice("action", action, tuple(self.buckets.names))
        check_table(table, ("correct",))
        applied, found = self._apply(table, source)
        check_not_fitted_on(found, "table")
        for column in table:
            if column == "confidence" or str(column).startswith("p_"):
                check_not_fitted_on(table[column], f"table[{column!r}]")
        # A text without an answer is neither right nor wrong, and nothing acts on it.
        lost = applied["decided_on"].isna() & table["correct"].isna()
        accepted = (applied["action"] == action) & ~lost
        correct = table["correct"].mask(lost, False)
        codes = None if groups is None else check_groups(groups, table)
        parts: list[tuple[Any, Any]] = [(slice(None), None)]
        if by is not None:
            _check_kind("by", by, str)
            given = check_table(table, (by,))[by].astype(object)
            values = given.where(given.notna(), "missing").astype(str)
            parts += [((values == kind).to_numpy(), kind) for kind in values.unique()]
        made = []
        for rows, segment in parts:
            one = verify_accepted(
                accepted[rows],
                correct[rows],
                max_risk,
                delta if segment is None else delta / (len(parts) - 1),
                groups=None if codes is None else codes[rows],
                rng=rng,
            )
            part = {} if segment is None else {"by": by, "segment": segment}
            made.append(replace(one, action=action, rule=self.rule, **part))
        return replace(self, verified=(*self.verified, *made))

    def card(self) -> str:
        """The policy in words, on several lines."""
        lines = [self.name, "=" * len(self.name), f"rule {self.rule}"]
        lines += [self.note, ""] if self.note else [""]
        lines += ["What is done", *_actions(self.buckets)]
        for label, buckets in self.by_label.items():
            lines += [f"  if the prediction is {label!r}:", *_actions(buckets, "  ")]
        lines.append("  no confidence known: " + self.buckets.names[0])
        lines += ["", "The confidence"]
        fit: Any = self.calibrator
        made = "used as the model gives it: nothing says that it is true"
        if fit is not None:
            made = f"calibrated by {type(fit).__name__}, fitted on "
            made += f"{fit.fitted_at_[:10]} to {fit.n_} labels"
        lines.append(f"  is {made}")
        lines += [f"  {key}: {value}" for key, value in (self.source or {}).items()]
        found = []
        for by, parts in groupby(self.verified, key=lambda one: one.by):
            several = [replace(one, rule=None) for one in parts]
            if by is not None:
                kinds = Counter(one.verdict for one in several)
                told = ", ".join(f"{n} {verdict}" for verdict, n in kinds.items())
                found.append(f"  {len(several)} values of {by} ({told}); the worst:")
                order = ("holds", "not enough data", "fails")
                several = [
                    max(
                        several,
                        key=lambda one: (
                            order.index(one.verdict),
                            one.n_accepted > 0,
                            one.high,
                        ),
                    )
                ]
            found += [f"  {one}" for one in several]
        lines += ["", "What it was verified on", *(found or ["  nothing"])]
        return "\n".join(lines)

    __str__ = card

    def to_dict(self) -> dict[str, Any]:
        """The policy as a JSON-serialisable dict, for :meth:`from_dict`."""
        counted = [one.name for one in fields(Verification) if one.init]
        return {
            "format": "helpers.decisions/3",
            "name": self.name,
            "note": self.note,
            **self._describe_rule(),
            "verified": [
                {name: getattr(one, name) for name in counted} for one in self.verified
            ],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The policy that ``to_dict`` described; ValueError if it is not whole."""
        parts = dict(_Policy.read(stored))
        del parts["format"]
        if parts["calibrator"] is not None:
            parts["calibrator"] = from_dict(parts["calibrator"])
        parts["verified"] = [Verification(**one) for one in parts["verified"]]
        parts["buckets"] = Buckets(**dict(parts["buckets"]))
        by_label = {key: Buckets(**dict(one)) for key, one in parts["by_label"]}
        if len(by_label) < len(parts["by_label"]):
            raise ValueError("by_label must name each label once.")
        return cls(**{**parts, "by_label": by_label})

    def save(self, path: str | Path) -> None:
        """Write the policy to a JSON file."""
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the policy that ``save`` wrote; ValueError if it is not whole."""
        return read_json(path, cls.from_dict)

    def _describe_rule(self) -> dict[str, Any]:
        return {
            "buckets": asdict(self.buckets),
            # Pairs, since names in JSON are text and a label may be a number.
            "by_label": [[label, asdict(one)] for label, one in self.by_label.items()],
            "calibrator": self.calibrator and self.calibrator.to_dict(),
            "source": None if self.source is None else dict(self.source),
        }

    def _apply(
        self, table: pd.DataFrame, source: Mapping[str, str] | None
    ) -> tuple[pd.DataFrame, Any]:
        check_table(table, ("prediction", "confidence"), empty=True)
        _check_kind("source", source, Mapping, NoneType)
        given = table.attrs.get("source") if source is None else source
        if self.source is not None:
            if not isinstance(given, Mapping) or set(self.source) - set(given):
                raise ValueError(
                    "table must say what its confidences come from, in attrs['source'] "
                    f"or as source: this policy is for {dict(self.source)}."
                )
            check_source(given, self.source, "this policy is for")
        scores = _read_scores(table, self.calibrator)
        labels = table["prediction"].astype(object)
        known = scores.notna().to_numpy().all(axis=1) & labels.notna().to_numpy()
        self._check_types(labels[known])
        decided_on, found = np.full(len(table), np.nan), None
        if known.any():
            found = _calibrated(scores[known], labels[known], self.calibrator)
            decided_on[known] = np.asarray(found)
        codes = np.zeros(len(table), dtype=int)
        lost = np.where(labels.isna(), "prediction", "confidence").astype(object)
        reason = "no " + lost + " is known"
        own = list(self.by_label)
        for label, buckets in [(None, self.buckets), *self.by_label.items()]:
            member = ~labels.isin(own) if label is None else labels == label
            rows = np.flatnonzero(member.to_numpy() & known)
            whose = "" if label is None else f" for {label!r}"
            if len(rows):
                values = decided_on[rows]
                codes[rows] = buckets.codes(values)
                reason[rows] = self._reasons(values, codes[rows], buckets, whose)
        action = np.array(self.buckets.names, dtype=object)[codes]
        applied = table.assign(decided_on=decided_on, action=action, reason=reason)
        return applied, found

    def _reasons(
        self, values: np.ndarray, codes: np.ndarray, buckets: Buckets, whose: str
    ) -> list[str]:
        possible, ranges = buckets.possible(), buckets.ranges()
        if sum(possible) == 1:
            amount = "everything" if possible[-1] else "nothing"
            return [f"{amount} is accepted{whose}"] * len(values)
        what = "confidence" if self.calibrator is None else "calibrated confidence"
        # Six digits, or all there are where six would be in another range.
        short = [f"{value:.6g}" for value in values]
        same = buckets.codes(np.clip(np.array(short, dtype=float), 0, 1)) == codes
        texts = np.where(same, short, [repr(value) for value in values.tolist()])
        each = zip(texts, codes, strict=True)
        return [f"{what} {text} is {ranges[code]}{whose}" for text, code in each]

    def _check_types(self, labels: pd.Series) -> None:
        # 71 is not "71": the label's own ranges would not be found, and not missed.
        ours = {isinstance(label, str) for label in self.by_label}
        theirs = {isinstance(label, str) for label in labels}
        if ours and theirs and not ours & theirs:
            raise ValueError(
                f"prediction must be of the type of by_label's {list(self.by_label)}; "
                f"the first is {labels.iloc[0]!r}."
            )


class _Buckets(Stored):
    edges: Sequence[float]
    names: Sequence[str]
    edge_belongs_to: str | Sequence[str]


class _Policy(Stored):
    format: Literal["helpers.decisions/3"]
    name: str
    note: str
    buckets: _Buckets
    # Lists count as pairs; what is in them is read as strictly as the rest.
    by_label: list[Annotated[tuple[str | int, _Buckets], Field(strict=False)]]
    calibrator: dict[str, Any] | None
    source: dict[str, str] | None
    verified: list[dict[str, Any]]


_KINDS: dict[str, tuple[type, ...]] = {
    "buckets": (Buckets,),
    "calibrator": (Calibrator, MulticlassCalibrator, NoneType),
    "by_label": (Mapping,),
    "source": (Mapping, NoneType),
    "verified": (Sequence,),
}


def _check_kind(name: str, value: Any, *kinds: type) -> None:
    if not isinstance(value, kinds):
        words = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} must be {words}, not {value!r}.")


def _ranges(threshold: float | None, accept: str, otherwise: str) -> Buckets:
    if threshold is None or threshold == math.inf:
        return Buckets([1.0], (otherwise, accept), "lower")
    check_between("threshold", threshold, 0, 1, closed=True)
    return Buckets([threshold], (otherwise, accept))


def _undated(value: Any) -> Any:
    """The same without the day of any fit."""
    if isinstance(value, dict):
        return {k: _undated(v) for k, v in value.items() if k != "fitted_at"}
    return [_undated(v) for v in value] if isinstance(value, (list, tuple)) else value


def _reads_labels(calibrator: Any) -> bool:
    return getattr(calibrator, "classes_", None) is not None


def _read_scores(table: pd.DataFrame, calibrator: Any) -> pd.DataFrame:
    """The columns that the confidence is made of, NaN only where they have none."""
    columns = ["confidence"]
    if _reads_labels(calibrator):
        columns = [f"p_{label}" for label in calibrator.classes_]
        check_table(table, columns, empty=True)
    given = pd.DataFrame({column: table[column] for column in columns})  # no attrs
    numbers = given.apply(pd.to_numeric, errors="coerce").astype(float)
    wrong = (numbers.isna() & given.notna()).to_numpy()
    if wrong.any():
        row, at = np.argwhere(wrong)[0]
        value = given.iat[row, at]
        raise ValueError(f"{columns[at]} must be numbers; row {row} is {value!r}.")
    return numbers


def _calibrated(scores: pd.DataFrame, labels: pd.Series, calibrator: Any) -> Any:
    """The confidence in each prediction, and which rows were fitted on."""
    if not _reads_labels(calibrator):
        column = scores["confidence"]
        return column if calibrator is None else calibrator.predict(column)
    found = calibrator.predict(scores)
    at = pd.Index(calibrator.classes_).get_indexer(labels.to_numpy())
    # The calibrator may prefer another label; the table's prediction is acted on.
    due, wrong = "one of the classes", at < 0
    if found.ndim == 1:
        due, wrong = "the most probable label", at != scores.to_numpy().argmax(axis=1)
    if wrong.any():
        raise ValueError(
            f"prediction must be {due} of the calibrator of this policy; the first "
            f"that is not is {labels.iloc[int(wrong.argmax())]!r}."
        )
    return found if found.ndim == 1 else found[np.arange(len(at)), at]


def _actions(buckets: Buckets, indent: str = "") -> list[str]:
    """Ranges and their actions, one a line, from the highest confidence down."""
    possible = buckets.possible()
    lines = []
    each = zip(buckets.names, buckets.ranges(), possible, strict=True)
    for name, span, occurs in reversed([*each]):
        if occurs:
            what = "anything" if sum(possible) == 1 else f"confidence {span}"
            lines.append(f"{indent}  {what}: {name}")
        elif name != buckets.names[0]:
            # The most cautious action is left: that where no confidence is known.
            lines.append(f"{indent}  {name}: nothing")
    return lines
