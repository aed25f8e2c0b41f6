"""What answers cost, and a budget that is not passed.

Prices are the user's: they change too often to be written down here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping

from ..checks import check_not_negative
from .answers import TokenUsage
from .endpoints import PROMPTS, Request

Prices = Mapping[str, tuple[float, float]]

# Room for what a server adds to each message, and to the whole: roles and marks.
_PER_REQUEST = 32
_PER_MESSAGE = 16


def check_prices(prices: Prices | None, models: Iterable[str]) -> None:
    """Stop if a price is missing or none.

    Parameters
    ----------
    prices : mapping or None
        A pair for each model: the price of a million tokens read, and of a million
        written, in any currency. None passes.
    models : iterable of str
        The models that must have one.

    Raises
    ------
    ValueError
        One has none, or it is no pair of numbers of 0 or more.

    Examples
    --------
    >>> check_prices({"m": (0.1, 0.4)}, ["n"])
    Traceback (most recent call last):
    ...
    ValueError: prices must hold 'n': a pair, for a million tokens read and written.
    """
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
    """What an answer cost, without discounts for cached prompts.

    Parameters
    ----------
    usage : TokenUsage
        Its tokens.
    price : (float, float)
        Of a million tokens read, and of a million written.

    Returns
    -------
    float

    Examples
    --------
    >>> cost_of(TokenUsage(prompt=1_000_000, completion=500_000), (0.5, 2.0))
    1.5
    """
    return (usage.prompt * price[0] + usage.completion * price[1]) / 1e6


def most_it_costs(request: Request, price: tuple[float, float]) -> float:
    """The most that one answer to a request of text can cost.

    A token stands for at least one byte, so that the bytes of the request bound the
    tokens of its prompt, usually fourfold. Images and files behind an address are not
    seen; nor are attempts that a server bills though they failed.

    Parameters
    ----------
    request : Request
        It must limit the length of its answer.
    price : (float, float)
        Of a million tokens read, and of a million written.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        The request has no limit.

    Examples
    --------
    >>> hi = Request("chat", {"model": "m", "messages": [], "max_tokens": 10})
    >>> most_it_costs(hi, (0.0, 1.0))
    1e-05
    """
    if request.limit is None:
        raise ValueError(
            "budget needs requests that limit their answers: give max_tokens."
        )
    body = json.dumps(dict(request.arguments), ensure_ascii=False).encode()
    prompt = request.arguments[PROMPTS[request.protocol]]
    extra = _PER_MESSAGE * (1 if isinstance(prompt, str) else len(prompt))
    most = TokenUsage(len(body) + extra + _PER_REQUEST, request.limit)
    return cost_of(most, price)


class Budget:
    """Money spent, money that requests in flight may still cost, and their limit.

    Parameters
    ----------
    limit : float or None
        What must not be passed; None sets no limit.
    spent : float, default=0.0
        What was spent before.
    """

    def __init__(self, limit: float | None, spent: float = 0.0) -> None:
        self.limit, self.spent = limit, spent
        self._held = 0.0
        self._in_flight = 0
        self._changed = asyncio.Event()

    async def hold(self, most: float) -> bool:
        """Set money aside for a request, waiting for others where that may help.

        Parameters
        ----------
        most : float
            What the request may cost.

        Returns
        -------
        bool
            False if it could pass the limit whatever those in flight come to.
        """
        while self.limit is not None:
            if self.spent + self._held + most <= self.limit:
                break
            if not self._in_flight or self.spent + most > self.limit:
                return False
            self._changed.clear()
            await self._changed.wait()
        self._held += most
        self._in_flight += 1
        return True

    def settle(self, most: float, cost: float) -> None:
        """Take back what was set aside for a request, and count what it cost.

        Parameters
        ----------
        most : float
            What was set aside.
        cost : float
            What it came to.
        """
        self._in_flight -= 1
        # Sums of floats drift; with nothing in flight nothing is held.
        self._held = self._held - most if self._in_flight else 0.0
        self.spent += cost
        self._changed.set()
