"""Rules of load_neiss: files in the exact formats, written here, and a server."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Response

from helpers.datasets import (
    SPLITS,
    body_parts,
    load_neiss,
    neiss_files,
)
from helpers.datasets.neiss_files import COLUMNS, HEADER
from helpers.files import DATA, FetchError

DIAGNOSES = pd.read_csv(DATA / "neiss" / "diagnoses.csv", index_col="code")

COLUMNS_OUT = (
    "year treatment_date age_years sex body_part label diagnosis body_part_2 "
    "diagnosis_2 product_1 stratum psu weight narrative text split"
).split()


NINE_HOURS = pd.Timedelta("9h")


@pytest.fixture(autouse=True)
def no_file_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOW_SURE_NEISS", raising=False)


def case(number: int, narrative: str | None = None, **changes: Any) -> dict[str, Any]:
    """One row of an annual file."""
    row: dict[str, Any] = dict.fromkeys(HEADER, "")
    row |= dict(CPSC_Case_Number=240100000 + number, Treatment_Date="03/09/2024")
    row |= dict(Age=25, Sex=1, Race=0, Hispanic=0, Body_Part=92, Diagnosis=59)
    row |= dict(Disposition=1, Location=1, Fire_Involvement=0, Alcohol=0, Drug=0)
    row |= dict(Product_1=464, Product_2=0, Product_3=0)
    row |= dict(Stratum="V", PSU=21, Weight=17.1234)
    row["Narrative_1"] = narrative or f"25YOM CUT SELF {chr(97 + number)} DX: LAC"
    return row | changes


def as_tsv(
    rows: list[dict[str, Any]], end: str = "\r\n", header: tuple[str, ...] = HEADER
) -> str:
    lines = ["\t".join(header)]
    lines += ["\t".join(str(value) for value in row.values()) for row in rows]
    return end.join(lines) + end


@pytest.fixture
def tsv(tmp_path: Path) -> Callable[..., Path]:
    def write(
        rows: list[dict[str, Any]], encoding: str = "utf-8", tail: str = "", **how: Any
    ) -> Path:
        path = tmp_path / "neiss2024.tsv"
        path.write_bytes((as_tsv(rows, **how) + tail).encode(encoding))
        return path

    return write


SOME = [
    case(0, '4YOF RAN INTO  A "GLASS" DOOR DX: LAC', Sex=2, Age=4, Body_Part=76),
    case(1, "7MOM ROLLED OFF THE BED\r\nDX: CHI", Age=207, Body_Part=75),
    case(2, "UNKNOWN AGE, JALAPEÑO IN EYE’S", Age=0, Sex=0, Body_Part=77),
    case(3, Sex=3, Age=120, Body_Part_2=0, Diagnosis_2=41, Diagnosis=57),
]


def tables(tmp_path: Path) -> dict[str, Path]:
    """The same cases in every form that is read."""
    forms = {"utf-8": "\n", "utf-8-sig": "\r\n", "cp1252": "\r\n"}
    paths = {encoding: tmp_path / f"{encoding}.tsv" for encoding in forms}
    for encoding, end in forms.items():
        blank = end + "\t" * 24 + end
        paths[encoding].write_bytes((as_tsv(SOME, end) + blank).encode(encoding))
    paths["xlsx"] = tmp_path / "neiss2024.XLSX"
    blank_row = dict.fromkeys(HEADER, None)
    with pd.ExcelWriter(paths["xlsx"], engine="openpyxl") as book:
        sheet = pd.DataFrame([*SOME, blank_row, blank_row])
        sheet.to_excel(book, sheet_name="NEISS_2024", index=False)
        formats = pd.DataFrame({"Format name": ["GENDER"], "Label": ["MALE"]})
        formats.to_excel(book, sheet_name="NEISS_FMT", index=False)
    return paths


def test_every_form_gives_the_same_table(tmp_path: Path) -> None:
    paths = tables(tmp_path)
    first = load_neiss(paths["utf-8"])
    assert list(first.columns) == COLUMNS_OUT
    assert first.index.name == "case_number" and first.index.dtype == "int64"
    assert list(first.index) == [240100000 + number for number in range(4)]
    assert first["year"].eq(2024).all() and first["year"].dtype == "int64"
    assert first["treatment_date"].eq(pd.Timestamp(2024, 3, 9)).all()
    assert first["age_years"].tolist()[:2] == [4, pytest.approx(7 / 12)]
    assert first["age_years"].isna().tolist() == [False, False, True, False]
    assert first["sex"].tolist() == ["F", "M", "", ""]
    assert first["label"].tolist() == ["face", "head", "eyeball", "finger"]
    assert first["body_part_2"].dtype == first["diagnosis_2"].dtype == "Int64"
    assert first["body_part_2"].isna().tolist() == [True, True, True, False]
    assert first["body_part_2"].iloc[3] == 0 and first["diagnosis_2"].iloc[3] == 41
    assert first["product_1"].tolist() == ["464"] * 4
    assert first["psu"].tolist() == [21] * 4 and first["psu"].dtype == "int64"
    assert first["weight"].tolist() == [17.1234] * 4
    assert first["narrative"].iloc[:2].tolist() == [
        '4YOF RAN INTO  A "GLASS" DOOR DX: LAC',
        "7MOM ROLLED OFF THE BED\nDX: CHI",
    ]
    assert first["text"].tolist() == [
        " ".join(row["Narrative_1"].lower().split()) for row in SOME
    ]
    assert not any(first.attrs["dropped"].values())
    for path in paths.values():
        pd.testing.assert_frame_equal(load_neiss(str(path)), first)


def test_a_table_that_was_kept_is_read_again(tmp_path: Path) -> None:
    first = load_neiss(tables(tmp_path)["utf-8"])
    kept = tmp_path / "kept.parquet"
    first.to_parquet(kept)
    pd.testing.assert_frame_equal(load_neiss(kept), first)
    # As somebody else would write it: no index, text for dates, floats for codes.
    other = first.reset_index().drop(columns=["text", "label", "split"])
    other = other.astype({"psu": float, "body_part": float, "body_part_2": float})
    days = other["treatment_date"].dt
    for dates in (days.strftime("%Y-%m-%d"), days.tz_localize("UTC") + NINE_HOURS):
        other["treatment_date"] = dates
        other.to_parquet(kept)
        pd.testing.assert_frame_equal(load_neiss(kept), first)
    other.set_index("case_number", drop=False).to_parquet(kept)
    pd.testing.assert_frame_equal(load_neiss(kept), first)
    for table, message in (
        (other.drop(columns="psu"), "columns of the injury data; missing: .'psu'"),
        (other.assign(year=2023), "year must be that of treatment_date; row 0"),
        (other.assign(age_years=0), "age_years must be years above 0.*has 0"),
    ):
        table.to_parquet(kept)
        with pytest.raises(ValueError, match=message):
            load_neiss(kept)
    kept.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="cannot be read as a Parquet file"):
        load_neiss(kept)


def test_a_sheet_may_hold_dates_and_must_have_its_name(tmp_path: Path) -> None:
    path = tmp_path / "neiss2024.xlsx"
    row = case(0, Treatment_Date=datetime(2024, 12, 31))
    pd.DataFrame([row]).to_excel(path, sheet_name="NEISS_2024", index=False)
    assert load_neiss(path)["treatment_date"].tolist() == [pd.Timestamp(2024, 12, 31)]
    pd.DataFrame([case(0), case(1, PSU="x")]).to_excel(
        path, sheet_name="NEISS_2024", index=False
    )
    with pytest.raises(ValueError, match="PSU must be a number; row 3 has 'x'"):
        load_neiss(path)
    pd.DataFrame([row]).to_excel(path, sheet_name="Sheet1", index=False)
    with pytest.raises(ValueError, match="one sheet called NEISS_.*not ..Sheet1"):
        load_neiss(path)


def test_parts_follow_the_letters_of_the_narrative(tsv: Callable[..., Path]) -> None:
    told = {
        "3MOM FELL FROM BED DX CHI": "calibration",
        "5MOM FELL FROM BED -- DX: C H I ***": "calibration",
        "41YOF TRIPPED ON RUG, L WRIST PAIN DX: SPRAIN": "test",
        "41YOF TRIPPED ON RUG, R WRIST PAIN DX: SPRAIN": "calibration",
        "12YOM HIT BY BALL DX: CONTUSION": "train",
    }
    path = tsv([case(at, text) for at, text in enumerate(told)])
    found = load_neiss(path)
    assert found["split"].tolist() == list(told.values())
    for split in SPLITS:
        part = load_neiss(path, split=split)
        pd.testing.assert_frame_equal(part, found[found["split"] == split])


def test_what_cannot_be_used_is_dropped_and_counted(tsv: Callable[..., Path]) -> None:
    rows = [
        case(0, "25YOM CUT FINGER"),
        case(1, "25yom  cut finger "),
        case(2, "\u200b***\xa0"),
        case(3, " "),
        case(4, Body_Part=78),
        case(5, Body_Part=91),
        case(6, Body_Part=""),
        case(7),
    ]
    found = load_neiss(tsv(rows))
    assert list(found.index) == [240100000, 240100007]
    assert found.attrs["dropped"] == {
        "repeated_case": 0,
        "no_narrative": 2,
        "body_part": 3,
        "repeated_text": 1,
    }
    assert found["body_part"].dtype == "int64"


def test_several_files_make_one_table(
    tsv: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = tsv([case(0), case(1)]).rename(tmp_path / "one.tsv")
    rows = [
        case(1, Treatment_Date="01/02/2023", Body_Part=75),
        case(2, Treatment_Date="01/02/2023"),
    ]
    both = load_neiss([one, str(tsv(rows))])
    assert list(both.index) == [240100000, 240100001, 240100002]
    assert both["year"].tolist() == [2024, 2024, 2023]
    assert both["label"].tolist() == ["finger"] * 3
    assert both.attrs["dropped"]["repeated_case"] == 1
    monkeypatch.setenv("HOW_SURE_NEISS", str(one))
    assert list(load_neiss().index) == [240100000, 240100001]


def test_lines_that_break_are_mended(tsv: Callable[..., Path]) -> None:
    rows = [
        case(0, "25YOM CUT\n\r\nFINGER\rON A \tCAN".replace("\t", "")),
        case(1, Other_Diagnosis="SOME\nTHING"),
        case(2),
    ]
    found = load_neiss(tsv(rows, end="\n"))
    assert found["text"].tolist()[0] == "25yom cut finger on a can"
    assert found["narrative"].tolist()[0] == "25YOM CUT\n\nFINGER\nON A CAN"
    assert len(found) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a}\n{b}\tmore\n{c}\n", r"Line 3 of .* 25 fields, .* it has 26\."),
        ("{a}\n{cut}\n{c}\n", r"Line 3 of .* it has 12\."),
        ("{a}\n{b}\n{cut22}\n", r"Line 4 of .* it has 22\. .*may be cut off"),
        ("{a}\n{cut22}\n{b}\n{c}", r"Line 3 of .* it has 22\."),
    ],
)
def test_lines_that_cannot_be_mended_are_named(
    tsv: Callable[..., Path], text: str, message: str
) -> None:
    a, b, c = ("\t".join(map(str, case(at).values())) for at in range(3))
    cut, cut22 = ("\t".join(b.split("\t")[:fields]) for fields in (12, 22))
    tail = text.format(a=a, b=b, c=c, cut=cut, cut22=cut22)
    with pytest.raises(ValueError, match=message):
        load_neiss(tsv([], end="\n", tail=tail))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("CPSC_Case_Number", 240100000, "must be unique; line 3 has 240100000"),
        ("CPSC_Case_Number", 1.5, "must be a whole number above 0; line 3 has 1.5"),
        ("Treatment_Date", "2024/03/09", "must be a date.*line 3 has '2024/03/09'"),
        ("Treatment_Date", "03/09/2023", "must be in the year .*line 3 has 2023-03-09"),
        ("Age", 1, "must be 0 .unknown., 2 to 120 .*line 3 has 1"),
        ("Age", 121, ".*line 3 has 121"),
        ("Age", 224, ".*line 3 has 224"),
        ("Sex", 4, "must be 0, 1, 2, 3, M, F or empty; line 3 has '4'"),
        ("Body_Part", 95, ".*retired codes 78, 86, 90, 91.*line 3 has 95"),
        ("Body_Part", "HEAD", "must be a number; line 3 has 'HEAD'"),
        ("Body_Part_2", 1, "must be a code of .*; line 3 has 1"),
        ("Diagnosis", "", "must be a code from 1 to 99; line 3 has nan"),
        ("Diagnosis_2", 57.5, "must be a code from 1 to 99, or empty; line 3 has 57.5"),
        ("Stratum", "X", "must be one of S, M, L, V, C; line 3 has 'X'"),
        ("PSU", 0, "must be a whole number above 0; line 3 has 0"),
        ("Weight", 0, "must be a number above 0; line 3 has 0"),
        ("Weight", "inf", "must be a number above 0; line 3 has inf"),
    ],
)
def test_a_value_that_would_corrupt_results_is_named(
    tsv: Callable[..., Path], column: str, value: Any, message: str
) -> None:
    path = tsv([case(0), case(1, **{column: value}), case(2)])
    with pytest.raises(ValueError, match=f"neiss2024.tsv: {column} {message}"):
        load_neiss(path)


def test_a_new_diagnosis_stops_nobody(tsv: Callable[..., Path]) -> None:
    assert 75 not in DIAGNOSES.index
    assert load_neiss(tsv([case(0, Diagnosis=75)]))["diagnosis"].tolist() == [75]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ((*HEADER[:7], "BodyPart", *HEADER[8:]), "Missing: .*Part.* Unknown: ..BodyP"),
        ((*HEADER, "New"), "Missing: ... Unknown: ..New"),
        (HEADER[::-1], "another order"),
    ],
)
def test_a_header_that_changed_is_told(
    tsv: Callable[..., Path], header: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_neiss(tsv([case(0)], header=header))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"", "Missing: ..CPSC_Case_Number"),
        ("a.tsv", b"<!DOCTYPE html>\nAccess Denied", "Unknown: ..<!DOCTYPE html>"),
        ("a.tsv", b"PK\x03\x04\x00 and more", "zero byte, as Excel files"),
        ("a.tsv", "\t".join(HEADER).encode(), "holds no case"),
        ("a.tsv", "\t".join(HEADER).encode("utf-16"), "not utf-8 or cp1252"),
        ("a.xlsx", b"PK\x03\x04 and more", "cannot be read as an Excel file"),
        ("a.csv", b"words", "must end in one of .tsv, .xlsx, .parquet, not 'a.csv'"),
    ],
)
def test_what_is_no_neiss_file_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_neiss(path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        # Each line is utf-8 if it can be, else cp1252, whatever the others are.
        (["TEMP 101°".encode(), "CHILD’S".encode("cp1252")], ["TEMP 101°", "CHILD’S"]),
        (["JALAPEÑO".encode("cp1252"), b"PLAIN"], ["JALAPEÑO", "PLAIN"]),
        # Two letters of cp1252 that are one of utf-8: utf-8 goes first.
        ([b"CAF\xc3\x89", b"THE CAF\xc9"], ["CAFÉ", "THE CAFÉ"]),
        # So do the lines of one narrative.
        (["CAFÉ\n".encode() + "CAFÉ".encode("cp1252")], ["CAFÉ\nCAFÉ"]),
        # None of these ends a line.
        ([b"A\x0bB\x0cC\x85D", "A\u2028B".encode()], ["A\x0bB\x0cC…D", "A\u2028B"]),
    ],
)
def test_lines_have_an_encoding_each(
    tmp_path: Path, mark: bytes, parts: list[bytes], expected: list[str]
) -> None:
    text = as_tsv([case(at, f"@{at}") for at in range(len(parts))], end="\n").encode()
    for at, part in enumerate(parts):
        text = text.replace(b"@%d" % at, part)
    path = tmp_path / "neiss2024.tsv"
    path.write_bytes(mark + text)
    assert load_neiss(path)["narrative"].tolist() == expected


def test_a_byte_of_no_encoding_is_named(tsv: Callable[..., Path]) -> None:
    path = tsv([case(0, "25YOM\nCUT É"), case(1, "25YOM CUT # DX: LAC")], end="\n")
    path.write_bytes(path.read_bytes().replace(b"#", b"\x81"))
    with pytest.raises(ValueError, match="line 4 holds the byte 0x81"):
        load_neiss(path)


def test_arguments_are_checked_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of three") as told:
        load_neiss()
    assert "HOW_SURE_NEISS" in str(told.value) and ".tsv" in str(told.value)
    with pytest.raises(FileNotFoundError, match="There is no file .*none.tsv"):
        load_neiss(tmp_path / "none.tsv")
    for wrong, message in (
        ({"source": []}, "source must hold a path or a year"),
        ({"source": 2.5}, "source must hold paths, and years from 2014"),
        ({"source": [True]}, "from 2014 to .* not True"),
        ({"source": 2013}, "from 2014 to .* not 2013"),
        ({"source": date.today().year + 1}, f"to {date.today().year}, not"),
        ({"split": "Train"}, "split must be one of"),
        ({"n": 0}, "n must be a whole number of 1 or more"),
        ({"seed": -1}, "seed must be a whole number of 0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            load_neiss(**({"source": tmp_path / "none.tsv"} | wrong))


LETTERS = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]


def test_a_draw_is_seeded_random_and_no_more_than_there_is(
    tsv: Callable[..., Path],
) -> None:
    hundred = tsv([case(at, f"CUT SELF {two}") for at, two in enumerate(LETTERS)])
    every = load_neiss(hundred)
    one = load_neiss(hundred, n=40, seed=1)
    assert len(one) == 40 and one.index.is_unique
    pd.testing.assert_frame_equal(one, every.loc[one.index])
    again = load_neiss(hundred, n=40, seed=1)
    assert list(one.index) == list(again.index) != sorted(one.index)
    assert set(load_neiss(hundred, n=40, seed=2).index) != set(one.index)
    assert set(load_neiss(hundred, n=100).index) == set(every.index)
    with pytest.raises(ValueError, match="n must be at most 100.*not 101"):
        load_neiss(hundred, n=101)
    size = (every["split"] == "test").sum()
    part = load_neiss(hundred, split="test", n=size)
    assert set(part.index) == set(every.index[every["split"] == "test"])
    with pytest.raises(ValueError, match='cases of the part "test", not'):
        load_neiss(hundred, split="test", n=size + 1)


def test_importing_the_data_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'pooch', 'requests'}"
    script = f"import sys, helpers.datasets; print({heavy} & set(sys.modules))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_tables_of_codes() -> None:
    parts = body_parts()
    assert len(parts) == 26 and parts["name"].is_unique
    assert not {78, 86, 90, 91} & set(parts.index)
    assert parts["n_2024"].sum() == DIAGNOSES["n_2024"].sum() == 361_672
    assert parts["n_2017"].sum() == 386_905
    assert parts.loc[84, "name"] == "25-50% of body"
    assert set(COLUMNS) <= set(HEADER)


ANNUAL = as_tsv(
    [case(at, f"CUT SELF {LETTERS[at]} " + "x " * 2000) for at in range(90)]
).encode()
Serve, Kept = Callable[..., None], Callable[[], set[str]]


@pytest.fixture
def serve(
    httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Serve:
    """Lets a server in place of CPSC's give one file, whole or up to a byte."""
    url = httpserver.url_for("/").rstrip("/") + "/{year}/neiss{year}.tsv"
    monkeypatch.setattr(neiss_files, "NEISS_URL", url)
    monkeypatch.setattr(neiss_files, "NEISS_SHA256", {})
    monkeypatch.setenv("HOW_SURE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")

    def serve(content: bytes, status: int = 200, stop_at: int | None = None) -> None:
        answer = Response(content[:stop_at], status=status)
        answer.automatically_set_content_length = False
        answer.headers["Content-Length"] = str(len(content))
        httpserver.clear_all_handlers()
        asked = httpserver.expect_request("/2024/neiss2024.tsv")
        asked.respond_with_response(answer)

    return serve


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """The names of what lies in the cache, without locks."""
    folder = tmp_path / "cache" / "data" / "neiss"
    return lambda: {path.name for path in folder.glob("*") if path.suffix != ".lock"}


def test_a_year_is_downloaded_once(
    serve: Serve,
    httpserver: HTTPServer,
    kept: Kept,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    serve(ANNUAL)
    digest = hashlib.sha256(ANNUAL).hexdigest()
    monkeypatch.setattr(neiss_files, "NEISS_SHA256", {2024: digest})
    first = load_neiss(2024)
    assert len(first) == 90 and first["year"].eq(2024).all()
    assert kept() == {"neiss2024.tsv"}
    pd.testing.assert_frame_equal(load_neiss([2024]), first)
    ((request, _),) = httpserver.log
    assert request.headers["User-Agent"].startswith("how-sure/")
    said, told = capfd.readouterr()  # pooch shows its bar however short it takes
    assert not said and "Downloading" not in told


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (403, b"<html>", "403 Client Error"),
        (503, b"<html>", "503 Server Error"),
        (200, b"not known", f"{hashlib.sha256(b'not known').hexdigest()}.*damaged"),
        (200, b"<!DOCTYPE html>", "Unknown: ..<!DOCTYPE html>"),
        (200, b"", "Missing: ..CPSC_Case_Number"),
        (200, ANNUAL.replace(b"Weight", b"Wt"), "Missing: ..Weight... Unknown: ..Wt"),
        (200, ANNUAL.replace(b"/2024", b"/2023", 1), "must be in 2024; line 2 has"),
        (200, ANNUAL[:-30], "may be cut off"),
        (200, ANNUAL, "Connection broken|IncompleteRead|gave no annual file: Chunk"),
        (200, "\t".join(HEADER).encode(), "holds no case"),
    ],
    ids=range(10),
)
def test_an_answer_that_is_no_file_is_told_with_the_way_by_hand(
    serve: Serve,
    kept: Kept,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    content: bytes,
    message: str,
) -> None:
    if content == b"not known":
        monkeypatch.setattr(neiss_files, "NEISS_SHA256", {2024: "0" * 64})
    stop_at = 200_000 if content == ANNUAL else None
    serve(content, status, stop_at)
    with pytest.raises(FetchError, match=message) as told:
        load_neiss(2024)
    for word in ("by hand", "NEISSQuery", "neiss2024.tsv", "HOW_SURE_NEISS"):
        assert word in str(told.value)
    assert kept() == set()
    serve(ANNUAL)
    monkeypatch.setattr(neiss_files, "NEISS_SHA256", {})
    assert len(load_neiss(2024)) == 90 and kept() == {"neiss2024.tsv"}
