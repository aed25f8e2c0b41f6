"""Measure what three classifiers say of real NEISS cases, and write it down here.

    python data/measure_neiss.py CASES adapter      # half an hour on two cores
    python data/measure_neiss.py CASES predictions  # half an hour
    python data/measure_neiss.py CASES prompts      # ten minutes
    python data/measure_neiss.py CASES probe        # two minutes

CASES is a file that ``helpers.datasets.load_neiss`` reads. The cards beside the files
say what is in them. No narrative is written to any of them.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from helpers.adapters import save_adapter
from helpers.classifier import LLMClassifier
from helpers.datasets import (
    NEISS_CLASSIFIERS,
    NEISS_EXAMPLES,
    NEISS_PROMPT,
    NEISS_REPORT_EXAMPLES,
    NEISS_RULES,
    REPORT_QUESTION,
    body_parts,
    load_neiss,
    neiss_classifier,
    neiss_log_proba,
)
from helpers.files import cache_dir
from helpers.finetune import Lora, TrainingSettings, finetune
from helpers.linear_probe import LinearProbeClassifier
from helpers.self_report import self_report

HERE = Path(__file__).resolve().parent
N_HELD_OUT = 200  # of the training part: which weights are best
N_REPORTS = 400  # test cases that are asked for a stated confidence
N_PROMPTS = 500  # calibration cases that try prompts
N_PROBE, N_LABELS = 500, (100, 400, 1600)  # test cases, and labels to learn from
_CASE = ["year", "treatment_date", "age_years", "sex", "psu", "stratum", "weight"]
_CASE += ["body_part", "split"]
SETTINGS = TrainingSettings(
    Lora(rank=8), learning_rate=1e-3, epochs=2, token_budget=768
)


def train_adapter(train: pd.DataFrame) -> None:
    """Fine-tune on the training part, and keep the weights in half precision."""
    train = train.sort_index().sample(frac=1, random_state=0)
    held_out, learned = train[:N_HELD_OUT], train[N_HELD_OUT:]
    asked = LLMClassifier(
        labels=body_parts()["name"].tolist(), prompt=NEISS_PROMPT, terminator="\n"
    )
    tuned = finetune(
        asked,
        learned["text"],
        learned["label"],
        validation=(held_out["text"], held_out["label"]),
        settings=SETTINGS,
        folder=cache_dir() / "adapters" / "neiss",
        on_evaluation=print,
    )
    target = HERE / "neiss_adapter"
    target.mkdir(exist_ok=True)
    save_adapter(tuned.model.network, target, dtype=torch.float16)
    for name in ("training.json", "README.md"):
        shutil.copy(tuned.folder / name, target / name)


def measure_predictions(cases: pd.DataFrame) -> pd.DataFrame:
    """What all classifiers say of all body parts, and how sure they say they are."""
    is_train = cases["split"] == "train"
    train, others = cases[is_train], cases[~is_train]
    table = cases[_CASE].astype({"psu": "int16", "body_part": "int8"})
    texts = "\n".join(f"{case}\t{text}" for case, text in cases["text"].items())
    sources = {"cases": {"sha256": hashlib.sha256(texts.encode()).hexdigest()}}
    for how in NEISS_CLASSIFIERS:
        asked = cases if how == "few-shot" else others  # which learned from none
        raw = neiss_log_proba(asked, how, train=train)
        sources[how] = raw.attrs["source"]
        table = table.join(raw.round(4).astype("float32").add_prefix(f"{how}:"))
    drawn = others[others["split"] == "test"].sample(N_REPORTS, random_state=0)
    table = table.join(measure_reports(drawn))
    table.attrs = sources
    return table


def measure_reports(cases: pd.DataFrame) -> pd.DataFrame:
    """How sure the few-shot model says it is of its predictions."""
    asked = neiss_classifier("few-shot")
    questions = asked.follow_up(
        cases["text"],
        asked.predict(cases["text"]),
        REPORT_QUESTION,
        examples=NEISS_REPORT_EXAMPLES,
    )
    stated = self_report(asked.inputs([])[0], questions, max_new_tokens=4)
    return stated[["report", "status"]].set_axis(cases.index)


def measure_prompts(cases: pd.DataFrame) -> pd.DataFrame:
    """Predictions for the same cases with other prompts."""
    names = body_parts()["name"]
    listed = f"Body parts: {', '.join(names)}."
    code_of = {name: str(code) for code, name in names.items()}
    by_code = [(text, code_of[name]) for text, name in NEISS_EXAMPLES]
    upper = [(text.upper(), name) for text, name in NEISS_EXAMPLES]
    asked = {"labels": names.tolist(), "prompt": NEISS_PROMPT, "terminator": "\n"}
    eight = asked | {"examples": NEISS_EXAMPLES}
    prompts = {
        "no example": asked,
        "labels listed": asked | {"instruction": listed},
        "coding rules": asked | {"instruction": NEISS_RULES},
        "eight examples": eight,
        "rules and examples": eight | {"instruction": NEISS_RULES},
        "codes as labels": asked
        | {"labels": list(code_of.values()), "examples": by_code},
        "upper case": asked | {"examples": upper},
    }
    tables = []
    for name, settings in prompts.items():
        texts = cases["text"].str.upper() if name == "upper case" else cases["text"]
        table = LLMClassifier(**settings).score_table(texts)
        said = table["prediction"]
        if name == "codes as labels":
            said = said.astype(int).map(names)
        kept = pd.DataFrame({"prompt": name, "truth": cases["label"]})
        kept["prediction"] = said
        tables.append(kept.join(table[["confidence", "off_label"]].round(5)))
    return pd.concat(tables).reset_index()


def measure_probe(train: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    """Hidden states and counted words, both fitted on the same few labels."""
    train = train.sample(max(N_LABELS), random_state=0)
    tables = []
    for n in N_LABELS:
        some = train[:n]
        probe = LinearProbeClassifier().fit(some["text"], some["label"])
        said = probe.score_table(cases["text"])[["prediction", "confidence"]]
        tables.append(said.assign(classifier="hidden states", n_labels=n))
        raw = neiss_log_proba(cases, "tf-idf", train=some)
        names = body_parts()["name"].to_numpy()
        said = pd.DataFrame({"prediction": names[raw.to_numpy().argmax(axis=1)]})
        said["confidence"] = np.exp(raw.to_numpy().max(axis=1))
        said = said.set_axis(cases.index)
        tables.append(said.assign(classifier="words", n_labels=n))
    kept = pd.concat(tables)
    kept["truth"], kept["confidence"] = cases["label"], kept["confidence"].round(5)
    return kept.reset_index()


if __name__ == "__main__":
    real = load_neiss(sys.argv[1]).sort_index()
    if "adapter" in sys.argv:
        train_adapter(real[real["split"] == "train"])
    if "predictions" in sys.argv:
        measured = measure_predictions(real)
        measured.to_parquet(HERE / "neiss_predictions.parquet", compression="zstd")
    if "prompts" in sys.argv:
        part = real[real["split"] == "calibration"]
        tried = measure_prompts(part.sample(N_PROMPTS, random_state=0))
        tried.to_parquet(HERE / "neiss_prompts.parquet", compression="zstd")
    if "probe" in sys.argv:
        parts = [real[real["split"] == part] for part in ("train", "test")]
        read = measure_probe(parts[0], parts[1].sample(N_PROBE, random_state=0))
        read.to_parquet(HERE / "neiss_probe.parquet", compression="zstd")
