"""What asking through ``how-sure serve`` costs beside one call of the classifier.

Run by ``make bench``: the same texts and questions, the options before the text, by
``LLMClassifier.predict_proba`` in one call and by 16 clients at once of the server in
another process, in turn, since machines are noisy. Times are printed, never asserted;
results are.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pandas as pd
import pytest
from cases import BODY_PARTS, PARTS, injuries, seconds

from helpers.classifier import LLMClassifier
from helpers.models import LanguageModel

CONCURRENCY = 16
REPEATS = 5
ASKED = "Which part of the body was hurt?"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "helpers", "serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        told = iter(process.stderr.readline, "")
        line = next(line for line in told if "running on" in line)
        yield re.findall(r"http://\S+", line)[0] + "/v1"
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.parametrize("labels", [["finger", "head"], BODY_PARTS], ids=len)
def test_what_the_server_costs(url: str, labels: list[str]) -> None:
    model, texts = LanguageModel.load(), injuries(PARTS)
    instruction = "\n- ".join([ASKED, *labels])
    classifier = LLMClassifier(model, labels, instruction=instruction, cache=False)
    client = openai.OpenAI(api_key="none", base_url=url, max_retries=0)
    choices: Any = [{"value": label} for label in labels]
    question: Any = {"type": "choice", "instructions": ASKED, "choices": choices}
    found: dict[str, Any] = {}

    def ask(text: str) -> list[float]:
        answer: Any = client.decisions.create(
            model=model.name, input=text, questions=[question], timeout=600
        ).answers[0]
        shares = {one.value: one.probability for one in answer.probabilities}
        return [shares[label] for label in classifier.classes_]

    def direct() -> None:
        found["direct"] = classifier.predict_proba(texts)

    def served() -> None:
        with ThreadPoolExecutor(CONCURRENCY) as threads:
            found["served"] = np.array([*threads.map(ask, texts)])

    for way in (direct, served):
        way()  # warm up
    took = np.array([[seconds(direct), seconds(served)] for _ in range(REPEATS)])
    assert np.allclose(found["direct"], found["served"], rtol=0, atol=1e-6)
    ratio = took[:, 0] / took[:, 1]
    rows = pd.DataFrame(
        {
            "way": ["predict_proba", f"server, {CONCURRENCY} at once"],
            "texts/s": len(texts) / np.median(took, axis=0),
            "ratio": [1.0, np.median(ratio)],
            "least": [1.0, ratio.min()],
            "most": [1.0, ratio.max()],
        }
    )
    print(f"\n\n{len(texts)} texts, {len(labels)} labels")
    print(rows.to_string(index=False, float_format="{:.2f}".format))
