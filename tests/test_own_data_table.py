"""Tables of users: what is read, what is guessed, and what is refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from helpers.own_data.table import OwnTable, read_table

HEAD = "id,text,label\n"


def lines(n: int = 40, labels: str = "ab", text: str = "text number {}") -> str:
    rows = [f"{at},{text.format(at)},{labels[at % len(labels)]}" for at in range(n)]
    return HEAD + "\n".join(rows) + "\n"


def made(folder: Path, content: str | bytes, **columns: str) -> OwnTable:
    path = folder / "mine.csv"
    if isinstance(content, str):
        content = content.encode()
    path.write_bytes(content)
    table = read_table(path, **columns)
    table.check_labels()
    return table


NAMED = {"text": "text", "label": "label"}
UNLABELLED = HEAD + "".join(f"{at},text {at},\n" for at in range(40))
BAD = {
    "no file at all": (None, {}, "cannot be read: No such file"),
    "empty": ("", {}, "mine.csv is empty"),
    "white space only": (" \n\n", {}, "is empty"),
    "header only": (HEAD, {}, "no row beneath"),
    "no such column": (lines(), {"text": "Text"}, "no column 'Text'.*'id', 'text'"),
    "no such group": (lines(), {"group": "film"}, r"no column 'film' \(for group\)"),
    "one column twice": (lines(), {"text": "id", "label": "id"}, "must be different"),
    "column name twice": ("text,text,label\na,b,c\n", NAMED, "'text' twice: rename"),
    "one label": (lines(labels="a"), NAMED, "All 40 labelled rows have the label 'a'"),
    "all labels missing": (UNLABELLED, NAMED, "No row .* has a label.*fill it in"),
    "labels NA": (
        lines().replace(",a\n", ",NA\n").replace(",b\n", ",nan\n"),
        NAMED,
        "No row",
    ),
    "3 rows": (lines(3), NAMED, "rows each"),
    "19 rows": (lines(19), NAMED, "19 labelled rows are 19 .*20 is the least"),
    "one row each": (
        HEAD + "".join(f"{at},text {at},label {at}\n" for at in range(200)),
        NAMED,
        "200 labels .* 1 at most. Is it the right column",
    ),
    "duplicates only": (lines(text="the same"), NAMED, "40 labelled rows are 1 when"),
    "empty texts": (lines(text=" "), NAMED, "All texts in the column 'text' .* empty"),
    "differ in case": (lines(labels="aAb"), NAMED, "'a', 'A' differ only in case"),
    "differ in spaces": (
        lines().replace(",a\n", ",x y\n", 9).replace(",a\n", ",x  y\n"),
        NAMED,
        "'x  y', 'x y' differ only in case or spaces",
    ),
    "mixed encodings": (
        lines(text="café").encode() + "41,café,a\n".encode("latin-1"),
        NAMED,
        r"line 42 has the byte 0xe9. Save it as 'CSV UTF-8'.*iconv",
    ),
    "UTF-16": (lines().encode("utf-16"), NAMED, "looks like UTF-16"),
    "binary": (b"PK\x03\x04\0\0\0" * 9, NAMED, "not in UTF-8"),
    "open quote": (lines() + '41,"no end,a\n', NAMED, "quotation mark"),
    "quote in a quote": (lines() + '41,"a "b" c",a\n', NAMED, "Line 42 .* quotation"),
    "text with commas": (lines() + "41,one, two, three,a\n", NAMED, "42 .* 5 fields"),
    "row too short": (lines() + "41,one\n", NAMED, "Line 42 .* 2 fields"),
    "endless field": (lines() + f'41,"{"x" * 140_000},a\n', NAMED, "quotation"),
    "one column": ("text\na\nb\n", {}, "Which column of mine.csv holds the labels"),
    "two columns of labels": (
        "text,x,y\n" + "".join(f"t{at},{at % 2},{at % 3}\n" for at in range(40)),
        {},
        "Which column .*--label.*'x', 'y'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, case: str) -> None:
    content, columns, said = BAD[case]
    with pytest.raises(ValueError, match=f"(?s){said}"):
        if content is None:
            read_table(tmp_path / "mine.csv")
        made(tmp_path, content, **columns)


@pytest.mark.parametrize("kind", ["xlsx", "parquet"])
def test_a_file_of_another_kind_than_its_name_says(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"mine.{kind}"
    path.write_text(lines())
    with pytest.raises(ValueError, match=f"is no .{kind} file that can be read"):
        read_table(path)


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_delimiters_bom_quotes_and_line_breaks(
    tmp_path: Path, mark: str, bom: str
) -> None:
    rows = [f'{at}{mark}"said ""{at}{mark}"",\r\nthen"{mark}a' for at in range(30)]
    rows += [f"{at}{mark}text {at}{mark}b" for at in range(30)]
    content = bom + mark.join(["id", "text", "label"]) + "\r\n" + "\r\n".join(rows)
    table = made(tmp_path, content)
    assert (table.text, table.label) == ("text", "label")
    assert table.rows.columns.tolist() == ["id", "text", "label"]
    assert table.texts[7] == f'said "7{mark}",\r\nthen'
    assert table.labels.value_counts().to_dict() == {"a": 30, "b": 30}


def test_labels_are_strings_without_spaces_and_may_be_missing(tmp_path: Path) -> None:
    content = lines(labels="12") + "41,one more, 1 \n42,another,NA\n43,last,\n44, ,1\n"
    table = made(tmp_path, content)
    assert table.labels[40:].tolist() == ["1", "", "", "1"]
    assert table.unlabelled.tolist() == [41, 42] and len(table.labelled) == 41
    assert table.rows["label"][40] == " 1 "  # as in the file
    said = " ".join(table.notes)
    assert "column 'label'" in said and "column 'text'" in said
    assert "1 rows have no text" in said and "labels 'NA' count as missing" in said


def test_copies_and_rows_of_a_group_belong_together(tmp_path: Path) -> None:
    content = "text,label,film\n" + "".join(
        f"text {at},{'ab'[at % 2]},film {at}\n" for at in range(30)
    )
    content += "TEXT  3,a,film 99\nnew,a,film 99\nnewer,b,\nnewest,b,\n"
    table = made(tmp_path, content, group="film")
    groups = table.groups
    # A copy of text 3 shares its film with a new text, so that all three are one.
    assert groups[3] == groups[30] == groups[31]
    assert groups.nunique() == 32
    alone = made(tmp_path, content)
    assert alone.groups[3] == alone.groups[30] != alone.groups[31]
    assert any("Copies of 1 texts have different labels" in one for one in alone.notes)


def test_names_of_columns_are_given_as_they_stand(tmp_path: Path) -> None:
    content = lines().replace("label\n", " label \n") + "41,none,#N/A\n"
    table = made(tmp_path, content, text=" text", label="label ")
    assert table.label == "label" and table.unlabelled.tolist() == [40]


def test_decisions_of_an_earlier_run_are_known(tmp_path: Path) -> None:
    content = (
        lines().replace("label\n", "label,action,reason\n").replace(",a\n", ",a,,\n")
    )
    table = made(tmp_path, content.replace(",b\n", ",b,,\n"), **NAMED)
    with pytest.raises(ValueError, match="Fill in labels in your own table"):
        table.check_free()


def test_long_texts_are_read(tmp_path: Path) -> None:
    table = made(tmp_path, lines() + f"41,{'long ' * 20_000},a\n")
    assert len(table.texts[40]) == 100_000


def test_labels_with_few_rows_are_told(tmp_path: Path) -> None:
    table = made(tmp_path, lines() + "41,odd,c\n")
    assert any("1 labels have fewer than 5 rows" in one for one in table.notes)


@pytest.mark.parametrize("kind", ["xlsx", "parquet"])
def test_numbers_in_excel_and_parquet_are_as_they_are_shown(
    tmp_path: Path, kind: str
) -> None:
    rows = pd.DataFrame({"text": [f"text {at}" for at in range(40)], "label": 1.0})
    rows.loc[20:, "label"] = 2
    rows.loc[39, "label"] = None
    path = tmp_path / f"mine.{kind}"
    rows.to_excel(path, index=False) if kind == "xlsx" else rows.to_parquet(path)
    table = read_table(path)
    assert table.labels.value_counts().to_dict() == {"1": 20, "2": 19, "": 1}
