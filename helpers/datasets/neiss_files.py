"""Read a file of the injury data, and refuse what would corrupt a result.

The annual files are tab-separated without any quoting. A narrative may hold a line
break, and then a case goes on in the next line of the file; such cases are put together
again. Sizes: 360,000 cases a year, some 100 MB.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

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
STRATA = ("S", "M", "L", "V", "C")
SUFFIXES = (".tsv", ".xlsx", ".parquet")
_SEXES = {"1": "M", "M": "M", "2": "F", "F": "F", "0": "", "3": "", "": ""}
_NUMBERS = (
    "case_number",
    "age_years",
    "body_part",
    "diagnosis",
    "body_part_2",
    "diagnosis_2",
    "psu",
    "weight",
)
_TABS = len(HEADER) - 1
# Where a line may end too early: the columns with text that somebody wrote. The number
# of tabs before the end is the place of the column.
_FREE_TEXT = {
    HEADER.index(name)
    for name in ("Other_Race", "Other_Diagnosis", "Other_Diagnosis_2", "Narrative_1")
}
_LINE_BREAK = b"\0"  # stands for a line break inside of a field; no text has one
_ZIP = b"PK\x03\x04"  # Excel files are zip archives, too


class Rule(NamedTuple):
    """What a column must be, in words and as a function of the column."""

    words: str
    holds: Callable[[pd.Series], Any]


def read_neiss_file(path: Path, year: int | None = None) -> pd.DataFrame:
    """All cases of a file; ``body_part`` is missing where the file has none."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    readers = dict(zip(SUFFIXES, (_read_tsv, _read_xlsx, _read_parquet), strict=True))
    if path.suffix.lower() not in readers:
        raise ValueError(
            f"A NEISS file must end in one of {', '.join(SUFFIXES)}, not "
            f"{path.name!r}. (A year to download is a number, not text.)"
        )
    table = readers[path.suffix.lower()](path)
    if not len(table):
        raise ValueError(f"{path} holds no case.")
    return _checked(table, path, year)


def check_header(names: Iterable[str], path: Path | str) -> None:
    """Compare the first row of an annual file with the one documented."""
    found = list(names)
    if tuple(found) == HEADER:
        return
    missing = [name for name in HEADER if name not in found]
    unknown = [name for name in found if name not in HEADER]
    twice = sorted({name for name in found if found.count(name) > 1} - set(unknown))
    if missing or unknown or twice:
        what = f"Missing: {_some(missing)}. Unknown: {_some(unknown)}."
        what += f" Twice: {_some(twice)}." if twice else ""
    else:
        what = f"Its columns are in another order: {_some(found)}."
    raise ValueError(f"The header of {path} is not that of a NEISS file. {what}")


def check_annual_file(path: Path, year: int, name: str) -> None:
    """Look at the header, the first case and the end of an annual file (.tsv)."""
    with path.open("rb") as file:
        header = file.readline(100_000).removeprefix(BOM_UTF8).rstrip(b"\r\n")
        check_header(header.decode(errors="replace").split("\t"), name)
        case = file.readline(100_000).decode(errors="replace").split("\t")
        file.seek(max(0, path.stat().st_size - 100_000))
        last = file.read().rstrip(b"\r\n\t ").splitlines()[-1]
    if len(case) < 2:
        raise ValueError(f"{name} holds no case.")
    found = case[HEADER.index("Treatment_Date")].strip()
    if not found.endswith(str(year)):
        raise ValueError(
            f"{name} was asked for {year}; its first case is of {found!r}."
        )
    # It may be the rest of a case that a line break cuts in two.
    if _TABS - last.count(b"\t") not in {0, *_FREE_TEXT}:
        raise ValueError(f"{name} is cut off: its last line is not the end of a case.")


def _read_tsv(path: Path) -> pd.DataFrame:
    """All as text; the index is the line in the file."""
    import pyarrow as pa
    from pyarrow import csv

    rows, numbers = _whole_rows(path)
    if not rows:
        return pd.DataFrame(columns=list(COLUMNS.values()), dtype=str)
    data = b"\n".join(rows)
    del rows
    found = csv.read_csv(
        pa.py_buffer(data),
        read_options=csv.ReadOptions(column_names=list(HEADER)),
        parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(HEADER, pa.string()),
            include_columns=list(COLUMNS),
            null_values=[""],
        ),
    )
    table = found.to_pandas().rename(columns=COLUMNS)
    del data, found
    table.index = pd.Index(numbers, name="line")
    mark = _LINE_BREAK.decode()
    broken = table["narrative"].str.contains(mark, regex=False)
    whole = table.loc[broken, "narrative"].str.replace(mark, "\n", regex=False)
    table.loc[broken, "narrative"] = whole
    return table


def _whole_rows(path: Path) -> tuple[list[bytes], np.ndarray]:
    """Every case as one line of utf-8, and the line of the file it begins in."""
    data = path.read_bytes()
    _check_is_text(data, path)
    lines = data.removeprefix(BOM_UTF8).splitlines()
    del data
    check_header(lines[0].decode(errors="replace").split("\t"), path)
    rows: list[bytes] = []
    numbers: list[int] = []
    parts: list[bytes] = []  # of a case that goes on in the next line
    n_tabs = start = 0
    for number, line in enumerate(islice(lines, 1, None), start=2):
        if not line.isascii():
            line = _as_utf8(line, number, path)
        tabs = line.count(b"\t")
        if not parts:
            if not line or line.isspace():
                continue  # blank, or tabs alone
            start, n_tabs = number, 0
        n_tabs += tabs
        if n_tabs < _TABS and n_tabs in _FREE_TEXT:
            parts.append(line)
            continue
        if n_tabs != _TABS:
            raise _broken(path, start, number, n_tabs + 1)
        rows.append(_LINE_BREAK.join([*parts, line]) if parts else line)
        numbers.append(start)
        parts.clear()
    if parts:
        raise _broken(path, start, None, n_tabs + 1)
    return rows, np.array(numbers, dtype=int)


def _as_utf8(line: bytes, number: int, path: Path) -> bytes:
    """A line that is utf-8, or else cp1252, as those of some years are."""
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


def _check_is_text(data: bytes, path: Path) -> None:
    """What else may lie under the name of an annual file."""
    begin = data[:1000].removeprefix(BOM_UTF8).strip()
    if not begin:
        raise ValueError(f"{path} is empty, or begins with white space.")
    if begin.startswith(_ZIP):
        raise ValueError(
            f"{path} is a zip archive or an Excel file, not tab-separated text. Unpack "
            "it, or let its name end in .xlsx."
        )
    if begin.startswith(b"<"):
        raise ValueError(
            f"{path} is a web page, not a NEISS file: it begins with "
            f"{begin[:40].decode(errors='replace')!r}."
        )
    if b"\0" in data:
        raise ValueError(
            f"{path} holds a zero byte, as UTF-16 does: it is not utf-8 or cp1252 text."
        )


def _broken(path: Path, start: int, stop: int | None, fields: int) -> ValueError:
    if stop is None:
        where, then = f"Line {start}", ", and the file ends there: it may be cut off"
    elif stop == start:
        where, then = f"Line {start}", ""
    else:
        where, then = f"Lines {start} to {stop}, read as one case,", ""
    verb = "have" if stop not in (None, start) else "has"
    return ValueError(
        f"{where} of {path} {verb} {fields} fields, not {len(HEADER)}{then}."
    )


def _read_xlsx(path: Path) -> pd.DataFrame:
    """Fields as the sheet has them; the index is the number of the sheet's row."""
    with path.open("rb") as file:
        begin = file.read(200)
    if not begin.startswith(_ZIP):
        _check_is_text(begin, path)
        raise ValueError(f"{path} is no Excel file (.xlsx).")
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
    if not len(raw):
        raise ValueError(f"{path} is empty: nothing is in its sheet {named[0]}.")
    check_header([str(name).strip() for name in raw.iloc[0]], path)
    raw.columns = list(HEADER)
    raw.index = pd.RangeIndex(1, len(raw) + 1, name="row")
    raw = raw.iloc[1:]
    blank = np.ones(len(raw), dtype=bool)
    for name in HEADER:
        blank &= raw[name].astype(str).str.strip().eq("").to_numpy()
    table = raw.loc[~blank, list(COLUMNS)].rename(columns=COLUMNS)
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
    """The table with its types, or an error about the first thing that is wrong."""
    table = pd.DataFrame(index=raw.index)
    for name in _NUMBERS:
        table[name] = _numbers(raw[name], path)
    table["treatment_date"] = _dates(raw["treatment_date"], path)
    for name in ("sex", "product_1", "stratum"):
        table[name] = _words(raw[name])
    is_annual = "year" not in raw
    table["year"] = _numbers(table["treatment_date"].dt.year, path)
    if not is_annual:
        table["stated_year"] = _numbers(raw["year"], path)
    _validate(table, path, is_annual)
    _check_years(table, path, year, is_annual)
    if is_annual:
        table["age_years"] = _years_of_age(table["age_years"])
    for name in ("case_number", "year", "diagnosis", "psu"):
        table[name] = table[name].astype("int64")
    for name in ("body_part", "body_part_2", "diagnosis_2"):
        table[name] = table[name].astype("Int64")
    table["sex"] = table["sex"].map(_SEXES)
    table["narrative"] = _text(raw["narrative"])
    return table[["year", *COLUMNS.values()]]


def _validate(table: pd.DataFrame, path: Path, is_annual: bool) -> None:
    """Let pandera find the first value that is not as documented."""
    import pandera.pandas as pa
    from pandera.errors import SchemaError

    columns = {
        name: pa.Column(
            checks=pa.Check(rule.holds, error=rule.words, ignore_na=False),
            nullable=True,
        )
        for name, rule in _rules(is_annual).items()
    }
    try:
        pa.DataFrameSchema(columns).validate(table)
    except SchemaError as error:
        column = str(error.schema.name)
        wrong = table.index == error.failure_cases["index"].iloc[0]
        raise _refusal(path, table[column], str(error.check.error), wrong) from None
    if not is_annual:
        other = table["year"] != table["stated_year"]
        if other.any():
            stated = table["stated_year"].rename("year")
            raise _refusal(path, stated, "must be that of treatment_date", other)
    twice = table["case_number"].duplicated()
    if twice.any():
        raise _refusal(path, table["case_number"], "must be unique", twice)


def _rules(is_annual: bool) -> dict[str, Rule]:
    """The rule of each column. Missing numbers are NaN here, missing text is ""."""
    codes = sorted({*body_parts().index, *RETIRED_BODY_PARTS})
    retired = ", ".join(map(str, RETIRED_BODY_PARTS))
    part = Rule(
        "must be a code of helpers.datasets.body_parts(), or one of the retired "
        f"codes {retired}, or empty",
        lambda x: x.isin(codes) | x.isna(),
    )
    age = Rule(
        "must be 0 (unknown), 2 to 120 (years) or 201 to 223 (months and 200)",
        lambda x: _whole(x) & (x.eq(0) | x.between(2, 120) | x.between(201, 223)),
    )
    if not is_annual:
        age = Rule(
            "must be years above 0 and up to 120, or missing",
            lambda x: x.isna() | (x.gt(0) & x.le(120)),
        )
    return {
        "case_number": Rule(
            "must be a whole number above 0", lambda x: _whole(x) & x.gt(0)
        ),
        "treatment_date": Rule("must be a date", lambda x: x.notna()),
        "age_years": age,
        "sex": Rule(
            "must be 0, 1, 2, 3, M, F or empty", lambda x: x.isin(list(_SEXES))
        ),
        "body_part": part,
        "diagnosis": Rule("must be a code from 1 to 99", _code),
        "body_part_2": part,
        "diagnosis_2": Rule(
            "must be a code from 1 to 99, or empty", lambda x: _code(x) | x.isna()
        ),
        "stratum": Rule(
            f"must be one of {', '.join(STRATA)}", lambda x: x.isin(list(STRATA))
        ),
        "psu": Rule("must be a whole number above 0", lambda x: _whole(x) & x.gt(0)),
        "weight": Rule("must be a number above 0", lambda x: x.gt(0) & x.lt(np.inf)),
    }


def _whole(column: pd.Series) -> pd.Series:
    return column.mod(1).eq(0)


def _code(column: pd.Series) -> pd.Series:
    return _whole(column) & column.between(1, 99)


def _check_years(
    table: pd.DataFrame, path: Path, year: int | None, is_annual: bool
) -> None:
    """An annual file has one year, and the one that was asked for."""
    if not is_annual and year is None:
        return
    expected = table["year"].iloc[0] if year is None else year
    other = table["year"] != expected
    if other.any():
        why = ", the year that was asked for" if year else ", as that of the first case"
        dates = table["treatment_date"].dt.strftime("%Y-%m-%d")
        raise _refusal(path, dates, f"must lie in {expected:.0f}{why}", other)


def _numbers(column: pd.Series, path: Path) -> pd.Series:
    """As double precision, NaN where the field is empty."""
    if pd.api.types.is_numeric_dtype(column):
        return column.astype("float64")
    text = _words(column)
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    wrong = numbers.isna() & text.ne("")
    if wrong.any():
        raise _refusal(path, text, "must be a number", wrong)
    return numbers


def _dates(column: pd.Series, path: Path) -> pd.Series:
    if pd.api.types.is_datetime64_any_dtype(column):
        return column.dt.tz_localize(None).dt.normalize().astype("datetime64[ns]")
    if not isinstance(column.dtype, pd.StringDtype):  # a sheet mixes text and dates
        is_text = column.map(lambda value: isinstance(value, str))
        column = column.where(is_text, column.astype(str).str[:10])
    text = _words(column)
    dates = pd.to_datetime(text, format="%m/%d/%Y", errors="coerce")
    if dates.isna().any():  # as a spreadsheet or a table of ours has them
        iso = pd.to_datetime(text, format="%Y-%m-%d", errors="coerce")
        dates = dates.fillna(iso)
    wrong = dates.isna()
    if wrong.any():
        raise _refusal(path, text, "must be a date, mm/dd/yyyy or yyyy-mm-dd", wrong)
    return dates.astype("datetime64[ns]")


def _words(column: pd.Series) -> pd.Series:
    """As text without white space around it, "" where there is none."""
    return _text(column).str.strip()


def _text(column: pd.Series) -> pd.Series:
    if isinstance(column.dtype, pd.StringDtype):
        return column.fillna("")
    return column.astype(object).where(column.notna(), "").astype(str)


def _years_of_age(age: pd.Series) -> pd.Series:
    return age.where(age <= 120, (age - 200) / 12).mask(age == 0)


def _refusal(path: Path, column: pd.Series, rule: str, wrong: Any) -> ValueError:
    """An error about the first value that is wrong."""
    at = int(np.flatnonzero(wrong)[0])
    value, row = column.iloc[at], column.index[at]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    shown = repr(value) if isinstance(value, int | str) else str(value)
    name = str(column.name)
    if path.suffix.lower() != ".parquet":
        name = next(theirs for theirs, ours in COLUMNS.items() if ours == name)
    return ValueError(f"{path}: {name} {rule}; {column.index.name} {row} has {shown}.")


def _some(names: list[str]) -> str:
    short = [name if len(name) <= 40 else f"{name[:40]}…" for name in names[:8]]
    return ", ".join(short) + (", …" if len(names) > 8 else "") or "none"
