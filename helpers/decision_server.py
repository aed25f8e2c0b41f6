"""Label probabilities behind ``/v1/decisions`` and ``/v1/systemone``.

The command ``how-sure serve`` starts it. One thread owns the model. What is asked while
it computes waits; then texts of one question are read together, and what the prompt
says before the text, options included, is read once.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pandas as pd
import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from scipy.special import logsumexp
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from .classifier import LLMClassifier
from .decision_forms import DecisionRequest, Option, Reading, SystemOneRequest
from .models import LanguageModel
from .prompted import check_texts
from .prompts import SLOT
from .scoring import label_logprobs
from .verbalizer import Verbalizer

KEY_VARIABLE = "HOW_SURE_API_KEY"
_MOST_BYTES = 2**20  # of a body
_LONGEST_PROMPT = 2**16  # characters, without the text
_MOST_NODES = 4096  # tokens of a question's labels; each of them may see each other
_MOST_TOGETHER = 64  # texts that are read before another question has its turn
_GATHERED = 0.003  # seconds without another question after which reading begins
_KEPT = 64  # questions whose labels stay spelled
_KINDS = {429: "rate_limit_error", 500: "server_error"}


class ServedPolicy(Protocol):
    """What decides on texts, as :class:`helpers.own_data.stored.OwnPolicy` does."""

    @property
    def labels(self) -> Sequence[str]: ...

    @property
    def rule(self) -> str: ...

    def decide(self, texts: pd.Series) -> pd.DataFrame: ...


@dataclass(frozen=True)
class _Question:
    """A question as it is put to a model; equal ones are read together."""

    model: str
    labels: tuple[str, ...]
    instruction: str | None = None
    prompt: str | None = None

    @classmethod
    def of(cls, model: str, instructions: str, options: Sequence[Option]) -> _Question:
        """The question about a text; ValueError for one that no text can be asked."""
        labels = tuple(Verbalizer([one.label for one in options]).labels)
        lines = [
            f"- {one.label}: {one.description}" if one.description else f"- {one.label}"
            for one in options
        ]
        is_whole = SLOT in instructions
        said = "\n".join(filter(None, [instructions, *([] if is_whole else lines)]))
        if is_whole:
            if said.count(SLOT) > 1 or any(one.description for one in options):
                raise ValueError(
                    f"instructions with {SLOT} must have it once, and say themselves "
                    "what the options mean."
                )
        if len(said) > _LONGEST_PROMPT:
            raise ValueError(
                "instructions and options must have at most "
                f"{_LONGEST_PROMPT} characters, not {len(said)}."
            )
        return cls(model, labels, *((None, said) if is_whole else (said, None)))


Reader = Callable[[_Question, list[str]], list[Reading]]


def _read_by_model(model: LanguageModel, chat: bool) -> Reader:
    """Reads texts as :class:`LLMClassifier` does."""

    @lru_cache(_KEPT)
    def classifier(question: _Question) -> LLMClassifier:
        return LLMClassifier(
            model,
            question.labels,
            question.prompt,
            instruction=question.instruction,
            chat=chat,
        )

    def read(question: _Question, texts: list[str]) -> list[Reading]:
        _, tokens, prompts, prefix = classifier(question).inputs(texts)
        if (n := len(tokens.trie.tokens)) > _MOST_NODES:
            raise ValueError(
                f"options must have at most {_MOST_NODES} tokens in all, not {n}."
            )
        raw = label_logprobs(model, prompts, tokens, prefix=prefix, progress=False)
        raw = raw[:, [tokens.labels.index(label) for label in question.labels]]
        totals = logsumexp(raw, axis=1)
        shares = np.exp(raw - totals[:, None]).tolist()
        masses = np.exp(totals).clip(max=1).tolist()
        return [
            Reading(row, mass, len(ids))
            for row, mass, ids in zip(shares, masses, prompts, strict=True)
        ]

    return read


def _read_by_policy(policy: ServedPolicy) -> Reader:
    """Reads texts by the policy's own question, and decides."""
    rule = policy.rule

    def read(question: _Question, texts: list[str]) -> list[Reading]:
        found = policy.decide(pd.Series(check_texts(texts), dtype=object))
        if (lost := found["confidence"].isna()).any():
            raise ValueError(f"nothing is known: {found['reason'][lost].iloc[0]}")
        shares = found[[f"p_{label}" for label in question.labels]].to_numpy(float)
        named = {"confidence": "calibrated_confidence", "action": "action"}
        told = found[[*named]].rename(columns=named).assign(policy=rule)
        more: list[Any] = told.to_dict("records")
        pairs = zip(shares.tolist(), more, strict=True)
        return [Reading(row, None, 0, one) for row, one in pairs]

    return read


class _Refused(Exception):
    """A request that is answered by an error, in the form of OpenAI's."""

    def __init__(self, status: int, said: str, **more: str | None) -> None:
        super().__init__(said)
        told = {"message": said, "type": _KINDS.get(status, "invalid_request_error")}
        error = {**told, "param": None, "code": None, **more}
        headers = {"retry-after": "1"} if status == 429 else None
        self.response = JSONResponse({"error": error}, status, headers)


class _Desk:
    """Gathers what is asked, each question about a text once, for one thread."""

    def __init__(self, readers: Mapping[str, Reader], most_waiting: int) -> None:
        self._readers, self._most = readers, most_waiting
        self._open: dict[tuple[_Question, str], asyncio.Future[Any]] = {}
        self._waiting: dict[_Question, list[str]] = {}
        self._some = asyncio.Event()

    async def ask(self, questions: Sequence[_Question], text: str) -> list[Any]:
        """A reading of each question about a text, or the error instead."""
        keys = [(question, text) for question in questions]
        new = [key for key in dict.fromkeys(keys) if key not in self._open]
        if len(self._open) + len(new) > self._most:
            raise _Refused(
                429,
                f"{len(self._open)} questions are waiting; with {len(new)} more they "
                f"would be above {self._most}. Try again later.",
                code="rate_limit_exceeded",
            )
        for key in new:
            self._open[key] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(key[0], []).append(text)
            self._some.set()
        # Shielded, as others may wait for the same answer when this client goes.
        return await asyncio.gather(*(asyncio.shield(self._open[key]) for key in keys))

    async def work(self) -> None:
        """Have everything answered, until cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            while await self._some.wait():
                n = 0
                while n < min(len(self._open), _MOST_TOGETHER):  # others come
                    n = len(self._open)
                    await asyncio.sleep(_GATHERED)
                question = next(iter(self._waiting))
                texts = self._waiting.pop(question)
                texts, later = texts[:_MOST_TOGETHER], texts[_MOST_TOGETHER:]
                if later:
                    self._waiting[question] = later  # behind all others
                if not self._waiting:
                    self._some.clear()
                found = await loop.run_in_executor(thread, self._read, question, texts)
                for text, one in zip(texts, found, strict=True):
                    self._open.pop((question, text)).set_result(one)

    def _read(self, question: _Question, texts: list[str]) -> Sequence[Any]:
        try:
            return self._readers[question.model](question, texts)
        except Exception as error:
            if len(texts) == 1:
                return [error]
            half = len(texts) // 2  # no text may spoil the others
            parts = texts[:half], texts[half:]
            return [one for part in parts for one in self._read(question, part)]


class _Door:
    """Lets requests in that have the key and no more than so many bytes."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refused.response if refused else self._app)(scope, receive, send)

    def _refusal(self, request: Request) -> _Refused | None:
        if self._key and request.url.path != "/health":
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not secrets.compare_digest(given.encode(), self._key.encode()):
                said = f"The API key must be the server's {KEY_VARIABLE}."
                return _Refused(401, said, code="invalid_api_key")
        if request.method != "POST":
            return None
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return _Refused(411, "The body must say its length (Content-Length).")
        if int(length) > _MOST_BYTES:
            said = f"The body must have at most {_MOST_BYTES} bytes, not {length}."
            return _Refused(413, said)
        return None


def decision_app(
    model: LanguageModel,
    policies: Mapping[str, ServedPolicy] | None = None,
    *,
    chat: bool = False,
    key: str | None = None,
    most_waiting: int = 4096,
) -> FastAPI:
    """The server, as an application for any ASGI server.

    A question is put as ``LLMClassifier(model, labels, instruction=...)`` puts it. The
    labels are the options as written (of a predicate, yes and no), the instruction is
    the question's with a line ``- option: description`` for each behind it; one that
    contains ``{text}`` is the whole prompt. Probabilities are those of
    ``predict_proba``, ``confidence`` is the highest (in System One, as in vLLM, times
    ``label_mass``), ``label_mass`` is the probability of all labels together. A
    question that cannot be answered, as about an empty text, is a refusal with a
    ``reason``; System One has no form for one, and the request is an error.

    Parameters
    ----------
    model : LanguageModel
        What answers, under its name.
    policies : mapping of str to OwnPolicy, optional
        Policies of ``how-sure decide``, each asked as a model of that name. It reads
        the text in its own way, whatever the instructions say; the options must be its
        labels. Its probabilities are calibrated, and ``calibrated_confidence``,
        ``action`` and ``policy`` stand beside them; ``label_mass`` is null.
    chat : bool, default=False
        Whether to use the model's chat template.
    key : str, optional
        What clients must send as their API key.
    most_waiting : int, default=4096
        The most questions that may wait; requests above that are refused.

    Examples
    --------
    >>> from fastapi.testclient import TestClient
    >>> question = {"type": "predicate", "instructions": "Is this about food?"}
    >>> app = decision_app(LanguageModel.load())
    >>> with TestClient(app) as client:
    ...     name = client.get("/v1/models").json()["data"][0]["id"]
    ...     body = {"model": name, "input": "A pear.", "questions": [question]}
    ...     answer = client.post("/v1/decisions", json=body).json()["answers"][0]
    >>> 0 < answer["probability"] < 1
    True
    """
    policies = policies or {}
    if model.name in policies:
        raise ValueError(f"policies must not be named like the model, {model.name!r}.")
    readers = {name: _read_by_policy(policy) for name, policy in policies.items()}
    readers[model.name] = _read_by_model(model, chat)
    known = {name: frozenset(policy.labels) for name, policy in policies.items()}
    desk = _Desk(readers, most_waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        work = asyncio.create_task(desk.work())
        yield
        work.cancel()

    app = FastAPI(title="how-sure", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(_Door, key=key)

    @app.exception_handler(_Refused)
    async def refused(_: Request, error: _Refused) -> JSONResponse:
        return error.response

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> JSONResponse:
        return _Refused(error.status_code, str(error.detail)).response

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        # Of all forms that were tried, the one that came furthest.
        worst = max(error.errors(), key=lambda one: len(one["loc"]))
        where = ".".join(str(part) for part in worst["loc"][1:])
        return _Refused(400, f"{where}: {worst['msg']}", param=where).response

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return _Refused(500, f"{type(error).__name__}: {error}").response

    def put(name: str, where: str, *asked: Any) -> _Question:
        try:
            question = _Question.of(name, *asked)
            if name not in known:
                return question
            if known[name] == set(question.labels):
                return _Question(name, question.labels)
            raise ValueError(
                f"options must be the labels of {name}, {sorted(known[name])!r}."
            )
        except ValueError as error:
            raise _Refused(400, f"{where}: {error}", param=where) from error

    async def answer(request: DecisionRequest | SystemOneRequest) -> JSONResponse:
        name = next(iter(readers)) if request.model is None else request.model
        if name not in readers:
            said = f"The model {name!r} does not exist; there are {[*readers]!r}."
            raise _Refused(404, said, param="model", code="model_not_found")
        found = await desk.ask([put(name, *one) for one in request.asked], request.text)
        for one in found:
            if not isinstance(one, Reading | ValueError):
                raise one
        try:
            return JSONResponse(request.answered(name, found))
        except ValueError as error:
            raise _Refused(400, str(error)) from error

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        same = {"object": "model", "created": 0, "owned_by": "how-sure"}
        rules = {name: {"policy": one.rule} for name, one in policies.items()}
        data = [{"id": name, **same, **rules.get(name, {})} for name in readers]
        return {"object": "list", "data": data}

    @app.post("/v1/decisions")
    async def decisions(request: DecisionRequest) -> JSONResponse:
        return await answer(request)

    @app.post("/v1/systemone")
    async def systemone(request: SystemOneRequest) -> JSONResponse:
        return await answer(request)

    return app


def serve(
    model: LanguageModel,
    policies: Mapping[str, ServedPolicy] | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    chat: bool = False,
) -> None:
    """Serve :func:`decision_app` until interrupted, and finish what was asked before.

    Clients must send what the environment variable ``HOW_SURE_API_KEY`` holds; without
    it, a ``host`` that other machines can reach is a ValueError.
    """
    key = os.environ.get(KEY_VARIABLE) or None
    if key is None and not _is_loopback(host):
        raise ValueError(
            f"host must be an address of this machine alone, such as 127.0.0.1, not "
            f"{host!r}, unless {KEY_VARIABLE} holds a key that clients must send."
        )
    app = decision_app(model, policies, chat=chat, key=key)
    uvicorn.run(
        app, host=host, port=port, access_log=False, timeout_graceful_shutdown=30
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
