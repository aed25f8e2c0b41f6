"""A policy as plain numbers, lists and words, and what tells its rule from others."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..calibration.storage import from_dict as calibrator_from_dict
from .buckets import Buckets
from .risk import Verification

if TYPE_CHECKING:
    from .policy import Policy

FORMAT = "helpers.decisions/2"


def describe_policy(policy: Policy) -> dict[str, Any]:
    """What :meth:`Policy.to_dict` gives.

    Parameters
    ----------
    policy : Policy
        The policy.

    Returns
    -------
    dict
    """
    return {
        "format": FORMAT,
        "name": policy.name,
        "note": policy.note,
        **_describe_rule(policy),
        "verified": [_describe_verification(one) for one in policy.verified],
    }


def read_policy(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the policy that :func:`describe_policy` described.

    Parameters
    ----------
    stored : mapping
        What it gave.

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        A part of it has no meaning.
    AttributeError, KeyError, TypeError
        A part is missing, or of another kind.
    """
    calibrator = stored["calibrator"]
    return {
        "buckets": Buckets(**stored["buckets"]),
        "calibrator": None if calibrator is None else calibrator_from_dict(calibrator),
        "by_label": {label: Buckets(**one) for label, one in stored["by_label"]},
        "source": stored["source"],
        "verified": [_read_verification(one) for one in stored["verified"]],
        "name": stored["name"],
        "note": stored["note"],
    }


def rule_of(policy: Policy) -> str:
    """What :attr:`Policy.rule` gives.

    Parameters
    ----------
    policy : Policy
        The policy.

    Returns
    -------
    str
        Twelve hexadecimal digits.
    """
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


def _read_verification(stored: Mapping[str, Any]) -> Verification:
    risk = math.nan if stored["risk"] is None else stored["risk"]
    return Verification(**{**stored, "risk": risk})
