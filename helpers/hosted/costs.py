"""What answers cost, and a budget that is not passed.

Prices are the user's: they change too often to be written down here.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..answers import TokenUsage
from ..checks import check_not_negative
from .endpoints import PROMPTS, Request

if TYPE_CHECKING:
    from .journal import Journal

Prices = Mapping[str, tuple[float, float]]

# Room for what a server adds to each message, and to the whole: roles and marks.
_PER_REQUEST = 32
_PER_MESSAGE = 16


def check_prices(prices: Prices | None, models: Iterable[str]) -> None:
    """Stop if one of the models has no price, or one that is none."""
    if prices is None:
        return
    for model in models:
        pair = prices.get(model, ())
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(
                f"prices must hold {model!r}: a pair, for a million tokens read and "
                "written."
            )
        for value in pair:
            check_not_negative(f"prices[{model!r}]", value)


def cost_of(usage: TokenUsage, price: tuple[float, float]) -> float:
    """What an answer cost, without discounts for cached prompts."""
    return (usage.prompt * price[0] + usage.completion * price[1]) / 1e6


def most_it_costs(request: Request, price: tuple[float, float]) -> float:
    """The most that one answer to a request of text can cost."""
    if request.limit is None:
        raise ValueError(
            "budget needs requests that limit their answers: give max_tokens."
        )
    body = json.dumps(dict(request.arguments), ensure_ascii=False).encode()
    prompt = request.arguments[PROMPTS[request.protocol]]
    extra = _PER_MESSAGE * (1 if isinstance(prompt, str) else len(prompt))
    most = TokenUsage(len(body) + extra + _PER_REQUEST, request.limit)
    return cost_of(most, price)


class Ledger:
    """What requests have cost so far, whoever asked, and who asks which of them."""

    def __init__(
        self,
        journal: Journal,
        requests: Mapping[str, Request],
        *,
        limit: float | None,
        prices: Prices | None,
        seconds: float,
    ) -> None:
        self.limit, self.spent, self.lost = limit, 0.0, 0.0
        self._journal, self._seconds = journal, seconds
        self._price = {
            k: (prices or {}).get(r.model, (0, 0)) for k, r in requests.items()
        }
        self.most = {
            key: 0.0 if limit is None else most_it_costs(request, self._price[key])
            for key, request in requests.items()
        }
        self._owner, self._closed = f"{os.getpid()} {uuid.uuid4().hex}", False
        self._news: set[str] = set()
        self._seen, rows = journal.paid(list(requests))
        for row in rows:
            self._count(row)

    @property
    def cost(self) -> float:
        """All that was paid, as far as anybody knows."""
        return self.spent + self.lost

    def cost_of(self, key: str, usage: TokenUsage, *, may_be_billed: bool) -> float:
        """What a call came to; all that it could, where no bill came and one may."""
        if usage == TokenUsage():
            return self.most[key] if may_be_billed else 0.0
        return cost_of(usage, self._price[key])

    def take(self, key: str) -> str:
        """Claim a request: "free", "known", "busy" elsewhere, "wait" or "full"."""
        with self._journal.writing(durable=False) as file:
            self._catch_up(file)
            if key in self._news:
                return "known"
            claims = self._claims(file)
            if key in claims or self._closed:
                return "busy"
            held, most = sum(claims.values()), self.most[key]
            if self._is_over(held + most):
                return "full" if self._is_over(most) or not claims else "wait"
            until = time.time() + self._seconds
            file.execute(
                "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)",
                (key, self._owner, most, until),
            )
        return "free"

    def lose(self, cost: float) -> bool:
        """Count an attempt without an answer; whether there is money for another."""
        with self._journal.writing(durable=False) as file:
            self.lost += cost
            self._catch_up(file)
            return not self._is_over(sum(self._claims(file).values()))

    def close(self) -> None:
        """Let go of all that was claimed, and count what came last."""
        with self._journal.writing(durable=False) as file:
            self._closed = True
            self._catch_up(file)
            file.execute(
                "DELETE FROM claims WHERE owner = ? OR until < ?",
                (self._owner, time.time()),
            )

    def _is_over(self, more: float) -> bool:
        return self.limit is not None and self.cost + more > self.limit

    def _catch_up(self, file: sqlite3.Connection) -> None:
        for row in self._journal.paid_since(file, self._seen):
            self._seen = row[0]
            if row[1] in self.most:
                self._news.add(row[1])
                self._count(row)

    def _count(self, row: tuple[Any, ...]) -> None:
        _, key, source, status, prompt, completion = row
        usage = TokenUsage(prompt, completion)
        open_bill = source == "direct" and status is None
        self.spent += self.cost_of(key, usage, may_be_billed=open_bill)

    def _claims(self, file: sqlite3.Connection) -> dict[str, float]:
        """Requests in flight in any run that is alive, with what they may cost."""
        found = file.execute(
            "SELECT key, owner, most FROM claims WHERE until > ?", (time.time(),)
        )
        return {
            key: most
            for key, owner, most in found
            if key in self.most and _is_alive(int(owner.split()[0]))
        }


def _is_alive(process: int) -> bool:
    """Whether a process of this machine goes on, as far as can be known."""
    if process != os.getpid() and os.name == "posix":
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        except OSError:  # another user's
            pass
    return True
