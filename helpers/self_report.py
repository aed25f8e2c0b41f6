"""Self-report: ask the model how sure it is, and read what it writes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from .checks import check_choice, check_count
from .models import LanguageModel
from .progress import progress_bar
from .prompted import check_texts
from .scoring import label_logprobs
from .verbalizer import Verbalizer

Scale = Literal["percent", "probability"]
STATUSES = ("ok", "empty", "refused", "out of range", "unreadable")
# A full stop behind a single digit may be a decimal point whose digits were cut off.
_STATED = re.compile(
    r"(-?(?:0|[1-9]\d*)(?:\.\d+)?)(?: ?(%|per ?cent)| ?(?:/|out of) ?(100?))?"
    r"(?:(?<!^\d)(?<![^\d.]\d)\.)?",
    re.ASCII | re.I,
)
_MARKED = re.compile(r"([\"'`*_]*)(.+?)\1", re.S)
_REFUSAL = re.compile(
    r"\b(can(?:no|')t|can not|unable|don't know|do not know|won't|refuse|sorry"
    r"|as an ai)\b",
    re.I,
)


class Report(NamedTuple):
    """A stated confidence: ``value`` in [0, 1], NaN unless ``status`` is "ok"."""

    value: float
    status: str


def read_report(
    answer: str, *, scale: Scale = "percent", key: str = "confidence"
) -> Report:
    """The confidence that an answer states, if it states nothing else.

    Read are ``85``, ``85%``, ``85 percent``, ``8/10``, ``85 out of 100`` and ``0.85``,
    with or without the key and a colon, quotes or Markdown; and a whole JSON object
    with such a number under the key and no other number. Sentences, ranges and words
    are not.

    Parameters
    ----------
    answer : str
        What the model wrote.
    scale : {"percent", "probability"}, default="percent"
        What a bare number means. With "percent", decimals below 1 are probabilities all
        the same, and ``1.0``, which may be either, is not read.
    key : str, default="confidence"
        What the number was to be called; case does not matter.

    Returns
    -------
    Report
        With the status "ok", "empty", "refused", "out of range" or "unreadable".

    Examples
    --------
    >>> read_report("85%")
    Report(value=0.85, status='ok')
    >>> read_report("I'm not 100% sure.").status, read_report("110 %").status
    ('unreadable', 'out of range')
    """
    check_choice("scale", scale, ("percent", "probability"))
    if not isinstance(answer, str):
        raise TypeError(f"answer must be a string, not {answer!r}.")
    text = answer.strip()
    if not text:
        return Report(math.nan, "empty")
    marked = _MARKED.fullmatch(text)
    bare = marked[2].removeprefix("json\n").strip() if marked else text
    if bare.startswith("{"):
        stated = _json_field(bare, key)
    else:
        stated = re.sub(rf"^{re.escape(key)} ?[:=] ?", "", bare, flags=re.I)
    found = _STATED.fullmatch(stated)
    if not found or (scale == "percent" and re.fullmatch(r"1\.0+\.?", stated)):
        refused = _REFUSAL.search(text.replace("’", "'"))
        return Report(math.nan, "refused" if refused else "unreadable")
    number, percent, whole = float(found[1]), found[2], found[3]
    is_share = scale == "probability" or ("." in found[1] and number < 1)
    if whole or percent or not is_share:
        number /= int(whole or 100)
    return (
        Report(number, "ok") if 0 <= number <= 1 else Report(math.nan, "out of range")
    )


def _json_field(text: str, key: str) -> str:
    """A JSON object's value for a key; "" unless there is exactly one."""
    try:
        fields: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return ""
    stated = [value for name, value in fields if name.casefold() == key.casefold()]
    others = [value for name, value in fields if name.casefold() != key.casefold()]
    # Nested fields may have the same key, or another number.
    clear = not any(
        type(value) in (int, float, list) or _STATED.fullmatch(str(value))
        for value in others
    )
    return str(stated[0]) if len(stated) == 1 and clear else ""


def self_report(
    model: LanguageModel,
    prompts: Sequence[str] | pd.Series,
    *,
    scale: Scale = "percent",
    max_new_tokens: int = 8,
) -> pd.DataFrame:
    """Let the model answer prompts that ask for a confidence, and read the answers.

    Parameters
    ----------
    model : LanguageModel
        The model.
    prompts : sequence of str
        Each asks how sure the model is; the index of a pandas Series is kept.
    scale : {"percent", "probability"}, default="percent"
        What the prompts ask for: see :func:`read_report`.
    max_new_tokens : int, default=8
        The most tokens of an answer, which is read up to its first line break.

    Returns
    -------
    pandas.DataFrame
        One row a prompt: ``answer`` at temperature 0, ``report`` in [0, 1] or NaN, and
        ``status``. ``attrs["unread"]`` is the share of NaN.

    Examples
    --------
    >>> asked = ["Is water wet? Yes.\\nHow sure, from 0 to 100:"]
    >>> self_report(LanguageModel.load(), asked).columns.tolist()
    ['answer', 'report', 'status']
    """
    check_count("max_new_tokens", max_new_tokens)
    check_choice("scale", scale, ("percent", "probability"))
    rows = []
    for prompt in progress_bar(check_texts(prompts, "prompts")):
        (answer,) = model.generate(prompt, temperature=0, max_new_tokens=max_new_tokens)
        line, *more = answer.lstrip().split("\n")
        report = read_report(line, scale=scale)
        is_whole = more or len(model.text_ids(answer)) < max_new_tokens
        if report.status == "ok" and not is_whole:  # "10", of what was to be "100"
            report = Report(math.nan, "unreadable")
        rows.append((answer, report.value, report.status))
    index = prompts.index if isinstance(prompts, pd.Series) else None
    table = pd.DataFrame(rows, columns=["answer", "report", "status"], index=index)
    table.attrs["unread"] = float(table["report"].isna().mean())
    return table


def report_distribution(
    model: LanguageModel, prompts: Sequence[str] | pd.Series
) -> pd.DataFrame:
    """How probable each whole number from 0 to 100 is as the stated confidence.

    Parameters
    ----------
    model, prompts
        As for :func:`self_report`; the prompts ask for a number from 0 to 100, and none
        may end in a space.

    Returns
    -------
    pandas.DataFrame
        One row a prompt: ``expected``, the mean stated confidence in [0, 1] given a
        whole number; ``off_label``, the probability of anything else; and ``0`` to
        ``100``, normalised. A number counts where the line, the answer or a "%"
        follows.

    Examples
    --------
    >>> asked = ["Is water wet? Yes.\\nHow sure, from 0 to 100:"]
    >>> report_distribution(LanguageModel.load(), asked).shape
    (1, 103)
    """
    numbers = [str(value) for value in range(101)]
    table = _label_table(
        model,
        prompts,
        numbers,
        spellings={number: (number, f"{number}%") for number in numbers},
        terminator=("\n", *filter(None, model.token_texts(model.stop_ids))),
    )
    table.insert(0, "expected", table[numbers].to_numpy() @ np.arange(101) / 100)
    return table


def p_true(
    model: LanguageModel,
    prompts: Sequence[str] | pd.Series,
    *,
    labels: tuple[str, str] = ("True", "False"),
) -> pd.DataFrame:
    """How probable "True" is as the answer to prompts that show an answer.

    P(True) of Kadavath et al., Language models (mostly) know what they know, 2022.

    Parameters
    ----------
    model, prompts
        As for :func:`self_report`; the prompts show an answer and ask whether it is
        true, and none may end in a space.
    labels : (str, str), default=("True", "False")
        What the model is to write for yes and for no, in any case.

    Returns
    -------
    pandas.DataFrame
        One row a prompt: ``p_true``, the share of the first label in the probability of
        both; ``off_label``, the probability of neither.

    Examples
    --------
    >>> asked = ["Review: A joy.\\nSentiment: positive\\nTrue or False?"]
    >>> bool(p_true(LanguageModel.load(), asked)["p_true"].between(0, 1).all())
    True
    """
    table = _label_table(model, prompts, labels, family="case")
    table.columns = ["off_label", "p_true", "p_false"]
    return table[["p_true", "off_label"]]


def _label_table(
    model: LanguageModel,
    prompts: Sequence[str] | pd.Series,
    labels: Sequence[str],
    **settings: Any,
) -> pd.DataFrame:
    """The probability of no label, and the share of each among the labels."""
    asked = check_texts(prompts, "prompts")
    for at, prompt in enumerate(asked):
        if prompt.endswith(" "):
            raise ValueError(
                f"prompts must be texts that do not end in a space; {at} is {prompt!r}."
            )
    after = asked[0] if asked else ""
    tokens = Verbalizer(labels, **settings).tokens(model, after=after)
    ids = [model.encode(prompt) for prompt in asked]
    found = np.exp(label_logprobs(model, ids, tokens))
    whole = found.sum(axis=1)
    index = prompts.index if isinstance(prompts, pd.Series) else None
    table = pd.DataFrame(found / whole[:, None], columns=list(labels), index=index)
    table.insert(0, "off_label", np.clip(1 - whole, 0, 1))
    return table
