"""Tiny language models behind a server, for the tests of classifier and probe."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from helpers.hosted import HostedClassifier, RequestSettings, Transport

END = "<|end|>"
# What a model answers next, from the prompt and what it has written.
Model = Callable[[str, str], Mapping[str, float]]

PIECES = (
    "p pos positive po s os sitive itive Pos n ne neg ative negative g lig ible "
    "ligible negligible Negative x no t not"
).split()
VOCABULARY = [*PIECES, *(f" {piece}" for piece in PIECES), " ", "\n", "\n\n", END]


def hosted(client: Any, model: str = "m", *args: Any, **options: Any) -> Any:
    """A classifier, with options of settings and of transport among the others."""
    found = HostedClassifier(client, model, *args)
    return changed(found, **{"progress": False, **options})


def changed(found: HostedClassifier, **options: Any) -> HostedClassifier:
    """The classifier, with other parameters, settings or transport."""
    for name, kind in (("settings", RequestSettings), ("transport", Transport)):
        names = {one.name for one in fields(kind)} & set(options)
        own = {option: options.pop(option) for option in names}
        options[name] = replace(getattr(found, name) or kind(), **own)
    return found.set_params(**options)


def random_model(seed: int, *, spread: float = 0.2) -> Model:
    """Any text is followed by any token, with chances that only the text decides."""

    def chances(prompt: str, written: str) -> dict[str, float]:
        rng = np.random.default_rng(zlib.crc32(f"{seed}|{prompt}|{written}".encode()))
        drawn = rng.dirichlet(np.full(len(VOCABULARY), spread)) + 1e-12
        return dict(zip(VOCABULARY, drawn / drawn.sum(), strict=True))

    return chances


def written_model(rules: Mapping[str, Mapping[str, float]]) -> Model:
    """What follows each text is written down; everything else ends."""
    return lambda prompt, written: rules.get(written, {END: 1.0})


def _reach(model: Model, prompt: str, text: str) -> float:
    """Probability that an answer comes to a text at the end of a token."""
    at = [1.0] + [0.0] * len(text)
    for end in range(1, len(text) + 1):
        for start in range(end):
            if at[start]:
                step = model(prompt, text[:start]).get(text[start:end], 0.0)
                at[end] += at[start] * step
    return at[-1]


def true_probability(
    model: Model, prompt: str, texts: Sequence[str], ends: Sequence[str] = ()
) -> float:
    """Probability of a label, summed over all ways to cut its texts into tokens."""
    total = 0.0
    for text in texts:
        following = model(prompt, text)
        after = sum(p for t, p in following.items() if t.startswith(tuple(ends)))
        total += _reach(model, prompt, text) * (after if ends else 1.0)
    return total


@dataclass
class ModelServer:
    """Speaks the protocols, in one of many ways."""

    model: Model
    protocols: tuple[str, ...] = ("chat", "completions")
    most: int = 1000  # alternatives listed
    refuses_more: bool = False
    hides: str = ""  # "silently", or "loudly" with an error
    hides_in: tuple[str, ...] = ("chat", "completions")
    refuses: str = ""  # an argument
    after_temperature: bool = False
    mask: str = ""  # log-probabilities "before" or "after" it
    formats: tuple[str, ...] = ("json_object", "json_schema")
    continues: str = "always"  # "flag", "" for never
    samples: bool = True
    has_seed: bool = True
    bias_works: bool = True
    shows_end: bool = True
    sends_bytes: bool = True
    sentinel: bool = False
    ignores_new_limit: bool = False
    names: Sequence[str | None] = ()  # that the model gives itself, in turn
    asked: list[dict[str, Any]] = field(default_factory=list)

    def serve(self, server: HTTPServer) -> str:
        """Answer on a server; its base_url."""
        for protocol, path in (
            ("chat", "/v1/chat/completions"),
            ("completions", "/v1/completions"),
        ):
            if protocol in self.protocols:
                server.expect_request(path, method="POST").respond_with_handler(
                    lambda request, p=protocol: self._answer(p, request)
                )
        # Whatever else is asked for is not there.
        server.expect_request(re.compile(".*")).respond_with_json(
            {"error": {"message": "no such thing"}}, status=404
        )
        return server.url_for("/v1")

    def _answer(self, protocol: str, request: Request) -> Response:
        body = json.loads(request.data)
        self.asked.append(body)
        wanted = body.get("top_logprobs", body.get("logprobs")) or 0
        hides = self.hides if protocol in self.hides_in else ""
        if self.refuses in body:
            return _error(f"unsupported argument {self.refuses}")
        if wanted and hides == "loudly":
            return _error("logprobs are not supported by this model")
        if wanted > self.most and self.refuses_more:
            return _error(f"top_logprobs must be at most {self.most}")
        if protocol == "chat":
            prompt, begun = self._conversation(body)
            limit = body.get("max_completion_tokens")
            if self.ignores_new_limit or limit is None:
                limit = body.get("max_tokens", 12)
        else:
            prompt, begun = _split(body["prompt"])
            limit = body["max_tokens"]
        tokens, finish = self._write(body, prompt, begun, limit)
        shown = not hides and wanted > 0
        said = _body(protocol, tokens, finish, shown, wanted, self)
        names = self.names or [body["model"]]
        return _json(said | {"model": names[(len(self.asked) - 1) % len(names)]})

    def _conversation(self, body: dict[str, Any]) -> tuple[str, str]:
        messages = body["messages"]
        goes_on = self.continues == "always" or (
            self.continues == "flag" and body.get("continue_final_message")
        )
        if messages[-1]["role"] != "assistant" or not goes_on:
            return json.dumps(messages), ""
        return json.dumps(messages[:-1]), messages[-1]["content"]

    def _write(
        self, body: dict[str, Any], prompt: str, begun: str, limit: int
    ) -> tuple[list[tuple[str, dict[str, float]]], str]:
        temperature = body.get("temperature", 1.0)
        form = body.get("response_format", {}).get("type", "")
        inside = "schema" in body.get("response_format", {})
        forced = []
        if form in self.formats:
            forced = ["{", '"zq"' if "schema" in str(body) else '"a"', ":", '"alpha"}']
            if inside and "inside" not in self.formats:
                forced[1] = '"a"'
        seed = body.get("seed") if self.has_seed else None
        rng = np.random.default_rng(len(self.asked) if seed is None else seed)
        written, tokens = begun, []
        for at in range(limit):
            chances = dict(self.model(prompt, written))
            if self.bias_works and body.get("logit_bias"):
                chances = {"ban": 1.0}
            if at < len(forced):
                if self.mask == "after":
                    chances = {forced[at]: 1.0}
                else:
                    chances[forced[at]] = chances.get(forced[at], 1e-6)
            names, p = list(chances), np.array(list(chances.values()))
            warm = p ** (1 / temperature) if temperature else p == p.max()
            warm = warm / warm.sum()
            drawn = temperature and self.samples
            token = names[int(rng.choice(len(p), p=warm) if drawn else p.argmax())]
            token = forced[at] if at < len(forced) else token
            listed = warm if self.after_temperature else p
            tokens.append((token, dict(zip(names, listed, strict=True))))
            written += token
            if token == END or (forced and at == len(forced) - 1):
                if token == END and not self.shows_end:
                    tokens.pop()
                return tokens, "stop"
        return tokens, "length"


def _split(prompt: str) -> tuple[str, str]:
    """A prompt, and the beginning of the answer behind its last colon."""
    at = prompt.rfind(":") + 1 or len(prompt)
    return prompt[:at], prompt[at:]


def _body(
    protocol: str,
    tokens: list[tuple[str, dict[str, float]]],
    finish: str,
    shown: bool,
    wanted: int,
    how: ModelServer,
) -> dict[str, Any]:
    text = "".join(token for token, _ in tokens if token != END)
    tops, own = [], []
    for token, chances in tokens:
        ranked = sorted(chances, key=lambda t: -chances[t])[: min(wanted, how.most)]
        tops.append({t: float(np.log(chances[t])) for t in ranked if chances[t] > 0})
        if how.sentinel:
            tops[-1]["zzz"] = -9999.0
        own.append(float(np.log(chances[token])) if chances[token] > 0 else -9999.0)
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
    if protocol == "completions":
        choice["text"] = text
        lists = {"tokens": [token for token, _ in tokens], "token_logprobs": own}
        choice["logprobs"] = lists | {"top_logprobs": tops} if shown else None
    else:
        choice["message"] = {"role": "assistant", "content": text}
        content = [
            _entry(token, p, how)
            | {"top_logprobs": [_entry(t, v, how) for t, v in top.items()]}
            for (token, _), p, top in zip(tokens, own, tops, strict=True)
        ]
        choice["logprobs"] = {"content": content} if shown else None
    usage = {"prompt_tokens": 10, "completion_tokens": len(tokens)}
    return {"id": "x", "choices": [choice], "usage": usage}


def _entry(text: str, logprob: float, how: ModelServer) -> dict[str, Any]:
    data = list(text.encode()) if how.sends_bytes else None
    return {"token": text, "logprob": logprob, "bytes": data}


def _error(message: str) -> Response:
    return _json({"error": {"message": message}}, 400)


def _json(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, content_type="application/json")
