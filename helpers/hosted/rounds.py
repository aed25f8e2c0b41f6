"""Rounds of questions about texts under one budget, and what the answers tell."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ..answers import TOKEN_PROTOCOLS, Answer, Failure
from ..checks import check_between, check_choice, check_count
from ..prompts import Prompt, seam
from .client import RunStopped, Transport, ask
from .journal import Journal
from .labels import HostedScores, LabelTexts, LabelTree
from .requests import Request, build_request

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_QUESTION = (
    "How sure are you that this label is right? Answer with a number from 0 to 100 "
    "and nothing else:"
)
KINDS = ("choice", "predicate", "score")  # of typed questions
_WORDS = 8  # tokens of an answer that is read as text
NONSENSE = "The log-probabilities make no sense: "
_UNKNOWN = Failure("NotAsked", "This was not asked yet.")


@dataclass(frozen=True)
class RequestSettings:
    """How :class:`HostedClassifier` asks about a text, and what it does with failures.

    Parameters
    ----------
    top_logprobs : int, default=20
        Alternatives to ask for at each position.
    temperature : float, default=0.0
        At 0 the answer's later tokens save calls. Use 1 where a server reports
        probabilities after temperature.
    old_limit : bool, default=False
        Whether "chat" calls its limit ``max_tokens``.
    options : mapping, optional
        Further arguments of every request, such as ``{"seed": 0}``.
    continue_with : mapping, optional
        Arguments that make "chat" continue an unfinished message of the assistant, as
        :func:`probe` finds them. None: it cannot, and longer labels keep their bounds.
    max_calls_per_text : int, default=8
        The most requests for one text.
    tolerance : float, default=0.001
        Beginnings of labels with less probability are not followed.
    draws : int, default=10
        Answers to draw for each text, with ``fallback="sampling"``.
    question : str, optional
        How to ask for the confidence, from 0 to 100, with ``fallback="self-report"``.
    kind : {"choice", "predicate", "score"}, default="choice"
        The question that a protocol with typed questions gets: see :class:`Question`.
    descriptions : mapping of str to str, optional
        What labels mean, for typed questions.
    step : float, optional
        Typed questions: probabilities come rounded to multiples of this. By default
        the step is found from the answers, as by
        :func:`helpers.bounds.rounding_step`.
    failed : {"error", "open"}, optional
        A text without a usable answer has no prediction, NaN probabilities, bounds of
        0 and 1, and a reason in the column ``problem``. By default, requests that
        fail for good are an error; with "error", so are log-probabilities that make
        no sense; with "open", neither.
    """

    top_logprobs: int = 20
    temperature: float | None = 0.0
    old_limit: bool = False
    options: Mapping[str, Any] | None = None
    continue_with: Mapping[str, Any] | None = None
    max_calls_per_text: int = 8
    tolerance: float = 1e-3
    draws: int = 10
    question: str | None = None
    kind: str = "choice"
    descriptions: Mapping[str, str] | None = None
    step: float | None = None
    failed: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_calls_per_text", "draws"):
            check_count(name, getattr(self, name))
        check_between("tolerance", self.tolerance, 0, 1, closed=True)
        if self.question is not None and not str(self.question).strip():
            raise ValueError(f"question must be a text, not {self.question!r}.")
        check_choice("kind", self.kind, KINDS)
        if self.step is not None:
            check_between("step", self.step, 0, 1, closed=True)
        if self.failed is not None:
            check_choice("failed", self.failed, ("error", "open"))


@dataclass(kw_only=True)
class Asking:
    """Asks about texts, and remembers what was asked and which models answered."""

    client: AsyncOpenAI
    journal: Journal
    model: str
    protocol: str
    how: RequestSettings
    transport: Transport
    recalls: bool = False  # asks nobody, and answers what the journal knows
    off_label: str | None = None  # what to say where most probability is on no label
    asked: list[Request] = field(default_factory=list)
    models: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))

    def scores(self, texts: list[str]) -> HostedScores:
        """What the answers about these texts tell."""
        raise NotImplementedError

    def _ask(
        self, requests: list[Request], rows: Iterable[int], *, may_hide: bool = False
    ) -> list[Answer | Failure]:
        """Ask about some texts; ``may_hide``: log-probabilities may be refused."""
        if not requests:
            return []
        before, self.asked = self.asked, self.asked + requests
        if self.recalls:
            keys = [request.key(str(self.client.base_url)) for request in requests]
            known = self.journal.get(keys)
            return [known.get(key, _UNKNOWN) for key in keys]
        how: dict[str, Any] = {"retry_failed": True, **vars(self.transport)}
        if self.transport.budget is not None:
            how["counted"] = before
        results = ask(requests, self.client, self.journal, **how)
        failed = []
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Failure):
                failed += [] if may_hide and _hides(result) else [result]
            elif result.model:
                self.models[row].add(result.model)
        if failed and self.how.failed != "open":
            raise RunStopped(
                f"{len(failed)} of {len(results)} requests failed; what was answered "
                "is in the journal, and the next call asks for the others only. "
                f"failed='open' goes on without them. The first: {failed[0].message}",
                results,
                0.0,
            )
        return results


@dataclass(kw_only=True)
class Rounds(Asking):
    """Reads lists of tokens, and follows labels of several tokens."""

    prompt: Prompt
    labels: LabelTexts
    fallback: str | None

    def scores(self, texts: list[str]) -> HostedScores:
        render = self.prompt.messages if self.prompt.chat else self.prompt.plain
        prompts = list(map(render, texts))
        first = [self._request(prompt) for prompt in prompts]
        # The first text shows whether the server hides what all the others need.
        results = self._ask(first[:1], [0], may_hide=True)
        if not any(map(_hides, results)):
            results += self._ask(first[1:], range(1, len(first)))
        if not any(map(_hides, results)) or any(map(_shows, results)):
            return self._followed(prompts, results)
        if self.fallback is None:
            raise ValueError(
                f"The server gives no log-probabilities for {self.model!r} by "
                f"{self.protocol!r}. Try another protocol, or set fallback='sampling' "
                "to draw answers and count them, or fallback='self-report' to ask the "
                "model how sure it is; see probe()."
            )
        if self.fallback == "sampling":
            return self._counted(prompts)
        return self._reported(prompts)

    def _request(self, prompt: Any, begun: bytes = b"", **changes: Any) -> Request:
        written = begun.decode("utf-8")
        if isinstance(prompt, str):
            prompt += written
        elif begun:
            prompt = [*prompt, {"role": "assistant", "content": written}]
            changes |= self.how.continue_with or {}
        arguments = {
            "max_tokens": self.labels.tokens_to_go(begun),
            "top_logprobs": self.how.top_logprobs,
            "temperature": self.how.temperature,
            "old_limit": self.how.old_limit,
            **(self.how.options or {}),
            **changes,
        }
        least = TOKEN_PROTOCOLS[self.protocol].least_tokens
        arguments["max_tokens"] = max(arguments["max_tokens"], least)
        return build_request(self.protocol, self.model, prompt, **arguments)

    def _followed(
        self, prompts: list[Any], results: list[Answer | Failure]
    ) -> HostedScores:
        first, trees = results, [LabelTree(self.labels) for _ in prompts]
        calls, most = [0] * len(prompts), self.how.max_calls_per_text
        goes_on = self.protocol == "completions" or (
            self.protocol == "chat" and self.how.continue_with is not None
        )
        problems: list[str | None] = [None] * len(prompts)
        asked = [(row, b"") for row in range(len(prompts))]
        while asked:
            for (row, prefix), result in zip(asked, results, strict=True):
                calls[row] += 1
                problem = _take_in(trees[row], prefix, result)
                problems[row] = problems[row] or problem
            rows = dict.fromkeys(row for row, _ in asked if goes_on)
            asked = [
                (row, data)
                for row in rows
                if calls[row] < most
                for data in self._open(trees[row])[: most - calls[row]]
            ]
            requests = [self._request(prompts[row], data) for row, data in asked]
            results = self._ask(requests, [row for row, _ in asked])
        masses = [tree.mass() for tree in trees]
        reach = [(mass.lower + mass.gain).sum() for mass in masses]
        lost = int(np.sum(np.array(reach) < 0.5))
        if 2 * lost > len(reach):
            self.off_label = (
                f"Most probability is on no label, more than half in {lost} of "
                f"{len(reach)} texts. The prompt ends in "
                f"{self.prompt.plain('A')[-20:]!r}, and the worst answer begins with "
                f"{_words(first[np.argmin(reach)])}. Try examples, an instruction, or "
                "another protocol, family or terminator."
            )
        if self.how.temperature == 0 and len(trees) > 4:
            if all(tree.is_certain for tree in trees):
                warnings.warn(
                    "The first token of every answer has probability 1: the server may "
                    "report probabilities after temperature. Ask with temperature=1, "
                    "and see probe().",
                    stacklevel=7,
                )
        return HostedScores.of_masses(masses, len(self.labels.labels), calls, problems)

    def _open(self, tree: LabelTree) -> list[bytes]:
        ways = tree.mass().branches
        return [data for data, p in ways if data and p > self.how.tolerance]

    def _said(
        self, prompts: list[Any], draws: int, **changes: Any
    ) -> tuple[list[Answer | Failure], list[int | None]]:
        changes["max_tokens"] = self.labels.tokens_to_go(b"") + _WORDS
        seed, requests = (self.how.options or {}).get("seed"), []
        for prompt, draw in product(prompts, range(draws)):
            if seed is not None:
                # With the same seed, all draws would be the same.
                changes["seed"] = seed + draw
            request = self._request(prompt, draw=draw, **changes)
            requests.append(request.without_logprobs())
        answers = self._ask(requests, [at // draws for at in range(len(requests))])
        return answers, [
            self.labels.read(answer) if isinstance(answer, Answer) else None
            for answer in answers
        ]

    def _counted(self, prompts: list[Any]) -> HostedScores:
        draws = self.how.draws
        answers, given = self._said(prompts, draws, temperature=1.0)
        counts = np.zeros((len(prompts), len(self.labels.labels) + 1), dtype=int)
        problems: list[str | None] = []
        alike = []
        for row, count in enumerate(counts):
            own = slice(row * draws, (row + 1) * draws)
            lost = list(map(_why_lost, answers[own]))
            for label, why in zip(given[own], lost, strict=True):
                count[-1 if label is None else label] += why is None
            whys = list(filter(None, lost))
            failed = f"{len(whys)} of {draws} draws failed: {whys[0]}" if whys else None
            problems.append(failed)
            words = [one.text for one in answers[own] if isinstance(one, Answer)]
            alike += [len(set(words)) == 1] if len(words) > 1 else []
        if len(alike) > 4 and all(alike):
            warnings.warn(
                "For every text, all answers were the same, word for word. Either the "
                "model is sure of all, or the server ignores temperature, and then "
                "agreement means nothing: see probe().",
                stacklevel=7,
            )
        return HostedScores.of_votes(counts, [draws] * len(prompts), problems)

    def _reported(self, prompts: list[Any]) -> HostedScores:
        from ..self_report import read_report  # and with it torch

        answers, given = self._said(prompts, 1)
        problems: list[str | None] = [None] * len(prompts)
        rows, requests = [], []
        for row, (label, answer) in enumerate(zip(given, answers, strict=True)):
            if label is None:
                problems[row] = f"The answer is no label: {_words(answer)}."
                continue
            name, asked = self.labels.labels[label], prompts[row]
            question = self.how.question or _QUESTION
            if isinstance(asked, str):
                lead = seam(self.prompt.plain("A"), name)
                asked += f"{lead}{name}\n{question}"
            else:
                turns = (("assistant", name), ("user", question))
                said = [{"role": role, "content": words} for role, words in turns]
                asked = [*asked, *said]
            rows.append(row)
            most = {"max_tokens": _WORDS, **(self.how.options or {})}
            request = self._request(asked, **most)
            requests.append(request.without_logprobs())
        reports = [float("nan")] * len(prompts)
        for row, answer in zip(rows, self._ask(requests, rows), strict=True):
            words = answer.text.lstrip() if isinstance(answer, Answer) else ""
            cut = isinstance(answer, Answer) and answer.finish_reason == "length"
            if not self.prompt.chat:  # the turn does not end behind the line
                cut = cut and "\n" not in words
                words = words.split("\n")[0]
            report = read_report(words)
            status = "cut" if cut and report.status == "ok" else report.status
            if status == "ok":
                reports[row] = report.value
            else:
                problems[row] = f"The report is {status}: {_words(answer)}."
        n = len(self.labels.labels)
        return HostedScores.of_reports(given, reports, problems, n)


def _hides(result: Answer | Failure) -> bool:
    if isinstance(result, Failure):
        return result.status in (400, 422) and "logprob" in result.message.lower()
    if result.refusal is not None or result.finish_reason == "content_filter":
        return False
    return bool(result.text) and not _shows(result)


def _shows(result: Answer | Failure) -> bool:
    return isinstance(result, Answer) and any(
        token.logprob is not None or token.top for token in result.tokens
    )


def _take_in(tree: LabelTree, prefix: bytes, result: Answer | Failure) -> str | None:
    lost = _why_lost(result)
    if lost or isinstance(result, Failure) or result.refusal is not None:
        tree.add(prefix, ())
        return lost or (result.problem if isinstance(result, Answer) else None)
    try:
        problem = tree.add(prefix, result.tokens)
    except ValueError as error:
        return f"{NONSENSE}{error}"
    # A cut is what was asked for.
    return problem or (None if prefix or result.tokens else result.problem)


def _why_lost(result: Answer | Failure) -> str | None:
    if isinstance(result, Failure):
        return result.message
    return result.problem if result.finish_reason == "content_filter" else None


def _words(result: Answer | Failure) -> str:
    if isinstance(result, Failure):
        return result.message
    return repr(result.refusal or result.text[:80])
