"""Self-consistency: let the model answer several times, and count.

``draw`` gets the answers, ``votes`` says what their counts are worth.
"""

from .draw import sample_votes, sampling_probabilities
from .votes import (
    INVALID,
    agreement,
    fewer_votes,
    is_settled,
    samples_needed,
    smoothed_share,
    winners_share,
)

__all__ = [
    "INVALID",
    "agreement",
    "fewer_votes",
    "is_settled",
    "sample_votes",
    "samples_needed",
    "sampling_probabilities",
    "smoothed_share",
    "winners_share",
]
