"""From confidence to decision: what may be acted on without a look.

``buckets`` are ranges of confidence with an action each, ``thresholds`` are chosen with
a guarantee and verified on other labels, a ``policy`` puts them to use.
"""

from .buckets import REVIEW_BUCKETS, TRUST_BUCKETS, Buckets, bucket_table
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
    "Buckets",
    "CertifiedThreshold",
    "Policy",
    "Verification",
    "bucket_table",
    "choose_threshold",
    "choose_thresholds_per_class",
    "error_free_labels",
    "verify",
]
