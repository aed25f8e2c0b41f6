"""What a policy costs, against looking at everything and accepting everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from statsmodels.stats.proportion import proportion_confint

from ..decisions import CertifiedThreshold, Costs, best_threshold, break_even
from ..metrics import Interval, bootstrap_interval
from ..metrics.bins import at_least

_ROWS = 1000  # for which costs are told


@dataclass(frozen=True)
class PolicyCost:
    """Costs per 1,000 rows, with intervals at 95 %, and the cheapest threshold.

    Parameters
    ----------
    costs : Costs
        Of an error and of a look.
    policy, accept_all : Interval
        If rows are accepted from the certified threshold on (none, if nothing is
        certified), and if all are.
    look_at_all : float
        If none is accepted.
    cheapest : float
        The threshold of least expected cost: the break-even of calibrated confidences,
        or else found by search.
    at_cheapest : Interval
        If rows are accepted from there on.
    is_certified : bool
        Whether the risk is certified there, too.
    """

    costs: Costs
    policy: Interval
    accept_all: Interval
    look_at_all: float
    cheapest: float
    at_cheapest: Interval
    is_certified: bool

    @classmethod
    def of(
        cls,
        costs: Costs,
        confidence: Any,
        right: np.ndarray,
        certificate: CertifiedThreshold,
        *,
        is_calibrated: bool,
        groups: np.ndarray | None = None,
        seed: int = 0,
    ) -> PolicyCost:
        """Costs on the rows that certified."""
        sure = np.asarray(confidence)

        def at(threshold: float) -> Interval:
            return _cost(costs, at_least(sure, threshold), right, groups, seed)

        if is_calibrated:
            cheapest = break_even(costs)
            at_cheapest = at(cheapest)
        else:
            found = best_threshold(confidence, right, costs, groups=groups, rng=seed)
            cheapest = found.threshold
            at_cheapest = Interval(*(_ROWS * cost for cost in found.cost))
        tested = certificate.tested
        above = tested[at_least(tested["threshold"].to_numpy(), cheapest)]
        threshold = certificate.threshold
        return cls(
            costs,
            at(np.inf if threshold is None else threshold),
            at(0.0),
            _ROWS * costs.reviewed,
            cheapest,
            at_cheapest,
            bool(len(above) and above["passed"].iloc[-1]),
        )

    def __str__(self) -> str:
        def told(cost: Interval) -> str:
            if cost.low == cost.high:
                return f"{cost.value:,.0f}"
            return f"about {cost.value:,.0f} ({cost.low:,.0f} to {cost.high:,.0f})"

        where = f"from a confidence of {self.cheapest:.3g} on"
        if self.cheapest == np.inf:
            where = "nowhere"
        kept = "holds there, too" if self.is_certified else "does not reach so far"
        return (
            f"At {self.costs.error:g} an error and {self.costs.review:g} a look, "
            f"{_ROWS:,} rows cost {told(self.policy)} by this policy, "
            f"{self.look_at_all:,.0f} if all are looked at, {told(self.accept_all)} if "
            f"all are accepted. The least is expected if rows are accepted {where}, "
            f"{told(self.at_cheapest)}; the promise {kept}."
        )


def _cost(
    costs: Costs,
    accepted: np.ndarray,
    right: np.ndarray,
    groups: np.ndarray | None,
    seed: int,
) -> Interval:
    n, wrong = int(accepted.sum()), int((accepted & ~right).sum())
    if not n:
        return Interval(*[_ROWS * costs.reviewed] * 3)
    each = np.where(accepted, np.where(right, costs.right, costs.error), costs.reviewed)
    value, low, high = bootstrap_interval(
        each / costs.error, right, "confidence", groups=groups, rng=seed
    )
    # If no row accepted is wrong, none is in a resample, and yet one may come.
    limits = np.array(proportion_confint(wrong, n, method="beta"))
    least, most = value + (limits - wrong / n) * n / len(each)
    unit = _ROWS * costs.error
    return Interval(unit * value, unit * min(low, least), unit * max(high, most))
