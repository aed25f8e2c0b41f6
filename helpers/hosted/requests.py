"""Requests to hosted models, where they may go, and what must not be written down."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlsplit, urlunsplit

from ..answers import (
    DOORS,
    PROTOCOLS,
    TOKEN_PROTOCOLS,
    Answer,
    Failure,
    TokenUsage,
    UnreadableAnswer,
    read_answer,
)
from ..checks import check_between, check_choice, check_count, check_not_negative

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Prices = Mapping[str, tuple[float, float]]

_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_WISHES = ("logprobs", "top_logprobs", "include")
_MOST_QUESTIONS = 400  # of the Decisions API; servers may take fewer
_MOST_REDIRECTS = 5
_MOST_BYTES = 32 * 2**20  # lists of 20 for 4,096 tokens take 8
_STREAMED = {"X-Stainless-Raw-Response": "stream"}

_AGAIN = "Ask again with retry_failed=True"
_ADVICE = {
    400: "Correct the arguments; a model without log-probabilities says so here.",
    401: "Check the key.",
    402: "Check the account.",
    403: "The key may not use this model, or from here.",
    404: "There is no such model or address: check model, base_url (it usually ends in "
    "/v1) and the protocol.",
    413: "The text is too long: cut it.",
    422: "Correct the arguments.",
    429: f"{_AGAIN} and a lower concurrency, or more retries.",
}

_HIDDEN = "[key]"
_SECRET_NAMES = re.compile(r"auth|key|token|secret|cookie|pass|cred", re.IGNORECASE)
# As a local server's key, "none" or "EMPTY" may also be a word of an answer.
_KEY_LIKE = re.compile(r"(?=.*\d)\S{8,}|\S{16,}")
_HARMLESS = re.compile(r"accept|content-type|user-agent|x-stainless-.*", re.IGNORECASE)
_LONGEST_MESSAGE = 2000
_HEADERS = re.compile(
    r"((?:authorization|api[-_]?key)\W{0,3}[:=]\W{0,3})(?:(?:bearer|basic)\s+)?[^\s'\",;]+"
    r"|(\bbearer\s+)[^\s'\",;]{8,}",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Request:
    """One question to a hosted model.

    Parameters
    ----------
    protocol : {"chat", "responses", "completions", "decisions", "systemone"}
        Chat Completions, the Responses API, legacy completions of a raw prompt, or
        typed questions (see :func:`decision_request`).
    arguments : mapping
        The JSON body that is sent, with ``model`` and the prompt.
    draw : int, default=0
        Which of several answers to the same question this asks for. It is not sent.
    """

    protocol: str
    arguments: Mapping[str, Any]
    draw: int = 0

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, tuple(PROTOCOLS))
        check_count("draw", self.draw, least=0)
        sent, prompt = self.arguments, PROTOCOLS[self.protocol].prompt
        if "model" not in sent or prompt not in sent:
            raise ValueError(
                f"arguments must name model and {prompt}, not only "
                f"{', '.join(sent) or 'nothing'}."
            )
        if self.protocol in DOORS:
            asked = sent.get("questions")
            n = len(asked) if isinstance(asked, (list, Mapping)) else 0
            if not 1 <= n <= _MOST_QUESTIONS:
                raise ValueError(
                    f"questions must be 1 to {_MOST_QUESTIONS} in one request, not {n}."
                )
        for name, least in (("stream", False), ("n", 1), ("best_of", 1)):
            if sent.get(name) not in (None, least):
                raise ValueError(
                    f"{name} must be {json.dumps(least)} or left out, not "
                    f"{sent[name]!r}: one request, one answer (see draw)."
                )
        try:
            json.dumps(sent, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise ValueError(f"arguments must be what JSON holds: {error}.") from None

    @property
    def model(self) -> str:
        return str(self.arguments["model"])

    @property
    def limit(self) -> int | None:
        if self.protocol in DOORS:  # which read one token for each question
            return len(self.arguments["questions"])
        found = [self.arguments[name] for name in _LIMITS if name in self.arguments]
        return found[0] if found and isinstance(found[0], int) else None

    @property
    def most_usage(self) -> TokenUsage:
        """The most tokens that an answer to this request can cost."""
        if self.limit is None:
            raise ValueError(
                "budget needs requests that limit their answers: give max_tokens."
            )
        body = json.dumps(dict(self.arguments), ensure_ascii=False).encode()
        prompt = self.arguments[PROTOCOLS[self.protocol].prompt]
        # Room for what a server adds to each message, and to the whole: roles, marks.
        extra = 16 * (1 if isinstance(prompt, str) else len(prompt)) + 32
        # Each question may be asked with the whole text.
        times = self.limit if self.protocol in DOORS else 1
        return TokenUsage((len(body) + extra) * times, self.limit)

    def key(self, base_url: str) -> str:
        """A stable name for this request at this server; secrets do not count."""
        # As it is sent, where names are texts: sorted, 10 is before 9, not after.
        sent = json.loads(json.dumps(dict(self.arguments)))
        whole = [plain_url(base_url), self.protocol, sent, self.draw]
        # The order of a mapping of options is the order in which they are offered.
        is_set = self.protocol not in DOORS
        return hashlib.sha256(json.dumps(whole, sort_keys=is_set).encode()).hexdigest()

    def without_logprobs(self) -> Request:
        sent = self.arguments
        return replace(self, arguments={k: sent[k] for k in sent if k not in _WISHES})


def build_request(
    protocol: str,
    model: str,
    prompt: str | Sequence[Any],
    *,
    max_tokens: int,
    top_logprobs: int = 20,
    temperature: float | None = 0.0,
    old_limit: bool = False,
    **options: Any,
) -> Request:
    """A request for log-probabilities, in the form that its protocol requires.

    Parameters
    ----------
    protocol : {"chat", "responses", "completions"}
        "completions" continues a raw prompt; with ``echo=True`` and ``max_tokens=0``
        it scores the prompt itself, where a server allows that.
    model : str
        The model, as the server calls it.
    prompt : str or list
        One user message, or messages (for "completions", token ids).
    max_tokens : int
        The most tokens to answer with.
    top_logprobs : int, default=20
        Alternatives at each position, 0 to 20; servers may send fewer.
    temperature : float, optional
        0 to 2; None leaves it out, for models that refuse it.
    old_limit : bool, default=False
        Whether "chat" calls the limit ``max_tokens``. Older servers ignore
        ``max_completion_tokens``; newer models of OpenAI refuse ``max_tokens``.
    **options
        Further arguments, such as ``seed``, and ``draw`` of :class:`Request`.

    Examples
    --------
    >>> build_request("completions", "m", "2 + 2 =", max_tokens=1).limit
    1
    """
    way = TOKEN_PROTOCOLS[check_choice("protocol", protocol, tuple(TOKEN_PROTOCOLS))]
    check_count("max_tokens", max_tokens, least=0 if options.get("echo") else 1)
    if check_count("top_logprobs", top_logprobs, least=0) > 20:
        raise ValueError(
            f"top_logprobs must lie between 0 and 20, not {top_logprobs!r}."
        )
    if temperature is not None:
        check_between("temperature", temperature, 0, 2, closed=True)
    if not isinstance(prompt, (str, list, tuple)) or not prompt:
        raise ValueError(f"prompt must be a text or a list, not {prompt!r}.")
    if isinstance(prompt, str) and protocol != "completions":
        prompt = [{"role": "user", "content": prompt}]
    asked = prompt if isinstance(prompt, str) else list(prompt)
    arguments: dict[str, Any] = {"model": model, way.prompt: asked}
    arguments |= way.ask(max_tokens, top_logprobs, old_limit=old_limit)
    if temperature is not None:
        arguments["temperature"] = float(temperature)
    draw = options.pop("draw", 0)
    return Request(protocol, arguments | options, draw)


def check_prices(prices: Prices | None, models: Iterable[str]) -> None:
    if prices is None:
        return
    for model in models:
        pair = prices.get(model, ())
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(
                f"prices must hold {model!r}: a pair, for a million tokens read and "
                "written."
            )
        for value in pair:
            check_not_negative(f"prices[{model!r}]", value)


def plain_url(base_url: str) -> str:
    """The address of a server without user, password, query and last slash."""
    parts = urlsplit(str(base_url))
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def check_client(client: object) -> None:
    """Stop if this is no address and no client, or if logs would show its key."""
    address = str(getattr(client, "base_url", client))
    if "@" in urlsplit(address).netloc:
        raise ValueError(
            "client must not have a user or password in its base_url, where logs would "
            "show it: give an openai.AsyncOpenAI with default_headers."
        )
    if isinstance(client, str):
        return
    from openai import AsyncOpenAI

    if not isinstance(client, AsyncOpenAI):
        raise TypeError(
            f"client must be an openai.AsyncOpenAI, not {type(client).__name__}."
        )
    if not re.fullmatch(r"[!-~]*", client.api_key):
        raise ValueError(
            "client has an api_key with a space, a line break or another character "
            "that no key has: strip() what you read from a file."
        )


def open_client(client: AsyncOpenAI | str, key: str | None = None) -> AsyncOpenAI:
    """A client for an address, which gets no key but the one given or OpenAI's own."""
    check_client(client)
    if not isinstance(client, str):
        return client
    from openai import AsyncOpenAI, Omit

    said = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
    names = {line.partition(":")[0].strip() for line in said} - {""}
    names |= {"OpenAI-Organization", "OpenAI-Project"}
    omitted: Any = {name: Omit() for name in names}
    opened = AsyncOpenAI(api_key=key or "-", base_url=client, default_headers=omitted)
    # As the library reads the address, which is where it will send to.
    url = opened.base_url
    host = url.host.rstrip(".").lower()
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(host)):
        raise ValueError(
            "client must be an address with https, or one of this machine, not "
            f"{plain_url(client)!r}: others could read all that is sent. Where that "
            "is meant, give an openai.AsyncOpenAI with this base_url."
        )
    is_openai = host == "api.openai.com" or host.endswith(".api.openai.com")
    if key is None and is_openai and url.scheme == "https" and url.port is None:
        known = os.environ.get("OPENAI_API_KEY") or "-"
        return AsyncOpenAI(api_key=known, base_url=client)
    return opened


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Secrets:
    """The keys that a client sends, in whatever header or query, to be hidden."""

    def __init__(self, client: AsyncOpenAI) -> None:
        sent = {**client.auth_headers, **client.default_headers, **client.default_query}
        names = ("api_key", "admin_api_key", "_azure_ad_token")
        found = [getattr(client, name, None) for name in names]
        for name, value in sent.items():
            if isinstance(value, str) and not _HARMLESS.fullmatch(name):
                parts = [value, *value.split(" ")[1:]]
                named = _SECRET_NAMES.search(name)
                found += [p for p in parts if named or _KEY_LIKE.fullmatch(p)]
        known = {part.strip() for part in found if isinstance(part, str)}
        known |= {json.dumps(secret)[1:-1] for secret in known}
        known |= {quote_plus(secret) for secret in known}
        self._known = sorted(known - {""}, key=len, reverse=True)

    def hide(self, answer: str) -> str:
        """An answer without keys, but for those that may be words of it."""
        for secret in filter(_KEY_LIKE.fullmatch, self._known):
            answer = answer.replace(secret, _HIDDEN)
        return answer

    def hide_in_message(self, text: str) -> str:
        """A message, cut, without keys and headers that could hold another's."""
        text = text[: 2 * _LONGEST_MESSAGE]
        for secret in self._known:
            text = text.replace(secret, _HIDDEN) if len(secret) > 3 else text
        # Cut twice: the first cut may go through a key.
        return _HEADERS.sub(rf"\1\2{_HIDDEN}", text)[:_LONGEST_MESSAGE]


async def attempt(
    client: AsyncOpenAI, request: Request, *, silence: float, total: float, end: float
) -> tuple[Answer | Failure, str | None, Exception | None]:
    """Ask once: the result, what the server said, an error that may pass."""
    said, name, usage, secrets = None, None, TokenUsage(), _Secrets(client)
    try:
        async with asyncio.timeout_at(end):
            said, name = await _send(client, request)
        said = secrets.hide(said)
        name = name and secrets.hide_in_message(name)
        return read_answer(request.protocol, said, name), said, None
    # Whatever a server sends, it concerns this request alone.
    except Exception as error:
        with suppress(Exception):  # a refusal may carry a bill, too
            bill = vars(error)["response"].text if said is None else said
            usage = TokenUsage.of(json.loads(bill))
        text = secrets.hide_in_message(_explain(error, secrets, silence, total))
        name = name or secrets.hide_in_message(getattr(error, "request_id", "") or "")
        status = getattr(error, "status_code", None)
        failure = Failure(type(error).__name__, text, status, name or None, usage)
        return failure, said, error if said is None else None


async def _send(client: AsyncOpenAI, request: Request) -> tuple[str, str | None]:
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    url = PROTOCOLS[request.protocol].path.removeprefix("/v1")
    for left in reversed(range(_MOST_REDIRECTS + 1)):
        try:
            said: Any = await client.post(
                url,
                cast_to=object,
                body=dict(request.arguments),
                # The body is read below, as far as it is of a size to read.
                options={"headers": _STREAMED, "follow_redirects": False},
            )
            break
        except APIStatusError as error:
            following, here = error.response.next_request, client.base_url
            # After 303, what to send would be something else.
            if following is None or error.status_code == 303 or not left:
                raise
            # Within the server only: nothing else gets texts or keys.
            if following.url.copy_with(raw_path=b"/") != here.copy_with(raw_path=b"/"):
                raise
            url = str(following.url)
    response = said.http_response
    text = bytearray()
    try:
        async for part in response.aiter_bytes():
            text += part
            if len(text) > _MOST_BYTES:
                break
    except Exception as error:
        cut = "Timeout" in type(error).__name__
        kind = APITimeoutError if cut else APIConnectionError
        raise kind(request=response.request) from error
    finally:
        await response.aclose()
    if len(text) > _MOST_BYTES:
        raise UnreadableAnswer(
            f"The answer is longer than {_MOST_BYTES:,} bytes, which no answer is: "
            "check base_url."
        )
    return text.decode("utf-8", "replace"), response.headers.get("x-request-id")


def _explain(error: Exception, secrets: _Secrets, silence: float, total: float) -> str:
    import openai

    if isinstance(error, TimeoutError):
        return (
            f"No whole answer within {total:g} s, attempts and waits together: the "
            f"server is too slow. {_AGAIN} and a longer deadline."
        )
    if isinstance(error, openai.APITimeoutError):
        return (
            f"The server was silent for {silence:g} s in every attempt. {_AGAIN}, a "
            "longer timeout or a lower concurrency."
        )
    if isinstance(error, openai.APIStatusError):
        code = 402 if error.code == "insufficient_quota" else error.status_code
        advice = _ADVICE.get(code, f"{_AGAIN} later.")
        if goal := error.response.next_request:
            advice = (
                f"It sends requests on to {plain_url(str(goal.url))}, which got none. "
                "If that is the server to ask, name it as base_url."
            )
        said = secrets.hide_in_message(error.message)[:1000]
        if not isinstance(error.body, dict):  # without a page of HTML
            page = " ".join(secrets.hide_in_message(str(error.body or "")).split())
            said += f" - {page[:80]!r}" if page else ""
        return f"The server said {said.removesuffix('.')}. {advice}"
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        return (
            f"The connection failed in every attempt ({type(cause).__name__}: {cause})."
            f" Check base_url and the network, then: {_AGAIN}."
        )
    return str(error)
