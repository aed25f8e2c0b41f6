"""Code tables of the injury data."""

from __future__ import annotations

import pandas as pd

from .parts import DATA

RETIRED_BODY_PARTS = (78, 86, 90, 91)


def body_parts() -> pd.DataFrame:
    """The 26 parts of the body that NEISS distinguishes, by code.

    Columns: ``label``, as CPSC writes it; ``name``, what a model is asked to write;
    ``includes``, from the coding manual; and numbers of cases, such as ``n_2024``.

    Examples
    --------
    >>> body_parts().loc[[0, 77, 88], "name"].to_dict()
    {0: 'internal', 77: 'eyeball', 88: 'mouth'}
    """
    return pd.read_csv(DATA / "neiss" / "body_parts.csv", index_col="code")


def diagnoses() -> pd.DataFrame:
    """The diagnoses that NEISS distinguishes, by code: ``label`` and ``n_2024``.

    Examples
    --------
    >>> diagnoses()["label"].loc[57]
    'FRACTURE'
    """
    return pd.read_csv(DATA / "neiss" / "diagnoses.csv", index_col="code")
