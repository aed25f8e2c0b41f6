"""A few cheap questions that find out what a server can do.

Servers that speak the same protocols differ in what they list, in what their
probabilities are of, and in what they quietly ignore. Asking beats believing.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .answers import Answer, AnswerToken, Failure
from .client import ask
from .journal import Journal
from .requests import (
    LEAST_TOKENS,
    Request,
    build_request,
    open_client,
    plain_url,
)
from .spelling import ends_turn

if TYPE_CHECKING:
    from openai import AsyncOpenAI

VERDICTS = ("yes", "no", "unclear")
_COLOUR = "Name a colour. Answer with one word:"
_ONE_WORD = "Answer with the one word yes:"
_PROSE = "Describe water in one short sentence of plain words, without JSON."
_CAPITAL = "What is the capital of France? Answer in one sentence."
_BEGUN, _GOES_ON = "The capital of France is Par", "is"
_SCHEMA = {
    "type": "object",
    "properties": {"zq": {"type": "string", "enum": ["alpha", "beta"]}},
    "required": ["zq"],
    "additionalProperties": False,
}
_FORMATS: dict[str, dict[str, Any]] = {
    "json_object": {"type": "json_object"},
    "json_schema": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": _SCHEMA},
    },
    "schema in json_object": {"type": "json_object", "schema": _SCHEMA},
}
_CONTINUING: tuple[dict[str, Any], ...] = (
    {},
    {"continue_final_message": True, "add_generation_prompt": False},
)
_CHANGES: tuple[dict[str, Any], ...] = (
    {"top_logprobs": 5},
    {"old_limit": True},
    {"temperature": None},
    {"bare": True},
    {"bare": True, "temperature": None},
)
_SENTINEL = re.compile(r"-9999(\.0*)?(?!\d)")
_NOT_ASKED = "Asked by the protocol chat only, which this server does not answer."


@dataclass(frozen=True)
class Finding:
    """Whether a server does something.

    Attributes
    ----------
    verdict : {"yes", "no", "unclear"}
        The answer.
    seen : str
        What it is drawn from.
    """

    verdict: str
    seen: str


@dataclass(frozen=True)
class Probe:
    """What a server can do with a model.

    Attributes
    ----------
    base_url, model : str
        What was asked.
    protocol : str or None
        The protocol that the details were asked by: the first that gives
        log-probabilities of "chat", "completions" and "responses", or else the first
        that answers.
    findings : dict of str to Finding
        By name, in the order of the table.
    continue_with : dict or None
        Arguments that make "chat" go on with an unfinished message of the assistant,
        for :class:`HostedClassifier`; None if nothing does.
    old_limit : bool
        Whether "chat" must call its limit ``max_tokens``.
    requests, prompt_tokens, completion_tokens : int
        What it cost.
    """

    base_url: str
    model: str
    protocol: str | None
    findings: dict[str, Finding]
    continue_with: dict[str, Any] | None
    old_limit: bool
    requests: int
    prompt_tokens: int
    completion_tokens: int

    def __getitem__(self, name: str) -> Finding:
        return self.findings[name]

    def response_format(self, schema: Mapping[str, Any]) -> dict[str, Any] | None:
        """How this server is asked for an answer that keeps to a JSON schema.

        Parameters
        ----------
        schema : mapping
            A schema.

        Returns
        -------
        dict or None
            What to send as ``response_format``; None if it does not keep to any.
        """
        strict = {"name": "answer", "strict": True, "schema": dict(schema)}
        ways: dict[str, dict[str, Any]] = {
            "json_schema": {"type": "json_schema", "json_schema": strict},
            "schema in json_object": {"type": "json_object", "schema": dict(schema)},
        }
        for name, way in ways.items():
            if name in self.findings and self[name].verdict == "yes":
                return way
        return None

    def table(self) -> pd.DataFrame:
        """One row a finding.

        Returns
        -------
        pandas.DataFrame
            Columns ``verdict`` and ``seen``; the index is what was looked for.
        """
        rows = [(found.verdict, found.seen) for found in self.findings.values()]
        index = pd.Index(list(self.findings), name="finding")
        return pd.DataFrame(rows, columns=["verdict", "seen"], index=index)

    def __str__(self) -> str:
        wide = max(map(len, self.findings), default=0)
        lines = [
            f"{name:<{wide}}  {found.verdict:<7}  {found.seen}"
            for name, found in self.findings.items()
        ]
        cost = (
            f"{self.requests} requests, {self.prompt_tokens} tokens read, "
            f"{self.completion_tokens} written"
        )
        return "\n".join([f"{self.model} at {self.base_url} ({cost})", *lines])


def probe(
    client: AsyncOpenAI | str,
    model: str,
    *,
    concurrency: int = 4,
    retries: int = 1,
    timeout: float = 60.0,
    journal: Journal | None = None,
) -> Probe:
    """Find out what a server can do with a model.

    About 20 requests, each for at most 24 tokens; what they cost is in the result. An
    answer of a model is a matter of chance, and so "unclear" is a verdict too.

    The findings are: the three protocols; "max_completion_tokens" (whether "chat"
    obeys that name of the limit); "logprobs"; "20 alternatives", "5 alternatives" and
    "1 alternative" (whether as many come as were asked for); "bytes" of the tokens;
    "end of turn listed"; "after temperature" (whether the log-probabilities are those
    after temperature was applied); "sampling" (whether answers at temperature 2
    differ); "seed" and "logit_bias" (whether they have an effect); three ways to ask
    for JSON: "json_object", "json_schema" and "schema in json_object"; "after the mask"
    (whether log-probabilities of such an answer are those of the tokens that the schema
    allows); "continues" (whether "chat" goes on with an unfinished message of the
    assistant); "reasoning" tokens that are paid for;
    and the "sentinel", -9999 in place of a log-probability.

    Parameters
    ----------
    client : openai.AsyncOpenAI or str
        Who asks, or the server's address, as :class:`HostedClassifier` takes it.
    model : str
        The model, as the server calls it.
    concurrency : int, default=4
        The most requests in flight.
    retries : int, default=1
        How often each is asked again when the server stumbles.
    timeout : float, default=60.0
        Seconds of silence that end an attempt.
    journal : Journal, optional
        Where answers are kept; what is in it is not asked again. Without one, all is
        asked anew.

    Returns
    -------
    Probe

    Raises
    ------
    AccessDenied
        The server does not accept the key, or the account is empty.
    """
    options = {"concurrency": concurrency, "retries": retries, "timeout": timeout}
    with ExitStack() as stack:
        if journal is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            journal = stack.enter_context(Journal(Path(folder) / "probe.sqlite"))
        return _Asker(open_client(client), model, journal, options).look()


@dataclass
class _Asker:
    """Asks, keeps what came, and draws its conclusions."""

    client: AsyncOpenAI
    model: str
    journal: Journal
    options: dict[str, Any]
    protocol: str = "chat"
    old_limit: bool = False
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    results: dict[str, Answer | Failure] = field(default_factory=dict)

    @property
    def answers(self) -> list[Answer]:
        """All answers so far."""
        return [found for found in self.results.values() if isinstance(found, Answer)]

    def look(self) -> Probe:
        """All questions in turn."""
        working = self._protocols()
        continue_with: dict[str, Any] | None = None
        if working:
            first = self._alternatives()
            self._end_of_turn()
            self._after_temperature()
            self._sampling()
            self._seed()
            self._logit_bias(first)
            self._formats("chat" in working)
            continue_with = self._continues("chat" in working)
            self._reasoning()
            self._sentinel()
        usage = [answer.usage for answer in self.answers]
        return Probe(
            base_url=plain_url(str(self.client.base_url)),
            model=self.model,
            protocol=self.protocol if working else None,
            findings=self.findings,
            continue_with=continue_with,
            old_limit=self.old_limit,
            requests=len(self.results),
            prompt_tokens=sum(used.prompt for used in usage),
            completion_tokens=sum(used.completion for used in usage),
        )

    # Asking -------------------------------------------------------------------

    def ask(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """Ask, and remember the answers."""
        requests = [
            request.without_logprobs()
            if self.settings.get(request.protocol, {}).get("bare")
            else request
            for request in requests
        ]
        results = ask(
            requests, self.client, self.journal, progress=False, **self.options
        )
        address = str(self.client.base_url)
        keys = [request.key(address) for request in requests]
        self.results |= dict(zip(keys, results, strict=True))
        return results

    def build(
        self, prompt: Any, max_tokens: int = 1, *, protocol: str = "", **changes: Any
    ) -> Request:
        """A request by the protocol of choice, as the server is known to take it."""
        protocol = protocol or self.protocol
        settings = {
            "top_logprobs": 20,
            "temperature": 0.0,
            "old_limit": self.old_limit,
            **self.settings.get(protocol, {}),
            **changes,
        }
        settings.pop("bare", None)
        tokens = max(max_tokens, LEAST_TOKENS[protocol])
        return build_request(
            protocol, self.model, prompt, max_tokens=tokens, **settings
        )

    def note(self, name: str, verdict: str, seen: str) -> None:
        """Write a finding down."""
        self.findings[name] = Finding(verdict, seen)

    # Finding out --------------------------------------------------------------

    def _protocols(self) -> list[str]:
        """Protocols that answer, those with log-probabilities first."""
        names = ("chat", "completions", "responses")
        first = [self.build(_COLOUR, protocol=name) for name in names]
        found = dict(zip(names, self.ask(first), strict=True))
        # A server that refuses one of the arguments may do without it.
        for change in _CHANGES:
            for name in names:
                if not _refused(found[name]) or (
                    "old_limit" in change and name != "chat"
                ):
                    continue
                self.settings[name] = change
                (found[name],) = self.ask([self.build(_COLOUR, protocol=name)])
        for name in names:
            result = found[name]
            if isinstance(result, Answer):
                self.note(name, "yes", f"It answered {result.text[:40]!r}.")
            else:
                lasting = result.status in (400, 404, 405, 422, 501)
                self.note(name, "no" if lasting else "unclear", result.message[:200])
        working = [name for name in names if isinstance(found[name], Answer)]
        working.sort(key=lambda name: not _first(found[name]))
        self.protocol = working[0] if working else self.protocol
        self._limit(found["chat"])
        shown = [name for name in working if _first(found[name])]
        if shown:
            self.note("logprobs", "yes", f"By {', '.join(shown)}.")
        elif working:
            self.note("logprobs", "no", f"None by {', '.join(working)}.")
        return working

    def _limit(self, result: Answer | Failure) -> None:
        name = "max_completion_tokens"
        if not isinstance(result, Answer):
            return
        written = result.usage.completion
        if self.settings.get("chat", {}).get("old_limit"):
            self.old_limit = True
            self.note(name, "no", "It is refused; max_tokens is not.")
        elif written > 1 or len(result.tokens) > 1:
            self.old_limit = True
            self.note(
                name, "no", f"Asked for 1 token, it wrote {written}: use max_tokens."
            )
        else:
            self.note(name, "yes", f"Asked for 1 token, it wrote {written}.")

    def _alternatives(self) -> Answer | None:
        """How many alternatives come; the answer with the most."""
        asked = (20, 5, 1)
        results = self.ask([self.build(_COLOUR, top_logprobs=k) for k in asked])
        for k, result in zip(asked, results, strict=True):
            name = f"{k} alternative{'s' if k > 1 else ''}"
            if isinstance(result, Failure):
                self.note(name, "no", result.message[:200])
                continue
            token = _first(result)
            n = len(token.top) if token else 0
            self.note(name, "yes" if n >= k else "no", f"{n} came.")
        answers = [result for result in results if isinstance(result, Answer)]
        tokens = [token for answer in answers for token in answer.tokens]
        sent = any(token.bytes is not None for token in tokens)
        if tokens:
            self.note("bytes", "yes" if sent else "no", "Of the first token.")
        else:
            self.note("bytes", "unclear", "There are no tokens.")
        return answers[0] if answers else None

    def _end_of_turn(self) -> None:
        name = "end of turn listed"
        (result,) = self.ask([self.build(_ONE_WORD, 8)])
        if isinstance(result, Failure):
            return self.note(name, "unclear", result.message[:200])
        listed = [text for t in result.tokens for text in (t.text, *_texts(t))]
        ends = sorted({text for text in listed if ends_turn(text)})
        if ends:
            self.note(name, "yes", f"As {', '.join(map(repr, ends))}.")
        elif result.tokens and result.finish_reason == "stop":
            self.note(name, "no", f"After {result.text[:40]!r} there is nothing.")
        else:
            self.note(name, "unclear", f"It answered {result.text[:40]!r}.")

    def _after_temperature(self) -> None:
        """Whether logarithms shrink to a half at temperature 2."""
        name = "after temperature"
        (base,) = self.ask([self.build(_COLOUR, temperature=1.0)])
        for other in (2.0, 0.5):
            (result,) = self.ask([self.build(_COLOUR, temperature=other)])
            if isinstance(result, Answer):
                break
        slope, n = _slope(_first(base), _first(result))
        if slope is None:
            return self.note(name, "unclear", f"{n} tokens to compare.")
        seen = (
            f"From temperature 1 to {other:g}, differences of log-probabilities "
            f"change by a factor of {slope:.2f}."
        )
        near = abs(np.log(max(slope, 1e-9))), abs(np.log(max(slope * other, 1e-9)))
        verdict = "no" if near[0] < 0.2 else "yes" if near[1] < 0.2 else "unclear"
        self.note(name, verdict, seen)

    def _sampling(self) -> None:
        """Whether answers at a high temperature differ."""
        name = "sampling"
        requests = [
            self.build(_PROSE, 8, temperature=2.0, draw=draw) for draw in range(3)
        ]
        results = self.ask(requests)
        texts = [result.text for result in results if isinstance(result, Answer)]
        if len(texts) < len(requests):
            failed = [r.message for r in results if isinstance(r, Failure)]
            refused = all(map(_refused, results))
            self.note(name, "no" if refused else "unclear", failed[0][:200])
        elif len(set(texts)) > 1:
            self.note(name, "yes", "Answers at temperature 2 differed.")
        else:
            self.note(name, "no", "Three answers at temperature 2 were the same.")

    def _seed(self) -> None:
        seeds = (7, 7, 8, 9)
        results = self.ask(
            [
                self.build(_PROSE, 8, temperature=1.0, seed=seed, draw=draw)
                for draw, seed in enumerate(seeds)
            ]
        )
        texts = [result.text for result in results if isinstance(result, Answer)]
        if len(texts) < len(seeds):
            failed = [r.message for r in results if isinstance(r, Failure)]
            refused = all(map(_refused, results))
            return self.note("seed", "no" if refused else "unclear", failed[0][:200])
        if texts[0] != texts[1]:
            self.note("seed", "no", "The same seed gave two answers.")
        elif len(set(texts)) == 1:
            self.note("seed", "unclear", "All seeds gave the same answer.")
        else:
            self.note("seed", "yes", "The same seed gave the same, another did not.")

    def _logit_bias(self, before: Answer | None) -> None:
        (result,) = self.ask([self.build(_COLOUR, logit_bias={"1000": 100})])
        if isinstance(result, Failure):
            verdict = "no" if _refused(result) else "unclear"
            return self.note("logit_bias", verdict, result.message[:200])
        was = before.text if before else ""
        if result.text == was:
            return self.note("logit_bias", "no", f"It wrote {was[:40]!r} with it, too.")
        token = _first(result)
        sure = token is not None and (token.logprob or 0.0) > -0.01
        seen = f"{was[:40]!r} became {result.text[:40]!r}"
        more = "; probabilities are those after it" if sure else ""
        self.note("logit_bias", "yes", f"{seen}{more}.")

    def _formats(self, has_chat: bool) -> None:
        names = (*_FORMATS, "after the mask")
        if not has_chat:
            for name in names:
                self.note(name, "unclear", _NOT_ASKED)
            return
        results = self.ask(
            [
                self.build(_PROSE, 24, protocol="chat", response_format=wanted)
                for wanted in _FORMATS.values()
            ]
        )
        masked = Finding("unclear", "No answer kept to a schema.")
        for name, result in zip(_FORMATS, results, strict=True):
            if isinstance(result, Failure):
                verdict = "no" if _refused(result) else "unclear"
                self.note(name, verdict, result.message[:200])
                continue
            kept = result.text.lstrip().startswith("{")
            if name != "json_object":
                kept = kept and '"zq"' in result.text
            self.note(name, "yes" if kept else "no", f"It wrote {result.text[:40]!r}.")
            if kept and masked.verdict == "unclear":
                masked = _mask(result)
        self.findings["after the mask"] = masked

    def _continues(self, has_chat: bool) -> dict[str, Any] | None:
        name = "continues"
        if not has_chat:
            self.note(name, "unclear", _NOT_ASKED)
            return None
        messages = [
            {"role": "user", "content": _CAPITAL},
            {"role": "assistant", "content": _BEGUN},
        ]
        for arguments in _CONTINUING:
            request = self.build(messages, 4, protocol="chat", **arguments)
            (result,) = self.ask([request])
            if isinstance(result, Failure):
                if name not in self.findings:
                    self.note(name, "no", result.message[:200])
                continue
            written = "".join(t.text for t in result.tokens) or result.text
            written = written.removeprefix(_BEGUN)
            seen = f"After {_BEGUN!r} it wrote {written[:40]!r}"
            if written.startswith(_GOES_ON):
                how = f" with {arguments}" if arguments else ""
                self.note(name, "yes", f"{seen}{how}.")
                return dict(arguments)
            self.note(name, "no", f"{seen}.")
        return None

    def _reasoning(self) -> None:
        most = max((answer.usage.reasoning for answer in self.answers), default=0)
        silent = [a for a in self.answers if not a.text and a.usage.completion]
        if most:
            self.note("reasoning", "yes", f"Up to {most} tokens in one answer.")
        elif silent:
            seen = f"{len(silent)} answers were paid for and are empty."
            self.note("reasoning", "unclear", seen)
        else:
            self.note("reasoning", "no", "No answer counts any.")

    def _sentinel(self) -> None:
        sent = self.journal.responses(list(self.results)).values()
        n = sum(_SENTINEL.search(said) is not None for said in sent)
        self.note("sentinel", "yes" if n else "no", f"In {n} of {len(sent)} answers.")


def _refused(result: Answer | Failure) -> bool:
    return isinstance(result, Failure) and result.status in (400, 422)


def _first(result: Answer | Failure) -> AnswerToken | None:
    """The first token, if it has log-probabilities."""
    if isinstance(result, Failure) or not result.tokens:
        return None
    token = result.tokens[0]
    return token if token.top or token.logprob is not None else None


def _texts(token: AnswerToken) -> list[str]:
    return [text for text, _, _ in token.top]


def _slope(
    first: AnswerToken | None, second: AnswerToken | None
) -> tuple[float | None, int]:
    """How differences of log-probabilities change, and how many tokens say so."""
    if first is None or second is None:
        return None, 0
    before = {text: logprob for text, logprob, _ in first.top}
    after = {text: logprob for text, logprob, _ in second.top}
    both = [text for text in before if text in after]
    x = np.array([before[text] for text in both])
    y = np.array([after[text] for text in both])
    if len(both) < 3 or x.std() < 0.1:
        return None, len(both)
    return float(np.polyfit(x, y, 1)[0]), len(both)


def _mask(answer: Answer) -> Finding:
    """Whether the first token's list is of legal tokens only, and whole."""
    token = _first(answer)
    if token is None or not token.top:
        return Finding("unclear", "The answer that kept to a schema lists no tokens.")
    chances = {text: float(np.exp(logprob)) for text, logprob, _ in token.top}
    legal = sum(p for text, p in chances.items() if text.lstrip()[:1] in ("", "{"))
    others = sum(chances.values()) - legal
    seen = f"Of the first token's list, {legal:.4f} is legal and {others:.4f} is not."
    if others > 1e-4:
        return Finding("no", seen)
    return Finding("yes" if legal > 0.9999 else "unclear", seen)
