"""How a network is trained, in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..checks import check_between, check_choice, check_count, check_not_negative


@dataclass(frozen=True)
class TrainingSettings:
    """Everything about a training but its data, its loss and its model.

    Parameters
    ----------
    rank : int, default=16
        Rank of the adapter.
    alpha : float, optional
        The adapter counts alpha / rank; without it, twice the rank.
    dropout : float, default=0.05
        Probability with which an input of the adapter is left out in training, in
        [0, 1).
    target_modules : str or tuple of str, default="all-linear"
        Which linear maps get an adapter: all but the output embedding, or those whose
        names end so, as in ``("q_proj", "v_proj")``.
    layers : int, optional
        Only the last so many decoder layers get one. The layers below are not gone
        back through and, in float32 without ``checkpointing``, are run just once for
        each text where that is exact: less than half of the work, for memory of up to
        2 GB.
    learning_rate : float, default=0.0005
        The highest one of the schedule.
    epochs : int, default=3
        How often each text is seen.
    token_budget : int, default=512
        The most positions in one batch, padding and labels included: some 16 short
        texts. One batch is one step of the optimiser.
    warmup : float, default=0.1
        Share of the steps during which the learning rate rises from 0, in [0, 1).
    schedule : {"cosine", "linear", "constant"}, default="cosine"
        How it falls afterwards.
    weight_decay : float, default=0.0
        Decay of the adapter's weights.
    max_grad_norm : float, default=1.0
        Longer gradients are scaled down to this length.
    evaluate_every : int, optional
        Steps between evaluations on held-out texts; without it, a third of an epoch.
    patience : int, optional
        Stop after so many evaluations without a gain; without it, never.
    monitor : {"log_loss", "brier", "ece"}, default="log_loss"
        The held-out measure that says which weights are best; lower is better.
    precision : {"float32", "bfloat16", "float16"}, default="float32"
        What matrix products are computed in ("float16" on CUDA only). The adapter's
        own weights are always float32.
    checkpointing : bool, default=False
        Compute activations twice instead of keeping them: less memory, more time.
    seed : int, default=0
        Seed of the adapter's first weights, of the order of texts and of dropout.

    Raises
    ------
    ValueError
        A value breaks its rule.

    Examples
    --------
    >>> TrainingSettings(rank=8).full_alpha
    16.0
    >>> TrainingSettings(epochs=0)
    Traceback (most recent call last):
    ...
    ValueError: epochs must be a whole number of 1 or more, not 0.
    """

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.05
    target_modules: str | tuple[str, ...] = "all-linear"
    layers: int | None = None
    learning_rate: float = 5e-4
    epochs: int = 3
    token_budget: int = 512
    warmup: float = 0.1
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    evaluate_every: int | None = None
    patience: int | None = None
    monitor: Literal["log_loss", "brier", "ece"] = "log_loss"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    checkpointing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "epochs", "token_budget"):
            check_count(name, getattr(self, name))
        for name in ("layers", "evaluate_every", "patience"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_count("seed", self.seed, 0)
        if self.alpha is not None:
            check_between("alpha", self.alpha, 0, math.inf)
        for name in ("dropout", "warmup"):
            check_not_negative(name, getattr(self, name), below=1)
        for name in ("learning_rate", "max_grad_norm"):
            check_between(name, getattr(self, name), 0, math.inf)
        check_not_negative("weight_decay", self.weight_decay)
        check_choice("schedule", self.schedule, ("cosine", "linear", "constant"))
        check_choice("monitor", self.monitor, ("log_loss", "brier", "ece"))
        check_choice("precision", self.precision, ("float32", "bfloat16", "float16"))
        if not isinstance(self.checkpointing, bool):
            raise ValueError(
                f"checkpointing must be True or False, not {self.checkpointing!r}."
            )
        names = self.target_modules
        if isinstance(names, str):
            names = (names,)
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(
                "target_modules must be 'all-linear' or names of modules, not "
                f"{self.target_modules!r}."
            )
        if not isinstance(self.target_modules, str):
            object.__setattr__(self, "target_modules", tuple(names))
        elif self.target_modules != "all-linear":
            object.__setattr__(self, "target_modules", (self.target_modules,))

    @property
    def full_alpha(self) -> float:
        """Alpha, be it given or not."""
        return float(2 * self.rank if self.alpha is None else self.alpha)
