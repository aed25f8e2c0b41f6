"""Injuries recorded by US emergency departments (NEISS), and the body part hurt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from ..checks import check_choice, check_count
from .neiss_files import COLUMNS, NEISS_VARIABLE, body_parts, read_neiss_file
from .reviews import SPLITS, part_of

_SHARES = (1 / 3, 1 / 3, 1 / 3)
_NOT_A_TO_Z = bytes(sorted({*range(256)} - {*range(ord("a"), ord("z") + 1)}))

Source = str | Path | int


def load_neiss(
    source: Source | Sequence[Source] | None = None,
    *,
    n: int | None = None,
    split: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Narratives of injuries, with the part of the body that was hurt.

    They are from NEISS, the injury surveillance system of the US Consumer Product
    Safety Commission (CPSC). A file that could corrupt a result is refused with a
    ValueError.

    Parameters
    ----------
    source : str, pathlib.Path, int or a sequence of them, optional
        A CPSC annual file (.tsv or .xlsx), or a .parquet with the columns below; a
        year, to download its file into the user's cache; or several, where the first
        has precedence. Default: the path in the environment variable HOW_SURE_NEISS.
    n, seed : int, optional
        How many to draw at random (default: all, in the order of the file), and the
        seed (0).
    split : {"train", "calibration", "test"}, optional
        A third of the narratives each, near-copies together. Default: all.

    Returns
    -------
    pandas.DataFrame
        One row a case, by ``case_number``: ``year``; ``treatment_date``; ``age_years``;
        ``sex``, "M", "F" or ""; the code ``body_part`` and its ``label`` in
        :func:`body_parts`; ``diagnosis``; ``body_part_2`` and ``diagnosis_2`` of a
        second injury; ``product_1``; ``stratum`` (kind of hospital) and ``psu``
        (hospital); ``weight``, the injuries a case stands for; ``narrative`` and, in
        one line of lower case, ``text``; ``split``. ``attrs["dropped"]`` counts the
        cases left out, by reason.
    """
    if split is not None:
        check_choice("split", split, SPLITS)
    n = None if n is None else check_count("n", n)
    rng = np.random.default_rng(check_count("seed", seed, least=0))
    cases, dropped = _cleaned([read_neiss_file(one) for one in _sources(source)])
    if split is not None:
        cases = cases[cases["split"] == split]
    if n is not None:
        if n > len(cases):
            which = f' of the part "{split}"' if split else ""
            raise ValueError(
                f"n must be at most {len(cases)}, the number of cases{which}, not {n}."
            )
        cases = cases.iloc[rng.permutation(len(cases))[:n]]
    cases.attrs["dropped"] = dropped
    return cases


def _sources(given: Source | Sequence[Source] | None) -> list[Path | int]:
    if given is None:
        given = os.environ.get(NEISS_VARIABLE)
        if not given:
            raise ValueError(
                "load_neiss needs a source, one of three: the path of a NEISS file "
                "(.tsv, .xlsx or .parquet), a year to download from CPSC, or a path in "
                f"the environment variable {NEISS_VARIABLE}."
            )
    if isinstance(given, str) or not isinstance(given, Sequence):
        given = [given]
    found: list[Path | int] = []
    for one in given:
        if isinstance(one, (str, Path)):
            found.append(Path(one).expanduser())
        elif isinstance(one, (int, np.integer)) and one in _years():
            found.append(int(one))
        else:
            raise ValueError(
                f"source must hold paths, and years from {_years()[0]} to "
                f"{_years()[-1]}, not {one!r}."
            )
    if not found:
        raise ValueError("source must hold a path or a year; it is empty.")
    return found


def _years() -> range:
    """Years whose files are supported; older codes may mean other things."""
    return range(2014, date.today().year + 1)


def _cleaned(tables: list[pd.DataFrame]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Add computed columns, leave out unusable cases, and count these."""
    cases = pd.concat(tables) if len(tables) > 1 else tables[0]
    tables.clear()
    dropped = {}

    def keep(rows: pd.Series, why: str) -> None:
        nonlocal cases
        dropped[why] = int((~rows).sum())
        if dropped[why]:  # a copy of all narratives is large
            cases = cases[rows]

    names = body_parts()["name"]
    cases = cases.set_index("case_number")
    keep(pd.Series(~cases.index.duplicated(), cases.index), "repeated_case")
    keep(cases["narrative"].str.contains(r"[^\W_]"), "no_narrative")
    keep(cases["body_part"].isin(names.index), "body_part")
    cases = cases.assign(
        body_part=cases["body_part"].astype("int64"),
        label=cases["body_part"].map(names),
        text=[" ".join(each.split()).lower() for each in cases["narrative"].tolist()],
    )
    keep(~cases["text"].duplicated(), "repeated_text")
    cases = cases.assign(split=[_part(each) for each in cases["narrative"].tolist()])
    columns = [name for name in COLUMNS.values() if name != "case_number"]
    at = columns.index("body_part") + 1
    columns = ["year", *columns[:at], "label", *columns[at:], "text", "split"]
    return cases[columns], dropped


def _part(narrative: str) -> str:
    """By its letters a to z: near-copies differ in ages and such."""
    letters = narrative.lower().encode("ascii", "ignore")
    return part_of(letters.translate(None, _NOT_A_TO_Z).decode(), _SHARES)
