"""Two questions about foods, to be answered in JSON: a boolean and an enum.

After a post on log-probabilities in structured output (Jinks, 2025): does a dish hold
pineapple, and is an ingredient a fruit, a vegetable or a herb, as cooks use the words?
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..checks import check_choice
from .parts import DATA

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
        """The JSON schema of an answer.

        Parameters
        ----------
        order : sequence of str, optional
            The fields in the order in which they are to be written: the question's
            own, and "reason". The question's own alone otherwise.

        Returns
        -------
        dict

        Raises
        ------
        ValueError
            ``order`` lacks the question's field, or has another or one twice.

        Examples
        --------
        >>> FOOD_QUESTIONS["kind"].schema()["required"]
        ['type']
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

        Parameters
        ----------
        food : str
            The food.
        order : sequence of str, optional
            See :meth:`schema`.
        examples : bool, default=True
            Whether the model is shown examples first.

        Returns
        -------
        list of dict

        Raises
        ------
        ValueError
            As :meth:`schema`.

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

    Raises
    ------
    ValueError
        An unknown question.

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
