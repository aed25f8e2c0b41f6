"""From what a server sent to an answer.

Servers that call themselves compatible differ in what they leave out. Whatever is
missing becomes None or an empty tuple; only what holds no answer at all is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from .answers import Answer, AnswerToken, Listed, TokenUsage

# OpenAI sends -9999.0 for "very unlikely"; no token has a log-probability this low.
_LOWEST = -1000.0


class UnreadableAnswer(ValueError):
    """What the server sent with status 200 holds no answer; the message says why."""


def decode(text: str) -> dict[str, Any]:
    """The JSON object that a server sent."""
    begins = f"It begins: {text[:80]!r}"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip()[:1] == "<":
            raise UnreadableAnswer(
                "The answer is a web page: check base_url, which usually ends in /v1, "
                f"and proxies on the way. {begins}"
            ) from None
        raise UnreadableAnswer(
            f"The answer is broken JSON at character {getattr(error, 'pos', 0)} of "
            f"{len(text)}: the connection or a proxy cut it, or it is none. Ask again "
            f"with retry_failed=True. {begins}"
        ) from None
    if not isinstance(found, dict):
        raise UnreadableAnswer(
            f"The answer is JSON, but no object: check base_url. {begins}"
        )
    return found


def read_answer(
    protocol: str, response: Mapping[str, Any], request_id: str | None = None
) -> Answer:
    """An answer from the JSON object that a server sent.

    Parameters
    ----------
    protocol : {"chat", "responses", "completions"}
        How it was asked.
    response : mapping
        What the server sent.
    request_id : str, optional
        What its header calls the request; the ``id`` of the answer otherwise.

    Returns
    -------
    Answer

    Raises
    ------
    UnreadableAnswer
        It holds no answer.

    Examples
    --------
    >>> said = {"choices": [{"message": {"content": "Yes"}, "finish_reason": "stop"}]}
    >>> read_answer("chat", said).text
    'Yes'
    """
    problem = _dict(response.get("error"))
    if problem or response.get("status") in ("failed", "cancelled"):
        said = problem.get("message") or problem.get("code") or response.get("status")
        raise UnreadableAnswer(
            f"The server sent an error in place of an answer: {said!r}. Ask again "
            "with retry_failed=True."
        )
    if protocol == "responses":
        text, tokens, finish, refusal = _responses(response)
    else:
        choices = response.get("choices")
        if not isinstance(choices, list) or not choices:
            raise UnreadableAnswer(
                f"The answer holds no choices, but {sorted(response)!r}: check that "
                f"base_url and the protocol, {protocol!r}, are the server's."
            )
        choice = _dict(choices[0])
        message = choice if protocol == "completions" else _dict(choice.get("message"))
        text = _text(message.get("text" if protocol == "completions" else "content"))
        refusal = message.get("refusal")
        tokens, finish = _tokens(choice.get("logprobs")), choice.get("finish_reason")
    name = request_id if request_id is not None else response.get("id")
    return Answer(
        text,
        tokens,
        finish if isinstance(finish, str) else None,
        refusal if isinstance(refusal, str) else None,
        read_usage(response),
        _word(response.get("model")),
        _word(name),
    )


def read_usage(response: Mapping[str, Any]) -> TokenUsage:
    """Tokens that an answer cost, 0 where the server does not say."""
    usage = _dict(response.get("usage"))
    details = _dict(
        usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    )
    counts = (
        usage.get("prompt_tokens", usage.get("input_tokens")),
        usage.get("completion_tokens", usage.get("output_tokens")),
        details.get("reasoning_tokens"),
    )
    return TokenUsage(*(int(max(_number(count) or 0, 0)) for count in counts))


def _responses(
    response: Mapping[str, Any],
) -> tuple[str, tuple[AnswerToken, ...], Any, Any]:
    """Text, tokens, reason to stop and refusal of an answer of the Responses API."""
    output = response.get("output")
    if not isinstance(output, list):
        raise UnreadableAnswer(
            f"The answer holds no output, but {sorted(response)!r}: check that "
            "base_url and the protocol, 'responses', are the server's."
        )
    text, refusal = "", None
    tokens: list[AnswerToken] = []
    for item in map(_dict, output):
        content = item.get("content")
        if item.get("type") != "message" or not isinstance(content, list):
            continue
        for part in map(_dict, content):
            if part.get("type") == "refusal":
                refusal = part.get("refusal")
            else:
                text += _text(part.get("text"))
                tokens += _tokens(part.get("logprobs"))
    finish = response.get("status")
    if finish == "incomplete":
        finish = _dict(response.get("incomplete_details")).get("reason")
    names = {"completed": "stop", "max_output_tokens": "length"}
    return text, tuple(tokens), names.get(str(finish), finish), refusal


def _tokens(logprobs: Any) -> tuple[AnswerToken, ...]:
    """Tokens, from a list of them or from the parallel lists of old completions."""
    if isinstance(logprobs, dict) and isinstance(logprobs.get("content"), list):
        logprobs = logprobs["content"]
    if isinstance(logprobs, list):
        return tuple(_token(entry) for entry in map(_dict, logprobs))
    columns = _dict(logprobs)
    texts = columns.get("tokens")
    if not isinstance(texts, list):
        return ()
    numbers, tops = columns.get("token_logprobs"), columns.get("top_logprobs")
    numbers = numbers if isinstance(numbers, list) else []
    tops = tops if isinstance(tops, list) else []
    return tuple(
        AnswerToken(
            _text(text),
            _logprob(numbers[at]) if at < len(numbers) else None,
            None,
            _top(tops[at]) if at < len(tops) else (),
        )
        for at, text in enumerate(texts)
    )


def _token(entry: Mapping[str, Any]) -> AnswerToken:
    return AnswerToken(
        _text(entry.get("token")),
        _logprob(entry.get("logprob")),
        _bytes(entry.get("bytes")),
        _top(entry.get("top_logprobs")),
    )


def _top(listed: Any) -> tuple[Listed, ...]:
    if isinstance(listed, dict):  # which has no order
        listed = [{"token": text, "logprob": listed[text]} for text in listed]
        listed.sort(key=lambda entry: -(_logprob(entry["logprob"]) or 0.0))
    if not isinstance(listed, list):
        return ()
    found = []
    for entry in map(_dict, listed):
        logprob = _logprob(entry.get("logprob"))
        if logprob is not None:
            found.append(
                (_text(entry.get("token")), logprob, _bytes(entry.get("bytes")))
            )
    return tuple(found)


def _number(value: Any) -> float | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) < 1e18:
            return float(value)
    return None


def _logprob(value: Any) -> float | None:
    """None where it is missing; nonsense stays, for whoever adds up to refuse it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if value <= _LOWEST:
        return None
    return float(value) if value < 1e18 else math.nan


def _bytes(value: Any) -> bytes | None:
    try:
        return bytes(value) if isinstance(value, list) else None
    except (TypeError, ValueError):
        return None


def _text(value: Any) -> str:
    """A text, also from a list of parts that hold one each."""
    if isinstance(value, list):
        return "".join(_text(_dict(part).get("text")) for part in value)
    return value if isinstance(value, str) else ""


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
