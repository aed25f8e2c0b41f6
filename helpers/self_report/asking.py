"""Ask the model how sure it is, or whether its answer is true."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..checks import check_choice, check_count
from ..models import LanguageModel
from ..progress import progress_bar
from ..prompted import check_texts
from ..scoring import label_logprobs
from ..verbalizer import Verbalizer
from .reading import Report, Scale, read_report


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
        The most tokens an answer may have. It is read up to its first line break;
        without one, an answer that is cut there is unreadable.

    Returns
    -------
    pandas.DataFrame
        One row a prompt: ``answer``, as the model wrote it at temperature 0,
        ``report`` in [0, 1] or NaN, and ``status``. ``attrs["unread"]`` is the share
        of reports that are NaN. Look at it, and at how many different values there
        are, before you trust the others.

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
    asked = check_texts(prompts, "prompts")
    for at, prompt in enumerate(asked):
        if prompt.endswith(" "):
            raise ValueError(
                f"prompts must be texts that do not end in a space; {at} is {prompt!r}."
            )
    return asked
