"""From confidence to decision: what may be acted on without a look.

``buckets`` are ranges of confidence with an action each, ``thresholds`` are chosen with
a guarantee and verified on other labels, ``costs`` choose by prices, and a ``policy``
puts them to use. ``queues`` say what to look at next, ``conformal`` gives sets of
labels. ``monitoring`` watches whether the promise holds, ``drift`` whether scores still
are what they were.
"""

from .buckets import REVIEW_BUCKETS, TRUST_BUCKETS, Buckets, bucket_table
from .conformal import ConformalSets, set_coverage
from .costs import (
    Costs,
    ThresholdChoice,
    best_threshold,
    break_even,
    cost_curve,
    expected_cost,
)
from .drift import DriftMeasure, ScoreDrift, score_drift
from .monitoring import AccuracyMonitor, CalibrationMonitor
from .policy import Policy
from .queues import review_queue
from .thresholds import (
    CertifiedThreshold,
    Verification,
    choose_threshold,
    choose_thresholds_per_class,
    error_free_labels,
    verify,
)

__all__ = [
    "REVIEW_BUCKETS",
    "TRUST_BUCKETS",
    "AccuracyMonitor",
    "Buckets",
    "CalibrationMonitor",
    "CertifiedThreshold",
    "ConformalSets",
    "Costs",
    "DriftMeasure",
    "Policy",
    "ScoreDrift",
    "ThresholdChoice",
    "Verification",
    "best_threshold",
    "break_even",
    "bucket_table",
    "choose_threshold",
    "choose_thresholds_per_class",
    "cost_curve",
    "error_free_labels",
    "expected_cost",
    "review_queue",
    "score_drift",
    "set_coverage",
    "verify",
]
