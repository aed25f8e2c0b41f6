"""Requests to hosted models, for the three protocols that give log-probabilities.

A request is the body that is sent, as plain data. What is written down, compared and
paid for is that, so that no argument can change without the key changing too.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit, urlunsplit

from ..answers import UnreadableAnswer
from ..checks import check_between, check_choice, check_count

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# What the body calls the prompt, and where a server takes it.
PROMPTS = {"chat": "messages", "responses": "input", "completions": "prompt"}
PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "completions": "/v1/completions",
}
LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
# The fewest tokens that a protocol lets one ask for.
LEAST_TOKENS = {"chat": 1, "responses": 16, "completions": 1}
_WISHES = ("logprobs", "top_logprobs", "include")
_MOST_REDIRECTS = 5
_MOST_BYTES = 32 * 2**20  # lists of 20 for 4,096 tokens take 8
_STREAMED = {"X-Stainless-Raw-Response": "stream"}


@dataclass(frozen=True)
class Request:
    """One question to a hosted model.

    Parameters
    ----------
    protocol : {"chat", "responses", "completions"}
        Chat Completions, the Responses API, or the legacy completions that take a raw
        prompt.
    arguments : mapping
        The body that is sent: whatever JSON can hold, with ``model`` and the prompt.
    draw : int, default=0
        Which of several answers to the same question this asks for. It is not sent;
        requests that differ in nothing are asked once.

    Raises
    ------
    ValueError
        An unknown protocol, no model or prompt, something that JSON cannot hold, a
        stream, or several answers at once.

    Examples
    --------
    >>> Request("chat", {"model": "m"})
    Traceback (most recent call last):
    ...
    ValueError: arguments must name model and messages, not only model.
    """

    protocol: str
    arguments: Mapping[str, Any]
    draw: int = 0

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, tuple(PROMPTS))
        check_count("draw", self.draw, least=0)
        sent = self.arguments
        if "model" not in sent or PROMPTS[self.protocol] not in sent:
            raise ValueError(
                f"arguments must name model and {PROMPTS[self.protocol]}, not only "
                f"{', '.join(sent) or 'nothing'}."
            )
        for name, value in (("stream", False), ("n", 1), ("best_of", 1)):
            if sent.get(name) not in (None, value):
                raise ValueError(
                    f"{name} must be {json.dumps(value)} or left out, not "
                    f"{sent[name]!r}: one request, one answer (see draw)."
                )
        try:
            json.dumps(sent, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise ValueError(f"arguments must be what JSON holds: {error}.") from None

    @property
    def model(self) -> str:
        """The model asked, as the request names it."""
        return str(self.arguments["model"])

    @property
    def limit(self) -> int | None:
        """The most tokens that the answer may have, if the request says so."""
        found = [self.arguments[name] for name in LIMITS if name in self.arguments]
        return found[0] if found and isinstance(found[0], int) else None

    def key(self, base_url: str) -> str:
        """A name for this request at this server, the same in every run.

        Parameters
        ----------
        base_url : str
            The server. A user, a password and a query in it do not count, so that no
            secret has a part in the name.

        Returns
        -------
        str
            64 hexadecimal digits.
        """
        # As it is sent, where names are texts: sorted, 10 is before 9, not after.
        sent = json.loads(json.dumps(dict(self.arguments)))
        whole = [plain_url(base_url), self.protocol, sent, self.draw]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def build_request(
    protocol: str,
    model: str,
    prompt: str | Sequence[Any],
    *,
    max_tokens: int,
    top_logprobs: int = 20,
    temperature: float | None = 0.0,
    old_limit: bool = False,
    draw: int = 0,
    **options: Any,
) -> Request:
    """A request that asks for log-probabilities, as its protocol spells it.

    Parameters
    ----------
    protocol : {"chat", "responses", "completions"}
        ``"completions"`` continues a raw prompt; with ``echo=True`` and
        ``max_tokens=0`` it scores the prompt itself, where a server allows that.
    model : str
        The model, as the server calls it.
    prompt : str or list
        A text, which becomes the one message of a user; or messages (for
        ``"completions"``, token ids).
    max_tokens : int
        The most tokens to answer with.
    top_logprobs : int, default=20
        Alternatives at each position, 0 to 20. OpenAI itself gives at most 5 for
        ``"completions"``; servers may send fewer than asked.
    temperature : float, optional
        0 to 2; None leaves it out, for models that refuse it.
    old_limit : bool, default=False
        Whether ``"chat"`` calls the limit ``max_tokens``. Older servers ignore
        ``max_completion_tokens`` and write on at your cost; newer models of OpenAI
        refuse ``max_tokens``.
    draw : int, default=0
        Which of several answers to the same question this asks for.
    **options
        Further arguments, sent as they are: ``response_format``, ``seed``, ….

    Returns
    -------
    Request

    Raises
    ------
    ValueError
        An unknown protocol, a number out of range, or a prompt of another kind.

    Examples
    --------
    >>> build_request("completions", "m", "2 + 2 =", max_tokens=1).arguments
    {'model': 'm', 'prompt': '2 + 2 =', 'max_tokens': 1, 'logprobs': 20, \
'temperature': 0.0}
    """
    check_choice("protocol", protocol, tuple(PROMPTS))
    check_count("max_tokens", max_tokens, least=0 if options.get("echo") else 1)
    check_count("top_logprobs", top_logprobs, least=0)
    check_between("top_logprobs", top_logprobs, 0, 20, closed=True)
    if temperature is not None:
        check_between("temperature", temperature, 0, 2, closed=True)
    if not isinstance(prompt, (str, list, tuple)) or not prompt:
        raise ValueError(f"prompt must be a text or a list, not {prompt!r}.")
    if isinstance(prompt, str) and protocol != "completions":
        prompt = [{"role": "user", "content": prompt}]
    arguments: dict[str, Any] = {
        "model": model,
        PROMPTS[protocol]: prompt if isinstance(prompt, str) else list(prompt),
    }
    if protocol == "chat":
        limit = "max_tokens" if old_limit else "max_completion_tokens"
        arguments |= {limit: max_tokens, "logprobs": True, "top_logprobs": top_logprobs}
    elif protocol == "responses":
        arguments |= {
            "max_output_tokens": max_tokens,
            "include": ["message.output_text.logprobs"],
            "top_logprobs": top_logprobs,
            "store": False,  # a server of OpenAI would keep texts for 30 days
        }
    else:
        arguments |= {"max_tokens": max_tokens, "logprobs": top_logprobs}
    if temperature is not None:
        arguments["temperature"] = float(temperature)
    return Request(protocol, arguments | options, draw)


def without_logprobs(request: Request) -> Request:
    """The same request without a wish for log-probabilities."""
    sent = request.arguments
    rest = {name: value for name, value in sent.items() if name not in _WISHES}
    return Request(request.protocol, rest, request.draw)


def check_address(client: object) -> None:
    """Stop if an address holds a user or password, without showing it."""
    if isinstance(client, str) and "@" in urlsplit(client).netloc:
        raise ValueError(
            "client must not be an address with a user or password, which would be "
            "shown: give an openai.AsyncOpenAI."
        )


def open_client(client: AsyncOpenAI | str, key: str | None = None) -> AsyncOpenAI:
    """A client for an address, or the one given."""
    if not isinstance(client, str):
        return client
    from openai import AsyncOpenAI, Omit

    check_address(client)
    said = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
    names = {line.partition(":")[0].strip() for line in said} - {""}
    names |= {"OpenAI-Organization", "OpenAI-Project"}
    opened = AsyncOpenAI(
        api_key=key or "-",
        base_url=client,
        default_headers=cast(Any, {name: Omit() for name in names}),
    )
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
        return AsyncOpenAI(
            api_key=os.environ.get("OPENAI_API_KEY") or "-", base_url=client
        )
    return opened


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def plain_url(base_url: str) -> str:
    """The address of a server without user, password, query and last slash."""
    parts = urlsplit(str(base_url))
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


async def send(client: AsyncOpenAI, request: Request) -> tuple[str, str | None]:
    """Ask, and give back what the server said, unread, with its name of the request."""
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    url = PATHS[request.protocol].removeprefix("/v1")
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
            goal = redirected(error.response)
            # After 303, what to send would be something else.
            if goal is None or error.status_code == 303 or not left:
                raise
            if not _is_same_server(goal, client.base_url):
                raise
            url = str(goal)
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


def redirected(response: Any) -> Any:
    """Where an answer sends a request on to; None where it does not."""
    goal = response.headers.get("location")
    if not goal or not 300 <= response.status_code < 400:
        return None
    return response.url.join(goal)


def _is_same_server(one: Any, other: Any) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)
