"""How unsure, and about what: spread of probabilities, of members, of option orders.

A row of label probabilities says how unsure one model is. Several rows for the same
text, from an ensemble, from passes with dropout or from prompts that list the options
in other orders, also say how far the models disagree. :class:`CombinedConfidence`
learns from outcomes how much each such signal is worth.
"""

from .combined import CombinedConfidence, fixed_mix
from .dropout import mc_dropout
from .members import (
    EnsembleDecomposition,
    PositionBias,
    combine,
    entropy,
    margin,
    orders,
    position_bias,
)

__all__ = [
    "CombinedConfidence",
    "EnsembleDecomposition",
    "PositionBias",
    "combine",
    "entropy",
    "fixed_mix",
    "margin",
    "mc_dropout",
    "orders",
    "position_bias",
]
