"""How ``/v1/decisions`` and ``/v1/systemone`` are asked, and how they answer."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr


@dataclass
class Reading:
    """Probabilities of a question's options, and what else is known of them."""

    shares: list[float]
    label_mass: float | None
    n_tokens: int
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> int:
        return int(np.argmax(self.shares))

    @property
    def mean(self) -> float:
        """The expected place of the answer, from 0."""
        return float(np.dot(range(len(self.shares)), self.shares))


class _Form(BaseModel):
    """What a client sends; what this server would not heed is refused."""

    model_config = ConfigDict(extra="forbid")


class Option(_Form):
    """One of the answers that a question allows, and what it means."""

    value: StrictStr | StrictBool
    description: str | None = None

    @property
    def label(self) -> str:
        """The option as a model writes it."""
        return as_text(self.value)


class _Level(Option):
    value: StrictStr = Field(alias="label")


class _Part(_Form):
    type: Literal["input_text", "output_text", "input_json"]
    text: str = ""
    data: dict[str, Any] | list[dict[str, Any]] | None = None
    prompt_cache_breakpoint: Any = None


class _Message(_Form):
    role: Literal["user", "developer", "system", "assistant"]
    content: str | list[_Part]
    type: Literal["message"] = "message"
    phase: Any = None


class _Question(_Form):
    instructions: str | list[_Part]
    name: str | None = None


class _Predicate(_Question):
    type: Literal["predicate"]
    options: ClassVar = [Option(value="yes"), Option(value="no")]

    def answer(self, found: Reading) -> dict[str, Any]:
        return {"probability": found.shares[0]}


class _Choice(_Question):
    type: Literal["choice"]
    options: list[Option] = Field(alias="choices", min_length=2, max_length=255)

    def answer(self, found: Reading) -> dict[str, Any]:
        pairs = zip(self.options, found.shares, strict=True)
        return {
            "choice": self.options[found.best].value,
            "confidence": found.shares[found.best],
            "probabilities": [{"value": x.value, "probability": p} for x, p in pairs],
        }


class _Score(_Question):
    type: Literal["score"]
    options: list[_Level] = Field(alias="levels", min_length=2, max_length=255)

    def answer(self, found: Reading) -> dict[str, Any]:
        return {
            "score": found.mean,
            "confidence": found.shares[found.best],
            "probabilities": [
                {"label": one.value, "probability": share, "value": at}
                for at, (one, share) in enumerate(
                    zip(self.options, found.shares, strict=True)
                )
            ],
        }


class DecisionRequest(_Form):
    """The body of ``POST /v1/decisions``."""

    model: str
    input: str | Annotated[list[_Message], Field(min_length=1)]
    questions: list[
        Annotated[_Predicate | _Choice | _Score, Field(discriminator="type")]
    ] = Field(min_length=1, max_length=400)
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    safety_identifier: Any = None

    @property
    def text(self) -> str:
        """What the questions are about; several messages with their roles."""
        if isinstance(self.input, str):
            return self.input
        said = [(one.role, _joined(one.content)) for one in self.input]
        if len(said) == 1:
            return said[0][1]
        return "\n\n".join(f"{role}: {text}" for role, text in said)

    @property
    def asked(self) -> list[tuple[str, str, Sequence[Option]]]:
        """Of each question its place, instructions and options."""
        return [
            (f"questions.{at}", _joined(one.instructions), one.options)
            for at, one in enumerate(self.questions)
        ]

    def answered(self, model: str, found: Sequence[Any]) -> dict[str, Any]:
        """The answer; an error instead of a reading is a refusal."""
        answers = []
        for question, one in zip(self.questions, found, strict=True):
            answer = {"type": question.type, "name": question.name}
            if isinstance(one, Reading):
                mass = {"label_mass": one.label_mass}
                answers.append({**answer, **question.answer(one), **mass, **one.more})
            else:
                answers.append({**answer, "type": "refusal", "reason": str(one)})
        n = sum(one.n_tokens for one in found if isinstance(one, Reading))
        usage = {
            "input_tokens": n,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": n,
        }
        return {"answers": answers, "model": model, "usage": usage}


class _Sides(_Form):
    true: Any = None
    false: Any = None


class _Noul(_Form):
    type: Literal["noul"]
    instructions: Any = ""
    criteria: _Sides | None = None

    @property
    def options(self) -> list[Option]:
        told = self.criteria or _Sides()
        return [_option("yes", told.true), _option("no", told.false)]

    def answer(self, found: Reading) -> dict[str, Any]:
        yes, no = found.shares
        return {"noul": yes, "probabilities": {"yes": yes, "no": no}}


class _Named(_Form):
    type: Literal["choice"]
    instructions: Any = ""
    criteria: dict[str, Any] = Field(min_length=2, max_length=255)

    @property
    def options(self) -> list[Option]:
        return [_option(name, told) for name, told in self.criteria.items()]

    def answer(self, found: Reading) -> dict[str, Any]:
        names = [*self.criteria]
        probabilities = dict(zip(names, found.shares, strict=True))
        return {"choice": names[found.best], "probabilities": probabilities}


class _Ordered(_Form):
    type: Literal["score"]
    instructions: Any = ""
    criteria: list[Any] = Field(min_length=2, max_length=255)

    @property
    def options(self) -> list[Option]:
        return [_option(as_text(level)) for level in self.criteria]

    def answer(self, found: Reading) -> dict[str, Any]:
        return {
            "score": found.mean,
            "legend": {str(at): one.label for at, one in enumerate(self.options)},
            "probabilities": {str(at): p for at, p in enumerate(found.shares)},
        }


class SystemOneRequest(_Form):
    """The body of ``POST /v1/systemone``, as vLLM 0.32 takes it."""

    model: str | None = None
    state: Any
    questions: dict[
        str, Annotated[_Noul | _Named | _Ordered, Field(discriminator="type")]
    ] = Field(min_length=1, max_length=400)
    instructions: str | None = None
    cache_salt: Any = None
    priority: Any = None
    request_id: Any = None

    @property
    def text(self) -> str:
        """What the questions are about."""
        return as_text(self.state)

    @property
    def asked(self) -> list[tuple[str, str, Sequence[Option]]]:
        """Of each question its place, instructions and options."""
        found: list[tuple[str, str, Sequence[Option]]] = []
        for name, one in self.questions.items():
            parts = [self.instructions, as_text(one.instructions)]
            said = "\n\n".join(part for part in parts if part)
            found.append((f"questions.{name}", said, one.options))
        return found

    def answered(self, model: str, found: Sequence[Any]) -> dict[str, Any]:
        """The answer; ValueError for an error instead of a reading."""
        answers, diagnostics, n = {}, {}, 0
        for (name, question), one in zip(self.questions.items(), found, strict=True):
            if not isinstance(one, Reading):
                raise ValueError(f"question {name!r}: {one}")
            top, mass = one.shares[one.best], one.label_mass
            # As in vLLM: the chosen label's probability among all that can be said.
            confidence = top if mass is None else top * mass
            answers[name] = {
                "type": question.type,
                **question.answer(one),
                "confidence": confidence,
                **one.more,
            }
            # All that is not a label shares what is left.
            is_sure = mass is not None and confidence >= 1 - mass
            diagnostics[name] = {"label_mass": mass, "argmax_is_label": is_sure or None}
            n += one.n_tokens
        return {
            "id": f"decision-{uuid.uuid4().hex}",
            "object": "structured_decision",
            "created": int(time.time()),
            "model": model,
            "answers": answers,
            "usage": {"input_tokens": n, "output_tokens": 0},
            "diagnostics": diagnostics,
        }


def as_text(value: Any) -> str:
    """A text as it is, any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _joined(content: str | list[_Part]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(
        as_text(one.data) if one.type == "input_json" else one.text for one in content
    )


def _option(value: str, told: Any = None) -> Option:
    return Option(value=value, description=None if told is None else as_text(told))
