"""Many requests at once: each asked once, each answer on disk before the next.

A few workers take requests from one queue. An answer goes to the journal before its
worker takes another request. The journal is written in a thread beside the loop, all
answers that have come in while the last write went on in one transaction, so that
waiting for the disk neither blocks the loop nor costs each answer a write of its own.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..answers import Answer, Failure, TokenUsage, decode, read_answer
from ..checks import check_count, check_not_negative
from ..progress import progress_bar
from .costs import Ledger, Prices, check_prices
from .endpoints import Request, send
from .failures import (
    AccessDenied,
    BudgetExceeded,
    failure_of,
    is_denied,
    wait_of,
    wants_again,
)
from .journal import Call, GroupWriter, Journal
from .scrub import check_client, scrub, scrub_message, secrets_of

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_LONGEST_WAIT = 120.0  # seconds that a server may ask to wait
_FIRST_PAUSE = 0.5
_LOOK_AGAIN = 0.05  # seconds until another run may have answered


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
    counted: Iterable[Request] = (),
    progress: bool = True,
) -> list[Answer | Failure]:
    """Ask a hosted model, at most once for each request, also over several runs.

    Whatever ends a run (an error, Ctrl-C, a killed process), the answers that had come
    are in the journal, and the next run goes on from there. Runs at the same time with
    one journal share the work and the budget. A redirect to another server is not
    followed. Where a server asks to wait for more than two minutes, the run ends: what
    it did not answer is a failure that says until when, is not written down, and is
    asked by the next run.

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
        The most that all these requests may cost, with all that the journal knows of
        them: earlier runs, failures and repeats that were billed, other runs at this
        moment. It needs prices, and requests that limit their answers. A request
        waits, or the run stops, where the cost so far and the most that those in
        flight could cost leave too little. What ends without an answer or a bill
        counts in full unless the server refused it. Two things no journal knows:
        attempts of earlier runs before their last one, and what was in flight when a
        process was killed; a server may bill both.
    prices : mapping, optional
        A pair for each model: the price of a million tokens read, and of a million
        written.
    retries : int, default=4
        How often to ask again after 408, 409, 429, 5xx and broken connections: after
        what Retry-After says, while nothing else is sent either, or else after half a
        second, doubled each time up to eight.
    timeout : float, default=60.0
        Seconds of silence that end an attempt.
    deadline : float, default=600.0
        Seconds that a request may take in all, with its retries and waits. This also
        ends an answer that drips in so slowly that it is never silent.
    retry_failed : bool, default=False
        Whether requests that failed in an earlier run are asked again.
    counted : iterable of Request, optional
        Others, asked before, whose cost counts against the same budget.
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
    given, before = list(requests), list(counted)
    _check([*given, *before], client, budget, prices)
    check_count("concurrency", concurrency)
    check_count("retries", retries, least=0)
    for name, seconds in (("timeout", timeout), ("deadline", deadline)):
        if not check_not_negative(name, seconds):
            raise ValueError(f"{name} must be more than 0, not {seconds!r}.")
    address = str(client.base_url)
    keys = [request.key(address) for request in given]
    wanted = dict(zip(keys, given, strict=True))
    ledger = await asyncio.to_thread(
        Ledger,
        journal,
        {request.key(address): request for request in before} | wanted,
        limit=budget,
        prices=prices,
        seconds=deadline + _LONGEST_WAIT,
    )
    results = await asyncio.to_thread(journal.get, list(wanted))
    if retry_failed:
        results = {k: r for k, r in results.items() if isinstance(r, Answer)}
    waiting = deque(key for key in wanted if key not in results)
    caller = client.with_options(max_retries=0, timeout=timeout)
    stopped: list[Exception] = []
    over = asyncio.Event()
    clock = asyncio.get_running_loop().time
    quiet_until = clock()  # the server has asked for it
    failed = 0

    def stop(why: Exception) -> None:
        stopped.append(why)
        over.set()

    async def sleep_until(moment: float) -> None:
        """Sleep until then, but no longer than the run."""
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), max(moment - clock(), 0))

    async def answer(key: str) -> Call | None:
        """Ask until there is an answer or no sense in asking on; None if it stops."""
        nonlocal quiet_until
        end = clock() + deadline
        for nth in range(retries + 1):
            call, error = await _call(caller, key, wanted[key], timeout, deadline, end)
            if error is None:
                return call
            if is_denied(error):
                words = scrub_message(str(error), secrets_of(caller)).rstrip(".")
                stop(_Denied(f"The server takes no requests: {words}{_hint(caller)}."))
                return None
            wait = wait_of(error)
            if wait > _LONGEST_WAIT:
                stop(_AskedToWait(wait))
                return None
            quiet_until = max(quiet_until, clock() + wait)
            pause = min(_FIRST_PAUSE * 2**nth, 8.0) * random.uniform(0.75, 1)
            then = max(quiet_until, clock() + (wait or pause))
            if nth == retries or not wants_again(error) or then > end:
                return call
            status = getattr(error, "status_code", None)
            cost = ledger.cost_of(key, call.usage, may_be_billed=status is None)
            if cost and not await asyncio.to_thread(ledger.lose, cost):
                stop(_OverBudget(ledger.most[key]))
            while clock() < max(then, quiet_until) and not stopped:
                await sleep_until(max(then, quiet_until))
            if stopped:
                return None
        raise AssertionError("the last attempt returns")

    async def work(writer: GroupWriter, bar: Any) -> None:
        nonlocal failed
        while waiting and not stopped:
            if clock() < quiet_until:
                await sleep_until(quiet_until)
                continue
            key = waiting.popleft()
            # Another run may have asked since this one began, or do so now.
            state = await asyncio.to_thread(ledger.take, key)
            if state == "known":
                results.update(await asyncio.to_thread(journal.get, [key]))
            elif state in ("busy", "wait"):
                (waiting.append if state == "busy" else waiting.appendleft)(key)
                await sleep_until(clock() + _LOOK_AGAIN)
                continue
            elif state == "full":
                return stop(_OverBudget(ledger.most[key]))
            else:
                call = None if stopped else await answer(key)
                if call is None:
                    return
                await writer.add(call)
                results[key] = call.result
            failed += isinstance(results[key], Failure)
            spent = "" if prices is None else f", cost {ledger.cost:.4g}"
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
        finally:
            with suppress(sqlite3.Error):
                await asyncio.shield(asyncio.to_thread(ledger.close))
    found = [results.get(key) for key in keys]
    if not stopped:
        return [results[key] for key in keys]
    if isinstance(stopped[0], _AskedToWait):
        failure = Failure("AskedToWait", str(stopped[0]), 429)
        return [result or failure for result in found]
    ready = sum(result is not None for result in found)
    state = (
        f"{ready} of {len(found)} requests are done and in the journal; run them "
        "all again to go on"
    )
    if isinstance(stopped[0], _Denied):
        raise AccessDenied(f"{stopped[0]} {state}.", found, ledger.cost)
    raise BudgetExceeded(
        f"The next request could pass the budget of {budget:g}: {ledger.cost:.6g} "
        f"is spent, and it could cost up to {stopped[0]}. {state}, with a higher "
        "budget.",
        found,
        ledger.cost,
    )


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


class _AskedToWait(Exception):
    """Until when."""

    def __init__(self, seconds: float) -> None:
        until = datetime.now() + timedelta(seconds=seconds)
        super().__init__(
            f"The server asks to wait {seconds:,.0f} s, until {until:%Y-%m-%d %H:%M:%S}"
            ", so that the run ended before this request was answered. Ask again then: "
            "all answers so far are in the journal."
        )


def _hint(client: AsyncOpenAI) -> str:
    """Why no key was sent, where there is one."""
    if client.api_key != "-" or not os.environ.get("OPENAI_API_KEY"):
        return ""
    return (
        " (no key was sent, since that in OPENAI_API_KEY is OpenAI's: give an "
        "openai.AsyncOpenAI with the key of this server)"
    )


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


async def _call(
    client: AsyncOpenAI,
    key: str,
    request: Request,
    timeout: float,
    deadline: float,
    end: float,
) -> tuple[Call, Exception | None]:
    """One attempt, whatever comes of it, and the error if it may be another's."""
    said, name, usage, trouble = None, None, TokenUsage(), None
    result: Answer | Failure
    try:
        async with asyncio.timeout_at(end):
            said, name = await send(client, request)
        secrets = secrets_of(client)
        said = scrub(said, secrets, key_like=True)
        name = name and scrub_message(name, secrets)
        body = decode(said)
        usage = TokenUsage.of(body)
        result = read_answer(request.protocol, body, name)
    # Whatever a server sends, it concerns this request alone.
    except Exception as error:
        trouble = error if said is None else None
        with suppress(Exception):
            # A refusal may carry a bill, too.
            usage = (
                usage if said else TokenUsage.of(decode(vars(error)["response"].text))
            )
        result = failure_of(
            error, secrets_of(client), timeout=timeout, deadline=deadline
        )
        if name is not None:
            result = replace(result, request_id=name)
    call = Call(
        key, request.protocol, request.model, result, said, usage, request=request
    )
    return call, trouble


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
