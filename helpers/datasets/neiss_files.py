"""Annual files of the injury data: downloaded from CPSC, read and validated."""

from __future__ import annotations

import math
import re
from codecs import BOM_UTF8
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import __version__
from ..files import DATA, FetchError, building, cache_dir
from ..progress import progress_bar

NEISS_VARIABLE = "HOW_SURE_NEISS"
NEISS_URL = (
    "https://www.cpsc.gov/cgibin/NEISSQuery/Data/Archived%20Data/{year}/neiss{year}.tsv"
)
QUERY_PAGE = "https://www.cpsc.gov/cgibin/NEISSQuery/home.aspx"
# SHA-256 of the files that are known. CPSC revises files.
NEISS_SHA256 = {
    2024: "2583a8d6b1f65525109c0dff9bff1c9dba930697b7e5e10094eee390f1b50dde",
}
# The header of CPSC's annual files.
HEADER = tuple(
    """CPSC_Case_Number Treatment_Date Age Sex Race Other_Race Hispanic Body_Part
    Diagnosis Other_Diagnosis Body_Part_2 Diagnosis_2 Other_Diagnosis_2 Disposition
    Location Fire_Involvement Product_1 Product_2 Product_3 Alcohol Drug Narrative_1
    Stratum PSU Weight""".split()
)
# What is read of it, and what it is called here.
COLUMNS = {
    "CPSC_Case_Number": "case_number",
    "Treatment_Date": "treatment_date",
    "Age": "age_years",
    "Sex": "sex",
    "Body_Part": "body_part",
    "Diagnosis": "diagnosis",
    "Body_Part_2": "body_part_2",
    "Diagnosis_2": "diagnosis_2",
    "Product_1": "product_1",
    "Stratum": "stratum",
    "PSU": "psu",
    "Weight": "weight",
    "Narrative_1": "narrative",
}
# Columns with text that somebody wrote, which may hold line breaks.
_WRITTEN = ("Other_Race", "Other_Diagnosis", "Other_Diagnosis_2", "Narrative_1")
_NUMBERS = """case_number age_years body_part diagnosis body_part_2 diagnosis_2 psu
    weight""".split()
_SEXES = {"1": "M", "M": "M", "2": "F", "F": "F", "0": "", "3": "", "": ""}
_CASE = re.compile(
    "^(?=[^\\t\\n])"
    + "\\t".join(
        ("(%s)" if name in COLUMNS else "%s")
        % ("[^\\t]*" if name in _WRITTEN else "[^\\t\\n]*")
        for name in HEADER
    )
    + "$",
    re.MULTILINE,
)
_TIMEOUT = (10, 60)  # seconds: to connect, and between two pieces


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


def read_neiss_file(source: Path | int) -> pd.DataFrame:
    """All cases of a file; ``body_part`` is missing where the file has none."""
    if isinstance(source, int):
        path = _downloaded(source)
        return _checked(_read_tsv(path), path, source)
    if not source.is_file():
        raise FileNotFoundError(f"There is no file {source}.")
    readers = {".tsv": _read_tsv, ".xlsx": _read_xlsx, ".parquet": _read_parquet}
    if source.suffix.lower() not in readers:
        raise ValueError(
            f"A NEISS file must end in one of {', '.join(readers)}, not "
            f"{source.name!r}. (A year to download is a number, not text.)"
        )
    return _checked(readers[source.suffix.lower()](source), source, None)


def _downloaded(year: int) -> Path:
    """The annual file of a year in the cache."""
    import pooch
    import requests

    target = cache_dir() / "data" / "neiss" / f"neiss{year}.tsv"
    url = NEISS_URL.format(year=year)
    with building(target) as folder:
        if folder is None:
            return target
        pooch.get_logger().setLevel("WARNING")  # it would tell of each file
        # Pooch counts the bar, and gives it its total when it knows it.
        with progress_bar(total=1, unit="B") as bar:
            download = pooch.HTTPDownloader(
                progressbar=bar,
                chunk_size=1 << 16,
                headers={"User-Agent": f"how-sure/{__version__}"},
                timeout=_TIMEOUT,
            )
            try:
                loaded = pooch.retrieve(
                    url, NEISS_SHA256.get(year), target.name, folder, None, download
                )
                _checked(_read_tsv(Path(loaded)), Path(target.name), year)
            except (requests.RequestException, ValueError) as error:
                words = " ".join(str(error).replace(str(folder), "").split())[:500]
                raise FetchError(
                    f"{url} gave no annual file: {type(error).__name__}: {words} If it "
                    "was damaged on the way, a second try helps. To do it by hand, "
                    f"open {QUERY_PAGE}, download the archived data of {year} "
                    f"({target.name}), and pass the path of the file to load_neiss, or "
                    f"set {NEISS_VARIABLE} to it."
                ) from error
    return target


def _check_header(found: Iterable[str], path: Path) -> None:
    names = list(found)
    if names != list(HEADER):
        missing = [name for name in HEADER if name not in names]
        unknown = [name[:40] for name in names if name not in HEADER]
        raise ValueError(
            f"The header of {path} must be that of a NEISS file. Missing: "
            f"{missing[:5]}. Unknown: {unknown[:5]}. If there is neither, its columns "
            "are in another order, or twice there."
        )


def _read_tsv(path: Path) -> pd.DataFrame:
    """All fields as text; the index is the line in the file."""
    data = path.read_bytes().removeprefix(BOM_UTF8)
    if b"\0" in data:
        raise ValueError(
            f"{path} holds a zero byte, as Excel files, zip archives and UTF-16 do: it "
            "is not utf-8 or cp1252 text."
        )
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    numbered = enumerate(data.split(b"\n"), start=1)
    text = "\n".join([_as_text(line, number, path) for number, line in numbered])
    del data
    header, _, text = text.partition("\n")
    _check_header(header.split("\t"), path)
    rows, lines = [], []
    end, line = 0, 2
    for case in _CASE.finditer(text):
        between = text[end : case.start()]
        if between.strip():
            break
        line += between.count("\n")
        rows.append(case.groups())
        lines.append(line)
        line += case.group().count("\n")
        end = case.end()
    rest = text[end:].lstrip()
    if rest:
        line = text.count("\n", 0, len(text) - len(rest)) + 2
        n_fields = rest.partition("\n")[0].count("\t") + 1
        raise ValueError(
            f"Line {line} of {path} must begin a case of {len(HEADER)} fields, the "
            f"first not empty; it has {n_fields}. The file may be cut off or damaged."
        )
    index = pd.Index(lines, dtype="int64", name="line")
    names = [COLUMNS[name] for name in HEADER if name in COLUMNS]
    return pd.DataFrame(rows, index, names, dtype="str")


def _as_text(line: bytes, number: int, path: Path) -> str:
    """A line of UTF-8 or else cp1252, which some years use."""
    for encoding in ("utf-8", "cp1252"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError as error:
            unknown = line[error.start]
    raise ValueError(
        f"{path} is neither utf-8 nor cp1252 text: line {number} holds the byte "
        f"0x{unknown:02x}."
    )


def _read_xlsx(path: Path) -> pd.DataFrame:
    """Fields as in the sheet; the index is the number of the sheet's row."""
    try:
        sheets = pd.read_excel(
            path, sheet_name=None, na_filter=False, dtype=object, engine="calamine"
        )
    except Exception as error:  # calamine's own kinds, which differ by version
        raise ValueError(f"{path} cannot be read as an Excel file: {error}.") from None
    named = [name for name in map(str, sheets) if re.fullmatch(r"NEISS_\d{4}", name)]
    if len(named) != 1:
        raise ValueError(
            f"{path} must have one sheet called NEISS_ and the year, not {[*sheets]}."
        )
    table = sheets[named[0]]
    _check_header([str(name).strip() for name in table.columns], path)
    table.columns = pd.Index(HEADER)
    table.index = pd.RangeIndex(2, len(table) + 2, name="row")
    blank = table.astype(str).apply(lambda column: column.str.strip().eq(""))
    table = table[~blank.all(axis=1)].rename(columns=COLUMNS)
    # How Excel files write a carriage return.
    breaks = r"(?:_x000D_|\r)\n?"
    table["narrative"] = _text(table["narrative"]).str.replace(breaks, "\n", regex=True)
    return table


def _read_parquet(path: Path) -> pd.DataFrame:
    """The columns of the tidy table; the index is the place of the row, from 0."""
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # of pyarrow, many kinds
        words = str(error)[:200]
        raise ValueError(f"{path} cannot be read as a Parquet file: {words}") from None
    if table.index.name == "case_number":
        table = table.reset_index(drop="case_number" in table)
    missing = [name for name in ("year", *COLUMNS.values()) if name not in table]
    if missing:
        raise ValueError(
            f"{path} must have the columns of the injury data; missing: {missing}."
        )
    return table.reset_index(drop=True).rename_axis(index="row")


def _checked(raw: pd.DataFrame, path: Path, year: int | None) -> pd.DataFrame:
    """The table with its types, or an error about the first wrong value."""
    if not len(raw):
        raise ValueError(f"{path} holds no case.")
    table = pd.DataFrame(index=raw.index)
    for name in _NUMBERS:
        table[name] = _numbers(raw[name], path)
    for name in ("sex", "product_1", "stratum"):
        table[name] = _text(raw[name]).str.strip()
    table["narrative"] = _text(raw["narrative"])
    date = table["treatment_date"] = _dates(raw["treatment_date"], path)
    age = table["age_years"]
    if "year" in raw:
        table["year"] = _numbers(raw["year"], path)
        rules = [("year", "that of treatment_date", table["year"] == date.dt.year)]
        known = age.isna() | age.between(0, 120, inclusive="right")
        rules += [("age_years", "years above 0 and up to 120, or missing", known)]
    else:
        table["year"] = date.dt.year if year is None else year
        what = "in the year of the first case" if year is None else f"in {year}"
        right = date.dt.year == table["year"].iloc[0]
        rules = [("treatment_date", what, right)]
        ages = "0 (unknown), 2 to 120 (years) or 201 to 223 (months and 200)"
        known = age.isin([0, *range(2, 121), *range(201, 224)])
        rules += [("age_years", ages, known)]
    for name in ("case_number", "psu"):
        whole = table[name].gt(0) & table[name].mod(1).eq(0)
        rules += [(name, "a whole number above 0", whole)]
    rules += [("case_number", "unique", ~table["case_number"].duplicated())]
    weight = table["weight"]
    rules += [("weight", "a number above 0", weight.gt(0) & weight.lt(math.inf))]
    for name, (words, values) in _codes().items():
        rules += [(name, words, table[name].isin(list(values)))]
    for name, words, holds in rules:
        _refuse(path, table[name], f"must be {words}", ~holds)
    if "year" not in raw:
        table["age_years"] = age.where(age <= 120, (age - 200) / 12).mask(age == 0)
    table["sex"] = table["sex"].map(_SEXES)
    for name in ("case_number", "year", "diagnosis", "psu"):
        table[name] = table[name].astype("int64")
    for name in ("body_part", "body_part_2", "diagnosis_2"):
        table[name] = table[name].astype("Int64")
    return table[["year", *COLUMNS.values()]]


def _codes() -> dict[str, tuple[str, Iterable[Any]]]:
    """What columns of codes may hold, in words and values; NaN is for empty."""
    retired = (78, 86, 90, 91)
    parts = (
        "a code of helpers.datasets.body_parts(), or one of the retired codes "
        f"{', '.join(map(str, retired))}, or empty",
        (*body_parts().index, *retired, math.nan),
    )
    return {
        "sex": ("0, 1, 2, 3, M, F or empty", _SEXES),
        "body_part": parts,
        "body_part_2": parts,
        "diagnosis": ("a code from 1 to 99", range(1, 100)),
        "diagnosis_2": ("a code from 1 to 99, or empty", (*range(1, 100), math.nan)),
        "stratum": ("one of S, M, L, V, C", "SMLVC"),
    }


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    text = _text(column).str.strip()
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    _refuse(path, text, "must be a number", numbers.isna() & text.ne(""))
    return numbers


def _dates(column: pd.Series, path: Path) -> pd.Series:
    """Dates as written by annual files, spreadsheets or our own tables."""
    text = _text(column).str.strip().str.split(" ").str[0]  # without a time of day
    dates = pd.to_datetime(text, format="%m/%d/%Y", errors="coerce")
    dates = dates.fillna(pd.to_datetime(text, format="%Y-%m-%d", errors="coerce"))
    _refuse(path, text, "must be a date, mm/dd/yyyy or yyyy-mm-dd", dates.isna())
    return dates.astype("datetime64[ns]")


def _text(column: pd.Series) -> pd.Series:
    return column.astype("string").fillna("").astype(str)


def _refuse(path: Path, column: pd.Series, rule: str, wrong: pd.Series) -> None:
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        value, row = column.iloc[at], column.index[at]
        shown = repr(value) if isinstance(value, str) else str(value)
        shown = shown.removesuffix(".0").removesuffix(" 00:00:00")
        name = str(column.name)
        if path.suffix.lower() != ".parquet":
            name = next(theirs for theirs, ours in COLUMNS.items() if ours == name)
        where = f"{column.index.name} {row}"
        raise ValueError(f"{path}: {name} {rule}; {where} has {shown}.")
