"""A figure of thresholds that were tested."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .style import ABOVE, DOTS, LIMIT, LOOKS, WIDTH, Look, figure

if TYPE_CHECKING:
    from ..decisions import CertifiedThreshold


@figure
def plot_tested_thresholds(
    certified: CertifiedThreshold, *, ax: Axes | None = None
) -> Axes:
    """The risk above every threshold that was tested, and which thresholds passed.

    The solid line is the risk on the labelled rows, the dashed one its upper limit,
    with a dot for each threshold that passed. Risks above three times ``max_risk`` are
    cut off.

    Parameters
    ----------
    certified : CertifiedThreshold
        From :func:`helpers.decisions.choose_threshold`.
    """
    ax = ax or plt.subplots(figsize=(WIDTH, 3.9))[1]
    tested, allowed = certified.tested, certified.max_risk
    place, upper = tested["threshold"].to_numpy(), tested["upper"].to_numpy()
    passed = tested["passed"].to_numpy()
    dot = _dot(place)
    label = "risk above the threshold"
    ax.plot(place, tested["risk"], **LOOKS[0], marker=dot, label=label)
    mark = Look({"marker": "" if passed.any() else dot, "linewidth": 1.2})
    ax.plot(place, upper, **LOOKS[1], **mark, label="its upper limit")
    if passed.any():
        mark = DOTS[1] | {"marker": "o", "markersize": 3.5}
        ax.plot(place[passed], upper[passed], **mark, label="passed")
    ax.axhline(allowed, **LIMIT, label=f"risk allowed: {_percent(allowed)}")
    if certified.threshold is None:
        ax.plot([], [], linestyle="", label="no threshold passed")
    else:
        label = (
            f"accept from {certified.threshold:g}: {certified.n_accepted:,} of "
            f"{certified.n_labels:,} rows ({_percent(certified.coverage)})"
        )
        line = Look({"color": "0.3", "linewidth": 1.2, "linestyle": "-."})
        ax.axvline(certified.threshold, **line, label=label)
    # Thresholds below the first that accepts all rows tell nothing new.
    whole = place[tested["n"] == tested["n"].max()]
    left = min(float(whole.max(initial=0.0)), 0.98)
    ax.set_xlim(left - 0.02 * (1 - left), 1 + 0.02 * (1 - left))
    highest = 1.1 * upper.max(initial=0.0)
    top = min(max(3 * allowed, 1.3 * upper.min(initial=1.0)), highest)
    top = min(max(top, 1.5 * allowed), 1.02)
    ax.set_ylim(-0.015 * top, top)
    ax.set(xlabel="threshold on the confidence", ylabel="risk above it")
    ax.yaxis.set_major_formatter(_percent)
    ax.legend(**ABOVE, ncols=2)
    return ax


def _dot(values: Any) -> str:
    """A marker where there is one point only, of which a line shows nothing."""
    return "o" if len(values) == 1 else ""


def _percent(share: float, _: float = 0.0) -> str:
    return f"{100 * share:.3g}%"
