"""Fine-tuning: a low-rank adapter trained on the very tokens that are scored."""

from .comparison import Comparison, accuracy_above_table, compare, error_rate_difference
from .losses import (
    BrierPenalty,
    ConfidenceHead,
    CrossEntropy,
    Focal,
    LabelSmoothing,
    SoftCalibration,
    agreement_targets,
)
from .run import finetune, finetune_ensemble, members
from .splits import grouped_split, joined_groups, near_duplicates
from .store import FineTuned, load_finetuned
from .training import Lora, TrainingSettings

__all__ = [
    "BrierPenalty",
    "Comparison",
    "ConfidenceHead",
    "CrossEntropy",
    "FineTuned",
    "Focal",
    "LabelSmoothing",
    "Lora",
    "SoftCalibration",
    "TrainingSettings",
    "accuracy_above_table",
    "agreement_targets",
    "compare",
    "error_rate_difference",
    "finetune",
    "finetune_ensemble",
    "grouped_split",
    "joined_groups",
    "load_finetuned",
    "members",
    "near_duplicates",
]
