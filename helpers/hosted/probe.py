"""A few cheap questions that find out what a server can do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..answers import TOKEN_PROTOCOLS, Answer, AnswerToken, Failure
from .client import ask
from .journal import Journal
from .requests import Request, build_request, open_client, plain_url

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_PROTOCOLS = ("chat", "completions", "responses")
_COLOUR = "Name a colour. Answer with one word:"
_PROSE = "Describe water in one short sentence of plain words, without JSON."
_CAPITAL = "What is the capital of France? Answer in one sentence."
_BEGUN = "The capital of France is Par"
_UNFINISHED = [
    {"role": "user", "content": _CAPITAL},
    {"role": "assistant", "content": _BEGUN},
]
_SCHEMA = {
    "type": "object",
    "properties": {"zq": {"type": "string", "enum": ["alpha", "beta"]}},
    "required": ["zq"],
    "additionalProperties": False,
}
_FLAGS = {"continue_final_message": True, "add_generation_prompt": False}
_CHANGES: tuple[dict[str, Any], ...] = (
    {"top_logprobs": 5},
    {"old_limit": True},
    {"temperature": None},
    {"bare": True},
    {"bare": True, "temperature": None},
)
_SENTINEL = re.compile(r"-9999(\.0*)?(?!\d)")
_NOT_ASKED = "Asked by the protocol chat only, which this server does not answer."


def _formats(schema: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    strict = {"name": "answer", "strict": True, "schema": dict(schema)}
    return {
        "json_object": {"type": "json_object"},
        "json_schema": {"type": "json_schema", "json_schema": strict},
        "schema in json_object": {"type": "json_object", "schema": dict(schema)},
    }


_FORMATS = _formats(_SCHEMA)
# How answers in these formats begin or what they hold.
_KEPT = dict.fromkeys(_FORMATS, r"(?s)\s*\{.*\"zq\"") | {"json_object": r"\s*\{"}


@dataclass(frozen=True)
class Finding:
    """Whether a server does something ("yes", "no", "unclear"), and the evidence."""

    verdict: str
    seen: str


@dataclass(frozen=True)
class Probe:
    """What a server can do with a model.

    ``protocol`` is the first of "chat", "completions" and "responses" that gives
    log-probabilities, or else that answers; ``findings`` are by name, in the order of
    ``table``; ``continue_with``, ``old_limit`` and ``step`` are for
    :class:`RequestSettings`; ``requests``, ``prompt_tokens`` and ``completion_tokens``
    are what it cost.
    """

    base_url: str
    model: str
    protocol: str | None
    findings: dict[str, Finding]
    requests: int
    prompt_tokens: int
    completion_tokens: int
    continue_with: dict[str, Any] | None = None
    old_limit: bool = False
    step: float | None = None

    def __getitem__(self, name: str) -> Finding:
        return self.findings[name]

    def response_format(self, schema: Mapping[str, Any]) -> dict[str, Any] | None:
        """The ``response_format`` for a JSON schema; None if none works."""
        for name, way in _formats(schema).items():
            found = self.findings.get(name)
            if name != "json_object" and found and found.verdict == "yes":
                return way
        return None

    def table(self) -> pd.DataFrame:
        """One row a finding: its ``verdict``, and what was ``seen``."""
        rows = [(found.verdict, found.seen) for found in self.findings.values()]
        index = pd.Index(list(self.findings), name="finding")
        return pd.DataFrame(rows, columns=["verdict", "seen"], index=index)

    def __str__(self) -> str:
        head = (
            f"{self.model} at {self.base_url} ({self.requests} requests, "
            f"{self.prompt_tokens} tokens read, {self.completion_tokens} written)"
        )
        wide, rows = max(map(len, self.findings)), self.findings.items()
        lines = [f"{name:<{wide}}  {f.verdict:<7}  {f.seen}" for name, f in rows]
        return "\n".join([head, *lines])


@dataclass
class Asked:
    """A server that is asked, with a journal, and what has come by request's key."""

    client: AsyncOpenAI
    journal: Journal
    transport: Mapping[str, Any]
    results: dict[str, Answer | Failure] = field(default_factory=dict)

    def ask(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        how = {"concurrency": 4, "retries": 1, "progress": False, **self.transport}
        results = ask(requests, self.client, self.journal, **how)
        keys = [request.key(str(self.client.base_url)) for request in requests]
        self.results |= dict(zip(keys, results, strict=True))
        return results

    @property
    def told(self) -> dict[str, Any]:
        """The fields of a :class:`Probe` on where was asked, and what it cost."""
        usage = [result.usage for result in self.results.values()]
        return {
            "base_url": plain_url(str(self.client.base_url)),
            "requests": len(self.results),
            "prompt_tokens": sum(used.prompt for used in usage),
            "completion_tokens": sum(used.completion for used in usage),
        }


def probe(
    client: AsyncOpenAI | str,
    model: str,
    *,
    journal: Journal | None = None,
    **transport: Any,
) -> Probe:
    """Find out what a server can do with a model, in about 20 short requests.

    Among the findings: "20 alternatives", "5 …", "1 …" (whether as many are listed),
    "after temperature" and "after the mask" (whether log-probabilities are those after
    temperature, and of the tokens that a schema allows), "continues" (whether "chat"
    goes on with an unfinished message) and "sentinel" (-9999 as a log-probability).
    A rejected key or an empty account raises :class:`AccessDenied`.

    Parameters
    ----------
    client : openai.AsyncOpenAI or str
        The client or the server's address, as for :class:`HostedClassifier`.
    model : str
        The model, as the server calls it.
    journal : Journal, optional
        Where answers are kept; what is in it is not asked again.
    **transport
        Fields of :class:`Transport`; by default, few requests at once and one retry.
    """
    with nullcontext(journal) if journal else Journal(":memory:") as kept:
        asker = _Asker(Asked(open_client(client), kept, transport), model)
        findings, working = _protocols(asker)
        asker.protocol, asker.working = (working or ["chat"])[0], working
        for name, look in _QUESTIONS.items() if working else ():
            try:
                findings[name] = Finding(*look(asker))
            except _Failed as failed:
                findings[name] = Finding(*failed.args)
    return Probe(
        model=model,
        protocol=asker.protocol if working else None,
        findings=findings,
        continue_with=asker.continue_with,
        old_limit=asker.old_limit,
        **asker.to.told,
    )


def _refused(result: Answer | Failure) -> bool:
    return isinstance(result, Failure) and result.status in (400, 422)


_Seen = tuple[str, str]  # a verdict, and what it is drawn from


class _Failed(Exception):
    """The verdict and the message of a question without an answer."""


@dataclass
class _Asker:
    """Asks as the server is known to take it, and keeps what came."""

    to: Asked
    model: str
    protocol: str = "chat"
    working: Sequence[str] = _PROTOCOLS
    old_limit: bool = False
    continue_with: dict[str, Any] | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def answers(self) -> list[Answer]:
        return [x for x in self.to.results.values() if isinstance(x, Answer)]

    def ask(
        self, prompt: Any, *ways: dict[str, Any], **changes: Any
    ) -> list[Answer | Failure]:
        requests = []
        for way in ways or ({},):
            change = {"protocol": self.protocol, **changes, **way}
            by = change["protocol"]
            if by not in self.working:
                raise _Failed("unclear", _NOT_ASKED)
            known = {"old_limit": self.old_limit, **self.settings.get(by, {})}
            bare = known.pop("bare", False)
            settings = {"top_logprobs": 20, "temperature": 0.0, **known, **change}
            least = TOKEN_PROTOCOLS[by].least_tokens
            settings["max_tokens"] = max(change.get("max_tokens", 1), least)
            request = build_request(model=self.model, prompt=prompt, **settings)
            requests.append(request.without_logprobs() if bare else request)
        return self.to.ask(requests)

    def answered(
        self, prompt: Any, *ways: dict[str, Any], **changes: Any
    ) -> list[Answer]:
        found = self.ask(prompt, *ways, **changes)
        for result in found:
            if isinstance(result, Failure):
                refused = all(map(_refused, found))
                raise _Failed("no" if refused else "unclear", result.message[:200])
        return [result for result in found if isinstance(result, Answer)]


def _protocols(asker: _Asker) -> tuple[dict[str, Finding], list[str]]:
    asked = asker.ask(_COLOUR, *({"protocol": name} for name in _PROTOCOLS))
    found = dict(zip(_PROTOCOLS, asked, strict=True))
    # A server that refuses one of the arguments may do without it.
    for change, name in product(_CHANGES, _PROTOCOLS):
        if _refused(found[name]) and (name == "chat" or "old_limit" not in change):
            asker.settings[name] = change
            (found[name],) = asker.ask(_COLOUR, protocol=name)
    findings = {}
    working = []
    for name, result in found.items():
        if isinstance(result, Answer):
            working.append(name)
            findings[name] = Finding("yes", f"It answered {result.text[:40]!r}.")
        else:
            lasting = "no" if result.status in (400, 404, 405, 422, 501) else "unclear"
            findings[name] = Finding(lasting, result.message[:200])
    if isinstance(found["chat"], Answer):
        findings["max_completion_tokens"] = _limit(asker, found["chat"])
    shown = [name for name in working if _first(found[name])]
    if working:
        seen = f"By {', '.join(shown)}." if shown else f"None by {', '.join(working)}."
        findings["logprobs"] = Finding("yes" if shown else "no", seen)
    return findings, sorted(working, key=lambda name: name not in shown)


def _limit(asker: _Asker, answer: Answer) -> Finding:
    written = answer.usage.completion
    refused = asker.settings.get("chat", {}).get("old_limit")
    asker.old_limit = bool(refused or written > 1 or len(answer.tokens) > 1)
    if refused:
        return Finding("no", "It is refused; max_tokens is not.")
    verdict, advice = ("no", ": use max_tokens") if asker.old_limit else ("yes", "")
    return Finding(verdict, f"Asked for 1 token, it wrote {written}{advice}.")


def _alternatives(k: int, asker: _Asker) -> _Seen:
    (answer,) = asker.answered(_COLOUR, {"top_logprobs": k})
    token = _first(answer)
    n = len(token.top) if token else 0
    return "yes" if n >= k else "no", f"{n} came."


def _listing(asker: _Asker) -> list[Answer]:
    found = asker.ask(_COLOUR, *({"top_logprobs": k} for k in (20, 5, 1)))
    return [result for result in found if isinstance(result, Answer)]


def _bytes(asker: _Asker) -> _Seen:
    tokens = [token for answer in _listing(asker) for token in answer.tokens]
    if not tokens:
        return "unclear", "There are no tokens."
    sent = any(token.bytes is not None for token in tokens)
    return "yes" if sent else "no", "Of the first token."


def _end(asker: _Asker) -> _Seen:
    (answer,) = asker.answered("Answer with the one word yes:", max_tokens=8)
    listed = [seen for token in answer.tokens for seen in (token.chosen, *token.top)]
    ends = sorted({seen.text for seen in listed if seen.ends_turn})
    if ends:
        return "yes", f"As {', '.join(map(repr, ends))}."
    if answer.tokens and answer.finish_reason == "stop":
        return "no", f"After {answer.text[:40]!r} there is nothing."
    return "unclear", f"It answered {answer.text[:40]!r}."


def _temperature(asker: _Asker) -> _Seen:
    """Whether logarithms shrink to a half at temperature 2."""
    (base,) = asker.ask(_COLOUR, temperature=1.0)
    for other in (2.0, 0.5):
        (result,) = asker.ask(_COLOUR, temperature=other)
        if isinstance(result, Answer):
            break
    before, after = _logprobs(base), _logprobs(result)
    both = [text for text in before if text in after]
    x, y = (np.array([found[text] for text in both]) for found in (before, after))
    if len(both) < 3 or x.std() < 0.1:
        return "unclear", f"{len(both)} tokens to compare."
    slope = float(np.polyfit(x, y, 1)[0])
    seen = (
        f"From temperature 1 to {other:g}, differences of log-probabilities change by "
        f"a factor of {slope:.2f}."
    )
    for verdict, factor in (("no", slope), ("yes", slope * other)):
        if abs(np.log(max(factor, 1e-9))) < 0.2:
            return verdict, seen
    return "unclear", seen


def _sampling(asker: _Asker) -> _Seen:
    ways = [{"draw": draw} for draw in range(3)]
    answers = asker.answered(_PROSE, *ways, temperature=2.0, max_tokens=8)
    if len({answer.text for answer in answers}) > 1:
        return "yes", "Answers at temperature 2 differed."
    return "no", "Three answers at temperature 2 were the same."


def _seed(asker: _Asker) -> _Seen:
    ways = [{"draw": draw, "seed": seed} for draw, seed in enumerate((7, 7, 8, 9))]
    answers = asker.answered(_PROSE, *ways, temperature=1.0, max_tokens=8)
    first, second, *others = (answer.text for answer in answers)
    if first != second:
        return "no", "The same seed gave two answers."
    if set(others) == {first}:
        return "unclear", "All seeds gave the same answer."
    return "yes", "The same seed gave the same, another did not."


def _bias(asker: _Asker) -> _Seen:
    was = "".join(answer.text for answer in _listing(asker)[:1])
    (answer,) = asker.answered(_COLOUR, logit_bias={"1000": 100})
    if answer.text == was:
        return "no", f"It wrote {was[:40]!r} with it, too."
    token = _first(answer)
    sure = token and (token.logprob or 0.0) > -0.01
    more = "; probabilities are those after it" if sure else ""
    return "yes", f"{was[:40]!r} became {answer.text[:40]!r}{more}."


def _format(name: str, asker: _Asker) -> _Seen:
    way = {"response_format": _FORMATS[name]}
    (answer,) = asker.answered(_PROSE, way, max_tokens=24, protocol="chat")
    kept = "yes" if re.match(_KEPT[name], answer.text) else "no"
    return kept, f"It wrote {answer.text[:40]!r}."


def _mask(asker: _Asker) -> _Seen:
    """Whether the first token's list is of legal tokens only, and whole."""
    seen = "No answer kept to a schema."
    ways = [{"response_format": way} for way in _FORMATS.values()]
    answers = asker.ask(_PROSE, *ways, max_tokens=24, protocol="chat")
    for name, answer in zip(_FORMATS, answers, strict=True):
        if isinstance(answer, Failure) or not re.match(_KEPT[name], answer.text):
            continue
        chances = {text: np.exp(p) for text, p in _logprobs(answer).items()}
        legal = sum(p for text, p in chances.items() if text.lstrip()[:1] in ("", "{"))
        rest = sum(chances.values()) - legal
        seen = f"Of the first token's list, {legal:.4f} is legal and {rest:.4f} is not."
        if rest > 1e-4 or legal > 0.9999:
            return "no" if rest > 1e-4 else "yes", seen
        if not chances:
            seen = "The answer that kept to a schema lists no tokens."
    return "unclear", seen


def _continues(asker: _Asker) -> _Seen:
    found = ""
    for arguments in ({}, _FLAGS):
        (result,) = asker.ask(_UNFINISHED, arguments, max_tokens=4, protocol="chat")
        if isinstance(result, Failure):
            found = found or result.message[:200]
            continue
        written = "".join(token.text for token in result.tokens) or result.text
        written = written.removeprefix(_BEGUN)
        found = f"After {_BEGUN!r} it wrote {written[:40]!r}"
        if written.startswith("is"):
            asker.continue_with = dict(arguments)
            return "yes", f"{found} with {arguments}." if arguments else f"{found}."
        found += "."
    return "no", found


def _reasoning(asker: _Asker) -> _Seen:
    most = max((answer.usage.reasoning for answer in asker.answers), default=0)
    if most:
        return "yes", f"Up to {most} tokens in one answer."
    silent = sum(bool(not a.text and a.usage.completion) for a in asker.answers)
    if silent:
        return "unclear", f"{silent} answers were paid for and are empty."
    return "no", "No answer counts any."


def _sentinel(asker: _Asker) -> _Seen:
    sent = asker.to.journal.responses(list(asker.to.results)).values()
    n = sum(_SENTINEL.search(said) is not None for said in sent)
    return "yes" if n else "no", f"In {n} of {len(sent)} answers."


# What is looked for, and who asks and judges what comes.
_QUESTIONS: dict[str, Callable[[_Asker], _Seen]] = {
    "20 alternatives": partial(_alternatives, 20),
    "5 alternatives": partial(_alternatives, 5),
    "1 alternative": partial(_alternatives, 1),
    "bytes": _bytes,
    "end of turn listed": _end,
    "after temperature": _temperature,
    "sampling": _sampling,
    "seed": _seed,
    "logit_bias": _bias,
    **{name: partial(_format, name) for name in _FORMATS},
    "after the mask": _mask,
    "continues": _continues,
    "reasoning": _reasoning,
    "sentinel": _sentinel,
}


def _first(result: Answer | Failure) -> AnswerToken | None:
    tokens = () if isinstance(result, Failure) else result.tokens[:1]
    listing = (token for token in tokens if token.top or token.logprob is not None)
    return next(listing, None)


def _logprobs(result: Answer | Failure) -> dict[str, float]:
    token = _first(result)
    return {text: p for text, p, _ in token.top if p is not None} if token else {}
