"""Texts a processor second with many labels, by whatever ``helpers`` is imported."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from cases import BODY_PARTS, INTENTS, Case, Prepared

from helpers.models import LanguageModel
from helpers.scoring import label_logprobs

LABELS = {2: BODY_PARTS[9:11], 26: BODY_PARTS, 46: INTENTS[:46], 77: INTENTS}
N_TEXTS = 16


def main(name: str, *settings: str) -> None:
    """Answer lines of numbers of labels and of examples by texts a second."""
    torch.set_num_threads(1)
    model = LanguageModel.load(name or None, device="cpu")
    pairs = (setting.split("=") for setting in settings)
    more: dict[str, Any] = {name: float(value) for name, value in pairs}
    for line in sys.stdin:
        n_labels, shots = map(int, line.split())
        prepared = Prepared.of(Case(tuple(LABELS[n_labels]), shots), model)
        tokens, ids = prepared.tokens, prepared.ids
        label_logprobs(model, ids[-2:], tokens, progress=False, **more)
        start = time.process_time()
        label_logprobs(model, ids[:N_TEXTS], tokens, progress=False, **more)
        print(N_TEXTS / (time.process_time() - start), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
