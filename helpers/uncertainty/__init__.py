"""How unsure, and about what: spread of probabilities, of members, of option orders."""

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
