"""A policy in words: its card, and the reason for each action."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .buckets import Buckets

if TYPE_CHECKING:
    from .policy import Policy


def policy_card(policy: Policy) -> str:
    """What :meth:`Policy.card` says."""
    lines = [policy.name, "=" * len(policy.name), f"rule {policy.rule}"]
    lines += [policy.note, ""] if policy.note else [""]
    lines += ["What is done", *_actions(policy.buckets)]
    for label, buckets in policy.by_label.items():
        lines += [f"  if the prediction is {label!r}:", *_actions(buckets, "  ")]
    lines.append("  no confidence known: " + policy.buckets.names[0])
    lines += ["", "The confidence"]
    if policy.calibrator is None:
        lines.append("  is used as the model gives it: nothing says that it is true")
    else:
        lines.append(
            f"  is calibrated by {type(policy.calibrator).__name__}, fitted on "
            f"{policy.calibrator.fitted_at_[:10]} to {policy.calibrator.n_} labels"
        )
    lines += [f"  {key}: {value}" for key, value in (policy.source or {}).items()]
    lines += ["", "What it was verified on"]
    # The rule, which is the same of each, is said above.
    found = [replace(one, rule=None) for one in policy.verified]
    lines += [f"  {one}" for one in found] or ["  nothing"]
    return "\n".join(lines)


def reasons(
    values: np.ndarray, codes: np.ndarray, buckets: Buckets, what: str, whose: str
) -> list[str]:
    """Why each row gets its action."""
    possible = buckets.possible()
    if sum(possible) == 1:
        amount = "everything" if possible[-1] else "nothing"
        return [f"{amount} is accepted{whose}"] * len(values)
    # Six digits, or all there are where six would be in another range.
    short = [f"{value:.6g}" for value in values]
    read = np.clip(np.array(short, dtype=values.dtype), 0, 1)
    same = buckets.codes(read) == codes
    ranges = buckets.ranges()
    return [
        f"{what} {text if kept else repr(value.item())} is {ranges[code]}{whose}"
        for text, kept, value, code in zip(short, same, values, codes, strict=True)
    ]


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
