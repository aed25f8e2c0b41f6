"""How unsure, and about what: spread of probabilities, of members, of option orders."""

from .combined import CombinedConfidence
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
    "margin",
    "mc_dropout",
    "orders",
    "position_bias",
]
