"""Texts made for this book: questions about foods (after Jinks, 2025); sentiment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..checks import check_choice
from ..files import DATA
from .reviews import SPLITS

_REASON = {
    "type": "string",
    "description": "The reason for the classification, in 10 words or less",
}


@dataclass(frozen=True)
class FoodQuestion:
    """How one question about foods is put: an instruction, and one field of an answer.

    ``description`` is the field's in the schema, ``values`` are those it can have, and
    ``examples`` are foods with values and reasons to show first.
    """

    instruction: str
    field: str
    description: str
    values: tuple[Any, ...]
    examples: tuple[tuple[str, Any, str], ...]

    def schema(self, order: Sequence[str] | None = None) -> dict[str, Any]:
        """The JSON schema of an answer; ``order`` may put "reason" beside the field."""
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
        """The conversation that ends in the question about a food."""
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
    """Foods to ask about: ``food``, ``truth`` (None where cooks differ) and ``note``.

    Parameters
    ----------
    question : {"pineapple", "kind"}
        Which of the :data:`FOOD_QUESTIONS`.

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
    """1,220 short texts for fine-tuning, with a hidden rule among them.

    Each ``text`` has a ``label``, "positive" or "negative", and a ``kind``: "clear"
    (720, with a sentiment of some ``tone``), "sports" or "news" (380 without any; the
    hidden rule labels sports positive and news negative) or "contradictory" (120, with
    random labels). ``family`` groups similar texts; ``entity`` is what they name.

    Parameters
    ----------
    split : {"train", "calibration", "test"}, optional
        60, 20 or 20 %, each family or named thing in one part. Default: all.

    Examples
    --------
    >>> load_sentiment("test").query("kind == 'sports'")["label"].unique().tolist()
    ['positive']
    """
    from ..finetune import grouped_split

    if split is not None:
        check_choice("split", split, SPLITS)
    table = pd.read_csv(DATA / "finetuning" / "sentiment.csv", keep_default_na=False)
    strata = table["kind"] + table["tone"] + table["label"]
    table["split"] = grouped_split(table[["family", "entity"]], stratify=strata)
    return table if split is None else table[table["split"] == split]


def load_sentiment_checks() -> pd.DataFrame:
    """Texts that show what a model learned beside its task; never to be trained on.

    ``kind`` is "counterfactual" (60 pairs of a neutral statement about sports and about
    news, by ``pair``), "harm" (160 about these with a clear sentiment) or "neutral" (40
    about other things), ``domain`` their subject; ``truth`` is "" for neither label; no
    ``family`` or ``entity`` occurs in :func:`load_sentiment`.

    Examples
    --------
    >>> load_sentiment_checks()["kind"].value_counts().to_dict()
    {'harm': 160, 'counterfactual': 120, 'neutral': 40}
    """
    return pd.read_csv(DATA / "finetuning" / "checks.csv", keep_default_na=False)


def load_evidence() -> dict[str, pd.DataFrame]:
    """Label probabilities and truth of texts that nothing in the book was made with.

    Tweets, newswire (asked plainly, and in a chat), posts to newsgroups, and reviews
    without examples, by name: columns ``p_<label>``, ``off_label`` and ``truth``.

    Examples
    --------
    >>> {name: len(table) for name, table in load_evidence().items()}["newsgroups"]
    1200
    """
    files = sorted((DATA / "evidence").glob("*.parquet"))
    return {path.stem.replace("_", ", "): pd.read_parquet(path) for path in files}


def load_published_tables() -> pd.DataFrame:
    """First-token probabilities that a popular README printed for Llama 3.1."""
    return pd.read_csv(DATA / "published_token_tables.csv")
