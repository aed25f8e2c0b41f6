"""From confidence to decision: what may be acted on without a look.

``buckets`` are ranges of confidence with an action each, ``thresholds`` are chosen with
a guarantee and verified on other labels, a ``policy`` puts them to use. ``monitoring``
watches whether its promise holds, ``drift`` whether scores still are what they were.
"""

from .buckets import REVIEW_BUCKETS, TRUST_BUCKETS, Buckets, bucket_table
from .drift import DriftMeasure, ScoreDrift, score_drift
from .monitoring import AccuracyMonitor, CalibrationMonitor
from .policy import Policy
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
    "DriftMeasure",
    "Policy",
    "ScoreDrift",
    "Verification",
    "bucket_table",
    "choose_threshold",
    "choose_thresholds_per_class",
    "error_free_labels",
    "score_drift",
    "verify",
]
