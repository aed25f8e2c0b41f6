"""How three classifiers are asked for the body part of an injury, and their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import log_softmax, logsumexp

from .. import EMBEDDED
from ..checks import check_choice, check_table
from ..files import DATA
from .neiss_files import body_parts
from .reviews import SPLITS

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from ..classifier import LLMClassifier
    from ..models import LanguageModel

NEISS_CLASSIFIERS = ("few-shot", "fine-tuned", "tf-idf")
NEISS_PROMPT = "Narrative: {text}\nBody part:"
# Written in the style of the real ones; none is a real case.
NEISS_EXAMPLES = (
    (
        "34yom cut left thumb with a kitchen knife while slicing bread dx: "
        "thumb laceration",
        "finger",
    ),
    (
        "71yof tripped over a rug at home and fell, pain in right hip "
        "dx: hip contusion",
        "lower trunk",
    ),
    (
        "6yof fell off her scooter and struck forehead on the curb "
        "dx: forehead laceration",
        "face",
    ),
    (
        "19yom jumping for a basketball, landed on a foot and rolled ankle "
        "dx: ankle sprain",
        "ankle",
    ),
    ("2yom swallowed a coin while playing dx: foreign body ingestion", "internal"),
    ("45yof thrown from a horse, landed on shoulder dx: clavicle fracture", "shoulder"),
    (
        "15yom collided with another player at football practice, no loc "
        "dx: concussion",
        "head",
    ),
    ("9yof fell from the monkey bars onto her arm dx: forearm fracture", "lower arm"),
)
# What coders are told, in short.
NEISS_RULES = (
    "Name the body part of the most severe injury. Forehead, cheek, nose, chin and "
    "eyelid are face; lips, teeth and tongue are mouth; collarbone is shoulder; chest, "
    "ribs and upper back are upper trunk; hip, groin, abdomen and low back are lower "
    "trunk; thumb is finger; forearm is lower arm; shin and calf are lower leg; thigh "
    "is upper leg; swallowed or inhaled things are internal."
)
# Some of the examples again, with how sure one might be of the answer.
NEISS_REPORT_EXAMPLES = tuple(
    (*NEISS_EXAMPLES[at], report) for at, report in ((0, "95"), (1, "70"), (6, "85"))
)
ADAPTER = DATA / "neiss_adapter"
_CASE = ["year", "treatment_date", "age_years", "sex", "psu", "stratum", "weight"]
_CASE += ["body_part", "split"]


def neiss_classifier(
    how: str = "few-shot", *, model: LanguageModel | str | None = None
) -> LLMClassifier:
    """The language model as it is asked for a body part.

    Parameters
    ----------
    how : {"few-shot", "fine-tuned"}, default="few-shot"
        With eight examples in the prompt; or with none and the adapter of this project,
        trained on 2,453 cases.
    model : LanguageModel or str, optional
        Another model for the few-shot prompt; the adapter fits the embedded one only.

    Examples
    --------
    >>> classifier = neiss_classifier("fine-tuned")
    >>> classifier.predict(["8yof fell off bike, arm pain dx: fx radius"]).tolist()
    ['lower arm']
    """
    from ..classifier import LLMClassifier
    from ..finetune import load_finetuned

    check_choice("how", how, NEISS_CLASSIFIERS[:2])
    asked = LLMClassifier(
        EMBEDDED if model is None or how == "fine-tuned" else model,
        labels=body_parts()["name"].tolist(),
        prompt=NEISS_PROMPT,
        examples=NEISS_EXAMPLES if how == "few-shot" else None,
        terminator="\n",
    )
    if how == "few-shot":
        return asked
    if model is not None and model != EMBEDDED:
        raise ValueError(
            f"model must be None where how is 'fine-tuned', not {model!r}: the adapter "
            "fits the embedded model. Train one of your own with finetune."
        )
    return load_finetuned(ADAPTER, asked).classifier


def _baseline() -> Pipeline:
    """A conventional classifier: TF-IDF features and logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    words = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=r"[a-z0-9/]+"
    )
    parts = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=2
    )
    return make_pipeline(make_union(words, parts), LogisticRegression(C=10))


def neiss_log_proba(
    cases: pd.DataFrame,
    how: str,
    *,
    model: LanguageModel | str | None = None,
    train: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Ask a classifier for the body parts of real cases, here and now.

    Parameters
    ----------
    cases : pandas.DataFrame
        From :func:`load_neiss`. "fine-tuned" may have been trained on its part "train".
    how : {"few-shot", "fine-tuned", "tf-idf"}
        Which classifier: see :func:`neiss_classifier`; "tf-idf" is a logistic
        regression on TF-IDF features of words and parts of words.
    model : LanguageModel or str, optional
        Another model for "few-shot".
    train : pandas.DataFrame, optional
        Cases for "tf-idf" to learn from; none may be among ``cases``.

    Returns
    -------
    pandas.DataFrame of shape (n_cases, 26)
        Natural logarithms of the probabilities, not normalised; the columns are the
        codes. ``attrs["source"]`` says what was asked, and how.
    """
    check_choice("how", how, NEISS_CLASSIFIERS)
    check_table(cases, ("text",), "cases")
    codes = body_parts().index
    if how == "tf-idf":
        if train is None or not len(train):
            raise ValueError("train must hold cases for 'tf-idf' to learn from.")
        check_table(train, ("text", "body_part"), "train")
        shared = train.index.intersection(cases.index)
        if len(shared):
            raise ValueError(
                "train must hold other cases than those to be asked; "
                f"{len(shared)} are in both, such as {shared[0]}."
            )
        fitted = _baseline().fit(train["text"], train["body_part"])
        values = fitted.predict_log_proba(cases["text"])
        raw = pd.DataFrame(values, cases.index, fitted.classes_)
        # The classifier gives no probability to body parts it never saw.
        raw = raw.reindex(columns=codes, fill_value=-np.inf)
        raw.attrs["source"] = {"model": f"TF-IDF on {len(train)} cases"}
        return raw
    asked = neiss_classifier(how, model=model)
    of_name = dict(zip(body_parts()["name"], codes, strict=True))
    columns = [of_name[name] for name in asked.classes_]
    raw = pd.DataFrame(asked.raw_log_proba(cases["text"]), cases.index, columns)[codes]
    raw.attrs["source"] = asked.source()
    return raw


def measure_neiss(
    cases: pd.DataFrame,
    how: str,
    *,
    model: LanguageModel | str | None = None,
    train: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """As :func:`load_neiss_predictions`, but asked now by :func:`neiss_log_proba`."""
    return _table(neiss_log_proba(cases, how, model=model, train=train), cases)


def load_neiss_predictions(how: str, split: str | None = None) -> pd.DataFrame:
    """What three classifiers answered for 7,725 real cases, without the narratives.

    Measured once on a simple random sample of 2014 to 2023; see the card beside the
    file.

    Parameters
    ----------
    how : {"few-shot", "fine-tuned", "tf-idf"}
        Which classifier: see :func:`neiss_classifier`; "tf-idf" is a logistic
        regression on TF-IDF features of words and parts of words.
    split : {"train", "calibration", "test"}, optional
        One part. Default: all, but "train" only for "few-shot", since the others were
        trained on it.

    Returns
    -------
    pandas.DataFrame
        By case number, the tidy table, with ``p_<name>`` for each body part, and
        ``year``, ``treatment_date``, ``age_years``, ``sex``, ``psu``, ``stratum``,
        ``weight``, ``body_part`` and ``split``.

    Examples
    --------
    >>> len(load_neiss_predictions("fine-tuned", "test"))
    2571
    """
    check_choice("how", how, NEISS_CLASSIFIERS)
    if split is not None:
        check_choice("split", split, SPLITS)
    stored = pd.read_parquet(DATA / "neiss_predictions.parquet")
    if split is not None:
        stored = stored[stored["split"] == split]
    elif how != "few-shot":
        stored = stored[stored["split"] != "train"]
    codes = body_parts().index
    raw = stored[[f"{how}:{code}" for code in codes]].astype(float)
    raw = raw.set_axis(codes, axis=1)
    raw.attrs["source"] = stored.attrs[how]
    return _table(raw, stored)


def load_neiss_reports() -> pd.DataFrame:
    """The few-shot model's stated confidence for 400 test cases, by case number.

    ``report`` is in [0, 1], and NaN where ``status`` is not "ok".

    Examples
    --------
    >>> load_neiss_reports().shape
    (400, 2)
    """
    stored = pd.read_parquet(
        DATA / "neiss_predictions.parquet", columns=["report", "status"]
    )
    return stored.dropna(subset="status")


def load_neiss_prompts() -> pd.DataFrame:
    """What the embedded model answered to seven prompts, for 500 calibration cases.

    Examples
    --------
    >>> load_neiss_prompts().groupby("prompt").size().unique()
    array([500])
    """
    table = pd.read_parquet(DATA / "neiss_prompts.parquet")
    table["correct"] = table["truth"] == table["prediction"]
    return table


def load_neiss_probe() -> pd.DataFrame:
    """Hidden states and counted words on 500 test cases, with few labels to learn from.

    A row for each ``case_number``, ``classifier`` ("hidden states" or "words") and
    ``n_labels`` of the training part: ``prediction``, ``confidence``, ``truth`` and
    ``correct``.

    Examples
    --------
    >>> load_neiss_probe().groupby(["classifier", "n_labels"]).size().unique()
    array([500])
    """
    table = pd.read_parquet(DATA / "neiss_probe.parquet")
    table["correct"] = table["truth"] == table["prediction"]
    return table


def _table(raw: pd.DataFrame, cases: pd.DataFrame) -> pd.DataFrame:
    names = body_parts()["name"].to_numpy()
    values = raw.to_numpy()
    totals = logsumexp(values, axis=1)
    bad = np.flatnonzero(~(np.isfinite(totals) & (totals < 1e-3)))
    if len(bad):
        raise ValueError(
            "neiss_predictions.parquet must hold log-probabilities that sum to at most "
            f"1; those of case {raw.index[bad[0]]} sum to {np.exp(totals[bad[0]]):g}."
        )
    probabilities = np.exp(log_softmax(values, axis=1))
    table = pd.DataFrame(probabilities, raw.index, [f"p_{name}" for name in names])
    table["off_label"] = np.clip(1 - np.exp(totals), 0, 1)
    table["prediction"] = names[probabilities.argmax(axis=1)]
    table["confidence"] = probabilities.max(axis=1)
    table["truth"] = cases["body_part"].map(body_parts()["name"])
    table["correct"] = table["truth"] == table["prediction"]
    table = table.join(cases[_CASE])
    table.attrs = {"source": raw.attrs["source"]}
    return table
