"""The book's style: colour-blind palette with contrast, markers and lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.rcsetup import cycler

PALETTE = tuple(sns.color_palette("colorblind")[at] for at in (0, 3, 2, 7, 4))
MARKERS = ("o", "s", "^", "D", "v")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
WIDTH = 7.0
Look = dict[str, Any]  # what matplotlib takes as keywords
DIAGONAL = Look({"color": "black", "linewidth": 1, "linestyle": "--"})
LIMIT = Look({"color": "black", "linewidth": 1, "linestyle": ":"})
ABOVE = Look({"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)})
STAMP = Look(
    {"s": "IN-SAMPLE", "x": 0.5, "y": 0.5, "ha": "center", "va": "center"}
    | {"rotation": 35, "fontsize": 28, "fontweight": "bold"}
    | {"color": "#b00020", "alpha": 0.45}
)
# Line styles of successive curves, and markers.
LOOKS: tuple[Look, ...] = tuple(
    {"color": PALETTE[at % 5], "linestyle": LINES[(at + at // 5) % 5]}
    for at in range(25)
)
DOTS: tuple[Look, ...] = tuple(
    {"color": PALETTE[at % 5], "linestyle": "", "marker": MARKERS[at % 5]}
    for at in range(25)
)


@contextmanager
def style() -> Iterator[None]:
    """The book's style, for the figures drawn inside a ``with`` block.

    Examples
    --------
    >>> with style():
    ...     mpl.rcParams["figure.dpi"]
    150.0
    """
    settings = sns.axes_style("whitegrid") | {
        "axes.edgecolor": "0.3",
        "axes.prop_cycle": cycler(color=PALETTE),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": 150,
        "figure.facecolor": "white",
        "figure.figsize": (WIDTH, 3.6),
        "font.size": 10,
        "grid.color": "0.9",
        "legend.frameon": False,
        "savefig.facecolor": "white",
    }
    with plt.rc_context(settings):
        yield
        # A notebook's backend switches this on; without it no later figure is shown.
        interactive = mpl.is_interactive()
    mpl.interactive(interactive)
