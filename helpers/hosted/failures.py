"""What went wrong with a call, in words that say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .answers import Failure
from .scrub import scrub_message

if TYPE_CHECKING:
    from openai import OpenAIError

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


def is_denied(error: OpenAIError) -> bool:
    """Whether an error says that every other request would fail as well.

    Parameters
    ----------
    error : openai.OpenAIError
        The error.

    Returns
    -------
    bool
        Such an error is not the request's, and is not written down as its failure.
    """
    status = getattr(error, "status_code", None)
    empty = getattr(error, "code", None) == "insufficient_quota"
    return status in (401, 402) or (status == 429 and empty)


def failure_of(
    error: Exception, secrets: Sequence[str], *, timeout: float, deadline: float
) -> Failure:
    """An error as something to write down.

    Parameters
    ----------
    error : Exception
        What the client raised, :class:`UnreadableAnswer`, or TimeoutError for the
        deadline.
    secrets : sequence of str
        What must not be in the message.
    timeout, deadline : float
        The limits in seconds, to be named.

    Returns
    -------
    Failure
    """
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
        name = error.request_id
        advice = _ADVICE.get(error.status_code, f"{AGAIN} later.")
        text = f"The server said {_said(error)} {advice}"
    elif isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        text = (
            f"The connection failed in every attempt ({type(cause).__name__}: {cause})."
            f" Check base_url and the network, then: {AGAIN}."
        )
    else:
        text = str(error)
    return Failure(type(error).__name__, scrub_message(text, secrets), status, name)


def _said(error: Any) -> str:
    """Status and words of an answer that is an error, without a page of HTML."""
    message = str(error.message)
    if not isinstance(error.body, dict):
        body = " ".join(str(error.body or "").split())
        message += f" - {body[:80]!r}" if body else ""
    return message if message.endswith(".") else f"{message}."
