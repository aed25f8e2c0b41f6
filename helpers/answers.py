"""Answers of language models behind an API, in one form for all protocols.

What a server leaves out becomes None or an empty tuple; only no answer is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from .bounds import MISSING_BELOW, ListedToken
from .checks import check_count

_FINISHES = {"completed": "stop", "max_output_tokens": "length"}
# Why an answer that ended so may be of no use, and what to do.
_STOPPED = {
    "content_filter": (
        "A content filter stopped the answer: reword or leave out the text."
    ),
    "length": "The answer was cut at the limit: raise max_tokens.",
    "tool_calls": "The model called a tool, whose tokens are not shown.",
    "function_call": "The model called a function, whose tokens are not shown.",
    "in_progress": "The answer is not finished: ask for it again.",
    "queued": "The answer is not begun: ask for it again.",
}


@dataclass(frozen=True)
class AnswerToken:
    """One token of an answer.

    ``logprob`` and ``bytes`` are None where the server does not say; characters cut
    across tokens are in ``bytes`` only. ``top`` has the listed alternatives.
    """

    text: str
    logprob: float | None
    bytes: bytes | None = None
    top: tuple[ListedToken, ...] = ()

    @property
    def chosen(self) -> ListedToken:
        return ListedToken(self.text, self.logprob, self.bytes)


@dataclass(frozen=True)
class TokenUsage:
    """Tokens that one answer cost: ``reasoning`` is part of ``completion``."""

    prompt: int = 0
    completion: int = 0
    reasoning: int = 0

    @classmethod
    def of(cls, response: Any) -> TokenUsage:
        """What a server says that its answer cost, 0 where it does not say."""
        usage = _get(response, "usage")
        kinds = ("completion_tokens_details", "output_tokens_details")
        details = _get(usage, kinds[0]) or _get(usage, kinds[1])
        counts = (
            _get(usage, "prompt_tokens", "input_tokens"),
            _get(usage, "completion_tokens", "output_tokens"),
            _get(details, "reasoning_tokens"),
        )
        return cls(*(_count(value) for value in counts))


@dataclass(frozen=True)
class Answer:
    """What a hosted model answered.

    ``tokens`` is empty where the server sends no log-probabilities; ``finish_reason``
    is "stop", "length", "content_filter" or the server's own word; ``refusal`` is why
    the model refused; ``model`` and ``request_id`` are the server's names. By
    "decisions" and "systemone" there is no text: ``decisions`` has what was sent for
    each question, to be read by :func:`helpers.hosted.read_decisions`.
    """

    text: str
    tokens: tuple[AnswerToken, ...]
    finish_reason: str | None
    refusal: str | None
    usage: TokenUsage
    model: str | None
    request_id: str | None
    decisions: tuple[Mapping[str, Any], ...] = ()

    @property
    def problem(self) -> str | None:
        """Why this answer may be of no use, and what to do; None if it is fine."""
        if self.refusal is not None:
            return f"The model refused: {self.refusal!r}. Reword the prompt."
        if self.finish_reason in _STOPPED:
            return _STOPPED[self.finish_reason]
        shown = any(token.logprob is not None for token in self.tokens)
        if not shown and not self.decisions:
            return (
                "The server sent no log-probabilities: it needs to be asked for them, "
                "or another protocol, or a model that offers them."
            )
        return None


@dataclass(frozen=True)
class Failure:
    """A request without an answer: the class of the error, and what to do about it.

    ``status`` is the HTTP status, where there was one; no key is in ``message``;
    ``usage`` is what it cost all the same.
    """

    kind: str
    message: str
    status: int | None = None
    request_id: str | None = None
    usage: TokenUsage = TokenUsage()


class UnreadableAnswer(ValueError):
    """What the server sent with status 200 holds no answer; the message says why."""


def read_answer(
    protocol: str,
    response: Any,
    request_id: str | None = None,
    *,
    index: int | None = None,
) -> Answer:
    """Read an answer from what a server sent; UnreadableAnswer if there is none.

    Parameters
    ----------
    protocol : {"chat", "responses", "completions", "decisions", "systemone"}
        How it was asked.
    response : str, mapping or object
        What the server sent, as JSON or decoded, or the client's object for it.
    request_id : str, optional
        The request's name in the header; by default the ``id`` of the answer.
    index : int, optional
        Which of several choices or texts; by default the first choice, or all texts.

    Examples
    --------
    >>> said = {"choices": [{"message": {"content": "Yes"}, "finish_reason": "stop"}]}
    >>> read_answer("chat", said).text
    'Yes'
    """
    way = PROTOCOLS[protocol]
    response = _decoded(response) if isinstance(response, str) else response
    error, status = _get(response, "error"), _get(response, "status")
    if error or status in ("failed", "cancelled"):
        said = _get(error, "message", "code") or error or status
        raise UnreadableAnswer(
            f"The server sent an error in place of an answer: {said!r}. Ask again "
            "with retry_failed=True."
        )
    items = _get(response, way.holds)
    is_whole = isinstance(items, way.form)
    # A response may hold nothing but its status.
    if not is_whole or not (items or way.holds == "output"):
        raise UnreadableAnswer(
            f"The answer holds no {way.holds}, but {sorted(dict(response))!r}: check "
            f"that base_url and the protocol, {protocol!r}, are the server's."
        )
    model = _word(_get(response, "model"))
    name = _word(_get(response, "id") if request_id is None else request_id)
    usage = TokenUsage.of(response)
    if not isinstance(way, _Protocol):
        decisions = _decisions(response, items)
        return Answer("", (), None, None, usage, model, name, decisions)
    text, tokens, finish, refusal = way.read(response, items, index)
    return Answer(text, tokens, _word(finish), _word(refusal), usage, model, name)


def read_tokens(response: Any, *, index: int = 0) -> tuple[AnswerToken, ...]:
    """Tokens of a complete answer with log-probabilities, their bytes always set."""
    check_count("index", index, 0)
    if isinstance(response, (list, tuple)):
        for item in response:
            if not isinstance(_get(item, "token", "text"), str):
                raise ValueError(
                    f"response must have a text for each token; one is {item!r}."
                )
        tokens = _tokens(list(response))
        answer = Answer("", tokens, None, None, TokenUsage(), None, None)
    elif isinstance(response, Answer):
        answer = response
    elif isinstance(_get(response, "choices"), list):
        answer = read_answer("chat", response, index=index)
    elif _get(response, "output") is not None:
        answer = read_answer("responses", response, index=index)
    else:
        raise ValueError(
            "response must be a completion, a response or a list of tokens, not "
            f"{type(response).__name__}."
        )
    if answer.problem:
        is_cut = answer.refusal is None and answer.finish_reason in _STOPPED
        rule = "be complete" if is_cut else "hold an answer with log-probabilities"
        raise ValueError(f"response must {rule}. {answer.problem}")
    found, before = [], ""
    for token in answer.tokens:
        top = tuple(entry._replace(bytes=entry.encode(before)) for entry in token.top)
        data = token.chosen.encode(before)
        found.append(AnswerToken(token.text, token.logprob, data, top))
        before = token.text
    return tuple(found)


# Protocols ---------------------------------------------------------------------------

_Read = tuple[str, tuple[AnswerToken, ...], Any, Any]  # with end and refusal


def _ask_chat(limit: int, top: int, *, old_limit: bool) -> dict[str, Any]:
    name = "max_tokens" if old_limit else "max_completion_tokens"
    return {name: limit, "logprobs": True, "top_logprobs": top}


def _ask_responses(limit: int, top: int, **_: bool) -> dict[str, Any]:
    return {
        "max_output_tokens": limit,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": top,
        "store": False,  # a server of OpenAI would keep texts for 30 days
    }


def _ask_completions(limit: int, top: int, **_: bool) -> dict[str, Any]:
    return {"max_tokens": limit, "logprobs": top}


def _read_choices(response: Any, items: list[Any], index: int | None) -> _Read:
    choice = _pick(items, index or 0, "choices")
    message = _get(choice, "message")
    text = _text(_get(message, "content"))
    finish, refusal = _get(choice, "finish_reason"), _get(message, "refusal")
    return text, _tokens(_get(choice, "logprobs")), finish, refusal


def _read_texts(response: Any, items: list[Any], index: int | None) -> _Read:
    choice = _pick(items, index or 0, "choices")
    finish = _get(choice, "finish_reason")
    return _text(_get(choice, "text")), _tokens(_get(choice, "logprobs")), finish, None


def _read_output(response: Any, items: list[Any], index: int | None) -> _Read:
    messages = [item for item in items if _get(item, "type") == "message"]
    parts = [part for item in messages for part in _list(_get(item, "content"))]
    refusals = [part for part in parts if _get(part, "type") == "refusal"]
    texts = [part for part in parts if _get(part, "type") != "refusal"]
    if index is not None and not refusals:
        texts = [_pick(texts, index, "texts")]
    lists = [_tokens(_get(part, "logprobs")) for part in texts]
    finish = _get(response, "status")
    if finish == "incomplete":
        finish = _get(_get(response, "incomplete_details"), "reason")
    finish = _FINISHES.get(str(finish), finish)
    refusal = _get(refusals[-1], "refusal") if refusals else None
    return _text(texts), tuple(chain.from_iterable(lists)), finish, refusal


def _decisions(response: Any, items: Any) -> tuple[dict[str, Any], ...]:
    """What is said of each question, with its name; nothing where it is no object."""
    if isinstance(items, list):
        return tuple(map(_plain, items))
    more = _plain(_get(response, "diagnostics"))
    return tuple(
        {**_plain(more.get(name)), **_plain(said), "name": name}
        for name, said in items.items()
    )


@dataclass(frozen=True, kw_only=True)
class _Route:
    """Where a server is asked: ``prompt`` is the body's name for what is asked about,
    ``holds`` the answer's for what it holds, of the type ``form``."""

    path: str
    prompt: str
    holds: str
    form: type = list


@dataclass(frozen=True, kw_only=True)
class _Protocol(_Route):
    """How a server is asked for tokens, ``least_tokens`` at least, and is read.

    ``ask`` makes the arguments that depend on the protocol, and ``read`` finds text,
    tokens, end and refusal.
    """

    least_tokens: int = 1
    ask: Callable[..., dict[str, Any]]
    read: Callable[[Any, list[Any], int | None], _Read]


# A further protocol is a row here, with how it asks and how it reads.
TOKEN_PROTOCOLS = {
    "chat": _Protocol(
        path="/v1/chat/completions",
        prompt="messages",
        holds="choices",
        ask=_ask_chat,
        read=_read_choices,
    ),
    "responses": _Protocol(
        path="/v1/responses",
        prompt="input",
        holds="output",
        least_tokens=16,
        ask=_ask_responses,
        read=_read_output,
    ),
    "completions": _Protocol(
        path="/v1/completions",
        prompt="prompt",
        holds="choices",
        ask=_ask_completions,
        read=_read_texts,
    ),
}
# Doors answer typed questions with a probability for each option.
DOORS = {
    "decisions": _Route(path="/v1/decisions", prompt="input", holds="answers"),
    "systemone": _Route(
        path="/v1/systemone", prompt="state", holds="answers", form=dict
    ),
}
PROTOCOLS: dict[str, _Route] = {**TOKEN_PROTOCOLS, **DOORS}


# Parts of an answer, which may be anything --------------------------------------------


def _decoded(text: str) -> dict[str, Any]:
    found, why = None, "The answer is JSON, but no object: check base_url."
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = (
            f"The answer is broken JSON at character {getattr(error, 'pos', 0)} of "
            f"{len(text)}: the connection or a proxy cut it, or it is none. Ask again "
            "with retry_failed=True."
        )
    if text.lstrip()[:1] == "<":
        why = (
            "The answer is a web page: check base_url, which usually ends in /v1, "
            "and proxies on the way."
        )
    if not isinstance(found, dict):
        raise UnreadableAnswer(f"{why} It begins: {text[:80]!r}")
    return found


def _tokens(logprobs: Any) -> tuple[AnswerToken, ...]:
    content = _get(logprobs, "content")
    entries = content if isinstance(content, list) else logprobs
    if not isinstance(entries, list):
        texts = _list(_get(logprobs, "tokens"))
        columns = (
            _list(_get(logprobs, f"{name}_logprobs")) for name in ("token", "top")
        )
        rows = zip_longest(texts, *(column[: len(texts)] for column in columns))
        names = ("token", "logprob", "top_logprobs")
        entries = [dict(zip(names, row, strict=True)) for row in rows]
    return tuple(
        AnswerToken(*_listed(entry), _top(_get(entry, "top_logprobs", "top")))
        for entry in entries
    )


def _top(listed: Any) -> tuple[ListedToken, ...]:
    if isinstance(listed, Mapping):  # which has no order
        listed = [{"token": text, "logprob": listed[text]} for text in listed]
        listed.sort(key=lambda entry: -(_logprob(entry["logprob"]) or 0.0))
    found = map(_listed, _list(listed))
    return tuple(entry for entry in found if entry.logprob is not None)


def _listed(entry: Any) -> ListedToken:
    data = _get(entry, "bytes")
    try:
        data = bytes(data) if isinstance(data, (list, bytes)) else None
    except (TypeError, ValueError):
        data = None
    text = _text(_get(entry, "token", "text"))
    return ListedToken(text, _logprob(_get(entry, "logprob")), data)


def _logprob(value: Any) -> float | None:
    """None where it is missing; nonsense stays, for whoever adds up to refuse it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if value <= MISSING_BELOW:
        return None
    return float(value) if value < 1e18 else math.nan


def _count(value: Any) -> int:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return int(value) if 0 < value < 1e18 else 0
    return 0


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "".join(_text(_get(part, "text")) for part in value)
    return value if isinstance(value, str) else ""


def _plain(value: Any) -> dict[str, Any]:
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    return dict(value) if isinstance(value, Mapping) else {}


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _pick(items: Sequence[Any], index: int, name: str) -> Any:
    if index >= len(items):
        raise ValueError(
            f"index must be below {len(items)}, the number of {name} in the response, "
            f"not {index}."
        )
    return items[index]


def _get(item: Any, *names: str) -> Any:
    for name in names:
        if isinstance(item, Mapping):
            value = item.get(name)
        else:
            value = getattr(item, name, None)
        if value is not None:
            return value
    return None
