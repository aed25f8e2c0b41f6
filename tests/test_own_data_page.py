"""The page of a decision: what it says, and that it is safe to open."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from helpers.calibration import ProbabilityCalibrator
from helpers.datasets import (
    load_evidence,
    load_neiss_predictions,
    load_review_scores,
)
from helpers.decisions import (
    Policy,
    choose_threshold,
    review_queue,
    verify_accepted,
)
from helpers.metrics import calibration_metrics
from helpers.own_data.decision import Decision
from helpers.own_data.page import CHAPTERS, page

NASTY = [
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "\"'><svg onload=alert(3)> & {{ 7 * 7 }} {% raw %} </style></title>",
    "Donaudampfschifffahrtsgesellschaftskapitän" * 20,
    "👩‍👩‍👧‍👦🏳️‍🌈 fine \u202ereversed\u202c \x00\x07 nul",
    "شكرا جزيلا، هذا المنتج رائع جدا ولكن التوصيل تأخر",
    "see https://example.org/track.js or http://example.org",
    "line one\r\nline two\n\n$x^2$ \\frac",
    "",
    "long " * 1000,
]


def made(
    scored: pd.DataFrame,
    *,
    n: int = 400,
    risk: float = 0.1,
    new: int = 300,
    texts: list[str] | None = None,
    name: str = "mine.csv",
    **more: Any,
) -> Decision:
    """A decision about stored label probabilities, half of the rows for each part."""
    rows = scored.sample(n + new, random_state=0).reset_index(drop=True)
    texts = texts or [
        f"Text {at}, of average length and little interest." for at in range(9)
    ]
    rows["text"] = [texts[at % len(texts)] for at in range(len(rows))]
    columns = list(rows.filter(regex="^p_"))
    first, second = rows[: n // 2], rows[n // 2 : n]
    truth = first["truth"].astype(str)
    calibrator = ProbabilityCalibrator().fit(first[columns], truth)

    def told(part: pd.DataFrame) -> pd.DataFrame:
        p = np.asarray(calibrator.predict(part[columns]))
        of_labels = pd.DataFrame(p, part.index, columns)
        labels = of_labels.idxmax(axis=1).str.removeprefix("p_")
        known = {"text": part["text"], "truth": part["truth"].astype(str)}
        known |= {"prediction": labels, "confidence": p.max(axis=1)}
        return pd.DataFrame(known).join(of_labels)

    judged = told(second)
    correct = judged["truth"] == judged["prediction"]
    held_out = calibrator.predict(second[columns]).max(axis=1)
    certificate = choose_threshold(judged["confidence"], correct, risk)
    policy, to_come = None, None
    if certificate.threshold is not None:
        policy = Policy.from_certified(certificate)
    if new:
        rest = told(rows[n:]).drop(columns="truth")
        to_come = rest.assign(action="review", reason="nothing is certified")
        to_come = to_come if policy is None else policy.apply(rest)
    kinds = judged["prediction"].unique()
    limit = 2.0 if certificate.threshold is None else certificate.threshold
    by_label = {}
    for kind in kinds:
        own = judged[judged["prediction"] == kind]
        accepted = own["confidence"] >= limit
        found = verify_accepted(accepted, correct[own.index], risk, 0.05 / len(kinds))
        by_label[kind] = {
            "n": len(own),
            "accepted": found.n_accepted,
            "errors": found.n_errors,
            "upper": found.high,
        }
    names = ["counting words", "the model's answer", "linear probe"]
    candidates = pd.DataFrame(
        {
            "accuracy": [0.64, 0.72, 0.78],
            "brier": [0.21, 0.19, 0.16],
            "auroc": [0.62, 0.7, 0.81],
            "coverage": [0.05, 0.21, 0.44],
            "seconds": [0.4, 92.7, 41.2],
        },
        index=names,
    )
    differences = pd.DataFrame(
        {"value": [-0.14, -0.06], "low": [-0.2, -0.12], "high": [-0.08, 0.003]},
        index=names[:2],
    )
    return Decision(
        name=name,
        **{"text": "narrative", "label": "body_part", **more},
        risk=risk,
        delta=0.05,
        seed=0,
        labels=rows["truth"][:n].astype(str).value_counts(),
        counts={
            "rows": n + new,
            "labelled": n,
            "unlabelled": new,
            "copies": 12,
            "chosen_on": n // 2,
            "certified_on": n - n // 2,
        },
        candidates=candidates,
        differences=differences,
        chosen="linear probe",
        judged=judged,
        report=calibration_metrics(held_out, correct, evaluation="held-out"),
        certificate=certificate,
        by_label=pd.DataFrame.from_dict(by_label, orient="index"),
        to_come=to_come,
        to_label=review_queue(judged if to_come is None else to_come, budget=10),
        versions={"how-sure": "0.1.0", "numpy": "2.0", "file": "ab" * 32},
        policy=policy,
    )


def decisions() -> dict[str, Decision]:
    reviews = load_review_scores("test")
    evidence = load_evidence()
    neiss = load_neiss_predictions("fine-tuned", "test")
    long = {
        column: f"{column} [code/{at:03}] and neighbouring parts, not elsewhere classified"
        for at, column in enumerate(neiss.filter(regex="^p_"))
    }
    kinds = {old[2:]: new[2:] for old, new in long.items()}
    neiss = neiss.rename(columns=long).replace({"truth": kinds})
    return {
        "certified": made(reviews, n=800),
        "few": made(reviews, n=60),
        "tiny": made(reviews, n=30),
        "no ranking": made(evidence["tweets"]),
        "newsgroups": made(evidence["newsgroups"]),
        "many labels": made(neiss, n=1000, risk=0.2),
        "nasty": made(
            reviews, n=800, texts=NASTY, name="<b>&.csv", text="<i>text", group="$g"
        ),
        "nothing new": made(reviews, n=800, new=0),
    }
