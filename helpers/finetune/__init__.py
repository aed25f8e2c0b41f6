"""Fine-tuning: a low-rank adapter trained on the very tokens that are scored.

:func:`finetune` takes a classifier and labelled texts, and gives the same classifier on
a tuned model; ``run`` is its module, ``training`` has the settings and the steps, and
``store`` the result and its folder. ``label_scores`` has the labels' log-probabilities
with gradient, ``losses`` what is minimised, and ``trunk`` caches frozen layers.

Around it stands what makes the result believable: ``splits`` cuts a data set so that
texts that belong together stay on one side, and finds near duplicates; ``comparison``
measures two models on the same rows.
"""

from .comparison import (
    Comparison,
    accuracy_above_table,
    compare,
    error_rate_difference,
)
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
