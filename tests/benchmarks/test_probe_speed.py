"""Features of a linear probe side by side with prompting and ``transformers``.

All in one process and in turn, since machines are noisy. Times are printed, never
asserted; that the features are the same is. Run by ``make bench``, or by itself:
``python -m pytest -s --override-ini addopts= tests/benchmarks/test_probe_speed.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
import torch
from cases import seconds
from torch.nn.utils.rnn import pad_sequence

from helpers import EMBEDDED
from helpers.classifier import LLMClassifier
from helpers.datasets import load_reviews
from helpers.linear_probe import LinearProbeClassifier
from helpers.models import LanguageModel

N_TEXTS, LENGTH, BATCH, TURNS = 500, 230, 32, 2
LABELS = ["World", "Sports", "Business", "Sci/Tech"]


def long_texts(n: int, seed: int = 0) -> list[str]:
    """Texts as long as news items, about 230 characters, of whole reviews."""
    rng, found, text = np.random.default_rng(seed), [], ""
    for review in load_reviews("train")["text"]:
        text = f"{text} {review}".strip()
        if len(text) > rng.normal(LENGTH, LENGTH / 4) - len(review) / 2:
            found.append(text)
            text = ""
        if len(found) == n:
            break
    return found


def by_transformers(
    model: LanguageModel,
    texts: Sequence[str],
    probe: LinearProbeClassifier,
    layers: Sequence[int],
    *,
    ordered: bool,
) -> np.ndarray:
    """As users do it: batches with padding, all layers, those wanted are averaged."""
    prefix = model.encode(f"{probe.instruction}\n")
    ids = [torch.tensor(prefix + model.text_ids(text)) for text in texts]
    order = sorted(range(len(ids)), key=lambda row: ordered and len(ids[row]))
    found = np.empty((len(ids), len(layers) * model.network.config.hidden_size))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        padded = pad_sequence([ids[row] for row in rows], True, -1)
        mask = padded >= 0
        with torch.inference_mode():
            states = model.network.base_model(
                input_ids=padded.clamp(min=0),
                attention_mask=mask.long(),
                output_hidden_states=True,
                use_cache=False,
            ).hidden_states
        mask[:, : len(prefix)] = False
        own = mask[:, :, None].float()
        means = [(states[at] * own).sum(1) / own.sum(1) for at in layers]
        found[rows] = torch.cat(means, dim=1)
    return found


def test_features_are_quick_and_the_same() -> None:
    model = LanguageModel.load(EMBEDDED, device="cpu")
    drawn = long_texts(N_TEXTS + 9)
    texts, other, shown = drawn[:N_TEXTS], drawn[N_TEXTS], drawn[N_TEXTS + 1 :]
    probe = LinearProbeClassifier(model, cache=False)
    layers = probe.fit(shown[:4], ["a", "b", "a", "b"]).layers_
    lower = LinearProbeClassifier(model, (0.1, 0.2, 0.4), cache=False)
    prompted = LLMClassifier(
        model,
        LABELS,
        examples=list(zip(shown, cycle(LABELS), strict=False)),
        cache=False,
    )
    prompted.predict_proba([other])  # warm up
    found: dict[str, np.ndarray] = {}

    def kept(way: str, features: np.ndarray) -> None:
        found[way] = features

    def batches(ordered: bool) -> np.ndarray:
        return by_transformers(model, texts, probe, layers, ordered=ordered)

    ours = "linear probe"
    works: dict[str, Callable[[], object]] = {
        ours: lambda: kept(ours, probe.features(texts)),
        f"linear probe, layers {lower.layers}": lambda: lower.features(texts),
        "prompted, 8 examples, 4 labels": lambda: prompted.predict_proba(texts),
        "transformers, as they come": lambda: kept("plain", batches(False)),
        "transformers, by length": lambda: kept("sorted", batches(True)),
    }
    rows = [
        {"turn": turn, "way": way, "texts/s": len(texts) / seconds(work)}
        for turn in range(1, TURNS + 1)
        for way, work in works.items()
    ]
    table = pd.DataFrame(rows).pivot(index="way", columns="turn", values="texts/s")
    print(
        f"\n\n{len(texts)} texts of {np.mean([*map(len, texts)]):.0f} characters,",
        end="",
    )
    print(
        f" layers {layers} of {model.network.config.num_hidden_layers}; texts a second"
    )
    print(table.loc[list(works)].to_string(float_format="{:.2f}".format))
    print("times as many by the probe")
    print(
        (table.loc[ours] / table)
        .loc[list(works)]
        .to_string(float_format="{:.2f}".format)
    )
    for way in ("plain", "sorted"):
        np.testing.assert_allclose(found[ours], found[way], rtol=1e-4, atol=1e-4)
        off = np.abs(found[ours] - found[way]).max()
        print(f"largest difference from transformers ({way}): {off:.1e}")
