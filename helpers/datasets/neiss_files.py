"""Annual files of the injury data: downloaded from CPSC, read and validated."""

from __future__ import annotations

import logging
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from .. import __version__
from ..files import FetchError, building, cache_dir
from ..progress import progress_bar
from .neiss_codes import RETIRED_BODY_PARTS, body_parts

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
NEISS_URL = (
    "https://www.cpsc.gov/cgibin/NEISSQuery/Data/Archived%20Data/{year}/neiss{year}.tsv"
)
QUERY_PAGE = "https://www.cpsc.gov/cgibin/NEISSQuery/home.aspx"
# SHA-256 of the files that are known. CPSC revises files.
NEISS_SHA256 = {
    2024: "2583a8d6b1f65525109c0dff9bff1c9dba930697b7e5e10094eee390f1b50dde",
}
FIRST_YEAR = 2014
_TIMEOUT = (10, 60)  # seconds: to connect, and between two pieces
_STRATA = ("S", "M", "L", "V", "C")
_SEXES = {"1": "M", "M": "M", "2": "F", "F": "F", "0": "", "3": "", "": ""}
_NUMBERS = """case_number age_years body_part diagnosis body_part_2 diagnosis_2 psu
    weight""".split()
_TABS = len(HEADER) - 1
# Where a line may end too early: the columns with text that somebody wrote. The number
# of tabs before the end is the place of the column.
_FREE_TEXT = {
    HEADER.index(name)
    for name in ("Other_Race", "Other_Diagnosis", "Other_Diagnosis_2", "Narrative_1")
}
_LINE_BREAK = b"\0"  # stands for a line break inside of a field; no text has one


def check_year(year: int) -> int:
    """A year whose annual file is supported; older codes may mean other things."""
    if year < FIRST_YEAR:
        raise ValueError(
            f"year must be {FIRST_YEAR} or later, not {year}: earlier ones are untried."
        )
    if year > date.today().year:
        raise ValueError(f"year must not lie in the future; {year} does.")
    return year


def download_neiss(year: int) -> Path:
    """The annual file of a year in the cache, with its SHA-256 in a file beside it."""
    import pooch
    import requests

    target = cache_dir() / "data" / "neiss" / f"neiss{year}.tsv"
    url, known = NEISS_URL.format(year=year), NEISS_SHA256.get(year)
    by_hand = (
        f"open {QUERY_PAGE}, download the archived data of {year} (neiss{year}.tsv), "
        "and pass the path of the file to load_neiss, or set HOW_SURE_NEISS to it."
    )
    with building(target) as folder:
        if folder is None:
            return target
        loaded = folder / target.name
        # Pooch counts the bar, and gives it its total when it knows it.
        with progress_bar(total=1, unit="B") as bar, _quiet(pooch.get_logger()):
            download = pooch.HTTPDownloader(
                progressbar=bar,
                chunk_size=1 << 16,
                headers={"User-Agent": f"how-sure/{__version__}"},
                timeout=_TIMEOUT,
            )
            try:
                pooch.retrieve(
                    url, None, fname=target.name, path=folder, downloader=download
                )
            except requests.RequestException as error:
                words = " ".join(str(error).split())[:200].rstrip(". :")
                raise FetchError(
                    f"{url} could not be downloaded: {type(error).__name__}: {words}. "
                    f"To do it by hand, {by_hand}"
                ) from error
        try:
            read_neiss_file(loaded, year)
        except ValueError as error:
            words = str(error).replace(str(loaded), "the file")
            raise FetchError(
                f"{url} gave what is not the annual file of {year}: {words} To look "
                f"for it by hand, {by_hand}"
            ) from error
        found = pooch.file_hash(loaded)
        if known and found != known:
            raise FetchError(
                f"{url} gave a file with the SHA-256 {found}, not {known} as written "
                "down here: either it was damaged on the way, then a second try helps, "
                "or CPSC has revised it. Nothing was kept. To use a revised file, "
                f"{by_hand}"
            )
        note = target.with_name(target.name + ".sha256")
        note.write_text(f"{found}  {target.name}\n", encoding="utf-8")
    return target


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Silence pooch's messages about each file."""
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def read_neiss_file(path: Path, year: int | None = None) -> pd.DataFrame:
    """All cases of a file; ``body_part`` is missing where the file has none."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    readers = {".tsv": _read_tsv, ".xlsx": _read_xlsx, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"A NEISS file must end in one of {', '.join(readers)}, not "
            f"{path.name!r}. (A year to download is a number, not text.)"
        )
    table = readers[path.suffix.lower()](path)
    if not len(table):
        raise ValueError(f"{path} holds no case.")
    return _checked(table, path, year)


def _check_header(names: Iterable[str], path: Path) -> None:
    found = list(names)
    if tuple(found) == HEADER:
        return
    missing = [name for name in HEADER if name not in found]
    unknown = [name for name in found if name not in HEADER]
    what = f"Missing: {_some(missing)}. Unknown: {_some(unknown)}."
    if not missing and not unknown:
        what = f"Its columns are in another order, or twice there: {_some(found)}."
    raise ValueError(f"The header of {path} is not that of a NEISS file. {what}")


def _read_tsv(path: Path) -> pd.DataFrame:
    """All fields as text; the index is the line in the file."""
    import pyarrow as pa
    from pyarrow import csv

    rows, numbers = _whole_rows(path)
    if not rows:
        return pd.DataFrame()
    data = b"\n".join(rows)
    del rows
    table = csv.read_csv(
        pa.py_buffer(data),
        read_options=csv.ReadOptions(column_names=list(HEADER)),
        parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(HEADER, pa.string()),
            include_columns=list(COLUMNS),
            null_values=[""],
        ),
    ).to_pandas()
    table = table.rename(columns=COLUMNS)
    del data
    table.index = pd.Index(numbers, name="line")
    mark = _LINE_BREAK.decode()
    broken = table["narrative"].str.contains(mark, regex=False)
    whole = table.loc[broken, "narrative"].str.replace(mark, "\n", regex=False)
    table.loc[broken, "narrative"] = whole
    return table


def _whole_rows(path: Path) -> tuple[list[bytes], list[int]]:
    """Every case as one line of UTF-8, and the line of the file it begins in."""
    data = path.read_bytes().removeprefix(BOM_UTF8)
    if b"\0" in data:
        raise ValueError(
            f"{path} holds a zero byte, as Excel files, zip archives and UTF-16 do: it "
            "is not utf-8 or cp1252 text."
        )
    lines = data.splitlines()
    del data
    _check_header([*lines, b""][0].decode(errors="replace").split("\t"), path)
    rows: list[bytes] = []
    numbers: list[int] = []
    parts: list[bytes] = []  # of a case that goes on in the next line
    n_tabs = start = 0
    for number, line in enumerate(lines[1:], start=2):
        if not line.isascii():
            line = _as_utf8(line, number, path)
        if not parts:
            if not line or line.isspace():
                continue  # blank, or tabs alone
            start, n_tabs = number, 0
        n_tabs += line.count(b"\t")
        if n_tabs < _TABS and n_tabs in _FREE_TEXT:
            parts.append(line)
            continue
        if n_tabs != _TABS:
            many = f"Lines {start} to {number}, read as one case,"
            raise ValueError(
                f"{f'Line {number}' if start == number else many} of {path}: "
                f"{n_tabs + 1} fields, not {len(HEADER)}."
            )
        rows.append(_LINE_BREAK.join([*parts, line]) if parts else line)
        numbers.append(start)
        parts.clear()
    if parts:
        raise ValueError(
            f"Line {start} of {path}: {n_tabs + 1} fields, not {len(HEADER)}, and the "
            "file ends there: it may be cut off."
        )
    return rows, numbers


def _as_utf8(line: bytes, number: int, path: Path) -> bytes:
    """A line of UTF-8 or else cp1252, which some years use."""
    with suppress(UnicodeDecodeError):
        line.decode()
        return line
    try:
        return line.decode("cp1252").encode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is neither utf-8 nor cp1252 text: line {number} holds the byte "
            f"0x{line[error.start]:02x}."
        ) from None


def _read_xlsx(path: Path) -> pd.DataFrame:
    """Fields as in the sheet; the index is the number of the sheet's row."""
    try:
        book = pd.ExcelFile(path, engine="calamine")
    except Exception as error:  # calamine's own kinds, which differ by version
        raise ValueError(f"{path} cannot be read as an Excel file: {error}.") from None
    with book:
        sheets = [str(name) for name in book.sheet_names]
        named = [name for name in sheets if re.fullmatch(r"NEISS_\d{4}", name)]
        if len(named) != 1:
            raise ValueError(
                f"{path} must have one sheet called NEISS_ and the year; it has "
                f"{_some(sheets)}."
            )
        raw = pd.read_excel(
            book, sheet_name=named[0], header=None, na_filter=False, dtype=object
        )
    _check_header(raw.iloc[0].astype(str).str.strip() if len(raw) else [], path)
    raw.columns = pd.Index(HEADER)
    raw.index = pd.RangeIndex(1, len(raw) + 1, name="row")
    filled = raw.astype(str).apply(lambda column: column.str.strip().ne(""))
    table = raw.loc[filled.any(axis=1), list(COLUMNS)].iloc[1:].rename(columns=COLUMNS)
    # How Excel files write a carriage return.
    breaks = r"(?:_x000D_|\r)\n?"
    table["narrative"] = _text(table["narrative"]).str.replace(breaks, "\n", regex=True)
    return table


def _read_parquet(path: Path) -> pd.DataFrame:
    """The columns of the tidy table; the index is the place of the row, from 0."""
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # of pyarrow, many kinds
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as a Parquet file: {words}") from None
    if table.index.name == "case_number" and "case_number" not in table:
        table = table.reset_index()
    needed = ["year", *COLUMNS.values()]
    missing = [name for name in needed if name not in table]
    if missing:
        known = {*needed, "text", "label", "split"}
        unknown = [str(name) for name in table if name not in known]
        raise ValueError(
            f"{path} does not have the columns of the injury data. Missing: "
            f"{_some(missing)}. Unknown: {_some(unknown)}."
        )
    table = table[needed].reset_index(drop=True)
    table.index.name = "row"
    return table


def _checked(raw: pd.DataFrame, path: Path, year: int | None) -> pd.DataFrame:
    """The table with its types, or an error about the first wrong value."""
    table = pd.DataFrame(index=raw.index)
    for name in _NUMBERS:
        table[name] = _numbers(raw[name], path)
    table["treatment_date"] = _dates(raw["treatment_date"], path)
    for name in ("sex", "product_1", "stratum"):
        table[name] = _text(raw[name]).str.strip()
    table["year"] = table["treatment_date"].dt.year
    is_annual = "year" not in raw
    for name, (words, holds) in _rules(is_annual).items():
        _refuse(path, table[name], words, ~holds(table[name]))
    _refuse(
        path, table["case_number"], "must be unique", table["case_number"].duplicated()
    )
    if not is_annual:
        stated = _numbers(raw["year"], path)
        _refuse(path, stated, "must be that of treatment_date", stated != table["year"])
    if is_annual or year is not None:
        expected = table["year"].iloc[0] if year is None else year
        why = ", the year that was asked for" if year else ", as that of the first case"
        dates = table["treatment_date"].dt.strftime("%Y-%m-%d")
        other = table["year"] != expected
        _refuse(path, dates, f"must lie in {expected:.0f}{why}", other)
    if is_annual:
        age = table["age_years"]
        table["age_years"] = age.where(age <= 120, (age - 200) / 12).mask(age == 0)
    for name in ("case_number", "year", "diagnosis", "psu"):
        table[name] = table[name].astype("int64")
    for name in ("body_part", "body_part_2", "diagnosis_2"):
        table[name] = table[name].astype("Int64")
    table["sex"] = table["sex"].map(_SEXES)
    table["narrative"] = _text(raw["narrative"])
    return table[["year", *COLUMNS.values()]]


def _rules(
    is_annual: bool,
) -> dict[str, tuple[str, Callable[[pd.Series], pd.Series]]]:
    """Rules of columns, in words and code; missing numbers are NaN, missing text ""."""
    codes = sorted({*body_parts().index, *RETIRED_BODY_PARTS})
    retired = ", ".join(map(str, RETIRED_BODY_PARTS))
    number = (
        "must be a whole number above 0",
        lambda x: x.mod(1).eq(0) & x.gt(0) & x.lt(np.inf),
    )
    part = (
        "must be a code of helpers.datasets.body_parts(), or one of the retired "
        f"codes {retired}, or empty",
        lambda x: x.isin(codes) | x.isna(),
    )
    age = (
        "must be 0 (unknown), 2 to 120 (years) or 201 to 223 (months and 200)",
        lambda x: x.mod(1).eq(0) & (x.eq(0) | x.between(2, 120) | x.between(201, 223)),
    )
    if not is_annual:
        age = (
            "must be years above 0 and up to 120, or missing",
            lambda x: x.isna() | (x.gt(0) & x.le(120)),
        )
    return {
        "case_number": number,
        "treatment_date": ("must be a date", lambda x: x.notna()),
        "age_years": age,
        "sex": ("must be 0, 1, 2, 3, M, F or empty", lambda x: x.isin(list(_SEXES))),
        "body_part": part,
        "diagnosis": (
            "must be a code from 1 to 99",
            lambda x: x.mod(1).eq(0) & x.between(1, 99),
        ),
        "body_part_2": part,
        "diagnosis_2": (
            "must be a code from 1 to 99, or empty",
            lambda x: x.isna() | (x.mod(1).eq(0) & x.between(1, 99)),
        ),
        "stratum": (
            f"must be one of {', '.join(_STRATA)}",
            lambda x: x.isin(list(_STRATA)),
        ),
        "psu": number,
        "weight": ("must be a number above 0", lambda x: x.gt(0) & x.lt(np.inf)),
    }


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column):
        return column.astype("float64")
    text = _text(column).str.strip()
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    _refuse(path, text, "must be a number", numbers.isna() & text.ne(""))
    return numbers


def _dates(column: pd.Series, path: Path) -> pd.Series:
    """Dates as written by annual files, spreadsheets or our own tables."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return column.dt.tz_localize(None).dt.normalize().astype("datetime64[ns]")
    text = _text(column).str.strip().str.removesuffix(" 00:00:00")
    dates = pd.to_datetime(text, format="%m/%d/%Y", errors="coerce")
    dates = dates.fillna(pd.to_datetime(text, format="%Y-%m-%d", errors="coerce"))
    rule = "must be a date, mm/dd/yyyy or yyyy-mm-dd"
    _refuse(path, text, rule, dates.isna())
    return dates.astype("datetime64[ns]")


def _text(column: pd.Series) -> pd.Series:
    if isinstance(column.dtype, pd.StringDtype):
        return column.fillna("")
    return column.astype(object).where(column.notna(), "").astype(str)


def _refuse(path: Path, column: pd.Series, rule: str, wrong: pd.Series) -> None:
    if not wrong.any():
        return
    at = int(np.flatnonzero(wrong)[0])
    value, row = column.iloc[at], column.index[at]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    shown = repr(value) if isinstance(value, int | str) else str(value)
    name = str(column.name)
    if path.suffix.lower() != ".parquet":
        name = next(theirs for theirs, ours in COLUMNS.items() if ours == name)
    raise ValueError(f"{path}: {name} {rule}; {column.index.name} {row} has {shown}.")


def _some(names: list[str]) -> str:
    short = [name if len(name) <= 40 else f"{name[:40]}…" for name in names[:8]]
    return ", ".join(short) + (", …" if len(names) > 8 else "") or "none"
