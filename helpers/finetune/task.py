"""What is to be learned: prompts, targets, held-out prompts, and their one hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..checks import check_distributions, check_truth
from ..classifier import LLMClassifier
from ..models import LanguageModel
from ..prompted import check_texts
from ..scoring import tree_is_exact
from ..tree import nodes_to_read
from ..verbalizer import LabelTokens
from .head import ConfidenceHead
from .losses import CrossEntropy, Loss
from .settings import TrainingSettings


@dataclass(frozen=True)
class Task:
    """A training, ready to be run: prompts as tokens, truth as positions of labels."""

    classifier: LLMClassifier
    model: LanguageModel
    labels: LabelTokens
    prompts: list[list[int]]
    truth: np.ndarray
    targets: np.ndarray
    held_out: list[list[int]]
    held_out_truth: np.ndarray
    loss: Loss
    settings: TrainingSettings
    head: ConfidenceHead | None
    parts: dict[str, str]

    @property
    def digest(self) -> str:
        """One hash of all parts."""
        return _hash(self.parts)

    @property
    def truth_suffices(self) -> bool:
        """Whether reading each text's own label is enough, and less work."""
        hard = bool((self.targets.max(axis=1) == 1).all())
        single = len(self.labels.sequences) == len(self.labels.labels)
        return self.loss.truth_suffices and hard and single and self.head is None

    def widths(self) -> list[int]:
        """Positions that each prompt takes in a batch, its labels included."""
        depth = max(self.labels.trie.depths)
        lengths = [len(ids) for ids in self.prompts]
        if self.truth_suffices:
            return [length + depth for length in lengths]
        if tree_is_exact(self.model, max(lengths) + depth):
            nodes = len(nodes_to_read(self.labels)) - 1
            return [length + nodes for length in lengths]
        n_rows = len(self.labels.sequences)
        return [(length + depth) * n_rows for length in lengths]


def make_task(
    classifier: LLMClassifier,
    X: Iterable[str],
    y: ArrayLike,
    *,
    validation: tuple[Iterable[str], ArrayLike],
    loss: Loss | None = None,
    settings: TrainingSettings | None = None,
    sample_targets: ArrayLike | None = None,
    head: ConfidenceHead | None = None,
) -> Task:
    """Check the data of a training and write them as tokens."""
    loss = CrossEntropy() if loss is None else loss
    settings = TrainingSettings() if settings is None else settings
    if not (is_dataclass(loss) and callable(loss) and hasattr(loss, "truth_suffices")):
        raise TypeError(
            f"loss must be a dataclass such as CrossEntropy(), not {loss!r}: what it "
            "is has to be written down with the result."
        )
    texts, held_out = check_texts(X), check_texts(validation[0], "validation")
    for name, found in (("X", texts), ("validation", held_out)):
        if not found:
            raise ValueError(f"{name} must hold at least one text; there is none.")
    _check_apart(texts, held_out)
    model, labels, prompts, _ = classifier.inputs(texts)
    if settings.precision == "float16" and model.device.type == "cpu":
        raise ValueError(
            "precision 'float16' needs a CUDA device; take 'float32' or 'bfloat16'."
        )
    names = list(labels.labels)
    truth = check_truth(y, names, texts, X, name="y")
    onehot = np.eye(len(names))[truth]
    targets = onehot
    if sample_targets is not None:
        targets = _targets(sample_targets, onehot, X, y)
    held_out_truth = check_truth(
        validation[1], names, held_out, validation[0], name="validation"
    )
    parts = {
        "model": model.fingerprint,
        "prompt": prompt_hash(classifier),
        "data": _hash(
            [texts, truth.tolist(), targets.tolist(), held_out, held_out_truth.tolist()]
        ),
        "loss": repr(loss),
        "settings": _hash(asdict(settings)),
        "head": repr(head),
    }
    return Task(
        classifier=classifier,
        model=model,
        labels=labels,
        prompts=prompts,
        truth=truth,
        targets=targets,
        held_out=classifier.inputs(held_out)[2],
        held_out_truth=held_out_truth,
        loss=loss,
        settings=settings,
        head=head,
        parts=parts,
    )


def prompt_hash(classifier: LLMClassifier) -> str:
    """A hash of how a model is asked, its prior left out."""
    _, labels, _, _ = classifier.inputs([])
    spelled = [labels.labels, labels.sequences, labels.owners, labels.stop_ids]
    return _hash([classifier.render("A"), classifier.too_long, *spelled])


def plan_batches(
    widths: list[int], settings: TrainingSettings
) -> list[list[list[int]]]:
    """Rows of each batch of each epoch, by its number and the seed alone."""
    plan = []
    for epoch in range(settings.epochs):
        rng = np.random.default_rng([settings.seed, epoch])
        order = np.argsort(widths * rng.uniform(0.9, 1.1, len(widths)))
        found: list[list[int]] = [[]]
        widest = 0
        for row in order.tolist():
            widest = max(widest, widths[row])
            if found[-1] and (len(found[-1]) + 1) * widest > settings.token_budget:
                found.append([])
                widest = widths[row]
            found[-1].append(row)
        plan.append([found[at] for at in rng.permutation(len(found))])
    return plan


def _check_apart(texts: list[str], held_out: list[str]) -> None:
    """Held-out texts that were trained on would say nothing."""
    known = {" ".join(text.casefold().split()) for text in texts}
    for at, text in enumerate(held_out):
        if " ".join(text.casefold().split()) in known:
            raise ValueError(
                f"validation must hold other texts than X; text {at} is in both: "
                f"{text[:60]!r}. Split by text."
            )


def _targets(values: ArrayLike, onehot: np.ndarray, *rows: Any) -> np.ndarray:
    targets, _ = check_distributions(values, "sample_targets", onehot, *rows)
    if targets.shape != onehot.shape:
        raise ValueError(
            f"sample_targets must have the shape {onehot.shape}, a row a text and a "
            f"column a label, not {targets.shape}."
        )
    return targets


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
