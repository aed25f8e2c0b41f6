"""Injuries recorded by US emergency departments (NEISS), and the body part hurt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..checks import check_count
from .neiss_codes import body_parts
from .neiss_files import COLUMNS, read_neiss_file
from .parts import SPLITS, part_of

NEISS_VARIABLE = "HOW_SURE_NEISS"
_SHARES = (1 / 3, 1 / 3, 1 / 3)
_NOT_A_TO_Z = bytes(sorted({*range(256)} - {*range(ord("a"), ord("z") + 1)}))

Source = str | Path | int


def load_neiss(
    source: Source | Sequence[Source] | None = None,
    *,
    n: int | None = None,
    stratify: bool = False,
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
        How many to draw at random (default: all, in the order of the file), and seed
        (0).
    stratify : bool, default=False
        Whether the draw keeps the shares of the labels, by largest remainders.
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
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}.")
    n = None if n is None else check_count("n", n)
    rng = np.random.default_rng(check_count("seed", seed, least=0))
    cases, dropped = _cleaned([_read(one) for one in _sources(source)])
    if split is not None:
        cases = cases[cases["split"] == split]
    if n is not None:
        if n > len(cases):
            which = f' of the part "{split}"' if split else ""
            raise ValueError(
                f"n must be at most {len(cases)}, the number of cases{which}, not {n}."
            )
        cases = cases.iloc[_draw(cases["label"], n, stratify, rng)]
    cases.attrs["dropped"] = dropped
    return cases


def _sources(source: Source | Sequence[Source] | None) -> list[Path | int]:
    from .neiss_files import check_year

    if source is None:
        named = os.environ.get(NEISS_VARIABLE)
        if not named:
            raise ValueError(
                "load_neiss needs a source, one of three: the path of a NEISS file "
                "(.tsv, .xlsx or .parquet), a year to download from CPSC, or a path in "
                f"the environment variable {NEISS_VARIABLE}."
            )
        source = named
    some = [source] if isinstance(source, str | Path | int | np.integer) else source
    if not isinstance(some, Sequence) or not len(some):
        raise ValueError(
            f"source must be a path, a year, or a sequence of them, not {source!r}."
        )
    found: list[Path | int] = []
    for one in some:
        if isinstance(one, str | Path):
            found.append(Path(one).expanduser())
        elif isinstance(one, int | np.integer) and not isinstance(one, bool):
            found.append(check_year(int(one)))
        else:
            raise ValueError(f"source must hold paths and years, not {one!r}.")
    return found


def _read(source: Path | int) -> pd.DataFrame:
    from .neiss_files import download_neiss

    if isinstance(source, Path):
        return read_neiss_file(source)
    return read_neiss_file(download_neiss(source), source)


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
    cases = cases.assign(
        split=[part_of(_key(each), _SHARES) for each in cases["narrative"].tolist()]
    )
    columns = [name for name in COLUMNS.values() if name != "case_number"]
    at = columns.index("body_part") + 1
    columns = ["year", *columns[:at], "label", *columns[at:], "text", "split"]
    return cases[columns], dropped


def _key(narrative: str) -> str:
    """What near-copies have in common: their letters a to z, without ages and such."""
    letters = narrative.lower().encode("ascii", "ignore")
    return letters.translate(None, _NOT_A_TO_Z).decode()


def _draw(
    labels: pd.Series, n: int, stratify: bool, rng: np.random.Generator
) -> np.ndarray:
    order = rng.permutation(len(labels))
    if not stratify:
        return order[:n]
    codes, classes = pd.factorize(labels.to_numpy())
    counts = np.bincount(codes, minlength=len(classes))
    wanted, lost = np.divmod(counts * n, len(labels))
    lot = rng.permutation(len(classes))
    one_more = lot[np.argsort(-lost[lot], kind="stable")][: n - wanted.sum()]
    wanted[one_more] += 1
    # The first of each label, in the random order.
    rank = pd.Series(codes[order]).groupby(codes[order]).cumcount().to_numpy()
    return order[rank < wanted[codes[order]]]
