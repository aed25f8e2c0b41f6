"""A policy as plain numbers, lists and words, and what tells its rule from others."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ..calibration.files import Count, Finite, Share, Stored
from ..calibration.files import from_dict as calibrator_from_dict
from .buckets import Buckets
from .risk import Verification

if TYPE_CHECKING:
    from .policy import Policy

FORMAT = "helpers.decisions/2"


class _Verified(Stored):
    verdict: Literal["holds", "fails", "not enough data"]
    threshold: Finite | None
    max_risk: Share
    delta: Share
    n_labels: Count
    n_accepted: Count
    n_errors: Count
    risk: Share | None
    low: Share
    high: Share
    coverage: Share
    coverage_low: Share
    coverage_high: Share
    action: str | None
    rule: str | None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.n_errors <= self.n_accepted <= self.n_labels:
            raise ValueError("n_errors, n_accepted and n_labels must rise")
        risk = self.low if self.risk is None else self.risk
        if not (
            self.low <= risk <= self.high
            and self.coverage_low <= self.coverage <= self.coverage_high
        ):
            raise ValueError("risk and coverage must lie within their limits")
        return self


class _Policy(Stored):
    format: Literal["helpers.decisions/2"]
    name: str
    note: str
    buckets: dict[str, Any]
    by_label: list[Annotated[list[Any], Field(min_length=2, max_length=2)]]
    calibrator: dict[str, Any] | None
    source: dict[str, str] | None
    verified: list[_Verified]


def describe_policy(policy: Policy) -> dict[str, Any]:
    """What :meth:`Policy.to_dict` gives."""
    return {
        "format": FORMAT,
        "name": policy.name,
        "note": policy.note,
        **_describe_rule(policy),
        "verified": [_describe_verification(one) for one in policy.verified],
    }


def read_policy(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the policy that :func:`describe_policy` described."""
    found = _Policy.read(stored)
    by_label = {label: Buckets(**one) for label, one in found.by_label}
    if len(by_label) < len(found.by_label):
        raise ValueError("by_label must name each label once.")
    return {
        "buckets": Buckets(**found.buckets),
        "calibrator": found.calibrator and calibrator_from_dict(found.calibrator),
        "by_label": by_label,
        "source": found.source,
        "verified": [_read_verification(one) for one in found.verified],
        "name": found.name,
        "note": found.note,
    }


def rule_of(policy: Policy) -> str:
    """What :attr:`Policy.rule` gives: twelve hexadecimal digits."""
    text = json.dumps(_undated(_describe_rule(policy)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _describe_rule(policy: Policy) -> dict[str, Any]:
    return {
        "buckets": asdict(policy.buckets),
        # Pairs, since names in JSON are text and a label may be a number.
        "by_label": [[label, asdict(one)] for label, one in policy.by_label.items()],
        "calibrator": policy.calibrator and policy.calibrator.to_dict(),
        "source": None if policy.source is None else dict(policy.source),
    }


def _undated(value: Any) -> Any:
    """The same without the day of any fit."""
    if isinstance(value, dict):
        return {k: _undated(v) for k, v in value.items() if k != "fitted_at"}
    return [_undated(v) for v in value] if isinstance(value, (list, tuple)) else value


def _describe_verification(one: Verification) -> dict[str, Any]:
    # JSON has no NaN, which is the risk where nothing was accepted.
    return asdict(one) | {"risk": None if math.isnan(one.risk) else one.risk}


def _read_verification(stored: _Verified) -> Verification:
    risk = math.nan if stored.risk is None else stored.risk
    return Verification(**{**stored.model_dump(), "risk": risk})
