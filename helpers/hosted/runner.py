"""Many requests at once: each asked once, each answer on disk before the next.

A few workers take requests from one queue. An answer goes to the journal before its
worker takes another request. The journal is written in a thread beside the loop, all
answers that have come in while the last write went on in one transaction, so that
waiting for the disk neither blocks the loop nor costs each answer a write of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..checks import check_count, check_not_negative
from ..progress import progress_bar
from .answers import Answer, Failure, TokenUsage
from .costs import Budget, Prices, check_prices, cost_of, most_it_costs
from .endpoints import Request, send
from .failures import AccessDenied, BudgetExceeded, failure_of, is_denied
from .journal import Call, Journal
from .reading import UnreadableAnswer, decode, read_answer, read_usage
from .scrub import check_client, scrub, scrub_message, secrets_of
from .writer import GroupWriter

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# As a local server's key, "none" or "EMPTY" may also be a word of an answer.
_KEY_LENGTH = 16


async def run(
    requests: Iterable[Request],
    client: AsyncOpenAI,
    journal: Journal,
    *,
    concurrency: int = 8,
    budget: float | None = None,
    prices: Prices | None = None,
    retries: int = 4,
    timeout: float = 60.0,
    deadline: float = 600.0,
    retry_failed: bool = False,
    progress: bool = True,
) -> list[Answer | Failure]:
    """Ask a hosted model, at most once for each request, also over several runs.

    Whatever ends a run (an error, Ctrl-C, a killed process), the answers that had come
    are in the journal, and the next run goes on from there.

    Parameters
    ----------
    requests : iterable of Request
        What to ask. Requests that are equal are asked once.
    client : openai.AsyncOpenAI
        Where to ask, and with which key. A client belongs to one event loop: give
        :func:`ask` another one.
    journal : Journal
        Where answers are kept.
    concurrency : int, default=8
        The most requests in flight.
    budget : float, optional
        The most that all these requests may cost, those answered in earlier runs
        included. It needs prices, and requests that limit their answers. A request
        waits, or the run stops, where the cost so far and the most that those in
        flight could cost leave too little. A call that ended without an answer counts
        in full unless the server refused it; attempts before the last do not count,
        since no server says whether it bills them.
    prices : mapping, optional
        A pair for each model: the price of a million tokens read, and of a million
        written.
    retries : int, default=4
        How often the client asks again after 408, 409, 429, 5xx and broken
        connections: after what Retry-After says, up to two minutes, or else after half
        a second, doubled each time up to eight.
    timeout : float, default=60.0
        Seconds of silence that end an attempt.
    deadline : float, default=600.0
        Seconds that a request may take in all, with its retries and waits. This also
        ends an answer that drips in so slowly that it is never silent.
    retry_failed : bool, default=False
        Whether requests that failed in an earlier run are asked again.
    progress : bool, default=True
        Whether to show a bar with rate, failures and cost.

    Returns
    -------
    list of Answer or Failure
        In the order of the requests.

    Raises
    ------
    ValueError
        A setting out of range, a missing price, a budget with requests that set no
        limit, or a client whose key would end in a log.
    TypeError
        The client or a request is something else.
    BudgetExceeded
        The next request could pass the budget.
    AccessDenied
        The server does not accept the key, or the account is empty. This is not
        written down, as no request is at fault.
    """
    given = list(requests)
    _check(given, client, budget, prices)
    check_count("concurrency", concurrency)
    check_count("retries", retries, least=0)
    for name, seconds in (("timeout", timeout), ("deadline", deadline)):
        if not check_not_negative(name, seconds):
            raise ValueError(f"{name} must be more than 0, not {seconds!r}.")
    address = str(client.base_url)
    keys = [request.key(address) for request in given]
    wanted = dict(zip(keys, given, strict=True))
    price = {key: (prices or {}).get(wanted[key].model, (0, 0)) for key in wanted}
    results = await asyncio.to_thread(journal.get, list(wanted))
    if retry_failed:
        results = {k: r for k, r in results.items() if isinstance(r, Answer)}
    purse = Budget(
        budget,
        sum(
            cost_of(result.usage, price[key])
            for key, result in results.items()
            if isinstance(result, Answer)
        ),
    )
    waiting = deque(key for key in wanted if key not in results)
    caller = client.with_options(max_retries=retries, timeout=timeout)
    stopped: list[Exception] = []
    failed = 0

    async def work(writer: GroupWriter, bar: Any) -> None:
        nonlocal failed
        while waiting and not stopped:
            key = waiting.popleft()
            request = wanted[key]
            most = 0.0 if budget is None else most_it_costs(request, price[key])
            if not await purse.hold(most):
                stopped.append(_OverBudget(most))
                return
            cost = most
            try:
                if stopped:
                    cost = 0.0
                    return
                call = await _call(caller, key, request, timeout, deadline)
                cost = _cost(call, price[key], most)
            except _Denied as denied:
                stopped.append(denied)
                cost = 0.0
                return
            finally:
                purse.settle(most, cost)
            await writer.add(call)
            results[key] = call.result
            failed += isinstance(call.result, Failure)
            spent = "" if prices is None else f", cost {purse.spent:.4g}"
            bar.set_postfix_str(f"{failed} failed{spent}", refresh=False)
            bar.update()

    done = len(wanted) - len(waiting)
    with progress_bar(
        total=len(wanted), initial=done, unit="request", show=progress
    ) as bar:
        try:
            async with GroupWriter(journal) as writer, asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, len(waiting))):
                    group.create_task(work(writer, bar))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
    found = [results.get(key) for key in keys]
    if stopped:
        ready = sum(result is not None for result in found)
        state = (
            f"{ready} of {len(found)} requests are done and in the journal; run them "
            "all again to go on"
        )
        if isinstance(stopped[0], _Denied):
            raise AccessDenied(f"{stopped[0]} {state}.", found, purse.spent)
        raise BudgetExceeded(
            f"The next request could pass the budget of {budget:g}: {purse.spent:.6g} "
            f"is spent, and it could cost up to {stopped[0]}. {state}, with a higher "
            "budget.",
            found,
            purse.spent,
        )
    return [results[key] for key in keys]


def ask(
    requests: Iterable[Request], client: AsyncOpenAI, journal: Journal, **options: Any
) -> list[Answer | Failure]:
    """What :func:`run` does, for code that is not asynchronous, notebooks as well.

    The work is done by an event loop of its own, in a thread that all calls share, so
    that this may be called where another loop runs.

    Parameters
    ----------
    requests, client, journal, **options
        Those of :func:`run`.

    Returns
    -------
    list of Answer or Failure
        In the order of the requests.

    Raises
    ------
    Exception
        What :func:`run` raises.
    """
    over = threading.Event()

    async def work() -> list[Answer | Failure]:
        try:
            return await run(requests, client, journal, **options)
        finally:
            over.set()

    future = asyncio.run_coroutine_threadsafe(work(), _background_loop())
    try:
        return future.result()
    except BaseException:
        # Ctrl-C: let what has come be written before the caller goes on.
        if future.cancel():
            over.wait(timeout=30)
        raise


class _Denied(Exception):
    """The server's words when it takes no request at all."""


class _OverBudget(Exception):
    """What the request that no longer fits could cost."""

    def __init__(self, most: float) -> None:
        super().__init__(f"{most:.6g}")


def _check(
    requests: list[Request],
    client: AsyncOpenAI,
    budget: float | None,
    prices: Prices | None,
) -> None:
    check_client(client)
    for at, request in enumerate(requests):
        if not isinstance(request, Request):
            raise TypeError(
                f"requests must be made by build_request; number {at} is a "
                f"{type(request).__name__}."
            )
    check_prices(prices, {request.model for request in requests})
    if budget is not None:
        check_not_negative("budget", budget)
        if prices is None:
            raise ValueError("budget needs prices: a pair for each model.")
        for request in requests:
            most_it_costs(request, prices[request.model])


async def _call(
    client: AsyncOpenAI, key: str, request: Request, timeout: float, deadline: float
) -> Call:
    """One call of the server, whatever comes of it."""
    from openai import OpenAIError

    said, name, usage = None, None, TokenUsage()
    result: Answer | Failure
    try:
        async with asyncio.timeout(deadline):
            said, name = await send(client, request)
        said = scrub(said, secrets_of(client), at_least=_KEY_LENGTH)
        body = decode(said)
        usage = read_usage(body)
        result = read_answer(request.protocol, body, name)
    except (TimeoutError, OpenAIError, UnreadableAnswer) as error:
        secrets = secrets_of(client)
        if isinstance(error, OpenAIError) and is_denied(error):
            words = scrub_message(str(error), secrets).rstrip(".")
            raise _Denied(f"The server takes no requests: {words}.") from None
        result = failure_of(error, secrets, timeout=timeout, deadline=deadline)
        if name is not None:
            result = replace(result, request_id=name)
    return Call(
        key, request.protocol, request.model, result, said, usage, request=request
    )


def _cost(call: Call, price: tuple[float, float], most: float) -> float:
    """What a call came to; all that it could, where nobody knows."""
    if isinstance(call.result, Failure) and call.usage == TokenUsage():
        return 0.0 if call.result.status else most
    return cost_of(call.usage, price)


_starting = threading.Lock()
_background: tuple[threading.Thread, asyncio.AbstractEventLoop] | None = None


def _background_loop() -> asyncio.AbstractEventLoop:
    global _background
    with _starting:
        # A forked process inherits the name of a thread, not the thread.
        if _background is None or not _background[0].is_alive():
            loop = asyncio.new_event_loop()
            thread = threading.Thread(
                target=loop.run_forever, name="hosted", daemon=True
            )
            thread.start()
            _background = thread, loop
        return _background[1]
