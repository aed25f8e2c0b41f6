"""What ``how-sure serve`` answers in a second beside vLLM's ``/v1/systemone``.

Run by ``make bench`` where HOW_SURE_VLLM names a Python that has vLLM 0.32. Both serve
one random network, built like Qwen3 and as large as the embedded model, which vLLM
does not serve in this form; 16 clients ask each in turn. vLLM puts the text before the
question and letters for the options: this package is asked in these words, and in its
own order. Real narratives are taken where HOW_SURE_NEISS names a file, else made up.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import torch
from cases import BODY_PARTS, MORE_PARTS, PARTS, injuries, seconds
from rivals import VLLM, vllm_environment
from transformers import AutoConfig, AutoModelForCausalLM

from helpers.datasets import load_neiss, load_reviews
from helpers.datasets.neiss_files import NEISS_VARIABLE
from helpers.models import LanguageModel

CONCURRENCY = 16
CASES = {2: 250, 26: 150}  # labels, and texts
VLLM_SAYS = "Answer with the letter of one option only."


def save_network(folder: Path) -> None:
    """A random network of Qwen3's form, with the embedded model's tokenizer."""
    model = LanguageModel.load()
    config: Any = model.network.config
    same = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "tie_word_embeddings"),
        *("bos_token_id", "eos_token_id", "pad_token_id"),
    )
    asked = {name: getattr(config, name) for name in same}
    head_dim = config.hidden_size // config.num_attention_heads
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("qwen3", head_dim=head_dim, **asked)
    )
    network.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


@contextmanager
def served(command: list[str], port: int, env: dict[str, str]) -> Iterator[str]:
    """The address of a server, until the block ends."""
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=env) as process:
        try:
            while True:
                assert process.poll() is None, f"{command} has stopped"
                try:
                    httpx.get(f"{url}/health").raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.5)
            yield f"{url}/v1/systemone"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Addresses of vLLM and of this package."""
    python = os.environ.get(VLLM)
    if not python:
        pytest.skip(f"{VLLM} names no Python that has vLLM")
    folder = tmp_path_factory.mktemp("qwen3")
    save_network(folder)
    ports = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0)) as free:
            ports.append(str(free.getsockname()[1]))
    theirs = [python, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    theirs += ["--model", str(folder), "--dtype", "float32", "--port", ports[0]]
    theirs += ["--max-model-len", "2048", "--host", "127.0.0.1"]
    ours = [sys.executable, "-m", "helpers", "serve", "--chat"]
    ours += ["--model", str(folder), "--port", ports[1]]
    environments = vllm_environment(torch.get_num_threads()), dict(os.environ)
    with ExitStack() as stack:
        urls = [
            stack.enter_context(served(command, int(port), env))
            for command, port, env in zip(
                (theirs, ours), ports, environments, strict=True
            )
        ]
        yield urls[0], urls[1]


@pytest.mark.parametrize("n_labels", CASES)
def test_answers_a_second(doors: tuple[str, str], n_labels: int) -> None:
    n = CASES[n_labels]
    if n_labels == 2:
        labels, asked = ["negative", "positive"], "Which sentiment has the review?"
        texts = load_reviews("test", n=n)["text"].tolist()
    else:
        labels, asked = BODY_PARTS, "Which part of the body was hurt?"
        if NEISS_VARIABLE in os.environ:
            texts = load_neiss(n=n)["text"].tolist()
        else:
            texts = injuries([*BODY_PARTS, *PARTS, *MORE_PARTS])[:n]
    letters = list(ascii_uppercase[:n_labels])
    lines = [f"{one}: {label}" for one, label in zip(letters, labels, strict=True)]
    whole = "\n".join(["{text}", "", f"Question: {asked}", *lines, VLLM_SAYS])
    theirs, ours = doors
    ways = {
        "vLLM": (theirs, asked, labels),
        "this server, vLLM's prompt": (ours, whole, letters),
        "this server, its own": (ours, asked, labels),
    }
    found: dict[str, Any] = {}

    def ask(way: str, texts: list[str]) -> float:
        url, instructions, options = ways[way]
        question = {"type": "choice", "instructions": instructions}
        question["criteria"] = dict.fromkeys(options)  # type: ignore[assignment]

        def one(text: str) -> tuple[list[float], int]:
            body = {"state": text, "questions": {"asked": question}}
            said = client.post(url, json=body).raise_for_status().json()
            shares = said["answers"]["asked"]["probabilities"]
            return [shares[name] for name in options], said["usage"]["input_tokens"]

        with ThreadPoolExecutor(CONCURRENCY) as threads:
            return seconds(lambda: found.update({way: [*threads.map(one, texts)]}))

    with httpx.Client(timeout=600) as client:
        for way in ways:
            ask(way, ["Something else.", "A warm-up."])
        took = pd.Series({way: ask(way, texts) for way in ways})
    shares, lengths = zip(*(zip(*found[way], strict=True) for way in ways), strict=True)
    # The very same prompt, and the same probabilities.
    assert lengths[0] == lengths[1]
    np.testing.assert_allclose(shares[0], shares[1], rtol=0, atol=0.02)
    rows = pd.DataFrame({"answers/s": n / took, "ratio": took["vLLM"] / took})
    apart = np.abs(np.subtract(shares[0], shares[1])).max()
    print(f"\n\n{n} texts, {n_labels} labels; shares differ by {apart:.1e} at most")
    print(rows.to_string(float_format="{:.2f}".format))
