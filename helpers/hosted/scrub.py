"""Keys stay with the client: nothing that is written or shown may hold one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote_plus, urlsplit

if TYPE_CHECKING:
    from openai import AsyncOpenAI

HIDDEN = "[key]"
_SECRET_NAMES = re.compile(r"auth|key|token|secret|cookie|pass|cred", re.IGNORECASE)
# As a local server's key, "none" or "EMPTY" may also be a word of an answer.
_KEY_LIKE = re.compile(r"(?=.*\d)\S{8,}|\S{16,}")
_HARMLESS = re.compile(r"accept|content-type|user-agent|x-stainless-.*", re.IGNORECASE)
_LONGEST = 2000
_HEADERS = re.compile(
    r"(authorization|api[-_]?key)(\W{0,3}[:=]\W{0,3})"
    r"(?:(?:bearer|basic)\s+)?[^\s'\",;]+"
    r"|\b(bearer)(\s+)[^\s'\",;]{8,}",
    re.IGNORECASE,
)


def secrets_of(client: AsyncOpenAI) -> tuple[str, ...]:
    """The keys that a client sends: in whatever header or query, the longest first."""
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
    return tuple(sorted(known - {""}, key=len, reverse=True))


def check_client(client: AsyncOpenAI) -> None:
    """Stop if the HTTP library would write a key of this client into its log."""
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


def scrub(text: str, secrets: Iterable[str], *, key_like: bool = False) -> str:
    """A text without keys; ``key_like`` leaves those that may be words of an answer."""
    for secret in secrets:
        if _KEY_LIKE.fullmatch(secret) if key_like else len(secret) > 3:
            text = text.replace(secret, HIDDEN)
    return text


def scrub_message(text: str, secrets: Iterable[str]) -> str:
    """A message, cut, without keys and headers that could hold another's."""

    def hide(found: re.Match[str]) -> str:
        name, between = found[1] or found[3], found[2] or found[4]
        return f"{name}{between}{HIDDEN}"

    # Cut twice: the first cut may go through a key.
    return _HEADERS.sub(hide, scrub(text[: 2 * _LONGEST], secrets))[:_LONGEST]
