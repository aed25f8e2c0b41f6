"""Writing to the journal from an event loop, without stopping it."""

from __future__ import annotations

import asyncio
from types import TracebackType

from .journal import Call, Journal


class GroupWriter:
    """Writes calls in a thread, together with those that come while it writes.

    Parameters
    ----------
    journal : Journal
        Where to.

    Notes
    -----
    It is an asynchronous context manager. Whatever was given to it is on disk when the
    block ends, also where the block ends in an error or is cancelled.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: list[tuple[Call, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._closing = False

    async def add(self, call: Call) -> None:
        """Write a call down; when this returns, it is on disk.

        Parameters
        ----------
        call : Call
            The call.
        """
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((call, written))
        self._wake.set()
        await written

    async def __aenter__(self) -> GroupWriter:
        self._task = asyncio.create_task(self._serve())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        self._wake.set()
        # A second Ctrl-C must not stop the last write.
        await asyncio.shield(self._task)

    async def _serve(self) -> None:
        while self._waiting or not self._closing:
            await self._wake.wait()
            self._wake.clear()
            group, self._waiting = self._waiting, []
            if not group:
                continue
            failed: Exception | None = None
            try:
                await asyncio.to_thread(self._journal.add, [call for call, _ in group])
            except Exception as error:
                failed = error
            for _, written in group:
                if not written.done():
                    if failed is None:
                        written.set_result(None)
                    else:
                        written.set_exception(failed)
