"""Requests in several rounds under one budget, and what their answers lack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .answers import Answer, Failure
from .endpoints import Request
from .failures import RunStopped
from .journal import Journal
from .runner import ask

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class Desk:
    """Hands requests to the server, with one budget over all rounds.

    Parameters
    ----------
    client : openai.AsyncOpenAI
        Who asks.
    journal : Journal
        Where answers are kept.
    stops : bool
        Whether a request that fails for good is an error.
    budget : float or None
        The most that all requests may cost.
    **options
        Others of :func:`run`.
    """

    def __init__(
        self,
        client: AsyncOpenAI,
        journal: Journal,
        *,
        stops: bool,
        budget: float | None,
        **options: Any,
    ) -> None:
        self._client, self._journal = client, journal
        self._stops, self._budget, self._options = stops, budget, options
        self._before: list[Request] = []

    def ask(
        self, requests: list[Request], *, may_hide: bool = False
    ) -> list[Answer | Failure]:
        """Ask for answers, those that failed before anew.

        Parameters
        ----------
        requests : list of Request
            What to ask.
        may_hide : bool, default=False
            Whether it is no failure if the server refuses log-probabilities.

        Returns
        -------
        list of Answer or Failure
            In the order of the requests.

        Raises
        ------
        RunStopped
            Requests failed for good, and that is an error.
        """
        if not requests:
            return []
        # The budget is that of all rounds; what is answered costs no time.
        known = self._before if self._budget is not None else []
        results = ask(
            [*known, *requests],
            self._client,
            self._journal,
            retry_failed=True,
            budget=self._budget,
            **self._options,
        )[len(known) :]
        answered = [
            request
            for request, result in zip(requests, results, strict=True)
            if isinstance(result, Answer)
        ]
        self._before += answered
        failed = [
            result
            for result in results
            if isinstance(result, Failure) and not (may_hide and hides(result))
        ]
        if failed and self._stops:
            raise RunStopped(
                f"{len(failed)} of {len(results)} requests failed; what was answered "
                "is in the journal, and the next call asks for the others only. "
                f"failed='open' goes on without them. The first: {failed[0].message}",
                results,
                0.0,
            )
        return results


def hides(result: Answer | Failure) -> bool:
    """Whether a server answers, but without log-probabilities.

    Parameters
    ----------
    result : Answer or Failure
        What came of a request that wanted them.

    Returns
    -------
    bool
        An empty answer and a refusal say neither.
    """
    if isinstance(result, Failure):
        return result.status in (400, 422) and "logprob" in result.message.lower()
    if result.refusal is not None or result.finish_reason == "content_filter":
        return False
    return bool(result.text) and not shows(result)


def shows(result: Answer | Failure) -> bool:
    """Whether there are log-probabilities.

    Parameters
    ----------
    result : Answer or Failure
        What came of a request that wanted them.

    Returns
    -------
    bool
    """
    return isinstance(result, Answer) and any(
        token.logprob is not None or token.top for token in result.tokens
    )
