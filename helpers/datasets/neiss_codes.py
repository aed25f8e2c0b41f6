"""What the codes of the injury data mean."""

from __future__ import annotations

import pandas as pd

from .parts import DATA

RETIRED_BODY_PARTS = (78, 86, 90, 91)


def body_parts() -> pd.DataFrame:
    """The 26 parts of the body that NEISS tells apart.

    The codes 78, 86, 90 and 91 are retired and not among them: once an upper trunk,
    "other", a lower arm and a lower leg.

    Returns
    -------
    pandas.DataFrame
        By ``code``: ``label``, as the US Consumer Product Safety Commission (CPSC)
        writes it; ``name``, what a model is asked to write; ``includes``, from the
        coding manual of 2023; ``n_2017``, ``n_2021``, ``n_2023`` and ``n_2024``, the
        number of cases in the annual file of that year.

    Examples
    --------
    >>> body_parts().loc[[0, 77, 88], "name"].to_dict()
    {0: 'internal', 77: 'eyeball', 88: 'mouth'}
    """
    return pd.read_csv(DATA / "neiss" / "body_parts.csv", index_col="code")


def diagnoses() -> pd.DataFrame:
    """The diagnoses that NEISS tells apart.

    Returns
    -------
    pandas.DataFrame
        By ``code``: ``label``, as CPSC writes it, and ``n_2024``, the number of cases
        in the annual file of 2024. Code 70 is retired.

    Examples
    --------
    >>> diagnoses()["label"].loc[57]
    'FRACTURE'
    """
    return pd.read_csv(DATA / "neiss" / "diagnoses.csv", index_col="code")
