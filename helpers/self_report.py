"""Self-report: ask the model how sure it is, and read what it writes.

Whatever cannot be read is an outcome with a name, never a row to drop: models refuse
and stumble where the task is hard, and a sample without these rows flatters them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from .checks import check_choice, check_count
from .models import LanguageModel
from .scoring import label_logprobs
from .verbalizer import Verbalizer

Scale = Literal["percent", "probability"]
STATUSES = ("ok", "empty", "refused", "out of range", "unreadable")
_NUMBER = r"(?<![\d.,])-?\d+(?:[.,]\d+)?(?!\d|[.,]\d)"
_PERCENT = re.compile(rf"({_NUMBER})\s*(?:%|per\s?cent)", re.I)
_RATIO = re.compile(rf"({_NUMBER})\s*(?:/|out of)\s*(\d+)", re.I)
_KEY = re.compile(r"confidence|probability|certainty|sure", re.I)
_REFUSAL = re.compile(
    r"\b(can(?:no|')t|can not|unable|don't know|do not know|won't|refuse|sorry"
    r"|as an ai)\b",
    re.I,
)
_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_WORDS = {word: value for value, word in enumerate(_UNITS)}
_WORDS |= {word: 10 * (at + 2) for at, word in enumerate(_TENS)}
_TENS_AND_UNITS = rf"(?:{'|'.join(_TENS)})(?:[- ](?:{'|'.join(_UNITS[1:10])}))?"
_SPELLED = re.compile(
    rf"\b(?:(?:an?|one) hundred|{_TENS_AND_UNITS}"
    rf"|{'|'.join(sorted(_UNITS, key=len, reverse=True))})\b",
    re.I,
)
_WHOLE_FIELD = re.compile(
    rf'"[^"]*(?:{_KEY.pattern})[^"]*"\s*:\s*"?([^",}}\]]*?)\s*[",}}\]]', re.I
)


class Report(NamedTuple):
    """A confidence that a model stated.

    Attributes
    ----------
    value : float
        In [0, 1]; NaN unless the status is "ok".
    status : {"ok", "empty", "refused", "out of range", "unreadable"}
        What became of the answer.
    """

    value: float
    status: str


def read_report(answer: str, *, scale: Scale = "percent") -> Report:
    """The confidence that an answer states.

    Read are, in this order: a field of a JSON object whose name speaks of confidence,
    probability, certainty or being sure; a percentage; a ratio such as 8/10 or "8 out
    of 10"; a number in figures; a number in words.

    Parameters
    ----------
    answer : str
        What the model wrote.
    scale : {"percent", "probability"}, default="percent"
        What was asked for, and so what a bare number means: of 100, or of 1. With
        "percent", a bare number with decimals that is at most 1 is a probability all
        the same.

    Returns
    -------
    Report
        "unreadable" also where an answer states two different numbers of the same
        kind, or where a JSON object breaks off behind a number, which may then lack
        digits.

    Raises
    ------
    TypeError
        The answer is no string.
    ValueError
        An unknown scale.

    Examples
    --------
    >>> read_report("I am 85% sure.")
    Report(value=0.85, status='ok')
    >>> read_report("ninety percent").value, read_report("I'm 110 % sure").status
    (0.9, 'out of range')
    """
    check_choice("scale", scale, ("percent", "probability"))
    if not isinstance(answer, str):
        raise TypeError(f"answer must be a string, not {answer!r}.")
    text = answer.strip()
    if not text:
        return Report(math.nan, "empty")
    field = _json_field(text[text.index("{") :]) if "{" in text else text
    if field is None:
        return Report(math.nan, "unreadable")
    values = _stated(field, scale)
    if not values:
        refused = _REFUSAL.search(text.replace("’", "'"))
        return Report(math.nan, "refused" if refused else "unreadable")
    if len(set(values)) > 1:
        return Report(math.nan, "unreadable")
    if not 0 <= values[0] <= 1:
        return Report(math.nan, "out of range")
    return Report(values[0], "ok")


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
        The most tokens an answer may have. It is read up to its first line break.

    Returns
    -------
    pandas.DataFrame
        One row a prompt: ``answer``, as the model wrote it at temperature 0,
        ``report`` in [0, 1] or NaN, and ``status``. Count the statuses, and the
        different values, before you trust it.

    Raises
    ------
    ValueError
        A prompt is empty or too long for the model.

    Examples
    --------
    >>> asked = ["Is water wet? Yes.\\nHow sure, from 0 to 100:"]
    >>> self_report(LanguageModel.load(), asked).columns.tolist()
    ['answer', 'report', 'status']
    """
    check_count("max_new_tokens", max_new_tokens)
    check_choice("scale", scale, ("percent", "probability"))
    rows = []
    for prompt in tqdm(prompts, unit="text", delay=3):
        (answer,) = model.generate(prompt, temperature=0, max_new_tokens=max_new_tokens)
        report = read_report(answer.lstrip().split("\n")[0], scale=scale)
        rows.append((answer, report.value, report.status))
    index = prompts.index if isinstance(prompts, pd.Series) else None
    return pd.DataFrame(rows, columns=["answer", "report", "status"], index=index)


def report_distribution(
    model: LanguageModel, prompts: Sequence[str] | pd.Series
) -> pd.DataFrame:
    """How probable each whole number from 0 to 100 is as the stated confidence.

    :func:`self_report` shows the most probable answer only. This gives all of them at
    once, and their mean: what many sampled answers would say on average.

    Parameters
    ----------
    model : LanguageModel
        The model.
    prompts : sequence of str
        Each asks for a number from 0 to 100; none may end in a space. The index of a
        pandas Series is kept.

    Returns
    -------
    pandas.DataFrame
        One row a prompt: ``expected``, the mean of the stated confidence in [0, 1]
        given that it is a whole number from 0 to 100; ``off_label``, the probability
        that it is none; and ``0`` to ``100``, the probability of each, normalised.
        A number counts where the line or the answer ends behind it, or a "%".

    Raises
    ------
    ValueError
        A prompt that ends in a space, or is empty or too long for the model.

    Examples
    --------
    >>> asked = ["Is water wet? Yes.\\nHow sure, from 0 to 100:"]
    >>> found = report_distribution(LanguageModel.load(), asked)
    >>> bool(found.loc[:, "0":"100"].sum(axis=1).round(6).eq(1).all())
    True
    """
    numbers = [str(value) for value in range(101)]
    index = prompts.index if isinstance(prompts, pd.Series) else None
    asked = _checked_prompts(prompts)
    if not asked:
        return pd.DataFrame(columns=["expected", "off_label", *numbers], dtype=float)
    ends = ("\n", *filter(None, model.token_texts(model.stop_ids)))
    tokens = Verbalizer(
        numbers,
        spellings={number: (number, f"{number}%") for number in numbers},
        terminator=ends,
    ).tokens(model, after=asked[0])
    scores = label_logprobs(model, [model.encode(prompt) for prompt in asked], tokens)
    whole = np.exp(scores).sum(axis=1)
    shares = np.exp(scores) / whole[:, None]
    table = pd.DataFrame(shares, columns=numbers, index=index)
    table.insert(0, "expected", shares @ np.arange(101) / 100)
    table.insert(1, "off_label", np.clip(1 - whole, 0, 1))
    return table


def p_true(
    model: LanguageModel,
    prompts: Sequence[str] | pd.Series,
    *,
    labels: tuple[str, str] = ("True", "False"),
) -> pd.DataFrame:
    """How probable "True" is as the answer to prompts that show an answer.

    Parameters
    ----------
    model : LanguageModel
        The model.
    prompts : sequence of str
        Each shows an answer of the model and asks whether it is true; none may end in
        a space. The index of a pandas Series is kept.
    labels : (str, str), default=("True", "False")
        What the model is to write for yes and for no.

    Returns
    -------
    pandas.DataFrame
        One row a prompt: ``p_true``, the probability of the first label among the two,
        all spellings of case included; and ``off_label``, the probability that is on
        neither.

    Raises
    ------
    ValueError
        A prompt that ends in a space, or is empty or too long for the model.

    References
    ----------
    Kadavath et al., Language models (mostly) know what they know, 2022.

    Examples
    --------
    >>> asked = ["Review: A joy.\\nSentiment: positive\\nTrue or False?"]
    >>> bool(p_true(LanguageModel.load(), asked)["p_true"].between(0, 1).all())
    True
    """
    index = prompts.index if isinstance(prompts, pd.Series) else None
    asked = _checked_prompts(prompts)
    if not asked:
        return pd.DataFrame({"p_true": [], "off_label": []}, dtype=float)
    tokens = Verbalizer(labels, family="case").tokens(model, after=asked[0])
    scores = label_logprobs(model, [model.encode(prompt) for prompt in asked], tokens)
    yes, no = np.exp(scores).T
    return pd.DataFrame(
        {"p_true": yes / (yes + no), "off_label": np.clip(1 - yes - no, 0, 1)},
        index=index,
    )


def _checked_prompts(prompts: Sequence[str] | pd.Series) -> list[str]:
    asked = list(prompts)
    for at, prompt in enumerate(asked):
        if not isinstance(prompt, str) or not prompt.strip() or prompt.endswith(" "):
            raise ValueError(
                f"prompts must be texts that do not end in a space; {at} is {prompt!r}."
            )
    return asked


def _json_field(text: str) -> str | None:
    """What a JSON object says of confidence, as text; None where it cannot be read."""
    try:
        found, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        # Broken off: a value that ends before the break is whole.
        whole = _WHOLE_FIELD.search(text)
        return whole[1] if whole else None
    fields = [value for key, value in found.items() if _KEY.search(key)]
    if len(fields) != 1 or isinstance(fields[0], (bool, dict, list, type(None))):
        return None
    return str(fields[0])


def _stated(text: str, scale: Scale) -> list[float]:
    """Every value that a text states, in the first notation that it uses."""
    if found := _PERCENT.findall(text):
        return [_float(number) / 100 for number in found]
    if found := re.findall(rf"({_SPELLED.pattern})\s*(?:%|per\s?cent)", text, re.I):
        return [_spelled(words) / 100 for words in found]
    if found := _RATIO.findall(text):
        return [
            _float(part) / int(whole) if int(whole) else -1 for part, whole in found
        ]
    if found := re.findall(_NUMBER, text):
        return [_bare(number, scale) for number in found]
    unit = 100 if scale == "percent" else 1
    return [_spelled(words) / unit for words in _SPELLED.findall(text)]


def _float(number: str) -> float:
    return float(number.replace(",", "."))


def _bare(number: str, scale: Scale) -> float:
    value = _float(number)
    is_share = scale == "probability" or (value <= 1 and re.search("[.,]", number))
    return value if is_share else value / 100


def _spelled(words: str) -> float:
    parts = words.lower().replace("-", " ").split()
    if "hundred" in parts:
        return 100.0
    return float(sum(_WORDS[part] for part in parts))
