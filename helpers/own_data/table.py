"""A user's table: read as it is, or refused with a sentence that says what to do."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..checks import plain_text

LEAST_TEXTS = 20
_LEAST_OF_LABEL = 5
_DELIMITERS = ",;\t|"
_MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "<na>")
_LABEL_NAMES = ("label", "class", "category", "truth", "target", "gold", "intent")
_NO = ("0", "no", "false")
OURS = ("prediction", "confidence", "action", "reason")
PROPOSED = "proposed"


@dataclass(frozen=True, eq=False)
class Rows:
    """Texts with their labels; rows of one group belong together."""

    texts: list[str]
    labels: np.ndarray
    groups: np.ndarray

    def __getitem__(self, places: np.ndarray) -> Rows:
        texts = [self.texts[at] for at in places]
        return Rows(texts, self.labels[places], self.groups[places])


@dataclass(frozen=True)
class OwnTable:
    """A user's rows, all as strings, and which columns are what.

    ``notes`` are sentences on what was guessed and found; ``sha256`` is of the file.
    ``not_random`` are rows that were chosen, not drawn at random: they may be learned
    from, but nothing can be judged by them.
    """

    name: str
    rows: pd.DataFrame
    text: str | None
    label: str | None
    group: str | None
    notes: tuple[str, ...]
    sha256: str
    not_random: pd.Index = field(default_factory=lambda: pd.Index([]))

    @property
    def texts(self) -> pd.Series:
        """The texts as they stand in the file; or which row it is, without any."""
        if self.text is None:
            numbers = self.rows.index.astype(str).to_series(index=self.rows.index)
            return f"{self.sha256} row " + numbers
        return self.rows[self.text]

    @cached_property
    def labels(self) -> pd.Series:
        """Labels without spaces at the ends; "" where there is none."""
        if self.label is None:
            return pd.Series("", index=self.rows.index)
        return without_missing(self.rows[self.label])

    @cached_property
    def has_text(self) -> pd.Series:
        return self.texts.str.strip() != ""

    @cached_property
    def groups(self) -> pd.Series:
        """The same number for copies of a text and for rows of one group."""
        columns = [self.texts] + ([self.rows[self.group]] if self.group else [])
        # A graph of rows, texts and groups: what hangs together belongs together.
        n, joins, size = len(self.rows), [], len(self.rows)
        for column in columns:
            values = column.map(plain_text)
            codes = pd.factorize(values.mask(values == ""))[0]
            known = np.flatnonzero(codes >= 0)
            joins.append([known, size + codes[known]])
            size += n
        edges = np.concatenate(joins, axis=1)
        graph = coo_array((np.ones(edges.shape[1]), edges), (size, size))
        found = connected_components(graph, directed=False)[1][:n]
        return pd.Series(pd.factorize(found)[0], self.rows.index)

    @property
    def labelled(self) -> pd.Index:
        """Rows with a text and a label."""
        return self.rows.index[self.has_text & (self.labels != "")]

    @property
    def set_apart(self) -> pd.Index:
        """Labelled rows that were not drawn at random, or belong with one of these."""
        groups = self.groups[self.labelled]
        apart = groups[groups.index.isin(self.not_random)]
        return groups.index[groups.isin(apart)]

    @property
    def unlabelled(self) -> pd.Index:
        """Rows with a text and without a label."""
        return self.rows.index[self.has_text & (self.labels == "")]

    def labelled_rows(self, index: pd.Index) -> Rows:
        """Texts, labels and groups of some rows."""
        labels = np.array(self.labels[index], dtype=str)
        return Rows(self.texts[index].tolist(), labels, self.groups[index].to_numpy())

    def check_free(self, names: Iterable[str] = OURS) -> None:
        """Raise ValueError if there are columns already that would be added."""
        if taken := [name for name in names if name in self.rows]:
            do = "rename it, or leave it out"
            if {*OURS[2:]} <= {*self.rows}:
                do = "is it what an earlier run wrote? Fill in labels in your own table"
            raise ValueError(
                f"{self.name} has the column {taken[0]!r} already, where the decisions "
                f"would stand: {do}."
            )

    def check_labels(self) -> None:
        """Raise ValueError unless there is enough to learn from and to judge by."""
        if self.label is None:
            raise ValueError(f"{self.name} needs a column of labels: name it.")
        labels = self.labels[self.labelled]
        if not len(labels):
            raise ValueError(
                f"No row of {self.name} has a label in the column {self.label!r}: fill "
                "it in for 100 to 400 rows drawn at random."
            )
        labels = labels.drop(self.set_apart)
        if not len(labels):
            raise ValueError(
                f"None of the {len(self.labelled)} labelled rows was drawn at random, "
                "so that nothing can be judged by them: label 100 to 400 that are."
            )
        counts = labels.value_counts()
        plain = counts.index.str.casefold().str.split().str.join(" ")
        if (twice := plain.duplicated(keep=False)).any():
            alike = [
                name
                for name, one in zip(counts.index, plain, strict=True)
                if one == plain[twice][0]
            ]
            raise ValueError(
                f"The labels {_listed(alike)} differ only in case or spaces: write "
                "them alike, or give them different names."
            )
        if len(counts) < 2:
            raise ValueError(
                f"All {len(labels)} labelled rows have the label {counts.index[0]!r}: "
                "there is nothing to decide. Two or more labels are needed."
            )
        if (counts >= _LEAST_OF_LABEL).sum() < 2:
            raise ValueError(
                f"Two labels or more must have {_LEAST_OF_LABEL} rows each; the "
                f"{len(counts)} labels of the column {self.label!r} have "
                f"{counts.iloc[0]} at most. Is it the right column? If so, merge "
                "labels or label more rows."
            )
        n_groups = self.groups[labels.index].nunique()
        if n_groups < LEAST_TEXTS:
            what = "text or group" if self.group else "text"
            raise ValueError(
                f"{len(labels)} labelled rows are {n_groups} when copies (of the same "
                f"{what}) count once; {LEAST_TEXTS} is the least, 100 to 400 are good. "
                "Label more rows, drawn at random."
            )


def read_table(
    path: str | Path,
    *,
    text: str | None = None,
    label: str | None = None,
    group: str | None = None,
    not_random: str | None = None,
    needs: Iterable[str] = ("text", "label"),
) -> OwnTable:
    """Read a CSV, Excel or Parquet file, and find out which columns are what.

    Parameters
    ----------
    path : str or pathlib.Path
        The file. A CSV must be in UTF-8; commas, semicolons, tabs and bars are
        recognised.
    text, label, group : str, optional
        Names of columns; without the first two, they are guessed. Rows of one group,
        such as a patient's, stay on one side of each division.
    not_random : str, optional
        Name of a column that marks rows that were not drawn at random, by any value
        but "no", "false" and 0.
    needs : sequence of str, default=("text", "label")
        Which of the two to guess where no name is given.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "mine.csv")
    ...     _ = path.write_text("id;text;label\\n1;A joy.;good\\n2;A bore.;\\n")
    ...     table = read_table(path)
    >>> table.text, table.label, len(table.labelled), len(table.unlabelled)
    ('text', 'label', 1, 1)
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    given = (text, label, group, not_random)
    # As in the line of names, spaces at the ends do not count.
    text, label, group, not_random = (name and name.strip() for name in given)
    named = {"text": text, "label": label, "group": group, "not random": not_random}
    taken = [name for name in named.values() if name]
    rows = _read_rows(path, content, taken)
    for column, count in rows.columns.value_counts().items():
        if count > 1:
            raise ValueError(
                f"{path.name} has the column {column!r} twice: rename one."
            )
    if not len(rows):
        raise ValueError(f"{path.name} has a line of names and no row beneath it.")
    for option, column in named.items():
        if column is not None and column not in rows:
            raise ValueError(
                f"{path.name} has no column {column!r} (for {option}); it has "
                f"{_listed(rows.columns)}."
            )
    if len(set(taken)) < len(taken):
        raise ValueError(
            "The columns of texts, labels, groups and of what was not drawn at random "
            f"must be different, not {taken}."
        )
    notes = []
    if label is None and "label" in needs:
        label = _guess_label(rows.drop(columns=taken), path.name)
        notes.append(f"The labels are taken to be in the column {label!r}.")
    if text is None and "text" in needs:
        text = _guess_text(rows.drop(columns=[*taken, *filter(None, [label])]))
        notes.append(f"The texts are taken to be in the column {text!r}.")
    if text is not None and not (rows[text].str.strip() != "").any():
        raise ValueError(
            f"All texts in the column {text!r} of {path.name} are empty: name the "
            f"column of the texts, one of {_listed(rows.columns)}."
        )
    table = OwnTable(
        path.name, rows, text, label, group, (), hashlib.sha256(content).hexdigest()
    )
    notes += _found(table) if text is not None else []
    if not_random is not None:
        marks = without_missing(rows[not_random]).str.casefold()
        table = replace(table, not_random=rows.index[(marks != "") & ~marks.isin(_NO)])
    return replace(table, notes=tuple(notes))


def with_proposed(table: OwnTable, path: Path) -> OwnTable:
    """The table, knowing which rows an earlier run proposed to label in this file.

    Rows are known again by their texts; or, without any, by their columns but the
    labels.
    """
    if not path.exists():
        return table
    before = _read_rows(path, path.read_bytes(), [PROPOSED])
    if PROPOSED not in before:
        return table
    columns = [table.text] if table.text else {*table.rows} - {table.label}
    if missing := {*columns} - {*before}:
        raise ValueError(
            f"{path} tells which rows an earlier run proposed to label, but has no "
            f"column {min(missing)!r} to know them by: move it away, and mark these "
            "rows in a column of your table (--not-random)."
        )

    def keys(rows: pd.DataFrame) -> pd.Series:
        plain = rows[sorted(columns)].map(plain_text)
        return plain.agg("\0".join, axis=1) if len(rows) else pd.Series(dtype=object)

    again = keys(table.rows).isin(keys(before[before[PROPOSED] == "yes"]))
    return replace(table, not_random=table.not_random.union(table.rows.index[again]))


def without_missing(column: pd.Series) -> pd.Series:
    """A column without spaces at the ends; "" where a value stands for none."""
    stripped = column.str.strip()
    return stripped.mask(stripped.str.casefold().isin(_MISSING), "")


def _found(table: OwnTable) -> list[str]:
    notes = []
    if empty := int((~table.has_text).sum()):
        notes.append(f"{empty} rows have no text; they are left to a person.")
    if table.label:
        given = table.rows.loc[table.labels == "", table.label].str.strip()
        if words := sorted({*given} - {""}):
            notes.append(f"The labels {_listed(words)} count as missing.")
    labels = table.labels[table.labelled]
    groups = table.groups[table.labelled]
    copies = int(groups.duplicated().sum())
    if copies:
        notes.append(
            f"{copies} labelled rows are copies of others, or of their groups; they "
            "stay together."
        )
    if table.group is None and copies:
        odd = int((labels.groupby(groups).nunique() > 1).sum())
        if odd:
            notes.append(f"Copies of {odd} texts have different labels.")
    rare = labels.value_counts().loc[lambda counts: counts < _LEAST_OF_LABEL]
    if len(rare):
        notes.append(
            f"{len(rare)} labels have fewer than {_LEAST_OF_LABEL} rows and will "
            f"hardly be predicted: {_listed(rare.index)}."
        )
    return notes


def _read_rows(path: Path, content: bytes, named: list[str]) -> pd.DataFrame:
    if not content.strip():
        raise ValueError(f"{path.name} is empty.")
    kind = path.suffix.lower()
    if kind in (".xlsx", ".xls", ".parquet"):
        try:
            if kind == ".parquet":
                rows = pd.read_parquet(io.BytesIO(content))
            else:
                rows = pd.read_excel(io.BytesIO(content), engine="calamine")
        except Exception as error:  # readers raise errors of their own kinds
            said = f"{path.name} is no {kind} file that can be read: {error}"
            raise ValueError(said) from error
        rows.columns = rows.columns.astype(str)
        return rows.apply(lambda column: column.map(_as_string)).reset_index(drop=True)
    return _read_csv(path.name, content, named)


def _as_string(value: Any) -> str:
    if value is None or value != value or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _read_csv(name: str, content: bytes, named: list[str]) -> pd.DataFrame:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content:
        raise ValueError(
            f"{name} is not in UTF-8 (it looks like UTF-16, or is no text): save it as "
            "'CSV UTF-8', or convert it: iconv -f UTF-16 -t UTF-8 old.csv > new.csv"
        )
    try:
        decoded = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{name} is not in UTF-8; line {line} has the byte "
            f"0x{content[error.start]:02x}. Save it as 'CSV UTF-8', or convert it: "
            "iconv -f WINDOWS-1252 -t UTF-8 old.csv > new.csv"
        ) from error
    # Python's own limit, 131,072 characters, is less than a long text has.
    csv.field_size_limit(max(csv.field_size_limit(), len(decoded)))
    headers = {}
    for mark in _DELIMITERS:
        try:
            headers[mark] = next(
                csv.reader(io.StringIO(decoded, newline=""), delimiter=mark)
            )
        except (StopIteration, csv.Error):
            headers[mark] = []
    mark = max(
        _DELIMITERS, key=lambda one: (set(named) <= {*headers[one]}, len(headers[one]))
    )
    lines = csv.reader(io.StringIO(decoded, newline=""), delimiter=mark, strict=True)
    rows = []
    try:
        header = next(lines)
        for row in lines:
            if row and len(row) != len(header):
                raise ValueError(
                    f"Line {lines.line_num} of {name} has {len(row)} fields, the first "
                    f"has {len(header)}: put quotes around texts that contain "
                    f"{mark!r}, or a line break."
                )
            if row:
                rows.append(row)
    except csv.Error as error:
        raise ValueError(
            f"Line {lines.line_num} of {name} cannot be read ({error}): a quotation "
            "mark is probably not closed, or not written twice inside quotes."
        ) from error
    return pd.DataFrame(rows, columns=[one.strip() for one in header], dtype=object)


def _guess_label(rows: pd.DataFrame, name: str) -> str:
    for column in map(str, rows):
        if column.casefold() in _LABEL_NAMES:
            return column
    likely: dict[str, int] = {}
    for column in map(str, rows):
        labels = without_missing(rows[column])
        counts = labels[labels != ""].value_counts()
        if 2 <= len(counts) <= counts.sum() / 5:
            likely[column] = len(counts)
    if len(likely) != 1:
        raise ValueError(
            f"Which column of {name} holds the labels? Name it (--label), one of "
            f"{_listed(likely or rows.columns)}."
        )
    return next(iter(likely))


def _guess_text(rows: pd.DataFrame) -> str:
    if not len(rows.columns):
        raise ValueError("There must be a column of texts and one of labels.")
    lengths = rows.apply(lambda column: column.str.len().mean())
    return str(lengths.idxmax())


def _listed(names: Iterable[Any]) -> str:
    shown = [f"{name!r:.60}" for name in names]
    more = [f"and {len(shown) - 10} more"] if len(shown) > 10 else []
    return ", ".join([*shown[:10], *more])
