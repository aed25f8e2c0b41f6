"""What else the embedded model says of some of the reviews."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pandas as pd

from .. import EMBEDDED, MODEL_VARIABLE
from ..checks import check_count
from .parts import DATA
from .reviews import REVIEW_EXAMPLES, REVIEW_LABELS, REVIEW_PROMPT, load_reviews

if TYPE_CHECKING:
    from ..models import LanguageModel

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

    Raises
    ------
    ValueError
        More rows than there are.

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
