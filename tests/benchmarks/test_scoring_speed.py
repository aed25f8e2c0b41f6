"""Label scoring side by side with the ways in common use; run by ``make bench``.

Three ways to score the same prompts with the same model, in one run, since machines
are noisy: this package; a loop of ``generate`` with one new token a text, which reads
the first token only; and lm-evaluation-harness, which scores every label as a
continuation of its own. The last is slow, so it gets fewer texts; all times are per
text.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers.models import LanguageModel
from helpers.scoring import label_logprobs
from helpers.verbalizer import Verbalizer

N_TEXTS = 64
N_HARNESS = 3
BODY_PARTS = (
    "internal,shoulder,upper trunk,elbow,lower arm,wrist,knee,lower leg,ankle,"
    "pubic region,head,face,eyeball,lower trunk,upper arm,upper leg,hand,foot,"
    "25-50% of body,all parts of body,not recorded,mouth,neck,finger,toe,ear"
).split(",")
EXAMPLES = [
    (
        "34yom cut his finger on the lid of a tin can while cooking dinner at home "
        "last night. dx: finger laceration",
        "finger",
    ),
    (
        "8yof fell off the monkey bars at school, landed on an outstretched arm, with "
        "deformity. dx: fracture of radius",
        "lower arm",
    ),
    (
        "61yof tripped over the dog on the stairs, twisted her ankle and cannot bear "
        "weight. dx: ankle sprain",
        "ankle",
    ),
    (
        "19yom was hit by a baseball at practice, with swelling under the eye and a "
        "nose bleed. dx: facial contusion",
        "face",
    ),
    (
        "2yom swallowed a button battery from a toy car, seen by his mother this "
        "morning. dx: foreign body ingestion",
        "internal",
    ),
    (
        "45yom was lifting boxes in the garage and felt a pop, pain worse on bending. "
        "dx: lumbar strain",
        "lower trunk",
    ),
    (
        "15yof collided with another player at soccer, no loss of consciousness, "
        "vomited once. dx: concussion",
        "head",
    ),
    (
        "27yom dropped a weight on his foot while exercising in the gym, nail torn "
        "off. dx: crush injury of great toe",
        "toe",
    ),
]
SCENES = [
    "slipped on the wet kitchen floor and landed on left {part}, able to walk",
    "was playing soccer when kicked in the {part}, pain with movement since then",
    "struck {part} on the corner of a table at home while running after a sibling",
    "fell from a ladder while cleaning gutters, injured {part} and back of the hand",
    "riding a bicycle without a helmet, hit a pothole, has abrasions to the {part}",
    "jumping on a trampoline, came down wrong, now c/o {part} pain and swelling",
    "burned {part} with hot water from a kettle this morning, blisters seen",
    "caught {part} in a closing car door, bruised, no deformity, good pulses",
]


def narratives() -> list[str]:
    """Made-up emergency-room notes of the usual length, about 95 characters."""
    parts = ["knee", "wrist", "shin", "forearm", "big toe", "jaw", "hip", "shoulder"]
    ends = ["dx: contusion", "dx: fracture", "dx: sprain", "dx: laceration, sutured"]
    pairs = itertools.islice(itertools.product(SCENES, parts), N_TEXTS)
    return [
        f"{7 + 5 * n % 80}yo{'mf'[n % 2]} {scene.format(part=part)}. {ends[n % 4]}"
        for n, (scene, part) in enumerate(pairs)
    ]


def prompts(labels: list[str]) -> list[str]:
    answers = [part if part in labels else labels[0] for _, part in EXAMPLES]
    shown = "".join(
        f"Narrative: {text}\nBody part: {answer}\n\n"
        for (text, _), answer in zip(EXAMPLES, answers, strict=True)
    )
    return [f"{shown}Narrative: {text}\nBody part:" for text in narratives()]


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """Best time of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def matrix_rate() -> float:
    """Float32 operations per second of a large matrix product, the machine's best."""
    a, b = torch.rand(2048, 2048), torch.rand(2048, 2048)
    torch.mm(a, b)
    return 2 * 2048**3 / seconds(lambda: torch.mm(a, b), 10)


def operations(work: Callable[[], object]) -> float:
    """Floating-point operations of the matrix products and attentions in a run."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def first_tokens_by_generate(model: LanguageModel, texts: list[str]) -> None:
    """The loop of many blog posts: one call a text, one new token, its scores."""
    for text in texts:
        model.network.generate(
            **model.tokenizer(text, return_tensors="pt"),
            max_new_tokens=1,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )


def by_harness(
    model: LanguageModel, texts: list[str], labels: list[str]
) -> tuple[float, np.ndarray]:
    """Seconds and log-likelihoods of lm-evaluation-harness."""
    instance = pytest.importorskip("lm_eval.api.instance")
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    harness = huggingface.HFLM(
        pretrained=model.network, tokenizer=model.tokenizer, batch_size=8, device="cpu"
    )
    requests = [
        instance.Instance("loglikelihood", {}, (text, f" {label}"), n)
        for n, (text, label) in enumerate(itertools.product(texts, labels))
    ]
    found: list[tuple[float, bool]] = []
    took = seconds(lambda: found.extend(harness.loglikelihood(requests, True)))
    scores = np.array([score for score, _ in found]).reshape(len(texts), len(labels))
    return took, scores


@pytest.mark.parametrize("labels", [BODY_PARTS, ["finger", "head"]], ids=len)
def test_scoring_speed(labels: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    model = LanguageModel.load(device="cpu")
    texts = prompts(labels)
    tokens = Verbalizer(labels).tokens(model, after="\nBody part:")
    ids = [model.encode(text) for text in texts]

    def ours() -> np.ndarray:
        return label_logprobs(model, ids, tokens, progress=False)

    ours()  # the prefix and the thread pool are warm for every way
    rate = matrix_rate()
    mine = seconds(ours, 3) / len(texts)
    loop = seconds(lambda: first_tokens_by_generate(model, texts[:16])) / 16
    took, theirs = by_harness(model, texts[:N_HARNESS], labels)
    harness = took / N_HARNESS
    share = operations(ours) / len(texts) / mine / max(rate, matrix_rate())
    difference = np.abs(ours()[:N_HARNESS] - theirs).max()
    with capsys.disabled():
        print(
            f"\n{len(labels)} labels, prompts of {np.mean([len(i) for i in ids]):.0f}"
        )
        print(f"  this package      {mine:8.3f} s a text")
        print(f"  generate loop     {loop:8.3f} s a text  {loop / mine:6.1f} times")
        print(
            f"  harness           {harness:8.3f} s a text  {harness / mine:6.1f} times"
        )
        print(f"  share of {rate / 1e9:.0f} GFLOP/s (matrix products): {share:.2f}")
        print(f"  largest difference of a log-likelihood: {difference:.1e}")
    assert difference < 1e-4
