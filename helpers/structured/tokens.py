"""The tokens of an answer, whichever protocol it came by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..bounds import ListedToken, token_bytes
from ..checks import check_count

_STOPPED = {
    "length": "it was cut off at the limit of tokens; ask with a higher one",
    "max_output_tokens": "it was cut off at the limit of tokens; ask with a higher one",
    "content_filter": "a content filter held it back",
    "tool_calls": "the model called a tool instead, whose tokens are not shown",
    "function_call": "the model called a function instead, whose tokens are not shown",
}


@dataclass(frozen=True)
class AnswerToken:
    """A token of an answer and what was listed beside it.

    Attributes
    ----------
    chosen : ListedToken
        The token that the answer has, its ``bytes`` always set.
    listed : tuple of ListedToken
        The alternatives at its position, as the server gave them: often the chosen
        one among them, sometimes not, sometimes none at all.
    """

    chosen: ListedToken
    listed: tuple[ListedToken, ...] = ()


def read_tokens(response: Any, *, index: int = 0) -> tuple[AnswerToken, ...]:
    """Read the tokens of an answer.

    Parameters
    ----------
    response : object or dict
        A chat completion, a completion of the older protocol, or a response of the
        Responses API, as the client's objects or as decoded JSON; an object with
        ``tokens``; or a list of tokens, each with ``token`` (or ``text``), ``logprob``
        and, where known, ``bytes`` and ``top_logprobs`` (or ``top``).
    index : int, default=0
        Which of several choices, or of several texts in one response.

    Returns
    -------
    tuple of AnswerToken

    Raises
    ------
    ValueError
        The model refused, the answer was cut off, filtered or a tool call, it came
        without log-probabilities, there is no such index, or this is no answer.

    Examples
    --------
    >>> read_tokens([{"token": "5", "logprob": -0.1}])[0].chosen.data
    b'5'
    """
    check_count("index", index, 0)
    if isinstance(response, Sequence) and not isinstance(response, (str, bytes)):
        return _tokens(response)
    choices = _get(response, "choices")
    if choices is not None:
        return _from_choice(_pick(choices, index, "choices"))
    if _get(response, "output") is not None:
        return _from_output(response, index)
    if _get(response, "tokens") is not None:
        _check_stop(_get(response, "finish_reason"), _get(response, "refusal"))
        return _tokens(_get(response, "tokens"))
    raise ValueError(
        "response must be a completion, a response or a list of tokens, not "
        f"{type(response).__name__}."
    )


def _from_choice(choice: Any) -> tuple[AnswerToken, ...]:
    refusal = _get(_get(choice, "message"), "refusal")
    _check_stop(_get(choice, "finish_reason"), refusal)
    logprobs = _get(choice, "logprobs")
    texts = _get(logprobs, "tokens")
    if texts is None:
        return _tokens(_get(logprobs, "content"))
    values = _get(logprobs, "token_logprobs") or []
    lists = _get(logprobs, "top_logprobs") or [None] * len(texts)
    if not len(texts) == len(values) == len(lists):
        raise ValueError(
            f"response has {len(texts)} tokens, {len(values)} log-probabilities and "
            f"{len(lists)} lists of alternatives; they must be as many."
        )
    return _tokens(
        [
            {"token": text, "logprob": value, "top": listed}
            for text, value, listed in zip(texts, values, lists, strict=True)
        ]
    )


def _from_output(response: Any, index: int) -> tuple[AnswerToken, ...]:
    parts = [
        part
        for item in _get(response, "output")
        if _get(item, "type") == "message"
        for part in _get(item, "content") or ()
    ]
    refusals = [_get(p, "refusal") for p in parts if _get(p, "type") == "refusal"]
    reason = _get(_get(response, "incomplete_details"), "reason")
    status = _get(response, "status")
    if reason is None and status not in (None, "completed"):
        raise ValueError(f"response must be complete; its status is {status!r}.")
    _check_stop(reason, refusals[0] if refusals else None)
    texts = [part for part in parts if _get(part, "type") == "output_text"]
    return _tokens(_get(_pick(texts, index, "texts"), "logprobs"))


def _check_stop(reason: Any, refusal: Any) -> None:
    if refusal:
        raise ValueError(f"response must hold an answer; the model refused: {refusal}")
    if reason in _STOPPED:
        raise ValueError(
            f"response must be complete; it ended with {reason!r}: {_STOPPED[reason]}."
        )


def _tokens(items: Any) -> tuple[AnswerToken, ...]:
    if not items:
        raise ValueError(
            "response must have log-probabilities, and has none. Ask with "
            "logprobs=True and top_logprobs, in the Responses API with "
            'include=["message.output_text.logprobs"]; not every model gives them.'
        )
    tokens: list[AnswerToken] = []
    before = ""
    for item in items:
        chosen = _token(item, before)
        listed = _get(item, "top_logprobs")
        listed = _get(item, "top") if listed is None else listed
        if isinstance(listed, Mapping):
            # Which has no order.
            listed = sorted(listed.items(), key=lambda entry: -(entry[1] or 0.0))
        listed = tuple(_token(entry, before) for entry in listed or ())
        tokens.append(AnswerToken(chosen, listed))
        before = chosen.text
    return tuple(tokens)


def _token(item: Any, before: str) -> ListedToken:
    if isinstance(item, (tuple, list)):
        text, logprob, data = (*item, None)[:3]
    else:
        text = _get(item, "token")
        text = _get(item, "text") if text is None else text
        logprob, data = _get(item, "logprob"), _get(item, "bytes")
    if not isinstance(text, str):
        raise ValueError(f"response must have a text for each token; one is {item!r}.")
    return ListedToken(
        text, logprob, token_bytes(text, before=before) if data is None else bytes(data)
    )


def _pick(items: Sequence[Any], index: int, name: str) -> Any:
    if index >= len(items):
        raise ValueError(
            f"index must be below {len(items)}, the number of {name} in the response, "
            f"not {index}."
        )
    return items[index]


def _get(item: Any, name: str) -> Any:
    if isinstance(item, Mapping):
        return item.get(name)
    return getattr(item, name, None)
