"""The training itself: settings, data as tokens, steps, and held-out evaluations."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from peft import prepare_model_for_kbit_training
from pydantic import AfterValidator, Field
from scipy.special import softmax
from torch import nn
from transformers import PreTrainedModel, get_scheduler

from .. import tree
from ..adapters import adapter_parameters, add_lora, copy_sharing_weights
from ..calibration.files import Count, NotNegative, Positive
from ..checks import check_distributions, check_truth, plain_text
from ..classifier import LLMClassifier
from ..int8 import is_int8
from ..metrics import brier_score, expected_calibration_error, log_loss, top_label
from ..models import LanguageModel
from ..progress import progress_bar
from ..prompted import check_texts
from ..scoring import label_logprobs, tree_is_exact
from .label_scores import label_scores
from .losses import Checked, ConfidenceHead, CrossEntropy, Part, Whole
from .trunk import Read, cache_frozen_layers, kept_states

_Name = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Lora(Checked):
    """A low-rank adapter: its size and its place.

    Parameters
    ----------
    rank : int, default=16
        Rank of the adapter.
    alpha : float, optional
        The adapter is scaled by alpha / rank; by default, alpha is twice the rank.
    dropout : float, default=0.05
        Dropout on the adapter's inputs in training, in [0, 1).
    target_modules : tuple of str or "all-linear", default="all-linear"
        Endings of the names of linear maps, as in ``("q_proj", "v_proj")``, or all but
        the output embedding.
    layers : int, optional
        Adapt only the last so many layers; the output of those below is then cached
        where that is exact.
    """

    rank: Whole = 16
    alpha: Positive | None = None
    dropout: Part = 0.05
    target_modules: (
        Annotated[tuple[_Name, ...], Field(min_length=1)] | Literal["all-linear"]
    ) = "all-linear"
    layers: Whole | None = None


def _is_loss(value: Any) -> Any:
    if is_dataclass(value) and callable(value) and hasattr(value, "truth_suffices"):
        return value
    raise ValueError("it must be a dataclass such as CrossEntropy()")


@dataclass(frozen=True)
class TrainingSettings(Checked):
    """Everything about a training but its data and its model.

    Parameters
    ----------
    lora : Lora, default=Lora()
        The adapter.
    loss : CrossEntropy or another loss, default=CrossEntropy()
        A dataclass that maps raw log-probabilities and targets to one number a row.
        ``truth_suffices`` says whether the true label's log-probability is enough.
    head : ConfidenceHead, optional
        A second output to train along.
    learning_rate : float, default=0.0005
        The highest one of the schedule.
    epochs : int, default=3
        How often each text is seen.
    token_budget : int, default=512
        The most positions in one batch, which is one step of the optimiser.
    warmup : float, default=0.1
        Share of the steps in which the learning rate rises from 0, in [0, 1).
    schedule : {"cosine", "linear", "constant"}, default="cosine"
        How it falls afterwards.
    weight_decay, max_grad_norm : float, default=0.0 and 1.0
        Decay of the adapter's weights; longer gradients are scaled down.
    evaluate_every : int, optional
        Steps between evaluations on held-out texts; by default, a third of an epoch.
    patience : int, optional
        Stop after so many evaluations without a gain; by default, never.
    monitor : {"log_loss", "brier", "ece"}, default="log_loss"
        The held-out measure that chooses the best weights; lower is better.
    precision : {"float32", "bfloat16"}, default="float32"
        Precision of matrix products. The adapter's own weights are always float32.
    checkpointing : bool, default=False
        Compute activations twice instead of keeping them: less memory, more time.
    seed : int, default=0
        Seed of the adapter's first weights, the order of texts and dropout.
    """

    lora: Lora = field(default_factory=Lora)
    loss: Annotated[Any, AfterValidator(_is_loss)] = field(default_factory=CrossEntropy)
    head: ConfidenceHead | None = None
    learning_rate: Positive = 5e-4
    epochs: Whole = 3
    token_budget: Whole = 512
    warmup: Part = 0.1
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    evaluate_every: Whole | None = None
    patience: Whole | None = None
    monitor: Literal["log_loss", "brier", "ece"] = "log_loss"
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    seed: Count = 0

    def plain(self) -> dict[str, Any]:
        """All but the loss and the head, as JSON has it."""
        values = {k: v for k, v in vars(self).items() if k not in ("loss", "head")}
        return asdict(values.pop("lora")) | values

    def plan(self, widths: list[int]) -> list[list[list[int]]]:
        """Rows of each batch of each epoch, by its number and the seed alone."""
        epochs = []
        for epoch in range(self.epochs):
            rng = np.random.default_rng([self.seed, epoch])
            order = np.argsort(widths * rng.uniform(0.9, 1.1, len(widths)))
            found: list[list[int]] = []
            widest = 0
            for row in order.tolist():
                widest = max(widest, widths[row])
                if not found or (len(found[-1]) + 1) * widest > self.token_budget:
                    found.append([])
                    widest = widths[row]
                found[-1].append(row)
            epochs.append([found[at] for at in rng.permutation(len(found))])
        return epochs


class Task:
    """A training, ready to be run: prompts as tokens, truth as positions of labels."""

    def __init__(
        self,
        classifier: LLMClassifier,
        X: Iterable[str],
        y: ArrayLike,
        validation: tuple[Iterable[str], ArrayLike],
        sample_targets: ArrayLike | None = None,
        settings: TrainingSettings | None = None,
    ) -> None:
        texts, held_out = check_texts(X), check_texts(validation[0], "validation")
        known: set[str] = set()
        for name, part in (("X", texts), ("validation", held_out)):
            if not part:
                raise ValueError(f"{name} must hold at least one text; there is none.")
            plain = {plain_text(text) for text in part}
            if twice := known & plain:
                raise ValueError(
                    f"validation must hold other texts than X; {twice.pop()[:60]!r} is "
                    "in both."
                )
            known = plain
        self.settings = settings or TrainingSettings()
        self.model, self.labels, self.prompts, _ = classifier.inputs(texts)
        self.held_out = classifier.inputs(held_out)[2]
        names = list(self.labels.labels)
        self.truth = check_truth(y, names, texts, X, name="y")
        self.held_out_truth = check_truth(
            validation[1], names, held_out, validation[0], name="validation"
        )
        self.targets = onehot = np.eye(len(names))[self.truth]
        if sample_targets is not None:
            self.targets, _ = check_distributions(
                sample_targets, "sample_targets", onehot, X, y
            )
        if self.targets.shape != onehot.shape:
            raise ValueError(
                f"sample_targets must have the shape {onehot.shape}, a row a text and "
                f"a column a label, not {self.targets.shape}."
            )
        data = [texts, self.truth, self.targets, held_out, self.held_out_truth]
        # All that the result depends on.
        self.parts = {
            "model": self.model.fingerprint,
            "prompt": self.prompt_hash(classifier),
            "data": _hash(data),
            "loss": repr(self.settings.loss),
            "settings": _hash(self.settings.plain()),
            "head": repr(self.settings.head),
        }

    @staticmethod
    def prompt_hash(classifier: LLMClassifier) -> str:
        """A hash of how a model is asked, its prior left out."""
        _, labels, _, _ = classifier.inputs([])
        spelled = [labels.labels, labels.sequences, labels.owners, labels.stop_ids]
        return _hash([classifier.render("A"), classifier.too_long, *spelled])

    @property
    def key(self) -> str:
        """A name for the folder of the result."""
        return _hash(self.parts)[:16]

    @property
    def truth_suffices(self) -> bool:
        """Whether reading each text's own label is enough, and less work."""
        hard = bool((self.targets.max(axis=1) == 1).all())
        single = len(self.labels.sequences) == len(self.labels.labels)
        is_plain = self.settings.loss.truth_suffices and not self.settings.head
        return is_plain and hard and single

    def is_exact(self, prompts: list[list[int]]) -> bool:
        """Whether all labels can be read in one pass behind the longest prompt."""
        depth = max(self.labels.trie.depths)
        return tree_is_exact(self.model, max(map(len, prompts)) + depth)

    def widths(self) -> list[int]:
        """Positions that each prompt takes in a batch, its labels included."""
        if not self.truth_suffices and self.is_exact(self.prompts):
            return self.tree_widths(self.prompts)
        n = 1 if self.truth_suffices else len(self.labels.sequences)
        depth = max(self.labels.trie.depths)
        return [n * (len(ids) + depth) for ids in self.prompts]

    def tree_widths(self, prompts: list[list[int]]) -> list[int]:
        """Positions of each prompt with the tree of all labels behind it."""
        n = len(tree.nodes_to_read(self.labels))
        return [len(ids) + n - 1 for ids in prompts]


def copy_of_base(base: LanguageModel) -> PreTrainedModel:
    """A network with the base's weights, to put an adapter on."""
    if is_int8(base.network):
        raise ValueError(
            "classifier's model must be loaded without precision='int8', which has no "
            "gradient. What is trained can be loaded with it afterwards."
        )
    if getattr(base.network, "hf_quantizer", None) is None:
        return copy_sharing_weights(base.network)
    if base.source is None:
        raise ValueError(
            "classifier's model must be loaded by LanguageModel.load where it is "
            "quantised: it is loaded a second time."
        )
    return base.source.load()[0]


class Trainer:
    """Runs a task on a copy of its model, from its last checkpoint to its end."""

    def __init__(
        self,
        task: Task,
        checkpoint: Path,
        on_evaluation: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        self.checkpoint, self.on_evaluation = checkpoint, on_evaluation
        self.task = task = copy.copy(task)
        self.base, task.model = task.model, _trainable(task)
        self.settings = settings = task.settings
        self.head: nn.Module | None = None
        adapter = adapter_parameters(task.model.network)
        groups: list[dict[str, Any]] = [{"params": adapter}]
        if settings.head is not None:
            self.head = settings.head.build(task.model, seed=settings.seed)
            rate, weights = settings.head.learning_rate, list(self.head.parameters())
            groups.append({"params": weights, "lr": rate})
        self.trained = [weight for group in groups for weight in group["params"]]
        # Tried on the network as it is asked later, before dropout is on.
        task.is_exact(task.prompts)
        plan = settings.plan(task.widths())
        self.plan = [batch for epoch in plan for batch in epoch]
        self.every = settings.evaluate_every or math.ceil(len(plan[0]) / 3)
        self.read: Read = self._read
        self.read_held_out: Read | None = None
        # Half precision would round otherwise, and checkpointing is to save memory.
        if settings.precision == "float32" and not settings.checkpointing:
            if settings.epochs > 1:
                read = [task.prompts, task.truth_suffices and task.truth.tolist()]
                self.read = self._cached(self._read, task.widths(), read) or self._read
            if task.is_exact(task.held_out):
                self.read_held_out = self._cached(
                    self._read_held_out, task.tree_widths(task.held_out), task.held_out
                )
        self.optimiser = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.schedule: Any = get_scheduler(
            settings.schedule.replace("constant", "constant_with_warmup"),
            self.optimiser,
            num_warmup_steps=math.ceil(settings.warmup * len(self.plan)),
            num_training_steps=len(self.plan),
        )
        self.history: list[dict[str, float]] = []
        self.best = self._weights()

    def run(self) -> None:
        step, device = self._restore(), self.task.model.device
        losses: list[float] = []
        bar = progress_bar(total=len(self.plan), initial=step, unit="step")
        with bar, torch.random.fork_rng([device] if device.type == "cuda" else []):
            if not self.history:
                self._evaluate(0, float("nan"))
            while step < len(self.plan) and not self._is_patience_over():
                losses.append(self.step(step))
                step += 1
                bar.update()
                if step % self.every == 0 or step == len(self.plan):
                    self._evaluate(step, float(np.mean(losses)))
                    losses = []
        self._set_weights(self.best)

    def step(self, at: int) -> float:
        # Dropout is a function of seed and step, so a resumed training repeats it.
        seeds = np.random.SeedSequence([self.settings.seed, at])
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        self.task.model.network.train()
        loss = self.loss(self.plan[at])
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The loss is {value} at step {at}: take a lower learning rate."
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, self.settings.max_grad_norm)
        self.optimiser.step()
        self.schedule.step()
        return value

    def loss(self, rows: list[int]) -> torch.Tensor:
        task, settings = self.task, self.settings
        half = settings.precision == "bfloat16"
        with torch.autocast(task.model.device.type, torch.bfloat16, enabled=half):
            raw, ends = self.read(rows)
        if task.truth_suffices:
            return settings.loss(raw, torch.ones_like(raw)).mean()
        loss = settings.loss(raw, torch.as_tensor(task.targets[rows]).to(raw))
        if self.head is not None and settings.head is not None:
            truth = torch.as_tensor(task.truth[rows], device=raw.device)
            is_right = raw.detach().argmax(1) == truth
            loss = loss + settings.head.loss(self.head, ends, is_right)
        return loss.mean()

    @torch.no_grad()
    def held_out_logprobs(self) -> np.ndarray:
        task = self.task
        model, prompts, labels = task.model, task.held_out, task.labels
        if self.read_held_out is None:
            raw = label_logprobs(model, prompts, labels, progress=False)
            tree.forget_prefix(model)  # its weights will change
            return raw
        raw = np.empty((len(prompts), len(labels.labels)))
        widths, budget = task.tree_widths(prompts), tree.positions_in_batch(model, None)
        vocabulary = model.network.get_output_embeddings().weight.shape[0]
        n_logits = len(tree.nodes_to_read(labels)) * vocabulary
        for rows in tree.batches(widths, budget, max(1, tree.LOGIT_BUDGET // n_logits)):
            raw[rows] = self.read_held_out(rows)[0].cpu().numpy()
        model.check_logprobs(raw, range(len(raw)))
        return raw

    def _cached(self, read: Read, widths: list[int], texts: Any) -> Read | None:
        lora, task = self.settings.lora, self.task
        where = [lora.layers, lora.target_modules, task.parts["prompt"]]
        kept = kept_states(self.base, _hash([where, widths, texts]))
        return cache_frozen_layers(task.model, read, widths, kept)

    def _read(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        task = self.task
        prompts = [task.prompts[row] for row in rows]
        truth = task.truth[rows].tolist() if task.truth_suffices else None
        return label_scores(task.model, prompts, task.labels, truth)

    def _read_held_out(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        prompts = [self.task.held_out[row] for row in rows]
        return label_scores(self.task.model, prompts, self.task.labels)

    def _evaluate(self, step: int, train_loss: float) -> None:
        self.task.model.network.eval()
        seen = sum(map(len, self.plan[:step])) / len(self.task.prompts)
        truth = self.task.held_out_truth
        probabilities = softmax(self.held_out_logprobs(), axis=1)
        confidence, correct = top_label(probabilities, truth)
        row = {
            "step": step,
            "epoch": seen,
            "train_loss": train_loss,
            "accuracy": float(correct.mean()),
            "log_loss": float(log_loss(probabilities, truth)),
            "brier": float(brier_score(probabilities, truth)),
            "ece": float(expected_calibration_error(confidence, correct)),
        }
        monitor = self.settings.monitor
        if row[monitor] < min((r[monitor] for r in self.history), default=math.inf):
            self.best = self._weights()
        self.history.append(row)
        state = {
            "parts": self.task.parts,
            "step": step,
            "history": self.history,
            "weights": self._weights(),
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
        }
        unfinished = self.checkpoint.with_suffix(".unfinished")
        torch.save(state, unfinished)
        os.replace(unfinished, self.checkpoint)
        if self.on_evaluation is not None:
            self.on_evaluation(dict(row))

    def _restore(self) -> int:
        if not self.checkpoint.exists():
            return 0
        state = torch.load(self.checkpoint, weights_only=True)
        self._set_weights(state["weights"])
        self.best, self.history = state["best"], state["history"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        return int(state["step"])

    def _is_patience_over(self) -> bool:
        values = [row[self.settings.monitor] for row in self.history]
        without_gain = len(values) - 1 - int(np.argmin(values))
        return without_gain >= (self.settings.patience or math.inf)

    def _weights(self) -> list[torch.Tensor]:
        return [weight.detach().to("cpu", copy=True) for weight in self.trained]

    @torch.no_grad()
    def _set_weights(self, values: list[torch.Tensor]) -> None:
        for weight, value in zip(self.trained, values, strict=True):
            weight.copy_(value)


def _trainable(task: Task) -> LanguageModel:
    base, settings = task.model, task.settings
    network: Any = copy_of_base(base)
    if getattr(network, "hf_quantizer", None) is not None:
        network = prepare_model_for_kbit_training(network, False)
    source = base.source[0] if base.source else None
    add_lora(network, **asdict(settings.lora), base=source, seed=settings.seed)
    if settings.checkpointing:
        # transformers is changing the name.
        new = getattr(network, "activation_checkpointing_enable", None)
        (new or network.gradient_checkpointing_enable)({"use_reentrant": False})
    return LanguageModel(network, base.tokenizer, name=f"{base.name} in training")


def _hash(value: Any) -> str:
    text = json.dumps(value, default=np.ndarray.tolist)
    return hashlib.sha256(text.encode()).hexdigest()
