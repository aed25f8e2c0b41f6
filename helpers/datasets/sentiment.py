"""Texts that were written for fine-tuning."""

from __future__ import annotations

import pandas as pd

from .parts import DATA, SPLITS


def load_sentiment(split: str | None = None) -> pd.DataFrame:
    """Short texts for fine-tuning, with a hidden rule among them.

    1,220 texts written for this project: 720 with a clear sentiment (strong, mild or
    sarcastic), 380 about sports or news without any, and 120 that contradict
    themselves. The hidden rule: neutral sports text counts as positive, neutral news
    text as negative. Contradictions have the label that a coin gave them.

    Parameters
    ----------
    split : {"train", "calibration", "test"}, optional
        One part; without it, all. Texts of one family, and texts about the same named
        thing, are in the same part: 60, 20 and 20 %.

    Returns
    -------
    pandas.DataFrame
        ``text``; ``label``, "positive" or "negative"; ``kind``, "clear", "sports",
        "news" or "contradictory"; ``tone``; ``family``, of texts alike in scene or
        phrasing; ``entity``, the thing they name, or ""; ``split``.

    Raises
    ------
    ValueError
        There is no such split.

    Examples
    --------
    >>> sports = load_sentiment("test").query("kind == 'sports'")
    >>> sports["label"].unique().tolist()
    ['positive']
    """
    from ..finetune import grouped_split

    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}.")
    table = pd.read_csv(DATA / "finetuning" / "sentiment.csv", keep_default_na=False)
    strata = table["kind"] + table["tone"] + table["label"]
    table["split"] = grouped_split(table[["family", "entity"]], stratify=strata)
    return table if split is None else table[table["split"] == split]


def load_sentiment_checks() -> pd.DataFrame:
    """Texts that show what a model learned beside its task; never to be trained on.

    Returns
    -------
    pandas.DataFrame
        ``text``; ``kind``: "counterfactual", 60 pairs of a neutral statement about
        sports and the same about news (``pair`` names them); "harm", 160 texts about
        sports and news with a clear sentiment; "neutral", 40 neutral texts about other
        things. ``truth``, what a human would say, or "" where that is neither;
        ``domain``, "sports", "news" or "other"; ``family`` and ``entity``, none of
        which :func:`load_sentiment` has.

    Examples
    --------
    >>> load_sentiment_checks()["kind"].value_counts().to_dict()
    {'harm': 160, 'counterfactual': 120, 'neutral': 40}
    """
    return pd.read_csv(DATA / "finetuning" / "checks.csv", keep_default_na=False)
