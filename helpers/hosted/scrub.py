"""Keys stay with the client: nothing that is written or shown may hold one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from openai import AsyncOpenAI

HIDDEN = "[key]"
_SECRET_NAMES = re.compile(r"auth|key|token|secret|cookie", re.IGNORECASE)
_HEADERS = re.compile(
    r"(authorization|api[-_]?key)(\W{0,3}[:=]\W{0,3})"
    r"(?:(?:bearer|basic)\s+)?[^\s'\",;]+"
    r"|\b(bearer)(\s+)[^\s'\",;]{8,}",
    re.IGNORECASE,
)


def secrets_of(client: AsyncOpenAI) -> tuple[str, ...]:
    """The keys that a client sends, and the values of its headers that may hold one.

    Parameters
    ----------
    client : openai.AsyncOpenAI
        The client.

    Returns
    -------
    tuple of str
        The longest first. Keep it as short a time as the client.
    """
    headers = {**client.auth_headers, **client.default_headers}
    names = ("api_key", "admin_api_key", "_azure_ad_token")
    found = [getattr(client, name, None) for name in names]
    for name, value in headers.items():
        if _SECRET_NAMES.search(name) and isinstance(value, str):
            found += [value, *value.split(" ")[1:]]
    known = {part.strip() for part in found if isinstance(part, str)}
    known |= {json.dumps(secret)[1:-1] for secret in known}
    return tuple(sorted(known - {""}, key=len, reverse=True))


def check_client(client: AsyncOpenAI) -> None:
    """Stop if the HTTP library would write a key of this client into its log.

    Parameters
    ----------
    client : openai.AsyncOpenAI
        The client.

    Raises
    ------
    ValueError
        Its address holds a password, which is logged with every request, or its key
        holds what no header may, which is quoted in an error.
    TypeError
        It is another kind of client.
    """
    from openai import AsyncOpenAI

    if not isinstance(client, AsyncOpenAI):
        raise TypeError(
            f"client must be an openai.AsyncOpenAI, not {type(client).__name__}."
        )
    if "@" in urlsplit(str(client.base_url)).netloc:
        raise ValueError(
            "client must not have a user or password in its base_url, where logs "
            "would show it: give default_headers."
        )
    if not re.fullmatch(r"[!-~]*", client.api_key):
        raise ValueError(
            "client has an api_key with a space, a line break or another character "
            "that no key has: strip() what you read from a file."
        )


def scrub(text: str, secrets: Iterable[str], *, at_least: int = 4) -> str:
    """A text without keys.

    Parameters
    ----------
    text : str
        An error message, or what a server sent.
    secrets : iterable of str
        What must not be in it.
    at_least : int, default=4
        Shorter ones are let be: as a local server's key, ``x`` is no secret, and
        taking it out would spoil every word with an x.

    Returns
    -------
    str

    Examples
    --------
    >>> scrub("Incorrect key sk-12345.", ["sk-12345"])
    'Incorrect key [key].'
    """
    for secret in secrets:
        if len(secret) >= at_least:
            text = text.replace(secret, HIDDEN)
    return text


def scrub_message(text: str, secrets: Iterable[str]) -> str:
    """An error message without keys and without headers that could hold another's.

    Parameters
    ----------
    text : str
        The message.
    secrets : iterable of str
        What must not be in it.

    Returns
    -------
    str

    Examples
    --------
    >>> scrub_message("sent {'Authorization': 'Bearer abc'}", [])
    "sent {'Authorization': '[key]'}"
    """

    def hide(found: re.Match[str]) -> str:
        name, between = found[1] or found[3], found[2] or found[4]
        return f"{name}{between}{HIDDEN}"

    return _HEADERS.sub(hide, scrub(text, secrets))
