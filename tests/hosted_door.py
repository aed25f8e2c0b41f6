"""A door that answers typed questions with probabilities, for the tests."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response


def chances(text: str, options: list[str], *, bias: float = 0.0) -> np.ndarray:
    """What the model thinks: by text and option, and by place where it is biased."""
    scores = [
        zlib.crc32(f"{text}|{option}".encode()) / 2**31 - bias * at
        for at, option in enumerate(options)
    ]
    p = np.exp(scores)
    return p / p.sum()


@dataclass
class Door:
    """Speaks both protocols, in one of many ways."""

    step: float = 0.0
    label_mass: float | None = None
    bias: float = 0.0
    confidence: str = "top"  # "joint" with the labels' mass, "margin"
    most: int = 255
    first_level: int = 0
    protocols: tuple[str, ...] = ("decisions", "systemone")
    kinds: tuple[str, ...] = ("choice", "predicate", "score")
    joint: bool = False  # questions of a request change each other
    noise: float = 0.0
    change: Callable[[str, dict[str, Any]], Any] | None = None  # an answer, by text
    asked: list[dict[str, Any]] = field(default_factory=list)

    def serve(self, server: HTTPServer) -> str:
        """Answer on a server; its base_url."""
        for protocol in self.protocols:
            server.expect_request(
                f"/v1/{protocol}", method="POST"
            ).respond_with_handler(lambda request, p=protocol: self._answer(p, request))
        server.expect_request(re.compile(".*")).respond_with_json(
            {"error": {"message": "no such thing"}}, status=404
        )
        return server.url_for("/v1")

    def _answer(self, protocol: str, request: Request) -> Response:
        body = json.loads(request.data)
        self.asked.append(body)
        text = body.get("input", body.get("state"))
        usage = {"input_tokens": 20, "output_tokens": 1}
        named = body["questions"]
        pairs = named.items() if isinstance(named, dict) else [(None, q) for q in named]
        answers = []
        for at, (name, question) in enumerate(pairs):
            asked = f"{text}|{at}" if self.joint else text
            asked += str(len(self.asked)) if self.noise else ""
            kind, options = _options(question)
            if kind not in self.kinds:
                return _error(f"unknown question type {kind!r}")
            if len(options) > self.most:
                return _error(f"at most {self.most} options for this model")
            said = self._said(protocol, kind, options, asked)
            said |= {} if name else {"name": question.get("name")}
            if self.change is not None:
                said = self.change(text, said)
            answers.append((name, said))
        whole: dict[str, Any] = {"model": body["model"], "usage": usage}
        if protocol == "decisions":
            return _json({**whole, "answers": [said for _, said in answers]})
        masses = {name: {"label_mass": self.label_mass} for name, _ in answers}
        diagnostics = {} if self.label_mass is None else {"diagnostics": masses}
        return _json({**whole, "answers": dict(answers), **diagnostics})

    def _said(
        self, protocol: str, kind: str, options: list[str], text: str
    ) -> dict[str, Any]:
        p = chances(text, options, bias=self.bias)
        top, second = np.sort(p)[::-1][:2]
        mass = 1.0 if self.label_mass is None else self.label_mass
        sure = {"top": top, "joint": top * mass, "margin": top - second}
        if self.step:
            p = np.round(np.round(p / self.step) * self.step, 10)
        said: dict[str, Any] = {"type": kind, "confidence": sure[self.confidence]}
        if protocol == "decisions" and self.label_mass is not None:
            said["label_mass"] = self.label_mass
        if kind == "predicate":
            del said["confidence"]
            if protocol == "systemone":
                return {**said, "type": "noul", "noul": p[0]}
            return {**said, "probability": p[0]}
        if kind == "choice":
            said["choice"] = options[int(p.argmax())]
            values = [
                {"value": x, "probability": v} for x, v in zip(options, p, strict=True)
            ]
            names = options
        else:
            levels = [at + self.first_level for at in range(len(options))]
            said["score"] = float(p @ levels)
            values = [
                {"label": x, "value": at, "probability": v}
                for x, at, v in zip(options, levels, p, strict=True)
            ]
            names = [str(at) for at in range(len(options))]
        by_name = protocol == "systemone"
        named = dict(zip(names, p, strict=True))
        return said | {"probabilities": named if by_name else values}


def _options(question: dict[str, Any]) -> tuple[str, list[str]]:
    kind = question["type"]
    if kind in ("predicate", "noul"):
        return "predicate", ["true", "false"]
    for group, name in (("choices", "value"), ("levels", "label")):
        if group in question:
            return kind, [one[name] for one in question[group]]
    return kind, list(question["criteria"])


def _error(message: str) -> Response:
    return _json({"error": {"message": message}}, 400)


def _json(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, content_type="application/json")
