"""The distribution over one field of JSON answers that a real server was held to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI

from helpers import EMBEDDED
from helpers.datasets import FOOD_QUESTIONS, load_foods
from helpers.hosted import Answer, Journal, Request, ask, build_request
from helpers.structured import field_distribution


def request_for(question: str, food: str, max_tokens: int = 32) -> Request:
    put = FOOD_QUESTIONS[question]
    return build_request(
        "chat",
        EMBEDDED,
        put.messages(food),
        max_tokens=max_tokens,
        old_limit=True,
        response_format={"type": "json_object", "schema": put.schema()},
    )


def answers(base_url: str, folder: Path, requests: list[Request]) -> list[Any]:
    client = AsyncOpenAI(api_key="-", base_url=base_url)
    with Journal(folder / "answers.sqlite") as journal:
        return ask(requests, client, journal, progress=False)


@pytest.mark.parametrize("question", FOOD_QUESTIONS)
def test_distribution_of_a_field(base_url: str, tmp_path: Path, question: str) -> None:
    put = FOOD_QUESTIONS[question]
    foods = load_foods(question)["food"].head(3)
    requests = [request_for(question, food) for food in foods]
    for answer in answers(base_url, tmp_path, requests):
        assert isinstance(answer, Answer) and answer.problem is None
        found = field_distribution(
            answer, put.field, choices=put.values, constrained=True
        )
        assert found.value == json.loads(answer.text)[put.field]
        assert found.value in put.values
        # What was listed is all somewhere.
        open_mass = found.off_list + found.unlisted + found.unresolved
        assert found.lower.sum() + open_mass == pytest.approx(1, abs=1e-6)
        assert np.all(found.lower <= found.upper)
        assert np.all(found.upper <= found.lower + found.unlisted + found.unresolved)
        assert np.all(0 <= found.lower_share) and np.all(found.upper_share <= 1)
        assert np.all(found.lower_share <= found.upper_share)
        assert found.lower_share.sum() <= 1 <= found.upper_share.sum()
        # The answer's own way to its value is part of that value's probability.
        own = found.lower[put.values.index(found.value)]
        assert 0 < np.exp(found.logprob) <= own + 1e-9
        # Tokens that the schema rules out are listed with probabilities.
        assert "unmasked" in found.flags and found.off_list > 1e-3
        assert not {"masked", "other_value", "missing_logprob"} & {*found.flags}


def test_answer_that_is_cut_says_so(base_url: str, tmp_path: Path) -> None:
    (answer,) = answers(base_url, tmp_path, [request_for("kind", "lemon", 3)])
    assert answer.finish_reason == "length" and len(answer.tokens) == 3
    with pytest.raises(ValueError, match="cut at the limit"):
        field_distribution(answer, "type", choices=FOOD_QUESTIONS["kind"].values)
