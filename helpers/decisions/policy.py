"""A decision rule that can be read, checked, stored and applied."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..calibration import Calibrated, Calibrator, MulticlassCalibrator
from ..calibration.base import check_source
from ..calibration.files import read_json, write_json
from ..calibration.storage import from_dict as calibrator_from_dict
from ..checks import check_between, check_choice
from .buckets import Buckets
from .risk import Verification, verify_accepted
from .thresholds import CertifiedThreshold

FORMAT = "helpers.decisions/2"
_NO_CONFIDENCE = "no confidence is known"
_NO_PREDICTION = "no prediction is known"
_RULE = ("buckets", "by_label", "calibrator", "source")


@dataclass(frozen=True)
class Policy:
    """What is done with each prediction, by its confidence.

    Parameters
    ----------
    buckets : Buckets
        Ranges of confidence; their names are the actions, the most cautious first.
    calibrator : Calibrator or MulticlassCalibrator, optional
        What makes a confidence that one may act on of the one in a table, or of its
        label probabilities. Without one, the table's confidence is used as it is.
    by_label : mapping of str or int to Buckets, optional
        Other ranges, with the same actions, for some predicted labels.
    source : mapping of str to str, optional
        What the confidences come from, as a score table's ``attrs["source"]`` says. By
        default that of the calibrator.
    verified : sequence of Verification, optional
        What :meth:`verify` found; verifications of another policy are refused.
    name, note : str, optional
        For the card.

    Raises
    ------
    ValueError
        Actions that differ between labels, a source that is not the calibrator's, or
        a verification of another rule.
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
    calibrator: Calibrator | MulticlassCalibrator | None = None
    by_label: Mapping[str | int, Buckets] = field(default_factory=dict)
    source: Mapping[str, str] | None = None
    verified: Sequence[Verification] = ()
    name: str = "policy"
    note: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.buckets, Buckets):
            raise TypeError(f"buckets must be Buckets, not {self.buckets!r}.")
        _check_mapping("by_label", self.by_label, "labels to Buckets")
        for label, what in self.by_label.items():
            if not isinstance(label, (str, int)):
                raise TypeError(f"by_label must name labels, not {label!r}.")
            if not isinstance(what, Buckets):
                raise TypeError(f"by_label[{label!r}] must be Buckets, not {what!r}.")
            if what.names != self.buckets.names:
                raise ValueError(
                    f"by_label must have the actions {list(self.buckets.names)}, not "
                    f"{list(what.names)}."
                )
        object.__setattr__(self, "by_label", dict(self.by_label))
        kinds = (Calibrator, MulticlassCalibrator)
        if self.calibrator is not None and not isinstance(self.calibrator, kinds):
            raise TypeError(
                "calibrator must be one of helpers.calibration, not "
                f"{type(self.calibrator).__name__}."
            )
        if self.source is not None:
            _check_mapping("source", self.source, "what is said of scores to its value")
        known = None if self.calibrator is None else self.calibrator.source_
        if self.source is None:
            object.__setattr__(self, "source", known)
        elif known is not None:
            check_source(self.source, known, "the calibrator was fitted on")
        if not isinstance(self.verified, Sequence):
            raise TypeError(
                f"verified must be a sequence of Verifications, not {self.verified!r}."
            )
        object.__setattr__(self, "verified", tuple(self.verified))
        for one in self.verified:
            if not isinstance(one, Verification):
                raise TypeError(
                    f"verified must hold Verifications, not {type(one).__name__}."
                )
            if one.rule != self.rule:
                raise ValueError(
                    f"verified must be what this policy's verify gave, of the rule "
                    f"{self.rule}; one is of the rule {one.rule}."
                )

    @property
    def rule(self) -> str:
        """What tells this rule from any other: its ranges, calibrator and source.

        Twelve hexadecimal digits. Name, note and verifications do not count, and
        neither does when the calibrator was fitted.
        """
        parts = {name: self._plain()[name] for name in _RULE}
        text = json.dumps(_undated(parts), sort_keys=True)
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
        """The policy that accepts from a threshold on.

        Parameters
        ----------
        threshold : float
            In [0, 1]; or infinite, as :func:`best_threshold` may find: accept nothing.
        accept : str, default="accept"
            What the action from the threshold on is called.
        otherwise : str, default="review"
            What the more cautious one is called: below the threshold, and where no
            confidence is known.
        **more
            Other parameters of the policy.

        Returns
        -------
        Policy

        Raises
        ------
        ValueError
            The threshold is none of these, or both actions are the same.
        TypeError
            An action is no text.

        Examples
        --------
        >>> Policy.from_threshold(0.9).buckets.ranges()
        ['< 0.9', '≥ 0.9']
        >>> policy = Policy.from_threshold(0.9, accept="post", otherwise="ask")
        >>> policy.buckets.assign([0.8, 0.9]).tolist()
        ['ask', 'post']
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
        """The policy that accepts what was certified, and nothing else.

        Parameters
        ----------
        certified : CertifiedThreshold or mapping of label to CertifiedThreshold
            What :func:`choose_threshold` or :func:`choose_thresholds_per_class` gave.
            Where no threshold passed, and for labels that are not in the mapping,
            nothing is accepted.
        accept : str, default="accept"
            What the action from the threshold on is called.
        otherwise : str, default="review"
            What the more cautious one is called: below the threshold, and where no
            confidence is known.
        **more
            Other parameters of the policy. The default note is what was certified.

        Returns
        -------
        Policy

        Raises
        ------
        ValueError
            Both actions are the same.
        TypeError
            What was certified is something else, or an action is no text.

        Examples
        --------
        >>> from helpers.decisions import choose_threshold
        >>> found = choose_threshold([0.9] * 60 + [0.5] * 40, [1] * 60 + [0] * 40, 0.1)
        >>> Policy.from_certified(found).buckets.ranges()
        ['< 0.9', '≥ 0.9']
        """

        def ranges(one: CertifiedThreshold) -> Buckets:
            at = one.threshold
            return _ranges(math.inf if at is None else at, accept, otherwise)

        if isinstance(certified, CertifiedThreshold):
            return cls(ranges(certified), **{"note": str(certified), **more})
        if not isinstance(certified, Mapping):
            raise TypeError(
                "certified must be a CertifiedThreshold or a mapping of labels to "
                f"them, not {certified!r}."
            )
        for label, one in certified.items():
            if not isinstance(one, CertifiedThreshold):
                raise TypeError(
                    f"certified[{label!r}] must be a CertifiedThreshold, not {one!r}."
                )
        each = {label: ranges(one) for label, one in certified.items()}
        note = "\n".join(f"{label}: {one}" for label, one in certified.items())
        rest = _ranges(math.inf, accept, otherwise)
        return cls(rest, by_label=each, **{"note": note, **more})

    def apply(
        self, table: pd.DataFrame, *, source: Mapping[str, str] | None = None
    ) -> pd.DataFrame:
        """What is done with each row, and why.

        Parameters
        ----------
        table : pandas.DataFrame
            ``prediction`` and ``confidence`` of each row, as ``score_table`` gives
            them; and ``p_<label>`` for each label, where the calibrator is one of
            label probabilities.
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
            A column is missing or there twice, a confidence is no number in [0, 1],
            predictions are of another type than the labels that have ranges of their
            own, or the scores come from another model, prompt or set of labels, or do
            not say from which.
        TypeError
            The table is no DataFrame, or the source no mapping.
        """
        return self._applied(table, source)[0]

    def verify(
        self,
        table: pd.DataFrame,
        max_risk: float,
        delta: float = 0.05,
        *,
        action: str | None = None,
        source: Mapping[str, str] | None = None,
        groups: ArrayLike | None = None,
        rng: np.random.Generator | int | None = 0,
    ) -> Self:
        """The same policy, with what other labelled rows say of one of its actions.

        Parameters
        ----------
        table : pandas.DataFrame
            As for :meth:`apply`, with ``correct``. Rows that chose a threshold must
            not be among it; rows that the calibrator knows from its fit are refused.
        max_risk : float
            The most errors among the rows with this action, as a share in (0, 1).
        delta : float, default=0.05
            Probability that a verdict of "holds", or one of "fails", is false.
        action : str, optional
            Which action. Default: the one at the highest confidence.
        source : mapping of str to str, optional
            As for :meth:`apply`.
        groups : array-like of shape (n,), optional
            Which rows belong together: see :func:`helpers.decisions.verify`.
        rng : numpy.random.Generator, int or None, default=0
            Source or seed of chance, for groups.

        Returns
        -------
        Policy
            With one :class:`Verification` more, the last of ``verified``.

        Raises
        ------
        ValueError
            As for :meth:`apply`; there is no such action or no row, or the calibrator
            was fitted on some of the rows.
        TypeError
            As for :meth:`apply`.

        Examples
        --------
        >>> table = pd.DataFrame({"prediction": "a", "confidence": [0.95] * 99 + [0.5]})
        >>> policy = Policy.from_threshold(0.9)
        >>> checked = policy.verify(table.assign(correct=1), max_risk=0.05)
        >>> checked.verified[-1].verdict, checked.verified[-1].n_accepted
        ('holds', 99)
        """
        action = self.buckets.names[-1] if action is None else action
        check_choice("action", action, tuple(self.buckets.names))
        _check_table(table)
        if "correct" not in table:
            raise ValueError("table must have the column 'correct'.")
        if not len(table):
            raise ValueError("table must have at least one row; there is none.")
        applied, seen = self._applied(table, source)
        if seen:
            raise ValueError(
                f"table must hold rows that the calibrator has not seen; it was fitted "
                f"on {seen} of these {len(table)}."
            )
        found = verify_accepted(
            (applied["action"] == action).to_numpy(),
            table["correct"],
            max_risk,
            delta,
            groups=groups,
            rng=rng,
        )
        found = replace(found, action=action, rule=self.rule)
        return replace(self, verified=(*self.verified, found))

    def _applied(
        self, table: pd.DataFrame, source: Mapping[str, str] | None
    ) -> tuple[pd.DataFrame, int]:
        """The table with its actions, and how many rows the calibrator has seen."""
        _check_table(table)
        if source is not None:
            _check_mapping("source", source, "what is said of scores to its value")
        names = list(table.columns)
        for column in ("prediction", "confidence"):
            if names.count(column) != 1:
                has = "has it twice" if column in names else "has it not"
                raise ValueError(f"table must have the column {column!r}; it {has}.")
        if self.source is not None:
            given = table.attrs.get("source") if source is None else source
            if not isinstance(given, Mapping) or set(self.source) - set(given):
                raise ValueError(
                    "table must say what its confidences come from, in attrs['source'] "
                    f"or as source: this policy is for {dict(self.source)}."
                )
            check_source(given, self.source, "this policy is for")
        scores = self._scores(table)
        labels = table["prediction"].astype(object)
        known = (scores.notna().to_numpy().all(axis=1)) & labels.notna().to_numpy()
        self._check_types(labels[known])
        decided_on = np.full(len(table), np.nan, dtype=scores.dtypes.iloc[0])
        seen = 0
        if known.any():
            found = self._calibrated(scores[known], labels[known])
            decided_on[known] = np.asarray(found)
            seen = int(found.fitted_on.sum()) if isinstance(found, Calibrated) else 0
        code = np.zeros(len(table), dtype=int)
        reason = np.where(labels.isna(), _NO_PREDICTION, _NO_CONFIDENCE).astype(object)
        word = "confidence" if self.calibrator is None else "calibrated confidence"
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
                if sum(buckets.possible()) == 1:
                    what = "everything" if buckets.possible()[-1] else "nothing"
                    reason[rows] = f"{what} is accepted{whose}"
                    continue
                ranges = buckets.ranges()
                texts = _in_words(decided_on[rows], buckets)
                for row, text in zip(rows, texts, strict=True):
                    reason[row] = f"{word} {text} is {ranges[code[row]]}{whose}"
        applied = table.assign(
            decided_on=decided_on,
            action=np.array(self.buckets.names, dtype=object)[code],
            reason=reason,
        )
        return applied, seen

    def _scores(self, table: pd.DataFrame) -> pd.DataFrame:
        """The columns that the confidence is made of."""
        if not isinstance(self.calibrator, MulticlassCalibrator):
            values = _numbers(table, "confidence")
            # Single precision has edges of its own, and keeps them.
            single = values.dtype == np.float32 and self.calibrator is None
            return values.astype(np.float32 if single else float).to_frame()
        columns = [f"p_{label}" for label in self.calibrator.classes_]
        names = list(table.columns)
        for name in columns:
            if names.count(name) != 1:
                raise ValueError(
                    f"table must have the column {name!r}, which the calibrator of "
                    f"this policy needs, once, not {names.count(name)} times."
                )
        numbers = {name: _numbers(table, name).to_numpy(float) for name in columns}
        return pd.DataFrame(numbers, index=table.index)

    def _calibrated(self, scores: pd.DataFrame, labels: pd.Series) -> Any:
        scores.attrs = {}  # the source was checked
        if not isinstance(self.calibrator, MulticlassCalibrator):
            column = scores["confidence"]
            if self.calibrator is None:
                return column.to_numpy()
            return self.calibrator.predict(column)
        found = self.calibrator.predict(scores)
        classes = self.calibrator.classes_
        at = pd.Index(classes).get_indexer(labels.to_numpy())
        # A calibrator of all probabilities may prefer another label by now; what is
        # acted on is still the prediction in the table.
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
        lines = [self.name, "=" * len(self.name), f"rule {self.rule}"]
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
        # The rule, which is the same of each, is said above.
        found = [replace(one, rule=None) for one in self.verified]
        lines += [f"  {one}" for one in found] or ["  nothing"]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.card()

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain numbers, lists and words.

        Returns
        -------
        dict
        """
        return {"format": FORMAT, **self._plain()}

    def _plain(self) -> dict[str, Any]:
        return {
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
        return cls.from_dict(read_json(path))


def _undated(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _undated(v) for k, v in value.items() if k != "fitted_at"}
    return [_undated(v) for v in value] if isinstance(value, (list, tuple)) else value


def _check_mapping(name: str, value: Any, of: str) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping of {of}, not {value!r}.")


def _check_table(table: Any) -> None:
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table must be a DataFrame, not {type(table).__name__}.")


def _numbers(table: pd.DataFrame, column: str) -> pd.Series:
    """A column as numbers, NaN only where it has none."""
    numbers = pd.to_numeric(table[column], errors="coerce")
    wrong = (numbers.isna() & table[column].notna()).to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        value = table[column].iloc[row]
        raise ValueError(f"{column} must be numbers; row {row} is {value!r}.")
    return numbers


def _ranges(threshold: float, accept: str, otherwise: str) -> Buckets:
    for name, action in (("accept", accept), ("otherwise", otherwise)):
        if not isinstance(action, str):
            raise TypeError(f"{name} must be the name of an action, not {action!r}.")
    if accept == otherwise:
        raise ValueError(
            f"accept and otherwise must be different actions, not both {accept!r}."
        )
    actions = (otherwise, accept)
    if threshold == math.inf:
        return Buckets([1.0], actions, "lower")
    check_between("threshold", threshold, 0, 1, closed=True)
    return Buckets([threshold], actions)


def _in_words(values: np.ndarray, buckets: Buckets) -> list[str]:
    """Each value in six digits, or in all it has where six would change its range."""
    short = [f"{value:.6g}" for value in values]
    read = np.clip(np.array(short, dtype=values.dtype), 0, 1)
    same = buckets.codes(read) == buckets.codes(values)
    pairs = zip(short, values, same, strict=True)
    return [text if kept else repr(value.item()) for text, value, kept in pairs]


def _rules(buckets: Buckets, indent: str = "") -> list[str]:
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


def _stored(one: Verification) -> dict[str, Any]:
    # JSON has no NaN, which is the risk where nothing was accepted.
    return asdict(one) | {"risk": None if math.isnan(one.risk) else one.risk}


def _verification(stored: Mapping[str, Any]) -> Verification:
    risk = math.nan if stored["risk"] is None else stored["risk"]
    return Verification(**{**stored, "risk": risk})
