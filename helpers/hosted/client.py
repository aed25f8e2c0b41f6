"""Many requests at once: each asked once, each answer on disk before the next."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import sqlite3
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from ..answers import Answer, Failure, TokenUsage
from ..checks import check_count, check_not_negative
from ..progress import progress_bar
from .journal import Call, Journal
from .requests import (
    Prices,
    Request,
    attempt,
    check_prices,
    open_client,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_LONGEST_WAIT = 120.0  # seconds that a server may ask to wait
_FIRST_PAUSE = 0.5
_PASSING = {408, 409, 429, *range(500, 600)}  # statuses
_LOOK_AGAIN = 0.05  # seconds until another run may have answered


class RunStopped(RuntimeError):
    """A run that ended early; what is done is in the journal and in ``results``."""

    def __init__(self, message: str, results: Sequence[Any], cost: float) -> None:
        super().__init__(message)
        self.results, self.cost = list(results), cost


class BudgetExceeded(RunStopped):
    """The next request could have cost more than was left."""


class AccessDenied(RunStopped):
    """The server takes no request at all: a wrong key, or an empty account."""


@dataclass(frozen=True)
class Transport:
    """How requests are sent: how many at once, how often, and for how much money.

    Parameters
    ----------
    concurrency : int, default=8
        The most requests in flight.
    budget : float, optional
        The most that all requests of a call may cost, including what the journal knows
        was paid for them. A request that ends without an answer or a bill counts in
        full unless the server refused it. Not covered: what was in flight when a
        process was killed, and all but the last attempt of earlier runs.
    prices : mapping, optional
        For each model, the prices of a million tokens read and of a million written.
        Required with a budget, as are requests that limit their answers.
    retries : int, default=4
        How often to ask again after 408, 409, 429, 5xx and broken connections.
    timeout : float, default=60.0
        Seconds of silence that end an attempt.
    deadline : float, default=600.0
        Seconds for one request with its retries and waits.
    progress : bool, default=True
        Whether to show a progress bar.
    """

    concurrency: int = 8
    budget: float | None = None
    prices: Prices | None = None
    retries: int = 4
    timeout: float = 60.0
    deadline: float = 600.0
    progress: bool = True

    def __post_init__(self) -> None:
        check_count("concurrency", self.concurrency)
        check_count("retries", self.retries, least=0)
        for name in ("timeout", "deadline"):
            if not check_not_negative(name, getattr(self, name)):
                raise ValueError(f"{name} must be more than 0, not 0.")
        if self.budget is not None:
            check_not_negative("budget", self.budget)
            if self.prices is None:
                raise ValueError("budget needs prices: a pair for each model.")


async def run(
    requests: Iterable[Request],
    client: AsyncOpenAI | str,
    journal: Journal,
    *,
    retry_failed: bool = False,
    counted: Iterable[Request] = (),
    **transport: Any,
) -> list[Answer | Failure]:
    """Ask a hosted model, at most once for each request, also over several runs.

    However a run ends, the answers so far are in the journal and the next run
    continues. Runs with one journal share the work and the budget. A server that asks
    for a wait of more than two minutes ends the run; what is left is asked next time.

    Parameters
    ----------
    requests : iterable of Request
        What to ask.
    client : openai.AsyncOpenAI or str
        The client, or the server's address. A client belongs to one event loop: use
        another one for :func:`ask`.
    journal : Journal
        Where answers are kept.
    retry_failed : bool, default=False
        Whether to ask again for requests that failed in an earlier run.
    counted : iterable of Request, optional
        Earlier requests whose cost counts against the same budget.
    **transport
        Fields of :class:`Transport`.

    Returns
    -------
    list of Answer or Failure
        In the order of the requests.

    Raises
    ------
    RunStopped
        :class:`BudgetExceeded` if the next request could exceed the budget,
        :class:`AccessDenied` if the server accepts no request.
    """
    how, given, before = Transport(**transport), list(requests), list(counted)
    for at, request in enumerate(given):
        if not isinstance(request, Request):
            raise TypeError(
                f"requests must be made by build_request; number {at} is a "
                f"{type(request).__name__}."
            )
    check_prices(how.prices, {request.model for request in given + before})
    client = open_client(client)
    address = str(client.base_url)
    keys = [request.key(address) for request in given]
    wanted = dict(zip(keys, given, strict=True))
    earlier = {request.key(address): request for request in before}
    ledger = await asyncio.to_thread(_Ledger, journal, earlier | wanted, how)
    results = await asyncio.to_thread(journal.get, list(wanted))
    if retry_failed:
        results = {k: r for k, r in results.items() if isinstance(r, Answer)}
    work = _Run(client, journal, how, ledger, wanted, results)
    await work.finish()
    found = [results.get(key) for key in keys]
    if work.stopped is None:
        return [results[key] for key in keys]
    kind, words = work.stopped
    if kind is None:
        return [result or Failure("AskedToWait", words, 429) for result in found]
    ready = sum(result is not None for result in found)
    words += f" {ready} of {len(found)} requests are done and in the journal, and "
    words += f"{ledger.cost:.6g} is spent; run them all again to go on."
    raise kind(words, found, ledger.cost)


def ask(
    requests: Iterable[Request],
    client: AsyncOpenAI | str,
    journal: Journal,
    **options: Any,
) -> list[Answer | Failure]:
    """Do what :func:`run` does, from code that is not asynchronous, notebooks too."""
    over = threading.Event()

    async def work() -> list[Answer | Failure]:
        try:
            return await run(requests, client, journal, **options)
        finally:
            over.set()

    with _starting:
        future = asyncio.run_coroutine_threadsafe(work(), _background_loop())
    try:
        return future.result()
    except BaseException:
        # Ctrl-C: let what has come be written before the caller goes on.
        if future.cancel():
            over.wait(timeout=30)
        raise


_starting = threading.Lock()


@functools.cache
def _background_loop() -> asyncio.AbstractEventLoop:
    """One loop for all calls, since a client works in one loop only."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="hosted", daemon=True).start()
    return loop


if hasattr(os, "register_at_fork"):  # a forked process does not inherit the thread
    os.register_at_fork(after_in_child=_background_loop.cache_clear)


@dataclass
class _Run:
    """The workers of one run, what they share, and why it ended early, if it did."""

    client: AsyncOpenAI
    journal: Journal
    how: Transport
    ledger: _Ledger
    wanted: Mapping[str, Request]
    results: dict[str, Answer | Failure]
    stopped: tuple[type[RunStopped] | None, str] | None = None
    failed: int = 0
    disk_error: Exception | None = None

    def __post_init__(self) -> None:
        silence = self.how.timeout
        self.client = self.client.with_options(max_retries=0, timeout=silence)
        self.waiting = deque(key for key in self.wanted if key not in self.results)
        self.unwritten: list[Call] = []
        self.over, self.disk = asyncio.Event(), asyncio.Lock()
        self.clock = asyncio.get_running_loop().time
        self.quiet_until = self.clock()  # the server has asked for it

    async def finish(self) -> None:
        n, total, show = len(self.waiting), len(self.wanted), self.how.progress
        with progress_bar(
            total=total, initial=total - n, unit="request", show=show
        ) as self.bar:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.how.concurrency, n)):
                        group.create_task(self._work())
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            finally:
                # A second Ctrl-C must not stop the last write.
                close = functools.partial(asyncio.to_thread, self.ledger.close)
                for last in (self._write, close):
                    with suppress(sqlite3.Error):
                        await asyncio.shield(last())

    async def _work(self) -> None:
        while self.waiting and not self.stopped:
            if self.clock() < self.quiet_until:
                await self._sleep_until(self.quiet_until)
                continue
            key = self.waiting.popleft()
            # Another run may have asked since this one began, or do so now.
            state = await asyncio.to_thread(self.ledger.take, key)
            if state in ("busy", "wait"):
                waiting = self.waiting
                (waiting.append if state == "busy" else waiting.appendleft)(key)
                await self._sleep_until(self.clock() + _LOOK_AGAIN)
                continue
            if state == "known":
                self.results.update(await asyncio.to_thread(self.journal.get, [key]))
            elif state == "full":
                return self._stop_before(key)
            else:
                call = None if self.stopped else await self._answer(key)
                if call is None:
                    return
                self.unwritten.append(call)
                await asyncio.shield(self._write())
                self.results[key] = call.result
            self.failed += isinstance(self.results[key], Failure)
            spent = "" if self.how.prices is None else f", cost {self.ledger.cost:.4g}"
            self.bar.set_postfix_str(f"{self.failed} failed{spent}", refresh=False)
            self.bar.update()

    async def _answer(self, key: str) -> Call | None:
        how, end = self.how, self.clock() + self.how.deadline
        left, request = how.retries, self.wanted[key]
        while not self.stopped:
            result, said, error = await attempt(
                self.client, request, silence=how.timeout, total=how.deadline, end=end
            )
            if isinstance(result, Failure) and error and _is_denied(error):
                words = f"The server takes no requests. {result.message}"
                if self.client.api_key == "-" and os.environ.get("OPENAI_API_KEY"):
                    words += (
                        " No key was sent, since that in OPENAI_API_KEY is OpenAI's: "
                        "give an openai.AsyncOpenAI with the key of this server."
                    )
                self._stop(AccessDenied, words)
                return None
            wait = 0.0 if error is None else _wait_of(error)
            if wait > _LONGEST_WAIT:
                later = datetime.now() + timedelta(seconds=wait)
                until = later.isoformat(" ", "seconds")
                words = (
                    f"The server asks to wait {wait:,.0f} s, until {until}, so "
                    "that the run ended before this request was answered. Ask again "
                    "then: all answers so far are in the journal."
                )
                self._stop(None, words)
                return None
            self.quiet_until = max(self.quiet_until, self.clock() + wait)
            pause = min(_FIRST_PAUSE * 2 ** (how.retries - left), 8.0)
            pause = wait or pause * random.uniform(0.75, 1)
            then = max(self.quiet_until, self.clock() + pause)
            if error is None or not left or not _wants_again(error) or then > end:
                return Call(key, request, result, said)
            billed = getattr(error, "status_code", None) is None
            cost = self.ledger.cost_of(key, result.usage, may_be_billed=billed)
            if cost and not await asyncio.to_thread(self.ledger.lose, cost):
                self._stop_before(key)
            while self.clock() < max(then, self.quiet_until) and not self.stopped:
                await self._sleep_until(max(then, self.quiet_until))
            left -= 1
        return None

    async def _write(self) -> None:
        """Put all calls that wait for it on disk; no later one gets past an error."""
        async with self.disk:
            if self.disk_error:
                raise self.disk_error
            group, self.unwritten = self.unwritten, []
            if group:
                try:
                    await asyncio.to_thread(self.journal.add, group)
                except Exception as error:
                    self.disk_error = error
                    raise

    def _stop(self, kind: type[RunStopped] | None, words: str) -> None:
        self.stopped = self.stopped or (kind, words)
        self.over.set()

    def _stop_before(self, key: str) -> None:
        most = f"The next request, for up to {self.ledger.most[key]:.6g}, could pass"
        self._stop(BudgetExceeded, f"{most} the budget of {self.how.budget:g}.")

    async def _sleep_until(self, moment: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), max(moment - self.clock(), 0))


class _Ledger:
    """What requests have cost so far, whoever asked, and who asks which of them."""

    def __init__(
        self, journal: Journal, requests: Mapping[str, Request], how: Transport
    ) -> None:
        self.limit, self.cost = how.budget, 0.0
        self._journal, self._seconds = journal, how.deadline + _LONGEST_WAIT
        prices = how.prices or {}
        self._price = {k: prices.get(r.model, (0, 0)) for k, r in requests.items()}
        limited = requests if self.limit is not None else {}
        self.most = dict.fromkeys(requests, 0.0)
        for key, request in limited.items():
            most = request.most_usage
            self.most[key] = self.cost_of(key, most, may_be_billed=False)
        self._owner, self._closed = f"{os.getpid()} {uuid.uuid4().hex}", False
        self._news: set[str] = set()
        self._seen, rows = journal.paid(list(requests))
        for row in rows:
            self._count(row)

    def cost_of(self, key: str, usage: TokenUsage, *, may_be_billed: bool) -> float:
        """What a call came to; all that it could, where no bill came and one may."""
        if usage == TokenUsage():
            return self.most[key] if may_be_billed else 0.0
        read, written = self._price[key]
        return (usage.prompt * read + usage.completion * written) / 1e6

    def take(self, key: str) -> str:
        """Claim a request: "free", "known", "busy" elsewhere, "wait" or "full"."""
        with self._journal.writing(durable=False) as file:
            self._catch_up()
            if key in self._news:
                return "known"
            claims = self._claims(file)
            if key in claims or self._closed:
                return "busy"
            held, most = sum(claims.values()), self.most[key]
            if self._is_over(held + most):
                return "full" if self._is_over(most) or not claims else "wait"
            row = (key, self._owner, most, time.time() + self._seconds)
            file.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)", row)
        return "free"

    def lose(self, cost: float) -> bool:
        """Count an attempt without an answer; whether there is money for another."""
        with self._journal.writing(durable=False) as file:
            self.cost += cost
            self._catch_up()
            return not self._is_over(sum(self._claims(file).values()))

    def close(self) -> None:
        with self._journal.writing(durable=False) as file:
            self._closed = True
            self._catch_up()
            gone = (self._owner, time.time())
            file.execute("DELETE FROM claims WHERE owner = ? OR until < ?", gone)

    def _is_over(self, more: float) -> bool:
        return self.limit is not None and self.cost + more > self.limit

    def _catch_up(self) -> None:
        for row in self._journal.paid_since(self._seen):
            self._seen = row[0]
            if row[1] in self.most:
                self._news.add(row[1])
                self._count(row)

    def _count(self, row: sqlite3.Row) -> None:
        _, key, source, status, prompt, completion = row
        usage = TokenUsage(prompt, completion)
        open_bill = source == "direct" and status is None
        self.cost += self.cost_of(key, usage, may_be_billed=open_bill)

    def _claims(self, file: sqlite3.Connection) -> dict[str, float]:
        query = "SELECT key, owner, most FROM claims WHERE until > ?"
        return {
            key: most
            for key, owner, most in file.execute(query, (time.time(),))
            if key in self.most and _is_alive(int(owner.split()[0]))
        }


def _is_alive(process: int) -> bool:
    if process == os.getpid() or os.name != "posix":
        return True
    with suppress(PermissionError):  # another user's
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


def _is_denied(error: Exception) -> bool:
    """Whether every other request would fail as well; no request is to blame then."""
    status = getattr(error, "status_code", None)
    empty = getattr(error, "code", None) == "insufficient_quota"
    return status in (401, 402) or (status == 429 and empty)


def _wants_again(error: Exception) -> bool:
    from openai import APIConnectionError, APIStatusError

    if not isinstance(error, APIStatusError):
        return isinstance(error, APIConnectionError)
    said = error.response.headers.get("x-should-retry")
    return said == "true" or (said != "false" and error.status_code in _PASSING)


def _wait_of(error: Exception) -> float:
    """Seconds that a server asks to wait before anything else is sent; 0 for none."""
    if getattr(error, "status_code", None) not in _PASSING:
        return 0.0
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        said = vars(error)["response"].headers.get(name, "")
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
