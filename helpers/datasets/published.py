"""Numbers that others published, to compare with."""

from __future__ import annotations

import pandas as pd

from .parts import DATA


def load_published_tables() -> pd.DataFrame:
    """First-token probabilities that a popular README printed for Llama 3.1.

    Returns
    -------
    pandas.DataFrame
        ``text``, ``rank``, ``token``, ``probability``, ``logprob``. The card beside
        the file tells where the numbers come from.
    """
    return pd.read_csv(DATA / "published_token_tables.csv")
