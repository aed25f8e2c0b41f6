"""Requests in several rounds under one budget, and what their answers lack."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from copy import copy
from typing import TYPE_CHECKING, Any

from ..answers import Answer, Failure
from .endpoints import Request
from .failures import RunStopped
from .journal import Journal
from .runner import ask

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_UNKNOWN = Failure("NotAsked", "This was not asked yet.")
_LATEST = re.compile(r"[-:]latest$")
_REVISION = re.compile(r"(-\d{4}-\d\d-\d\d|-\d{8}|-\d{3,4}|@[\w.-]+|:latest)$")


class Desk:
    """Hands requests to the server, with one budget over all rounds."""

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
        self._recalls = False
        # The models that answered for each text.
        self.models: defaultdict[int, set[str]] = defaultdict(set)

    def remembering(self) -> Desk:
        """A desk that asks nobody: it knows the journal, and what is asked counts."""
        other = copy(self)
        other._recalls, other.models = True, defaultdict(set)
        return other

    def ask(
        self,
        requests: list[Request],
        *,
        may_hide: bool = False,
        rows: Iterable[int] | None = None,
    ) -> list[Answer | Failure]:
        """Ask for answers, those that failed before anew.

        ``may_hide``: it is no failure if the server refuses log-probabilities.
        ``rows``: the text of each request, where it is not the first, the second, ….
        """
        if not requests:
            return []
        if self._recalls:
            self._before += requests
            keys = [request.key(str(self._client.base_url)) for request in requests]
            known = self._journal.get(keys)
            return [known.get(key, _UNKNOWN) for key in keys]
        results = ask(
            requests,
            self._client,
            self._journal,
            retry_failed=True,
            budget=self._budget,
            counted=self._before if self._budget is not None else (),
            **self._options,
        )
        self._before += requests
        for row, result in zip(rows or range(len(results)), results, strict=True):
            if isinstance(result, Answer) and result.model:
                self.models[row].add(result.model)
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
    """Whether a server answers, but without log-probabilities."""
    if isinstance(result, Failure):
        return result.status in (400, 422) and "logprob" in result.message.lower()
    if result.refusal is not None or result.finish_reason == "content_filter":
        return False
    return bool(result.text) and not shows(result)


def shows(result: Answer | Failure) -> bool:
    """Whether there are log-probabilities."""
    return isinstance(result, Answer) and any(
        token.logprob is not None or token.top for token in result.tokens
    )


def is_same_model(asked: str, answered: str) -> bool:
    """Whether an answer's name of a model is another name of the one asked."""
    one, other = (
        re.split(r"[/\\]", name.lower())[-1].removesuffix(".gguf")
        for name in (asked, answered)
    )
    return other == one or _REVISION.sub("", other) == _LATEST.sub("", one)
