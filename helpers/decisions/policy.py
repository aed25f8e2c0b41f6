"""A decision rule that can be read, checked, stored and applied."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ..calibration import Calibrator, MulticlassCalibrator
from ..calibration.base import check_source
from ..calibration.files import load, write_json
from ..checks import check_between, check_choice, check_not_fitted_on, check_table
from .buckets import Buckets
from .policy_storage import describe_policy, read_policy, rule_of
from .policy_table import apply_policy, check_mapping
from .policy_words import policy_card
from .risk import Verification, verify_accepted
from .thresholds import CertifiedThreshold


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
        check_mapping("by_label", self.by_label, "labels to Buckets")
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
            check_mapping("source", self.source, "what is said of scores to its value")
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
        return rule_of(self)

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
        return apply_policy(self, table, source)[0]

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
        check_table(table, ("correct",))
        applied, seen = apply_policy(self, table, source)
        if seen:
            raise ValueError(
                f"table must hold rows that the calibrator has not seen; it was fitted "
                f"on {seen} of these {len(table)}."
            )
        for column in table:
            if column == "confidence" or str(column).startswith("p_"):
                check_not_fitted_on(table[column], f"table[{column!r}]")
        # A text without an answer is neither right nor wrong, and nothing acts on it.
        lost = applied["decided_on"].isna() & table["correct"].isna()
        found = verify_accepted(
            (applied["action"] == action) & ~lost,
            table["correct"].mask(lost, False),
            max_risk,
            delta,
            groups=groups,
            rng=rng,
        )
        found = replace(found, action=action, rule=self.rule)
        return replace(self, verified=(*self.verified, found))

    def card(self) -> str:
        """The policy in words, for those who answer for it.

        Returns
        -------
        str
            Several lines.
        """
        return policy_card(self)

    def __str__(self) -> str:
        return self.card()

    def to_dict(self) -> dict[str, Any]:
        """The policy as plain numbers, lists and words.

        Returns
        -------
        dict
        """
        return describe_policy(self)

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
        try:
            return cls(**read_policy(stored))
        except TypeError as error:
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
        return load(path, cls.from_dict)


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
