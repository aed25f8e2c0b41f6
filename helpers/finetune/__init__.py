"""Fine-tuning: a low-rank adapter trained on the very tokens that are scored.

:func:`finetune` takes a classifier and labelled texts, and gives the same classifier on
a tuned model. ``label_scores`` has the labels' log-probabilities with gradient;
``losses`` what is minimised; ``settings`` how; ``task``, ``training``, ``store`` and
``result`` are the training from its data to its folder, and ``trunk`` spares it running
frozen layers again; ``head`` is a second output that learns to say whether the first is
right; ``ensembles`` are several adapters.

Around it stands what makes the result believable: ``splits`` cuts a data set so that
texts that belong together stay on one side; ``audit`` finds texts that are nearly the
same; ``comparison`` measures two models on the same rows; ``business`` counts what is
left above a threshold.
"""

from .audit import near_duplicates
from .business import RateDifference, business_table, error_rate_difference
from .comparison import Comparison, McNemar, compare
from .ensembles import finetune_ensemble, members
from .head import ConfidenceHead
from .label_scores import (
    label_logprobs_with_gradient,
    true_label_logprobs_with_gradient,
)
from .losses import (
    BrierPenalty,
    CrossEntropy,
    Focal,
    LabelSmoothing,
    Loss,
    SoftCalibration,
    agreement_targets,
)
from .result import FineTuned, load_finetuned
from .run import finetune
from .settings import TrainingSettings
from .splits import grouped_split, joined_groups

__all__ = [
    "BrierPenalty",
    "Comparison",
    "ConfidenceHead",
    "CrossEntropy",
    "FineTuned",
    "Focal",
    "LabelSmoothing",
    "Loss",
    "McNemar",
    "RateDifference",
    "SoftCalibration",
    "TrainingSettings",
    "agreement_targets",
    "business_table",
    "compare",
    "error_rate_difference",
    "finetune",
    "finetune_ensemble",
    "grouped_split",
    "joined_groups",
    "label_logprobs_with_gradient",
    "load_finetuned",
    "members",
    "near_duplicates",
    "true_label_logprobs_with_gradient",
]
