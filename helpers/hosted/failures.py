"""What went wrong with a call, in words that say what to do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from ..answers import Failure
from .endpoints import plain_url, redirected
from .scrub import scrub_message

AGAIN = "Ask again with retry_failed=True"
_ADVICE = {
    400: "Correct the arguments; a model without log-probabilities says so here.",
    403: "The key may not use this model, or from here.",
    404: "There is no such model or address: check model, base_url (it usually ends in "
    "/v1) and the protocol.",
    413: "The text is too long: cut it.",
    422: "Correct the arguments.",
    429: f"{AGAIN} and a lower concurrency, or more retries.",
}


class RunStopped(RuntimeError):
    """A run that ended early; what is done is in the journal.

    Attributes
    ----------
    results : list of Answer, Failure or None
        In the order of the requests; None for those without a result.
    cost : float
        What the answers cost, 0 without prices.
    """

    def __init__(self, message: str, results: Sequence[Any], cost: float) -> None:
        super().__init__(message)
        self.results, self.cost = list(results), cost


class BudgetExceeded(RunStopped):
    """The next request could have cost more than was left."""


class AccessDenied(RunStopped):
    """The server takes no request at all: a wrong key, or an empty account."""


def is_denied(error: Exception) -> bool:
    """Whether every other request would fail as well; no request is to blame then."""
    status = getattr(error, "status_code", None)
    empty = getattr(error, "code", None) == "insufficient_quota"
    return status in (401, 402) or (status == 429 and empty)


def wants_again(error: Exception) -> bool:
    """Whether the same request may do better later."""
    import openai

    if not isinstance(error, openai.APIStatusError):
        return isinstance(error, openai.APIConnectionError)
    said = error.response.headers.get("x-should-retry")
    status = error.status_code
    lasts = status not in (408, 409, 429) and status < 500
    return said == "true" or (said != "false" and not lasts)


def wait_of(error: Exception) -> float:
    """Seconds that a server asks to wait before anything else is sent; 0 for none."""
    import openai

    if not isinstance(error, openai.APIStatusError) or is_denied(error):
        return 0.0
    if error.status_code < 500 and error.status_code not in (408, 409, 429):
        return 0.0
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        said = error.response.headers.get(name, "")
        try:
            seconds = float(said) / unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(said).timestamp() - time.time()
            except (ValueError, OverflowError):
                continue
        if seconds > 0:
            return min(seconds, 1e9)
    return 0.0


def failure_of(
    error: Exception, secrets: Sequence[str], *, timeout: float, deadline: float
) -> Failure:
    """An error as something to write down, without secrets."""
    import openai

    status, name = getattr(error, "status_code", None), None
    if isinstance(error, TimeoutError):
        text = (
            f"No whole answer within {deadline:g} s, attempts and waits together: the "
            f"server is too slow. {AGAIN} and a longer deadline."
        )
    elif isinstance(error, openai.APITimeoutError):
        text = (
            f"The server was silent for {timeout:g} s in every attempt. {AGAIN}, a "
            "longer timeout or a lower concurrency."
        )
    elif isinstance(error, openai.APIStatusError):
        name = error.request_id and scrub_message(error.request_id, secrets)
        advice = _ADVICE.get(error.status_code, f"{AGAIN} later.")
        if goal := redirected(error.response):
            advice = (
                f"It sends requests on to {plain_url(goal)}, which got none. If that "
                "is the server to ask, name it as base_url."
            )
        text = f"The server said {_said(error, secrets)} {advice}"
    elif isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        text = (
            f"The connection failed in every attempt ({type(cause).__name__}: {cause})."
            f" Check base_url and the network, then: {AGAIN}."
        )
    else:
        text = str(error)
    message = scrub_message(text, secrets)
    return Failure(type(error).__name__, message, status, name)


def _said(error: Any, secrets: Sequence[str]) -> str:
    """Status and words of an answer that is an error, without a page of HTML."""
    message = scrub_message(str(error.message), secrets)[:1000]
    if not isinstance(error.body, dict):
        body = " ".join(scrub_message(str(error.body or ""), secrets).split())
        message += f" - {body[:80]!r}" if body else ""
    return message if message.endswith(".") else f"{message}."
