"""Blocks by Ray actors, on this machine or on a cluster.

An actor that dies is replaced and its block given away again. Nothing is asked of Ray
but to start actors and to tell when they are done: what is done is known by the shards.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .blocks import BlockDone, BlockWorker
from .plan import Plan
from .store import Store

_OBJECT_STORE = 100 << 20  # bytes; only the plan and the factory pass through it


@contextmanager
def _ray(address: str | None, workers: int, cpus: int | None) -> Iterator[Any]:
    """Ray, and the cores of a worker; what was started here is stopped again."""
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            "workers need Ray: pip install 'how-sure[scale]'. With workers=0, this "
            "process does all the work."
        ) from error
    if ray.is_initialized():
        yield ray, cpus or 1
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        cpus = cpus or max(1, _cores() // workers)
        quiet |= {"num_cpus": workers * cpus, "include_dashboard": False}
        quiet |= {"object_store_memory": _OBJECT_STORE}
    # What this process can import, workers started here are to find, too.
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    with _environment(RAY_USAGE_STATS_ENABLED="0", PYTHONPATH=paths):
        ray.init("local" if address is None else address, **quiet)
    try:
        yield ray, cpus or 1
    finally:
        ray.shutdown()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def cluster_blocks(
    factory: Callable[[], Any],
    plan: Plan,
    store: Store,
    todo: Sequence[int],
    *,
    workers: int,
    cpus: int | None,
    gpus: float,
    address: str | None,
    attempts: int,
) -> Generator[BlockDone | None]:
    """Give blocks to actors until all are done.

    Parameters
    ----------
    factory : callable
        Makes the classifier.
    plan : Plan
        All blocks.
    store : Store
        Where results go.
    todo : sequence of int
        The blocks to do. Without any, an actor only says what its classifier is.
    workers : int
        The most actors at once.
    cpus : int or None
        Cores that each takes, and threads that it uses; None leaves it to what there
        is.
    gpus : float
        Accelerators that each takes.
    address : str or None
        The cluster; None starts Ray here, where it does not run yet.
    attempts : int
        How many actors a block may lose.

    Yields
    ------
    BlockDone or None
        None where the first classifier is there.
    """
    with _ray(address, workers, cpus) as (ray, cores):
        _warn_if_too_small(ray, cores, gpus)
        crew = _Crew(ray, factory, plan, store, cores, gpus, attempts)
        try:
            yield from crew.work(todo, workers)
        finally:
            crew.dismiss()


def _warn_if_too_small(ray: Any, cpus: int, gpus: float) -> None:
    sizes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(s.get("CPU", 0) >= cpus and s.get("GPU", 0) >= gpus for s in sizes):
        return
    # A cluster may grow; until it does, Ray waits and says nothing.
    warnings.warn(
        f"A worker is to take {cpus} cores and {gpus:g} accelerators; no machine that "
        "Ray knows has them. Waiting for one.",
        stacklevel=4,
    )


class _Crew:
    """Actors, and what each of them is doing."""

    def __init__(
        self,
        ray: Any,
        factory: Callable[[], Any],
        plan: Plan,
        store: Store,
        cpus: int,
        gpus: float,
        attempts: int,
    ) -> None:
        self._ray, self._plan, self._store = ray, plan, store
        self._threads, self._attempts = cpus, attempts
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)
        self._actor = remote(BlockWorker)
        given = (factory, plan, store.folder.resolve())
        self._given = [ray.put(part) for part in given]
        self._busy: dict[Any, tuple[Any, int | None]] = {}
        self._idle: list[Any] = []
        self._losses: Counter[int | None] = Counter()

    def work(self, todo: Sequence[int], workers: int) -> Iterator[BlockDone | None]:
        waiting, left = deque(todo), len(todo)
        for _ in range(max(1, min(workers, left))):
            self._start()
        admitted = False
        while left or not admitted:
            while waiting and self._idle:
                self._hand_out(self._idle.pop(), waiting.popleft())
            [done], _ = self._ray.wait(list(self._busy), num_returns=1)
            actor, number = self._busy.pop(done)
            try:
                answer = self._ray.get(done)
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, Exception):
                    raise error.cause from error  # the classifier's own
                raise
            except self._ray.exceptions.RayError as error:
                self._ray.kill(actor)
                self._lose(number, error)
                if number is not None:
                    waiting.appendleft(number)
                if not self._idle:
                    self._start()
                continue
            self._idle.append(actor)
            if number is None:
                self._store.admit(answer)
                self._losses[None] = 0
                if not admitted:
                    admitted = True
                    yield None
            else:
                left -= 1
                yield answer

    def dismiss(self) -> None:
        for actor in [*self._idle, *(actor for actor, _ in self._busy.values())]:
            self._ray.kill(actor)

    def _start(self) -> None:
        actor = self._actor.remote(*self._given)
        self._busy[actor.load.remote(self._threads)] = (actor, None)

    def _hand_out(self, actor: Any, number: int) -> None:
        self._busy[actor.classify.remote(number)] = (actor, number)

    def _lose(self, number: int | None, error: Exception) -> None:
        self._losses[number] += 1
        if self._losses[number] < self._attempts:
            return
        times = f"{self._losses[number]} times, a worker died"
        if number is None:
            raise RuntimeError(f"{times} while it made the classifier: {error}")
        raise RuntimeError(f"{times} on {self._plan.where(number)}: {error}")
