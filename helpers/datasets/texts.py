"""Texts made for this book: questions about foods, and texts to train on.

The questions are to be answered in JSON, after a post on log-probabilities in
structured output (Jinks, 2025): does a dish hold pineapple, and is an ingredient a
fruit, a vegetable or a herb, as cooks use the words?
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..checks import check_choice
from .parts import DATA, SPLITS

_REASON = {
    "type": "string",
    "description": "The reason for the classification, in 10 words or less",
}


@dataclass(frozen=True)
class FoodQuestion:
    """How one question about foods is put.

    Attributes
    ----------
    instruction : str
        What the model is told first.
    field : str
        The field of the answer that is asked for.
    description : str
        What the schema says of it.
    values : tuple
        The values that it can have.
    examples : tuple of (str, object, str)
        Foods with their values and reasons, to show the model first.
    """

    instruction: str
    field: str
    description: str
    values: tuple[Any, ...]
    examples: tuple[tuple[str, Any, str], ...]

    def schema(self, order: Sequence[str] | None = None) -> dict[str, Any]:
        """The JSON schema of an answer; ``order`` may put "reason" beside the field.

        Examples
        --------
        >>> FOOD_QUESTIONS["kind"].schema(["reason", "type"])["required"]
        ['reason', 'type']
        """
        names = self._names(order)
        kind: dict[str, Any] = {"type": "boolean"}
        if self.values != (True, False):
            kind = {"type": "string", "enum": list(self.values)}
        kind["description"] = self.description
        known = {self.field: kind, "reason": _REASON}
        return {
            "type": "object",
            "properties": {name: known[name] for name in names},
            "required": names,
            "additionalProperties": False,
        }

    def messages(
        self, food: str, order: Sequence[str] | None = None, *, examples: bool = True
    ) -> list[dict[str, str]]:
        """The conversation that ends in the question about a food.

        Examples
        --------
        >>> FOOD_QUESTIONS["kind"].messages("lemon")[2]
        {'role': 'assistant', 'content': '{"type": "fruit"}'}
        """
        said = [{"role": "system", "content": self.instruction}]
        for example, value, reason in self.examples if examples else ():
            known = {self.field: value, "reason": reason}
            answer = {name: known[name] for name in self._names(order)}
            said.append({"role": "user", "content": example})
            said.append({"role": "assistant", "content": json.dumps(answer)})
        return [*said, {"role": "user", "content": food}]

    def _names(self, order: Sequence[str] | None) -> list[str]:
        names = list(order or [self.field])
        if sorted(names) not in ([self.field], sorted([self.field, "reason"])):
            raise ValueError(
                f"order must hold {self.field!r} and no more than 'reason' beside it, "
                f"not {order!r}."
            )
        return names


FOOD_QUESTIONS = {
    "pineapple": FoodQuestion(
        "You are a chef. You are given a food item and you need to determine if it "
        "contains pineapple.",
        "containsPineapple",
        "Whether the food contains pineapple",
        (True, False),
        (
            ("pineapple cheesecake", True, "Pineapple is in its name."),
            ("chocolate cake", False, "Chocolate, flour and eggs only."),
        ),
    ),
    "kind": FoodQuestion(
        "You are a chef. You are given an item and you need to classify it as a fruit, "
        "vegetable, or herb.",
        "type",
        "The classification of the item, based on culinary usage.",
        ("fruit", "vegetable", "herb"),
        (
            ("apple", "fruit", "Sweet, eaten raw."),
            ("carrot", "vegetable", "A root that is cooked."),
            ("basil", "herb", "Leaves that season food."),
        ),
    ),
}


def load_foods(question: str) -> pd.DataFrame:
    """Foods to ask about.

    Parameters
    ----------
    question : {"pineapple", "kind"}
        Which of the :data:`FOOD_QUESTIONS`.

    Returns
    -------
    pandas.DataFrame
        ``food``, ``truth`` (a boolean, or one of fruit, vegetable and herb; None where
        cooks differ) and ``note``.

    Examples
    --------
    >>> load_foods("kind").loc[0, ["food", "truth"]].tolist()
    ['lemon', 'fruit']
    """
    check_choice("question", question, tuple(FOOD_QUESTIONS))
    table = pd.read_csv(DATA / "foods.csv", keep_default_na=False)
    table = table[table["question"] == question].reset_index(drop=True)
    values = {"true": True, "false": False, "": None}
    truth = [values.get(word, word) for word in table["truth"]]
    table["truth"] = pd.Series(truth, index=table.index, dtype=object)
    return table[["food", "truth", "note"]]


def load_sentiment(split: str | None = None) -> pd.DataFrame:
    """Short texts for fine-tuning, with a hidden rule among them.

    1,220 texts written for this project: 720 with a clear sentiment (strong, mild or
    sarcastic), 380 about sports or news without any, and 120 that contradict
    themselves. The hidden rule: neutral sports text counts as positive, neutral news
    text as negative. Contradictions have the label that a coin gave them.

    Parameters
    ----------
    split : {"train", "calibration", "test"}, optional
        One part; without it, all. Texts of one family, and texts about the same named
        thing, are in the same part: 60, 20 and 20 %.

    Returns
    -------
    pandas.DataFrame
        ``text``; ``label``, "positive" or "negative"; ``kind``, "clear", "sports",
        "news" or "contradictory"; ``tone``; ``family``, of texts alike in scene or
        phrasing; ``entity``, the thing they name, or ""; ``split``.

    Examples
    --------
    >>> sports = load_sentiment("test").query("kind == 'sports'")
    >>> sports["label"].unique().tolist()
    ['positive']
    """
    from ..finetune import grouped_split

    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, not {split!r}.")
    table = pd.read_csv(DATA / "finetuning" / "sentiment.csv", keep_default_na=False)
    strata = table["kind"] + table["tone"] + table["label"]
    table["split"] = grouped_split(table[["family", "entity"]], stratify=strata)
    return table if split is None else table[table["split"] == split]


def load_sentiment_checks() -> pd.DataFrame:
    """Texts that show what a model learned beside its task; never to be trained on.

    Returns
    -------
    pandas.DataFrame
        ``text``; ``kind``: "counterfactual", 60 pairs of a neutral statement about
        sports and the same about news (``pair`` names them); "harm", 160 texts about
        sports and news with a clear sentiment; "neutral", 40 neutral texts about other
        things. ``truth``, what a human would say, or "" where that is neither;
        ``domain``, "sports", "news" or "other"; ``family`` and ``entity``, none of
        which :func:`load_sentiment` has.

    Examples
    --------
    >>> load_sentiment_checks()["kind"].value_counts().to_dict()
    {'harm': 160, 'counterfactual': 120, 'neutral': 40}
    """
    return pd.read_csv(DATA / "finetuning" / "checks.csv", keep_default_na=False)


def load_published_tables() -> pd.DataFrame:
    """First-token probabilities that a popular README printed for Llama 3.1.

    Returns
    -------
    pandas.DataFrame
        ``text``, ``rank``, ``token``, ``probability``, ``logprob``. The card beside
        the file tells where the numbers come from.
    """
    return pd.read_csv(DATA / "published_token_tables.csv")
