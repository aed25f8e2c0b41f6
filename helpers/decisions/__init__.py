"""From confidence to decision: what may be acted on without a look.

``rules`` are fixed beforehand; ``thresholds`` are chosen with a guarantee, or by
``costs``; ``verification`` says how they do on other labels, a ``policy`` applies them.
``queries`` say what to review next, ``conformal`` gives sets of labels, ``monitors``
and ``drift`` watch what comes later.
"""

from .conformal import ConformalSets
from .costs import Costs, ThresholdChoice, best_threshold, break_even, cost_curve
from .drift import resample_label_shift, score_drift
from .monitors import (
    AccuracyMonitor,
    CalibrationMonitor,
    DetectionDelay,
    detection_delay,
)
from .policy import Policy
from .queries import review_queue
from .rules import (
    REVIEW_BUCKETS,
    TRUST_BUCKETS,
    Buckets,
    bucket_table,
)
from .thresholds import (
    CertifiedThreshold,
    choose_threshold,
    choose_thresholds_per_class,
    zero_failure_sample_size,
)
from .verification import Verification, verify, verify_accepted

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
    "Policy",
    "ThresholdChoice",
    "Verification",
    "best_threshold",
    "break_even",
    "bucket_table",
    "choose_threshold",
    "choose_thresholds_per_class",
    "cost_curve",
    "detection_delay",
    "resample_label_shift",
    "review_queue",
    "score_drift",
    "verify",
    "verify_accepted",
    "zero_failure_sample_size",
]
