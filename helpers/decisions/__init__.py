"""From confidence to decision: what may be acted on without a look.

``buckets`` are ranges of confidence with an action each, ``thresholds`` are chosen with
a guarantee and verified on other labels, by tests of the ``risk``; ``costs`` choose by
prices, and a ``policy`` puts them to use. ``queues`` say what to look at next,
``conformal`` gives sets of labels. ``monitoring`` watches whether a promise holds, by
``betting`` against it: ``accuracy_monitor`` that of an accuracy, and
``calibration_monitor`` that of each confidence. ``delay`` says how soon a fall would be
noticed. ``drift`` tells whether scores still are what they were, and ``shift`` draws
rows as if there were more of some classes.
"""

from .accuracy_monitor import AccuracyMonitor
from .buckets import REVIEW_BUCKETS, TRUST_BUCKETS, Buckets, bucket_table
from .calibration_monitor import CalibrationMonitor
from .conformal import ConformalSets, set_coverage
from .costs import (
    Costs,
    ThresholdChoice,
    best_threshold,
    break_even,
    cost_curve,
    expected_cost,
)
from .delay import DetectionDelay, detection_delay
from .drift import DriftMeasure, ScoreDrift, score_drift
from .policy import Policy
from .queues import review_queue
from .risk import Verification, error_free_labels, verify_accepted
from .shift import shifted_rows
from .thresholds import (
    CertifiedThreshold,
    choose_threshold,
    choose_thresholds_per_class,
    verify,
    verify_per_class,
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
    "DetectionDelay",
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
    "detection_delay",
    "error_free_labels",
    "expected_cost",
    "review_queue",
    "score_drift",
    "set_coverage",
    "shifted_rows",
    "verify",
    "verify_accepted",
    "verify_per_class",
]
