"""Typed questions, for servers that answer with a probability for each option."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from ..answers import DOORS, Answer, Failure
from ..bounds import LabelMass, rounding_bounds, rounding_step
from ..checks import check_choice
from .labels import HostedScores
from .requests import Request
from .rounds import KINDS, Asking

NO_SENSE = "The probabilities make no sense: "
_FEWEST, _MOST = 2, 255  # options, of the Decisions API; servers may take fewer
NAME = "label"  # of the one question about a text
_FAR = 0.01  # from one, for a sum of probabilities that are not rounded
_NEAR = 1e-6
_TOLD = ("calibrated_confidence", "action", "policy")


@dataclass(frozen=True)
class Question:
    """A question with a few possible answers, each of which gets a probability.

    Parameters
    ----------
    options : sequence of str
        2 to 255 labels, in the order in which they are offered: of a "score" from the
        lowest level to the highest. Of a "predicate", the first of two means that the
        statement is true, and the second that it is not.
    instructions : str
        What is asked; of a "predicate" the statement.
    kind : {"choice", "predicate", "score"}, default="choice"
        One of several, true or not ("noul" in System One), or a level on a scale.
    descriptions : mapping of str to str, optional
        What options mean, for some or all.

    Examples
    --------
    >>> question = Question(["joy", "anger"], "Which feeling?")
    >>> question.body("systemone")["criteria"]
    {'joy': None, 'anger': None}
    """

    options: Sequence[str]
    instructions: str
    kind: str = "choice"
    descriptions: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        options = [] if isinstance(self.options, str) else list(self.options)
        most = 2 if self.kind == "predicate" else _MOST
        if not _FEWEST <= len(options) <= most:
            raise ValueError(
                f"options of a {self.kind} must be {_FEWEST} to {most} labels, not "
                f"{len(options)}."
            )
        if not all(isinstance(option, str) and option.strip() for option in options):
            raise ValueError(f"options must be strings with a word, not {options!r}.")
        if len(set(options)) < len(options):
            raise ValueError(f"options must all be different, not {options!r}.")
        strange = sorted(set(self.descriptions or {}) - set(options))
        if strange:
            raise ValueError(f"descriptions must be of options, not of {strange!r}.")

    def body(self, protocol: str, name: str = NAME) -> dict[str, Any]:
        """The question as it is sent by "decisions" or "systemone"."""
        told = self.descriptions or {}
        asked: dict[str, Any] = {"type": self.kind, "instructions": self.instructions}
        if check_choice("protocol", protocol, tuple(DOORS)) == "systemone":
            if self.kind == "choice":
                return asked | {"criteria": {x: told.get(x) for x in self.options}}
            if self.kind == "score":
                levels = [f"{x}: {told[x]}" if x in told else x for x in self.options]
                return asked | {"criteria": levels}
            sides = zip(("true", "false"), self.options, strict=True)
            means = {side: told[label] for side, label in sides if label in told}
            return asked | {"type": "noul"} | ({"criteria": means} if means else {})
        if self.kind == "predicate":
            return asked | {"name": name}
        group, one = {"choice": ("choices", "value"), "score": ("levels", "label")}[
            self.kind
        ]
        offered = [
            {one: x} | ({"description": told[x]} if x in told else {})
            for x in self.options
        ]
        return asked | {"name": name, group: offered}

    def read(self, said: Mapping[str, Any]) -> Decision:
        """What a server said of this question, with nothing made up."""
        kind, n = said.get("type"), len(self.options)
        known: dict[str, Any] = {
            "confidence": _finite(said.get("confidence")),
            "label_mass": _share(said.get("label_mass")),
            "score": _finite(said.get("score")),
            "more": {
                "calibrated_confidence": _share(said.get("calibrated_confidence")),
                **{name: _word(said.get(name)) for name in ("action", "policy")},
            },
        }
        if kind == "refusal":
            why = said.get("reason")
            words = f"The model refused{f': {why!r}' if why else ''}. Reword the text."
            return Decision(np.full(n, np.nan), refused=True, problem=words)
        try:
            if kind not in (None, self.kind, {"predicate": "noul"}.get(self.kind)):
                raise ValueError(f"a {self.kind} was asked, and a {kind!r} answered.")
            values = [self._probability(x, p) for x, p in self._pairs(said).items()]
        except ValueError as error:
            return Decision(np.full(n, np.nan), problem=f"{NO_SENSE}{error}", **known)
        chosen = said.get("choice")
        at = self.options.index(chosen) if chosen in self.options else None
        return Decision(np.array(values), chosen=at, **known)

    def _pairs(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """The probability that was sent for each option, in the order of options."""
        if self.kind == "predicate":
            p = said.get("probability", said.get("noul"))
            rest = 1 - p if _is_number(p) else p
            return dict(zip(self.options, (p, rest), strict=True))
        listed, names = said.get("probabilities"), [*self.options]
        if isinstance(listed, Mapping):  # System One counts levels from 0
            listed = list(listed.items())
            names = (
                [str(at) for at in range(len(names))] if self.kind == "score" else names
            )
        elif isinstance(listed, list):
            one = "value" if self.kind == "choice" else "label"
            rows = [row if isinstance(row, Mapping) else {} for row in listed]
            listed = [(row.get(one), row.get("probability")) for row in rows]
        else:
            raise ValueError(f"there are none, but {listed!r}.")
        found = [name for name, _ in listed]
        if sorted(map(repr, found)) != sorted(map(repr, names)):
            raise ValueError(f"they are for {found!r}, not for {names!r}.")
        sent = dict(listed)
        return {x: sent[name] for x, name in zip(self.options, names, strict=True)}

    @staticmethod
    def _probability(option: str, value: Any) -> float:
        if not _is_number(value) or not 0 <= value <= 1 + _NEAR:
            raise ValueError(f"that of {option!r} is {value!r}.")
        return min(float(value), 1.0)


@dataclass(frozen=True)
class Decision:
    """What a server said of one question.

    ``probabilities`` are those of the options as they were sent, all NaN with a
    ``problem``; ``chosen`` is the server's own choice, as a place in the options;
    ``confidence`` and ``score`` are numbers of the server's, whatever they mean, and
    ``label_mass`` is the probability of all options together, NaN where not told;
    ``more`` are a policy's ``calibrated_confidence``, ``action`` and ``policy``.
    """

    probabilities: np.ndarray
    chosen: int | None = None
    confidence: float = math.nan
    label_mass: float = math.nan
    score: float = math.nan
    refused: bool = False
    problem: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


def decision_request(
    protocol: str,
    model: str,
    text: Any,
    questions: Mapping[str, Question],
    **options: Any,
) -> Request:
    """A request for :func:`ask` that puts typed questions about one text.

    Parameters
    ----------
    protocol : {"decisions", "systemone"}
        OpenAI's ``/v1/decisions``, or ``/v1/systemone``.
    model : str
        The model, as the server calls it.
    text : str or list
        What the questions are about: a text, or messages.
    questions : mapping of str to Question
        1 to 400 questions by their names.
    **options
        Further arguments, and ``draw`` of :class:`Request`.

    Examples
    --------
    >>> asked = {"rude": Question(["yes", "no"], "The text is rude.", "predicate")}
    >>> decision_request("decisions", "m", "Go away!", asked).arguments["questions"]
    [{'type': 'predicate', 'instructions': 'The text is rude.', 'name': 'rude'}]
    """
    way = DOORS[check_choice("protocol", protocol, tuple(DOORS))]
    bodies = {name: one.body(protocol, name) for name, one in questions.items()}
    asked = bodies if way.form is dict else list(bodies.values())
    draw = options.pop("draw", 0)
    arguments = {"model": model, way.prompt: text, "questions": asked, **options}
    return Request(protocol, arguments, draw)


def read_decisions(
    answer: Answer | Failure, questions: Mapping[str, Question]
) -> dict[str, Decision]:
    """What an answer says of each question that was asked by these names.

    Parameters
    ----------
    answer : Answer or Failure
        What :func:`ask` returned.
    questions : mapping of str to Question
        As for :func:`decision_request`.

    Examples
    --------
    >>> from helpers.hosted import read_answer
    >>> said = {"answers": [{"type": "predicate", "name": "rude", "probability": 0.9}]}
    >>> asked = {"rude": Question(["yes", "no"], "The text is rude.", "predicate")}
    >>> found = read_decisions(read_answer("decisions", said), asked)
    >>> found["rude"].probabilities.round(2).tolist(), found["rude"].confidence
    ([0.9, 0.1], nan)
    """
    found = {}
    said = answer.decisions if isinstance(answer, Answer) else ()
    # Unnamed answers stand in the order of the questions.
    names = list(questions) if len(said) == len(questions) else [None] * len(said)
    by_name: dict[Any, list[Mapping[str, Any]]] = {}
    for at, one in enumerate(said):
        name = one.get("name")
        by_name.setdefault(names[at] if name is None else str(name), []).append(one)
    for name, question in questions.items():
        mine = by_name.get(name, [])
        if len(mine) == 1:
            found[name] = question.read(mine[0])
            continue
        why = f"{NO_SENSE}there are {len(mine)} answers to question {name!r}."
        if isinstance(answer, Failure):
            why = answer.message
        lost = np.full(len(question.options), np.nan)
        found[name] = Decision(lost, problem=why)
    return found


# Of many texts -----------------------------------------------------------------------


@dataclass(frozen=True)
class DecisionScores(HostedScores):
    """Label probabilities of texts from a server that tells them, and what else is."""

    columns: ClassVar[tuple[str, ...]] = (
        *("decided", "total", "step", "vendor_confidence", "refused", "level"),
        *("vendor_score", *_TOLD, "calls"),
    )
    _kinds: ClassVar = HostedScores._kinds | {
        "refused": bool,
        **dict.fromkeys(("action", "policy"), object),
    }

    total: np.ndarray
    step: np.ndarray
    vendor_confidence: np.ndarray
    refused: np.ndarray
    level: np.ndarray
    vendor_score: np.ndarray
    calibrated_confidence: np.ndarray
    action: np.ndarray
    policy: np.ndarray

    @classmethod
    def of_decisions(
        cls,
        found: Sequence[Decision],
        question: Question,
        order: Sequence[int],
        step: float | None,
    ) -> Self:
        """Scores with columns in another order than the options'."""
        sent = np.array([one.probabilities for one in found])
        total, problems = sent.sum(axis=1), [one.problem for one in found]
        step = rounding_step(sent) if step is None else step
        if step:
            ends = rounding_bounds(sent, step)
            possible, rule = ~np.isnan(ends[:, 0, 0]), f" rounded to {step:g}"
        else:
            possible, rule = np.abs(total - 1) <= _FAR, ""
        for row in np.flatnonzero(~possible & ~np.isnan(total)):
            problems[row] = (
                f"{NO_SENSE}they sum to {total[row]:.4g}, which no probabilities{rule} "
                f"do: {sent[row].tolist()!r}."
            )
        some = possible & (total > 0)
        problems = [
            problem or (None if known else "All probabilities are 0.")
            for problem, known in zip(problems, some, strict=True)
        ]
        shares = np.divide(
            sent, total[:, None], out=np.full_like(sent, np.nan), where=some[:, None]
        )
        low, high = shares, shares
        if step:
            low, high = np.fmin(ends[..., 0], shares), np.fmax(ends[..., 1], shares)
        low, high = np.nan_to_num(low, nan=0.0), np.nan_to_num(high, nan=1.0)
        best = [
            _best(row, one.chosen) if known else -1
            for row, one, known in zip(sent, found, some, strict=True)
        ]
        places = np.empty(len(order), dtype=int)
        places[list(order)] = range(len(order))
        more = {name: [one.more.get(name) for one in found] for name in _TOLD}
        level = np.full(len(found), np.nan)
        if question.kind == "score":
            level = shares @ np.arange(len(order))
        return cls._of(
            shares[:, order],
            low=low[:, order],
            high=high[:, order],
            best=[-1 if at < 0 else places[at] for at in best],
            decided=[
                bool(known) and LabelMass.leader(*ends)[1]
                for known, *ends in zip(some, low, high, strict=True)
            ],
            off_label=1 - np.array([one.label_mass for one in found]),
            calls=[1] * len(found),
            problems=problems,
            total=total,
            step=np.full(len(found), step or np.nan),
            vendor_confidence=[one.confidence for one in found],
            refused=[one.refused for one in found],
            level=level,
            vendor_score=[one.score for one in found],
            **more,
        )


def _best(sent: np.ndarray, chosen: int | None) -> int:
    """The most probable option; of several, the one that the server chose."""
    tied = chosen is not None and sent[chosen] == sent.max()
    return chosen if tied and chosen is not None else int(sent.argmax())


@dataclass(kw_only=True)
class DecisionRounds(Asking):
    """Puts one typed question about each text."""

    question: Question
    order: Sequence[int]  # of the classes, as places in the options
    request: Callable[[str], Request]

    def scores(self, texts: list[str]) -> DecisionScores:
        """Scores of these texts, the first of which shows whether there is a door."""
        requests = [self.request(text) for text in texts]
        results = self._ask(requests[:1], [0])
        results += self._ask(requests[1:], range(1, len(requests)))
        asked = {NAME: self.question}
        found = [read_decisions(result, asked)[NAME] for result in results]
        scores = DecisionScores.of_decisions(
            found, self.question, self.order, self.how.step
        )
        self._look(scores)
        return scores

    def _look(self, scores: DecisionScores) -> None:
        off = scores.total[scores.known & (np.abs(scores.total - 1) > _NEAR)]
        if len(off) and not self.recalls:
            warnings.warn(
                f"The probabilities of {len(off)} of {len(scores.total)} texts do not "
                f"sum to one, but to {off.min():.4g} to {off.max():.4g}: they are "
                "divided by that (column total).",
                stacklevel=6,
            )
        lost = int(np.sum(scores.off_label > 0.5))
        if 2 * lost > np.sum(~np.isnan(scores.off_label)):
            self.off_label = (
                f"Most probability is on no label, more than half in {lost} of "
                f"{len(scores.off_label)} texts: the labels are a small rest of what "
                "the model would say. Try other instructions, or names of labels."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _finite(value: Any) -> float:
    return float(value) if _is_number(value) and abs(value) < 1e18 else math.nan


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _share(value: Any) -> float:
    found = _finite(value)
    return min(found, 1.0) if 0 <= found <= 1 + 1e-3 else math.nan
