"""The training itself: batches, steps, evaluations on held-out texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft import prepare_model_for_kbit_training
from scipy.special import softmax
from torch import nn
from transformers import PreTrainedModel, get_scheduler

from ..adapters import (
    adapter_parameters,
    adapter_weights,
    add_lora,
    copy_sharing_weights,
    set_adapter_weights,
)
from ..checkpoints import load_checkpoint
from ..int8 import is_int8
from ..metrics import (
    Binning,
    brier_score,
    expected_calibration_error,
    log_loss,
    top_label,
)
from ..models import LanguageModel, check_logprobs
from ..progress import progress_bar
from ..scoring import label_logprobs, tree_is_exact
from ..tree import (
    LOGIT_BUDGET,
    batches,
    forget_prefix,
    nodes_to_read,
    positions_in_batch,
)
from .head import head_loss
from .label_scores import read_answers, true_label_logprobs_with_gradient
from .store import Store
from .task import Task, plan_batches
from .trunk import Read, read_once

N_BINS = 20
_SHOWN = ("accuracy", "log_loss", "ece")  # beside the progress bar
_HEAD = "head."


def copy_of_base(base: LanguageModel) -> PreTrainedModel:
    """A network with the base's weights, to put an adapter on."""
    if is_int8(base.network):
        raise ValueError(
            "classifier's model must be loaded without precision='int8': integers have "
            "no gradient. What is trained can be loaded with it afterwards."
        )
    if getattr(base.network, "hf_quantizer", None) is None:
        return copy_sharing_weights(base.network)
    if base.source is None:
        raise ValueError(
            "classifier's model must be loaded by LanguageModel.load where it is "
            "quantised, so that it can be loaded a second time."
        )
    return load_checkpoint(*base.source)[0]


def trainable_copy(task: Task) -> LanguageModel:
    """A model with the base's weights, frozen, and a fresh adapter."""
    base, settings = task.model, task.settings
    network = copy_of_base(base)
    if getattr(network, "hf_quantizer", None) is not None:
        network = prepare_model_for_kbit_training(
            network, use_gradient_checkpointing=False
        )
    add_lora(
        network,
        rank=settings.rank,
        alpha=settings.full_alpha,
        dropout=settings.dropout,
        target_modules=settings.target_modules,
        layers=settings.layers,
        base=base.source[0] if base.source else None,
        seed=settings.seed,
    )
    return LanguageModel(network, base.tokenizer, name=f"{base.name} in training")


class Trainer:
    """Runs a task on a model with an adapter, from its last checkpoint to its end."""

    def __init__(
        self,
        task: Task,
        model: LanguageModel,
        store: Store,
        *,
        progress: bool = True,
        on_evaluation: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        self.task, self.model, self.store = task, model, store
        self.progress, self.on_evaluation = progress, on_evaluation
        self.history: list[dict[str, float]] = []
        settings = task.settings
        self.head = task.head.build(model, seed=settings.seed) if task.head else None
        # On the network as it is asked later, before dropout is on.
        longest = max(map(len, task.prompts)) + max(task.labels.trie.depths)
        tree_is_exact(model, longest)
        plan = plan_batches(task.widths(), settings)
        self.plan = [batch for epoch in plan for batch in epoch]
        self._read: Read = self._read_whole
        self._read_held_out: Read | None = None
        self._find_trunks()
        self.every = settings.evaluate_every or math.ceil(len(plan[0]) / 3)
        groups: list[dict[str, Any]] = [{"params": adapter_parameters(model.network)}]
        if self.head is not None and task.head is not None:
            rate = task.head.learning_rate
            groups.append({"params": list(self.head.parameters()), "lr": rate})
        self.optimiser = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        warmup = math.ceil(settings.warmup * len(self.plan))
        constant = settings.schedule == "constant" and warmup > 0
        self.schedule: Any = get_scheduler(
            "constant_with_warmup" if constant else settings.schedule,
            self.optimiser,
            num_warmup_steps=warmup,
            num_training_steps=len(self.plan),
        )
        half = settings.precision == "float16"
        self.scaler = torch.amp.GradScaler(model.device.type, enabled=half)
        self.best = self._weights()

    def run(self) -> None:
        """Train; afterwards the model and the head have the best weights found."""
        step = self._restore()
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        losses: list[float] = []
        bar = progress_bar(
            total=len(self.plan), initial=step, unit="step", show=self.progress
        )
        with bar, torch.random.fork_rng(devices=devices), self._memory_saved():
            if not self.history:
                self._evaluate(0, float("nan"))
            while step < len(self.plan) and not self._is_patience_over():
                losses.append(self._step(step))
                step += 1
                bar.update()
                if step % self.every == 0 or step == len(self.plan):
                    self._evaluate(step, float(np.mean(losses)))
                    losses = []
                    shown = {name: self.history[-1][name] for name in _SHOWN}
                    bar.set_postfix(shown, refresh=False)
        self._set_weights(self.best)
        self.model.network.eval()

    def head_weights(self) -> dict[str, torch.Tensor]:
        """A copy of the head's weights; none where there is no head."""
        state = self.head.state_dict() if self.head is not None else {}
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    # One step ------------------------------------------------------------------

    def _step(self, step: int) -> float:
        # Dropout is a function of seed and step, so a resumed training repeats it.
        seeds = np.random.SeedSequence([self.task.settings.seed, step])
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        self.model.network.train()
        loss = self._loss(self.plan[step])
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"The loss is {value} at step {step}: take a lower learning rate"
                + (", or another precision." if self.scaler.is_enabled() else ".")
            )
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        weights = [w for group in self.optimiser.param_groups for w in group["params"]]
        nn.utils.clip_grad_norm_(weights, self.task.settings.max_grad_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        return value

    def _loss(self, rows: list[int]) -> torch.Tensor:
        task = self.task
        with self._precision():
            raw, ends = self._read(rows)
        if task.truth_suffices:
            return task.loss(raw, torch.ones_like(raw)).mean()
        loss = task.loss(raw, torch.as_tensor(task.targets[rows]).to(raw))
        if self.head is not None and task.head is not None:
            target = torch.as_tensor(task.truth[rows], device=raw.device)
            loss = loss + task.head.weight * head_loss(self.head, ends, raw, target)
        return loss.mean()

    def _read_whole(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probabilities, of the own label alone where it suffices; and the ends."""
        task = self.task
        prompts = [task.prompts[row] for row in rows]
        if task.truth_suffices:
            truth = task.truth[rows].tolist()
            own = true_label_logprobs_with_gradient(
                self.model, prompts, task.labels, truth
            )
            return own[:, None], None
        return read_answers(self.model, prompts, task.labels)

    def _read_held_out_whole(self, rows: list[int]) -> torch.Tensor:
        prompts = [self.task.held_out[row] for row in rows]
        return read_answers(self.model, prompts, self.task.labels)[0]

    def _find_trunks(self) -> None:
        """Let texts be read with their frozen layers run once, where that is exact."""
        task, settings = self.task, self.task.settings
        # Half precision would round otherwise, and checkpointing is to save memory.
        if settings.precision != "float32" or settings.checkpointing:
            return
        if settings.epochs > 1:
            trunk = read_once(self.model, self._read_whole, task.widths())
            self._read = trunk or self._read_whole
        longest = max(map(len, task.held_out)) + max(task.labels.trie.depths)
        if not tree_is_exact(self.model, longest):
            return
        read = nodes_to_read(task.labels)
        widths = [len(ids) + len(read) - 1 for ids in task.held_out]
        self._read_held_out = read_once(self.model, self._read_held_out_whole, widths)
        vocabulary = self.model.network.get_output_embeddings().weight.shape[0]
        most = max(1, LOGIT_BUDGET // (len(read) * vocabulary))
        budget = positions_in_batch(self.model, None)
        self._held_out_batches = list(batches(widths, budget, most))

    def _precision(self) -> torch.autocast:
        name = self.task.settings.precision
        return torch.autocast(
            self.model.device.type,
            dtype=getattr(torch, name) if name != "float32" else torch.bfloat16,
            enabled=name != "float32",
        )

    @contextmanager
    def _memory_saved(self) -> Iterator[None]:
        network = self.model.network
        if not self.task.settings.checkpointing:
            yield
            return
        # transformers is changing the name.
        new = hasattr(network, "activation_checkpointing_enable")
        word = "activation" if new else "gradient"
        getattr(network, f"{word}_checkpointing_enable")({"use_reentrant": False})
        try:
            yield
        finally:
            getattr(network, f"{word}_checkpointing_disable")()

    # Evaluations and checkpoints -----------------------------------------------

    def _evaluate(self, step: int, train_loss: float) -> None:
        self.model.network.eval()
        seen = sum(map(len, self.plan[:step])) / len(self.task.prompts)
        row = {"step": step, "epoch": seen, "train_loss": train_loss}
        row |= held_out_measures(self.task, self._held_out_logprobs())
        monitor = self.task.settings.monitor
        if row[monitor] < min((r[monitor] for r in self.history), default=math.inf):
            self.best = self._weights()
        self.history.append(row)
        optimiser = {
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        state = {"history": self.history}
        self.store.save_point(step, self._weights(), self.best, optimiser, state)
        if self.on_evaluation is not None:
            self.on_evaluation(dict(row))

    @torch.no_grad()
    def _held_out_logprobs(self) -> np.ndarray:
        task, model = self.task, self.model
        if self._read_held_out is None:
            forget_prefix(model)
            raw = label_logprobs(model, task.held_out, task.labels, progress=False)
            forget_prefix(model)
            return raw
        raw = np.empty((len(task.held_out), len(task.labels.labels)))
        for rows in self._held_out_batches:
            raw[rows] = self._read_held_out(rows).cpu().numpy()
        check_logprobs(model, raw, range(len(raw)))
        return raw

    def _is_patience_over(self) -> bool:
        settings = self.task.settings
        values = [row[settings.monitor] for row in self.history]
        without_gain = len(values) - 1 - int(np.argmin(values))
        return settings.patience is not None and without_gain >= settings.patience

    def _restore(self) -> int:
        point = self.store.last_point()
        if point is None:
            return 0
        self._set_weights(point["weights"])
        self.best = point["best"]
        self.optimiser.load_state_dict(point["optimiser"]["optimiser"])
        self.schedule.load_state_dict(point["optimiser"]["schedule"])
        self.scaler.load_state_dict(point["optimiser"]["scaler"])
        self.history = point["state"]["history"]
        return int(point["step"])

    def _weights(self) -> dict[str, torch.Tensor]:
        of_head = {_HEAD + name: value for name, value in self.head_weights().items()}
        return adapter_weights(self.model.network) | of_head

    def _set_weights(self, weights: dict[str, torch.Tensor]) -> None:
        adapter = {k: v for k, v in weights.items() if not k.startswith(_HEAD)}
        set_adapter_weights(self.model.network, adapter)
        if self.head is not None:
            self.head.load_state_dict(
                {
                    name.removeprefix(_HEAD): value
                    for name, value in weights.items()
                    if name.startswith(_HEAD)
                }
            )
        forget_prefix(self.model)


def held_out_measures(task: Task, raw: np.ndarray) -> dict[str, float]:
    """Accuracy, log loss, Brier score and ECE on the held-out texts."""
    probabilities = softmax(raw, axis=1)
    confidence, correct = top_label(probabilities, task.held_out_truth)
    ece = expected_calibration_error(confidence, correct, binning=Binning(N_BINS))
    return {
        "accuracy": float(correct.mean()),
        "log_loss": float(log_loss(probabilities, task.held_out_truth)),
        "brier": float(brier_score(probabilities, task.held_out_truth)),
        "ece": float(ece),
    }
