"""A decision rule that can be read, checked, stored and applied."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from ..calibration import Calibrator
from ..calibration.files import write_json
from ..calibration.storage import from_dict as calibrator_from_dict
from .buckets import Buckets
from .thresholds import CertifiedThreshold, Verification

FORMAT = "helpers.decisions/1"
_NO_CONFIDENCE = "no confidence is known"
_NO_PREDICTION = "no prediction is known"


@dataclass(frozen=True)
class Policy:
    """What is done with each prediction, by its confidence.

    Parameters
    ----------
    buckets : Buckets
        Ranges of confidence; their names are the actions, the most cautious first.
    calibrator : Calibrator, optional
        What makes a confidence that one may act on of the one in a table. Without
        one, the table's is used as it is.
    by_label : mapping of str or int to Buckets, optional
        Other ranges, with the same actions, for some predicted labels.
    source : mapping of str to str, optional
        What the confidences come from, as a score table's ``attrs["source"]`` says. By
        default that of the calibrator.
    verified : sequence of Verification, optional
        What the thresholds were checked on.
    name, note : str, optional
        For the card.

    Raises
    ------
    ValueError
        Actions that differ between labels, or a source that is not the calibrator's.
    TypeError
        Something is of another kind.

    Examples
    --------
    >>> from helpers.decisions import TRUST_BUCKETS
    >>> table = pd.DataFrame({"prediction": ["a", "b"], "confidence": [0.95, 0.6]})
    >>> Policy(TRUST_BUCKETS).apply(table)[["action", "reason"]]
      action                        reason
    0  trust      confidence 0.95 is > 0.9
    1   warn  confidence 0.6 is 0.5 to 0.9
    """

    buckets: Buckets
    calibrator: Calibrator | None = None
    by_label: Mapping[str | int, Buckets] = field(default_factory=dict)
    source: Mapping[str, str] | None = None
    verified: Sequence[Verification] = ()
    name: str = "policy"
    note: str = ""

    def __post_init__(self) -> None:
        for what in (self.buckets, *self.by_label.values()):
            if not isinstance(what, Buckets):
                raise TypeError(f"buckets must be Buckets, not {type(what).__name__}.")
            if what.names != self.buckets.names:
                raise ValueError(
                    f"by_label must have the actions {list(self.buckets.names)}, not "
                    f"{list(what.names)}."
                )
        for label in self.by_label:
            if not isinstance(label, (str, int)):
                raise TypeError(f"by_label must name labels, not {label!r}.")
        object.__setattr__(self, "by_label", dict(self.by_label))
        if self.calibrator is not None and not isinstance(self.calibrator, Calibrator):
            raise TypeError(
                "calibrator must be a calibrator of confidences, not "
                f"{type(self.calibrator).__name__}."
            )
        object.__setattr__(self, "verified", tuple(self.verified))
        known = None if self.calibrator is None else self.calibrator.source_
        if self.source is None:
            object.__setattr__(self, "source", known)
        elif known is not None:
            _check_source(self.source, known, "the calibrator was fitted on")

    @classmethod
    def from_certified(
        cls,
        certified: CertifiedThreshold | Mapping[Any, CertifiedThreshold],
        *,
        actions: tuple[str, str] = ("review", "accept"),
        **more: Any,
    ) -> Self:
        """The policy that accepts what was certified, and nothing else.

        Parameters
        ----------
        certified : CertifiedThreshold or mapping of label to CertifiedThreshold
            What :func:`choose_threshold` or :func:`choose_thresholds_per_class` gave.
            Where no threshold passed, and for labels that are not in the mapping,
            nothing is accepted.
        actions : (str, str), default=("review", "accept")
            What is done below the threshold, and from it on.
        **more
            Other parameters of the policy.

        Returns
        -------
        Policy

        Examples
        --------
        >>> from helpers.decisions import choose_threshold
        >>> found = choose_threshold([0.9] * 60 + [0.5] * 40, [1] * 60 + [0] * 40, 0.1)
        >>> Policy.from_certified(found).buckets.ranges()
        ['< 0.9', '≥ 0.9']
        """

        def ranges(threshold: float | None) -> Buckets:
            if threshold is None:
                return Buckets([1.0], actions, "lower")
            return Buckets([threshold], actions)

        if isinstance(certified, CertifiedThreshold):
            return cls(ranges(certified.threshold), **more)
        each = {label: ranges(one.threshold) for label, one in certified.items()}
        return cls(ranges(None), by_label=each, **more)

    def apply(
        self, table: pd.DataFrame, *, source: Mapping[str, str] | None = None
    ) -> pd.DataFrame:
        """What is done with each row, and why.

        Parameters
        ----------
        table : pandas.DataFrame
            ``prediction`` and ``confidence`` of each row, as ``score_table`` gives
            them.
        source : mapping of str to str, optional
            What the confidences come from; by default what ``attrs["source"]`` says.
            It must be what the policy is for, if that is known. pandas forgets it when
            tables are joined.

        Returns
        -------
        pandas.DataFrame
            The table with ``decided_on``, the confidence that was looked at, and with
            ``action`` and ``reason``. A row without a confidence or a prediction gets
            the most cautious action.

        Raises
        ------
        ValueError
            A column is missing, a confidence lies outside [0, 1], predictions are of
            another type than the labels that have ranges of their own, or the scores
            come from another model, prompt or set of labels, or do not say from which.
        """
        for column in ("prediction", "confidence"):
            if column not in table:
                raise ValueError(f"table must have the column {column!r}.")
        if self.source is not None:
            given = table.attrs.get("source") if source is None else source
            if not isinstance(given, Mapping) or set(self.source) - set(given):
                raise ValueError(
                    "table must say what its confidences come from, in attrs['source'] "
                    f"or as source: this policy is for {dict(self.source)}."
                )
            _check_source(given, self.source, "this policy is for")
        values = pd.to_numeric(table["confidence"])
        # Single precision has edges of its own, and keeps them.
        single = values.dtype == np.float32 and self.calibrator is None
        confidence = values.to_numpy(np.float32 if single else float, na_value=np.nan)
        labels = table["prediction"].astype(object)
        known = ~np.isnan(confidence) & labels.notna().to_numpy()
        decided_on = np.full(len(table), np.nan, dtype=confidence.dtype)
        if known.any():
            decided_on[known] = (
                confidence[known]
                if self.calibrator is None
                else np.asarray(self.calibrator.predict(confidence[known]))
            )
        code = np.zeros(len(table), dtype=int)
        reason = np.where(labels.isna(), _NO_PREDICTION, _NO_CONFIDENCE).astype(object)
        word = "confidence" if self.calibrator is None else "calibrated confidence"
        self._check_types(labels[known])
        special = labels.isin(list(self.by_label))
        groups = [(~special, self.buckets, "")]
        groups += [
            (labels == label, buckets, f" for {label!r}")
            for label, buckets in self.by_label.items()
        ]
        for member, buckets, whose in groups:
            rows = np.flatnonzero(member.to_numpy() & known)
            if len(rows):
                code[rows] = buckets.codes(decided_on[rows])
                ranges = buckets.ranges()
                for row in rows:
                    value = f"{word} {decided_on[row]:.6g}"
                    reason[row] = f"{value} is {ranges[code[row]]}{whose}"
        return table.assign(
            decided_on=decided_on,
            action=np.array(self.buckets.names, dtype=object)[code],
            reason=reason,
        )

    def _check_types(self, labels: pd.Series) -> None:
        # 71 is not "71": the label's own ranges would not be found, and not missed.
        ours = {isinstance(label, str) for label in self.by_label}
        theirs = {isinstance(label, str) for label in labels}
        if ours and theirs and not ours & theirs:
            raise ValueError(
                f"prediction must be of the type of by_label's {list(self.by_label)}; "
                f"the first is {labels.iloc[0]!r}."
            )

    def card(self) -> str:
        """The policy in words, for those who answer for it.

        Returns
        -------
        str
            Several lines.
        """
        lines = [self.name, "=" * len(self.name)]
        lines += [self.note, ""] if self.note else [""]
        lines.append("What is done")
        lines += _rules(self.buckets)
        for label, buckets in self.by_label.items():
            lines += [f"  if the prediction is {label!r}:", *_rules(buckets, "  ")]
        lines.append("  no confidence known: " + self.buckets.names[0])
        lines += ["", "The confidence"]
        if self.calibrator is None:
            lines.append(
                "  is used as the model gives it: nothing says that it is true"
            )
        else:
            lines.append(
                f"  is calibrated by {type(self.calibrator).__name__}, fitted on "
                f"{self.calibrator.fitted_at_[:10]} to {self.calibrator.n_} labels"
            )
        lines += [f"  {key}: {value}" for key, value in (self.source or {}).items()]
        lines += ["", "What it was verified on"]
        lines += [f"  {_said(one)}" for one in self.verified] or ["  nothing"]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.card()

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain numbers, lists and words.

        Returns
        -------
        dict
        """
        return {
            "format": FORMAT,
            "name": self.name,
            "note": self.note,
            "buckets": asdict(self.buckets),
            # Pairs, since names in JSON are text and a label may be a number.
            "by_label": [[label, asdict(one)] for label, one in self.by_label.items()],
            "calibrator": self.calibrator and self.calibrator.to_dict(),
            "source": None if self.source is None else dict(self.source),
            "verified": [_stored(one) for one in self.verified],
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The policy that ``to_dict`` described.

        Parameters
        ----------
        stored : mapping
            What ``to_dict`` gave.

        Returns
        -------
        Policy

        Raises
        ------
        ValueError
            It describes no policy, or one that is not whole.
        """
        if not isinstance(stored, Mapping) or stored.get("format") != FORMAT:
            raise ValueError(f"a stored policy must have the format {FORMAT!r}.")
        try:
            calibrator: Any = None
            if stored["calibrator"] is not None:
                calibrator = calibrator_from_dict(stored["calibrator"])
            return cls(
                Buckets(**stored["buckets"]),
                calibrator,
                {label: Buckets(**one) for label, one in stored["by_label"]},
                stored["source"],
                [_verification(one) for one in stored["verified"]],
                stored["name"],
                stored["note"],
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"the stored policy is not whole: {error!r}.") from error

    def save(self, path: str | Path) -> None:
        """Write the policy to a JSON file, whole or not at all.

        Parameters
        ----------
        path : str or pathlib.Path
            The file; an existing one is replaced.
        """
        write_json(self.to_dict(), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The policy that ``save`` wrote to a file.

        Parameters
        ----------
        path : str or pathlib.Path
            The file.

        Returns
        -------
        Policy

        Raises
        ------
        ValueError
            The file is no JSON, or holds no policy.
        """
        try:
            stored = json.loads(Path(path).read_text("utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no JSON: {error}.") from None
        return cls.from_dict(stored)


def _check_source(
    given: Mapping[str, str], known: Mapping[str, str], what: str
) -> None:
    for key, value in given.items():
        if known.get(key, value) != value:
            raise ValueError(
                f"source differs: {what} scores of {key} {known[key]!r}, these come "
                f"from {key} {value!r}."
            )


def _rules(buckets: Buckets, indent: str = "") -> list[str]:
    pairs = zip(buckets.names, buckets.ranges(), strict=True)
    return [f"{indent}  confidence {span}: {name}" for name, span in reversed([*pairs])]


def _stored(one: Verification) -> dict[str, Any]:
    # JSON has no NaN, which is the risk where nothing was accepted.
    return asdict(one) | {"risk": None if math.isnan(one.risk) else one.risk}


def _verification(stored: Mapping[str, Any]) -> Verification:
    risk = math.nan if stored["risk"] is None else stored["risk"]
    return Verification(**{**stored, "risk": risk})


def _said(one: Verification) -> str:
    return (
        f"at {one.threshold:g}: a risk of at most {one.max_risk:g} {one.verdict}; "
        f"{one.n_errors} of {one.n_accepted} accepted items wrong (risk {one.low:.3g} "
        f"to {one.high:.3g}), {one.coverage:.1%} of {one.n_labels} accepted"
    )
