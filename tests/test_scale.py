"""helpers.scale: each row exactly once, whatever dies."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scale_driver import ByLength, Kills, dies, fails, reviews

from helpers.scale import (
    Columns,
    Workers,
    classify_dataset,
    iter_results,
    read_bad_rows,
    read_results,
)

if TYPE_CHECKING:
    pass

NO_TEXT = "The text is missing or empty."
DRIVER = [sys.executable, str(Path(__file__).with_name("scale_driver.py"))]
Finished = tuple[Path, Path, pd.DataFrame, pd.DataFrame]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.parquet"
    reviews(1000).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def local_ray() -> Iterator[Any]:
    """Ray on this machine for several tests, as a user may have started it."""
    import ray

    quiet = {"include_dashboard": False, "log_to_driver": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        ray.init("local", num_cpus=2, object_store_memory=100 << 20, **quiet)
    yield ray
    ray.shutdown()


def run_here(source: Any, out: Path, make: Any = ByLength, **options: Any) -> Any:
    """A run, by this process if nothing else is said; a table is written first."""
    if isinstance(source, pd.DataFrame):
        path = out.with_suffix(".parquet")
        source.to_parquet(path)
        source = path
    named = {key: options.pop(key) for key in Columns().__dict__ if key in options}
    options = {"columns": Columns(**named), "workers": 0, "progress": False} | options
    return classify_dataset(source, out, make, **options)


def shards(destination: Path) -> list[Path]:
    return sorted((destination / "table").glob("*.parquet"))


def boom() -> Any:
    raise AssertionError("called")


def test_table_is_the_classifiers_own(source, tmp_path):
    out = tmp_path / "out"
    done = run_here(source, out, id="name", rows_per_block=400)
    table = read_results(out)
    given = pd.read_parquet(source)
    alone = ByLength().score_table(given["text"].tolist())
    alone.insert(0, "row", np.arange(1000))
    alone.insert(1, "name", given["name"])
    pd.testing.assert_frame_equal(table, alone, check_dtype=False)
    assert table["row"].dtype == np.int64
    assert table.attrs["source"] == {"model": "by length 1"}
    assert (done.rows, done.bad_rows, done.rows_now) == (1000, 0, 1000)
    assert (done.blocks_now, done.blocks_before) == (3, 0)
    assert read_bad_rows(out).columns.tolist() == ["row", "name", "reason"]
    # The shards are plain Parquet.
    whole = pd.read_parquet(done.table).sort_values("row", ignore_index=True)
    pd.testing.assert_frame_equal(whole, table)
    third = pd.read_parquet(shards(out)[2])
    assert third["row"].tolist() == list(range(800, 1000))
    assert third.attrs["source"] == table.attrs["source"]
    each = list(iter_results(out, ["row"]))
    assert [len(part) for part in each] == [400, 400, 200]
    assert all(part.attrs["source"] == third.attrs["source"] for part in each)
    assert read_results(out, ["confidence"]).columns == ["confidence"]
    with pytest.raises(ValueError, match="columns must be among .* not 'colour'"):
        read_results(out, ["colour"])


def test_columns_are_carried_over(tmp_path):
    moments = pd.to_datetime(["2020-01-01", None, "2020-01-03"])
    given = pd.DataFrame(
        {"n": [1, None, 3], "when": moments, "text": ["a", "b", "c"], "x": "y"}
    )
    run_here(given, tmp_path / "all")
    table = read_results(tmp_path / "all")
    kept = ["n", "when", "x"]
    assert table.columns[:4].tolist() == ["row", *kept]
    pd.testing.assert_frame_equal(table[kept], given[kept], check_dtype=False)
    run_here(given, tmp_path / "some", keep=["text"], id="n")
    table = read_results(tmp_path / "some")
    assert table.columns[:4].tolist() == ["row", "n", "text", "p_bad"]
    assert table["text"].tolist() == ["a", "b", "c"]


def test_bad_rows_have_their_reason(tmp_path):
    texts = [f"text {at}" for at in range(100)]
    bad = {3: None, 4: "", 5: " \n", 50: "refuse me", 51: "refuse", 99: "refuse"}
    given = pd.DataFrame(
        {"id": range(100, 200), "text": [bad.get(at, t) for at, t in enumerate(texts)]}
    )
    done = run_here(given, tmp_path / "out", id="id", rows_per_block=40)
    found = read_bad_rows(tmp_path / "out")
    assert found["row"].tolist() == list(bad)
    assert found["id"].tolist() == [100 + at for at in bad]
    refused = "texts must not begin with 'refuse'."
    assert found["reason"].tolist() == [NO_TEXT] * 3 + [refused] * 3
    table = read_results(tmp_path / "out")
    assert table["row"].tolist() == [at for at in range(100) if at not in bad]
    fine = [text for at, text in enumerate(texts) if at not in bad]
    pd.testing.assert_series_equal(
        table["p_good"], ByLength().score_table(fine)["p_good"]
    )
    assert (done.rows, done.bad_rows) == (100, 6)


def test_texts_that_fit_no_window_are_bad(tmp_path, tiny_llama):
    from helpers.classifier import LLMClassifier

    def make():
        labels = ["positive", "negative"]
        return LLMClassifier(tiny_llama, labels, "Review: {text}\n", cache=False)

    given = pd.DataFrame({"text": ["a joy", "film " * 400, "a bore"]})
    run_here(given, tmp_path / "out", make)
    table = read_results(tmp_path / "out")
    assert table["row"].tolist() == [0, 2]
    alone = make().score_table(["a joy", "a bore"])
    assert np.allclose(table["p_positive"], alone["p_positive"], rtol=0, atol=1e-6)
    assert table.attrs["source"] == alone.attrs["source"]
    assert "tokens" in read_bad_rows(tmp_path / "out")["reason"][0]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_empty_source_and_one_row(tmp_path, suffix):
    for rows in (0, 1):
        path = tmp_path / f"{rows}.{suffix}"
        given = reviews(rows).astype(str)
        given.to_csv(path, index=False) if suffix == "csv" else given.to_parquet(path)
        done = run_here(path, tmp_path / f"out{rows}", id="name")
        assert (done.rows, done.bad_rows) == (rows, 0)
        table = read_results(tmp_path / f"out{rows}")
        assert table["row"].tolist() == list(range(rows))
        assert table["name"].tolist() == ["r0"][:rows]
        assert read_bad_rows(tmp_path / f"out{rows}").empty
        assert len(list(iter_results(tmp_path / f"out{rows}"))) == rows


TEXTS = ["plain", 'He said "no"', "two\nlines", "three\r\nlines\n\n", "a,b", "ö 電影"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_rows_may_have_line_breaks(tmp_path, end, mark):
    given = pd.DataFrame({"id": range(60), "text": TEXTS * 10})
    text = given.to_csv(index=False, lineterminator=end)
    blank = text.replace(f"plain{end}", f"plain{end}{end}")
    (tmp_path / "a.csv").write_bytes(mark + blank.encode())
    for size in (7, 100):
        out = tmp_path / f"out{size}"
        run_here(tmp_path / "a.csv", out, keep=["text", "id"], rows_per_block=size)
        table = read_results(out)
        assert table["row"].tolist() == list(range(60))
        assert table["text"].tolist() == TEXTS * 10
        assert table["id"].tolist() == [str(at) for at in range(60)]


def test_csv_rows_that_cannot_be_read_are_bad(tmp_path):
    rows = [b"id,text", b"1,fine", b"2", b"3,so, so", b"4,caf\xe9", b"5,", b"6,good"]
    (tmp_path / "a.csv").write_bytes(b"\n".join(rows))
    run_here(tmp_path / "a.csv", tmp_path / "out", id="id", rows_per_block=4)
    bad = read_bad_rows(tmp_path / "out")
    assert bad["id"].tolist() == ["2", "3", "4", "5"]
    assert bad["reason"].tolist() == [
        "The row has 1 fields, not 2.",
        "The row has 3 fields, not 2.",
        "Its text is not UTF-8.",
        NO_TEXT,
    ]
    assert read_results(tmp_path / "out")["id"].tolist() == ["1", "6"]
    (tmp_path / "b.csv").write_text("text,id\nfine,1\nshort\n")
    run_here(tmp_path / "b.csv", tmp_path / "b", id="id")
    assert read_bad_rows(tmp_path / "b")["id"].tolist() == [""]


SAME = {
    None: NO_TEXT,
    b"": NO_TEXT,
    b" \n\t": NO_TEXT,
    "\xa0\u3000".encode(): NO_TEXT,
    b"caf\xe9": "Its text is not UTF-8.",
    b"\xed\xa0\x80": "Its text is not UTF-8.",  # half of a pair of surrogates
    **dict.fromkeys((b"nan", b"NA", b"None", b"12", b"-1.5", b"1e3"), ""),
    **dict.fromkeys((b"a\0b", b"\0", b"a\rb", b"\r\ra", b"a\r\nb", b"\x1ax"), ""),
    **dict.fromkeys(
        (b'"', b'say "a", b', b"\xef\xbb\xbfa", b"a\\", b"w " * 99_999), ""
    ),
}


@pytest.mark.parametrize("alone", [True, False])
def test_csv_and_parquet_take_the_same_texts(tmp_path, alone):
    rows = [(text, at) for at, text in enumerate(SAME)]
    raw = pa.array(SAME, pa.large_binary()).view(pa.large_string())
    table = {"text": raw} if alone else {"text": raw, "n": [f"{n}" for _, n in rows]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    lines = [b"text" if alone else b"text,n"]
    for text, n in rows:
        field = text or b""
        if any(mark in field for mark in (b'"', b",", b"\n")):
            field = b'"%s"' % field.replace(b'"', b'""')
        lines.append(field if alone else field + b",%d" % n)
    (tmp_path / "a.csv").write_bytes(b"\n".join(lines) + b"\n")
    found = []
    for kind in ("csv", "parquet"):
        options = {"keep": ["text"], "rows_per_block": 4}
        run_here(tmp_path / f"a.{kind}", tmp_path / kind, **options)
        found.append((read_results(tmp_path / kind), read_bad_rows(tmp_path / kind)))
    for csv, parquet in zip(*found, strict=True):
        pd.testing.assert_frame_equal(csv, parquet)
    table, bad = found[0]
    assert dict(zip(bad["row"], bad["reason"], strict=True)) == {
        at: reason for at, reason in enumerate(SAME.values()) if reason
    }
    texts = [text.decode() for text, reason in SAME.items() if not reason and text]
    assert table["text"].tolist() == texts


def test_csv_and_parquet_take_the_same_truths(tmp_path):
    raw = pa.array([b"good", b"", None, b"\xff", b"fair", b"bad"]).view(pa.string())
    table = pa.table({"text": list("abcdef"), "label": raw})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = b"text,label\na,good\nb,\nc,\nd,\xff\ne,fair\nf,bad\n"
    (tmp_path / "a.csv").write_bytes(rows)
    for kind in ("csv", "parquet"):
        run_here(tmp_path / f"a.{kind}", tmp_path / kind, truth="label")
        table = read_results(tmp_path / kind)
        assert table["truth"].fillna("?").tolist() == ["good", "?", "?", "bad"]
        assert table["correct"].tolist() == [True, None, None, False]
        assert read_bad_rows(tmp_path / kind)["reason"].tolist() == [
            "Its label is not UTF-8.",
            "Its truth 'fair' is no label.",
        ]


def test_files_may_spell_text_types_differently(tmp_path):
    kinds = [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
    for at, kind in enumerate(kinds):
        column = pa.array(["a", "b"]).cast(kind)
        table = pa.table({"text": column, "label": column})
        pq.write_table(table, tmp_path / f"{at}.parquet")
    nothing = pa.table(dict.fromkeys(("text", "label"), pa.nulls(1)))
    pq.write_table(nothing, tmp_path / "3.parquet")
    files = sorted(tmp_path.glob("*.parquet"))
    run_here(files, tmp_path / "out", keep=["text", "label"])
    table = read_results(tmp_path / "out")
    assert table["text"].tolist() == table["label"].tolist() == ["a", "b"] * 3
    assert read_bad_rows(tmp_path / "out")["row"].tolist() == [6]
    types = {
        pq.read_schema(shard).field("label").type for shard in shards(tmp_path / "out")
    }
    assert types == {pa.string()}


@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    group=st.integers(1, 12),
    block=st.integers(1, 20),
    kind=st.sampled_from(["parquet", "csv"]),
)
def test_every_row_comes_out_once(tmp_path_factory, sizes, group, block, kind):
    folder = tmp_path_factory.mktemp("any")
    (folder / "in").mkdir()
    texts = []
    for at, size in enumerate(sizes):
        own = [f"{at}.{row}\nof {size}" for row in range(size)]
        texts += own
        path = folder / "in" / f"{at}.{kind}"
        part = pd.DataFrame({"text": own}).astype(str)
        if kind == "csv":
            part.to_csv(path, index=False)
        else:
            # Of dictionaries, Arrow reads batches of any size.
            part.astype("category").to_parquet(path, row_group_size=group)
    done = run_here(folder / "in", folder / "out", keep=["text"], rows_per_block=block)
    table = read_results(folder / "out")
    assert table["row"].tolist() == list(range(len(texts)))
    assert table["text"].tolist() == texts
    assert done.blocks_now == sum(-(-size // block) for size in sizes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "review"}, "source must have the columns .'review'.*'name'"),
        ({"id": "number"}, "source must have the columns .*'number'"),
        ({"keep": ["colour"]}, "source must have the columns .*'colour'"),
        ({"keep": "name"}, "keep must be a list of columns, not 'name'"),
        ({"rows_per_block": 0}, "rows_per_block must be a whole number of 1 or more"),
        ({"workers": -1}, "workers must be a whole number of 0 or more, not -1"),
    ],
)
def test_bad_arguments(source, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_here(source, tmp_path / "out", boom, **options)
    with pytest.raises(TypeError, match="classifier_factory must be callable"):
        run_here(source, tmp_path / "out", ByLength())
    assert not (tmp_path / "out").exists()
    for bad in ({"cpus": 0}, {"gpus": -1}, {"attempts": 0}):
        with pytest.raises(ValueError, match=f"{[*bad][0]} must be"):
            Workers(**bad)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.csv": None}, "there is no file .*a.csv"),
        ({}, r"source must be .*; \['.*'\] has \[\]"),
        ({"a.txt": b"text"}, r"source must be .* has \['.txt'\]"),
        ({"a.csv": b"text\n", "b.pq": {"text": ["a"]}}, r"\['CSV', 'Parquet'\]"),
        ({"a.pq": {"text": [1, 2]}}, "text must be strings; 'text' is int64"),
        (
            {"a.pq": {"text": ["a"], "n": [1]}, "b.pq": {"text": ["a"], "n": ["1"]}},
            "n'",
        ),
        ({"a.pq": {"text": ["a"]}, "b.pq": {"text": ["a"], "m": [1]}}, "'m'"),
        ({"a.csv": b""}, r"source must have column names.*a.csv begins with \[\]"),
        ({"a.csv": b"text,name\ra,b\r"}, r"lines that end in \\n; .*name\\ra"),
        ({"a.csv": b"text,text\n"}, "not name columns twice; .*a.csv has"),
        ({"a.csv": b'text\nfine\n"open\nfine\n'}, "a.csv cannot.*quotation mark"),
        ({"a.pq": b"no"}, "source must be Parquet; .*a.pq"),
    ],
)
def test_bad_sources(tmp_path, files, message):
    (tmp_path / "in").mkdir()
    for name, data in files.items():
        if isinstance(data, dict):
            pd.DataFrame(data).to_parquet(tmp_path / "in" / name)
        elif data is not None:
            (tmp_path / "in" / name).write_bytes(data)
    given = [tmp_path / "in" / name for name in files] or tmp_path / "in"
    with pytest.raises(ValueError, match=message):
        run_here(given, tmp_path / "o", boom)
    with pytest.raises(ValueError, match="destination must not lie in the source"):
        run_here(tmp_path, tmp_path / "o", boom)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows_per_block": 99, "make": boom}, "holds one with other rows_per_block"),
        ({"keep": [], "make": boom}, "holds one with other keep"),
        ({"make": lambda: ByLength("2")}, "results of .*1'}, .* is .*2'}"),
    ],
)
def test_other_plan_or_model_is_refused(source, tmp_path, options, message):
    out = tmp_path / "out"
    run_here(source, out, rows_per_block=300)
    before = read_results(out)
    with pytest.raises(ValueError, match=message):
        run_here(source, out, **({"rows_per_block": 300} | options))
    pd.testing.assert_frame_equal(read_results(out), before)


def test_changed_source_is_refused(source, tmp_path):
    run_here(source, tmp_path / "out")
    data, seen = bytearray(source.read_bytes()), source.stat()
    os.utime(source, (0, 0))  # other bytes count, another time does not
    assert run_here(source, tmp_path / "out").blocks_now == 0
    data[data.index(b"pandas")] ^= 1
    source.write_bytes(data)
    os.utime(source, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    with pytest.raises(ValueError, match="holds one with other files"):
        run_here(source, tmp_path / "out", make=boom)


def test_a_file_twice_is_refused(source, tmp_path):
    (tmp_path / "in").mkdir()
    os.symlink(source, tmp_path / "in" / "link.parquet")
    os.link(source, tmp_path / "in" / "hard.parquet")
    relative = Path(os.path.relpath(source))
    for other in [source, relative, *(tmp_path / "in").iterdir()]:
        with pytest.raises(ValueError, match="must name each file once; .* the same"):
            run_here([source, other], tmp_path / "o", boom)
    with pytest.raises(ValueError, match="must name each file once"):
        run_here(tmp_path / "in", tmp_path / "o", boom)


@pytest.mark.parametrize("name", ["b.csv.gz", "notes.txt", "link", "gone.csv"])
def test_what_a_folder_has_besides_is_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("text\na\n")
    (tmp_path / "in" / "_SUCCESS").touch()
    assert run_here(tmp_path / "in", tmp_path / "o").rows == 1
    if name in ("link", "gone.csv"):
        os.symlink(tmp_path if name == "link" else "nowhere", tmp_path / "in" / name)
    else:
        (tmp_path / "in" / name).touch()
    with pytest.raises(ValueError, match="source must be .*(has|there is no file)"):
        run_here(tmp_path / "in", tmp_path / "o", make=boom)


CHANGES = {
    "replaced": lambda path: reviews(5).to_csv(path, index=False),
    "grown": lambda path: path.write_bytes(path.read_bytes() + b"r,more\n"),
    "shrunk": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "emptied": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "joined": lambda path: shutil.copy(path, path.with_name("c.csv")),
    "same size": lambda path: same_size(path),
}


def same_size(path: Path) -> None:
    seen = path.stat()
    with path.open("r+b") as file:  # in place, and as if nobody had been there
        file.write(file.read().replace(b"warm", b"cold"))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("name", "call"), [("b.csv", 2), ("a.csv", 8)])
def test_a_source_that_changes_meanwhile_ends_the_run(tmp_path, change, name, call):
    calls, out = [], tmp_path / "out"
    (tmp_path / "in").mkdir()
    for at in "ab":
        reviews(300).to_csv(tmp_path / "in" / f"{at}.csv", index=False)

    class Meanwhile(ByLength):
        def score_table(self, texts):
            calls.append(texts)
            if len(calls) == call:
                CHANGES[change](tmp_path / "in" / name)
            return super().score_table(texts)

    options = {"make": Meanwhile, "rows_per_block": 80}
    with pytest.raises((RuntimeError, ValueError), match="source"):
        run_here(tmp_path / "in", out, **options)
    with pytest.raises(ValueError, match="has not finished. Call"):
        read_results(out)


def test_other_folders_are_refused(source, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="destination must be .*thesis.txt"):
        run_here(source, tmp_path / "mine", boom)
    for read in (read_results, read_bad_rows):
        with pytest.raises(ValueError, match="no whole .*mine/journal.jsonl"):
            read(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["row", "confidence", "truth", "correct", "p_other"])
def test_names_of_the_results_are_not_free(tmp_path, name):
    given = pd.DataFrame({"text": ["a"], name: ["good"]})
    with pytest.raises(ValueError, match=f"must leave .* free, not '{name}'"):
        run_here(given, tmp_path / "out")
    run_here(given, tmp_path / "out", keep=[])
    given = given.rename(columns={name: "reason"})
    with pytest.raises(ValueError, match="must leave .* free, not 'reason'"):
        run_here(given, tmp_path / "out b", id="reason")


@pytest.mark.parametrize("left", [None, b"", b"["])
def test_results_that_nobody_claims_are_refused(source, tmp_path, left):
    run_here(source, tmp_path / "out")
    journal = tmp_path / "out" / "journal.jsonl"
    if left is None:
        journal.unlink()
    else:
        journal.write_bytes(left and b"{" + journal.read_bytes()[1:])
    for read in (read_results, read_bad_rows):
        with pytest.raises(ValueError, match="no whole .*journal.jsonl"):
            read(tmp_path / "out")
    with pytest.raises(ValueError, match="holds files of none"):
        run_here(source, tmp_path / "out", boom)


def test_two_runs_do_not_share_a_folder(source, tmp_path):
    def meanwhile():
        with pytest.raises(TimeoutError, match="out/.lock"):
            run_here(source, tmp_path / "out")
        return ByLength()

    assert run_here(source, tmp_path / "out", meanwhile).rows == 1000


class Unfitted:
    def score_table(self, texts: list[str]) -> pd.DataFrame:
        raise ValueError("call fit")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: object(), TypeError, "classifier_factory must make something"),
        (Unfitted, ValueError, "call fit"),
        (lambda: 1 / 0, ZeroDivisionError, "division"),
    ],
)
def test_broken_classifiers_stop_the_run(source, tmp_path, make, error, message):
    with pytest.raises(error, match=message):
        run_here(source, tmp_path / "out", make=make)
    # Nothing was done, so another plan may have the folder.
    run_here(source, tmp_path / "out", rows_per_block=17)
    assert len(read_results(tmp_path / "out")) == 1000


class Interrupted(Exception):
    """Stands for whatever stops a run."""


def test_goes_on_where_it_stopped(source, tmp_path):
    out, calls = tmp_path / "out", []

    class Stops(ByLength):
        def score_table(self, texts):
            calls.append(len(texts))
            if len(calls) == 6:
                raise Interrupted
            return super().score_table(texts)

    with pytest.raises(Interrupted):
        run_here(source, out, make=Stops, rows_per_block=100)
    assert len(shards(out)) == 4
    for read in (read_results, read_bad_rows, lambda out: next(iter_results(out))):
        with pytest.raises(ValueError, match="has not finished. Call"):
            read(out)
    # What a dead run may leave: a shard half written, one cut off, bad rows alone.
    (out / "table" / ".part-00000009.parquet").write_bytes(b"half")
    shards(out)[1].write_bytes(shards(out)[1].read_bytes()[:-9])
    alone = pa.table({"row": [200], "reason": ["?"]})
    pq.write_table(alone, out / "bad" / "part-00000002.parquet")
    done = run_here(source, out, rows_per_block=100)
    assert (done.blocks_before, done.blocks_now, done.rows_now) == (2, 8, 800)
    assert not list((out / "table").glob(".*"))
    run_here(source, tmp_path / "whole", rows_per_block=100)
    pd.testing.assert_frame_equal(read_results(out), read_results(tmp_path / "whole"))
    assert read_bad_rows(out).empty


DAMAGES = {
    "a shard lost": lambda out: shards(out)[1].unlink(),
    "bad rows lost": lambda out: (out / "bad" / "part-00000002.parquet").unlink(),
    "cut off": lambda out: shards(out)[1].write_bytes(shards(out)[1].read_bytes()[:-9]),
    "swapped": lambda out: (
        shards(out)[0].rename(out / "x"),
        shards(out)[1].rename(shards(out)[0].with_name("part-00000000.parquet")),
        (out / "x").rename(out / "table" / "part-00000001.parquet"),
    ),
    "block lost": lambda out: (DAMAGES["line lost"](out), shards(out)[-1].unlink()),
    "line damaged": lambda out: (out / "journal.jsonl").write_bytes(
        (out / "journal.jsonl").read_bytes().replace(b"[3", b"[7", 1)
    ),
    "end damaged": lambda out: (out / "journal.jsonl").write_bytes(
        b"by length 7".join(
            (out / "journal.jsonl").read_bytes().rsplit(b"by length 1", 1)
        )
    ),
    "line lost": lambda out: (out / "journal.jsonl").write_bytes(
        b"".join((out / "journal.jsonl").read_bytes().splitlines(True)[:-2])
    ),
    "shard more": lambda out: shutil.copy(
        shards(out)[0], shards(out)[2].with_name("part-00000002.parquet")
    ),
    "bad more": lambda out: shutil.copy(
        out / "bad" / "part-00000002.parquet", out / "bad" / "part-00000000.parquet"
    ),
}


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    given = reviews(50)
    given.loc[20:29, "text"] = None  # all of a block, so it has no table
    given.loc[33, "text"] = ""
    given.to_csv(tmp_path / "a.csv", index=False)
    run_here(tmp_path / "a.csv", tmp_path / "out", rows_per_block=10)
    out = tmp_path / "out"
    return tmp_path / "a.csv", out, read_results(out), read_bad_rows(out)


def assert_refused(out: Path, message: str) -> None:
    """Results are refused; what is damaged in bad rows alone may hide from them."""
    told = []
    for read in (read_results, lambda out: list(iter_results(out)), read_bad_rows):
        try:
            read(out)
        except ValueError as error:
            assert re.search(message, str(error))
            told.append(str(error))
    assert len(told) == 3 or (told and all("damaged" in each for each in told))


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_finished_and_is_damaged_is_told_and_done_again(finished, damage):
    source, out, table, bad = finished
    DAMAGES[damage](out)
    assert_refused(out, "classify_dataset again|nothing among its results")
    done = run_here(source, out, rows_per_block=10)
    assert (damage != "end damaged") <= done.blocks_now <= 3
    pd.testing.assert_frame_equal(read_results(out), table)
    pd.testing.assert_frame_equal(read_bad_rows(out), bad)


def test_blocks_of_a_forgotten_source_are_not_mixed_with_others(finished):
    source, out, *_ = finished
    journal = out / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'["source', b'["sourze', 1))
    shards(out)[0].unlink()
    done = run_here(source, out, lambda: ByLength("2"), rows_per_block=10)
    assert (done.blocks_before, done.blocks_now) == (0, 5)
    assert read_results(out).attrs["source"] == {"model": "by length 2"}


def test_results_that_are_lost_while_they_are_read(finished):
    out = finished[1]
    some = iter_results(out)
    next(some)
    shards(out)[1].unlink()
    with pytest.raises(ValueError, match="missing or damaged"):
        list(some)
    shards(out)[0].unlink()
    shards(out)[0].with_name("part-00000000.parquet").mkdir()
    with pytest.raises(ValueError, match="damaged|missing"):
        read_results(out)


def test_strange_files_among_the_results_are_refused(finished):
    source, out, _, _ = finished
    for name in ("table/part-00000099.parquet", "bad/mine.parquet", "table/notes.txt"):
        shutil.copy(shards(out)[0], out / name)
        assert_refused(out, f"nothing among its results .*{name}")
        with pytest.raises(ValueError, match=f"nothing among its results .*{name}"):
            run_here(source, out, rows_per_block=10, make=boom)
        assert (out / name).exists()
        (out / name).unlink()
    (out / "table" / "_metadata").touch()
    assert len(read_results(out)) == 39


def test_no_flipped_bit_is_read(finished):
    _, out, table, bad = finished
    draw = np.random.default_rng(0)
    for path in sorted(path for path in out.rglob("*") if path.stat().st_size):
        if path.is_dir():
            continue
        good = path.read_bytes()
        for at in draw.integers(8 * len(good), size=12):
            flipped = bytearray(good)
            flipped[at // 8] ^= 1 << at % 8
            path.write_bytes(flipped)
            try:
                found = read_results(out), read_bad_rows(out)
            except ValueError:
                continue
            assert found[0].equals(table) and found[1].equals(bad)
            assert found[0].attrs == table.attrs
        path.write_bytes(good)


def test_without_ray_one_is_told_what_to_do(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match="how-sure\\[scale\\].*workers=0"):
        run_here(source, tmp_path / "out", workers=1)
    assert run_here(source, tmp_path / "out").rows == 1000


@pytest.mark.usefixtures("local_ray")
def test_killed_worker_loses_no_row(tmp_path, local_ray):
    given = reviews(500)
    given.loc[234, "text"] = "kill"
    out, marker = tmp_path / "out", tmp_path / "killed"
    make, options = Kills.factory(str(marker)), {"rows_per_block": 50, "workers": 2}
    done = run_here(given, out, make, **options)
    assert marker.exists() and done.rows_now == 500
    run_here(given, tmp_path / "alone", rows_per_block=50)
    pd.testing.assert_frame_equal(read_results(out), read_results(tmp_path / "alone"))
    assert local_ray.is_initialized()  # it was not ours to stop


def test_block_that_kills_each_worker_ends_the_run(local_ray, tmp_path):
    given = reviews(100)
    given.loc[55, "text"] = "kill"
    make = Kills.factory(str(tmp_path / "killed"), True)
    options = {"rows_per_block": 10, "workers": Workers(1, attempts=2)}
    where = r"2 times, .* on block 5 \(rows 50 to 59 of out.parquet\)"
    with pytest.raises(RuntimeError, match=where):
        run_here(given, tmp_path / "out", make, **options)
    assert len(shards(tmp_path / "out")) == 5


@pytest.mark.parametrize(
    ("make", "workers", "error", "message"),
    [
        (fails, 1, ValueError, "There is no such model"),
        (dies, Workers(attempts=1), RuntimeError, "1 times, .* made the classifier"),
        # Warnings are errors here; otherwise Ray would wait for such a machine.
        (boom, Workers(cpus=2, gpus=64), UserWarning, "take 2 cores and 64 accel"),
    ],
)
def test_errors_of_workers(local_ray, source, tmp_path, make, workers, error, message):
    with pytest.raises(error, match=message):
        run_here(source, tmp_path / "out", make, workers=workers)


def test_killed_driver_goes_on(local_ray, source, tmp_path):
    """The first run has a Ray of its own; the next one is on another cluster."""
    out = tmp_path / "out"
    driver = subprocess.Popen([*DRIVER, "slow", str(source), str(out)])
    waited = time.monotonic() + 300
    while len(shards(out)) < 5:
        assert driver.poll() is None and time.monotonic() < waited
        time.sleep(0.005)
    driver.kill()
    driver.wait()
    with pytest.raises(ValueError, match="not finished.*classify_dataset again"):
        read_results(out)
    left = len(shards(out))
    address = local_ray.get_runtime_context().gcs_address
    workers = Workers(2, address=address)
    done = run_here(source, out, rows_per_block=20, workers=workers)
    assert left - 1 <= done.blocks_before <= left < 50
    assert done.blocks_before + done.blocks_now == 50
    run_here(source, tmp_path / "alone", rows_per_block=20)
    pd.testing.assert_frame_equal(read_results(out), read_results(tmp_path / "alone"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_rows(tmp_path):
    for rows in (1_000, 20_000):
        given = reviews(rows)
        given["text"] += " long" * 100
        given.to_csv(tmp_path / f"{rows}.csv", index=False)
        given.to_parquet(tmp_path / f"{rows}.parquet")
    told = subprocess.run(
        [*DRIVER, "peaks", str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    peaks = [int(peak) for peak in told.split()]
    assert len(peaks) == 4 and peaks[3] < 1.2 * peaks[0]
