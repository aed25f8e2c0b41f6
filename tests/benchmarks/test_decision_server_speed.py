"""What asking through ``how-sure serve`` costs beside one call of the classifier.

Run by ``make bench``: the same texts and questions, the options before the text, by
``LLMClassifier.predict_proba`` in one call and by 16 clients at once of the server in
another process, in turn, since machines are noisy. Where they are very noisy, what each
process computed itself (``busy``) says more. Times are printed, never asserted; results
are.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pandas as pd
import pytest
from cases import BODY_PARTS, PARTS, injuries, seconds

from helpers.classifier import LLMClassifier, OffLabelWarning
from helpers.models import LanguageModel

CONCURRENCY = 16
REPEATS = 5
ASKED = "Which part of the body was hurt?"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Any]]:
    psutil = pytest.importorskip("psutil")
    command = [sys.executable, "-m", "helpers", "serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        told = iter(process.stderr.readline, "")
        line = next(line for line in told if "running on" in line)
        yield re.findall(r"http://\S+", line)[0] + "/v1", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.communicate()


@pytest.mark.parametrize("labels", [["finger", "head"], BODY_PARTS], ids=len)
def test_what_the_server_costs(server: tuple[str, Any], labels: list[str]) -> None:
    url, process = server
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

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OffLabelWarning)
        direct()  # warm up
    served()
    took, busy = [], []
    for _ in range(REPEATS):
        before = time.process_time(), sum(process.cpu_times()[:2])
        took.append([seconds(direct), 0.0])
        busy.append([time.process_time() - before[0], 0.0])
        took[-1][1] = seconds(served)
        busy[-1][1] = sum(process.cpu_times()[:2]) - before[1]
    # Rounding depends a little on what is read together.
    assert np.allclose(found["direct"], found["served"], rtol=0, atol=2e-5)
    rows = pd.DataFrame({"way": ["predict_proba", f"server, {CONCURRENCY} at once"]})
    rows["texts/s"] = len(texts) / np.median(took, axis=0)
    for name, times in (("", np.array(took)), ("busy ", np.array(busy))):
        ratios = times[:, :1] / times
        rows[f"{name}ratio"] = np.median(ratios, axis=0)
        rows[f"{name}least"], rows[f"{name}most"] = ratios.min(0), ratios.max(0)
    print(f"\n\n{len(texts)} texts, {len(labels)} labels")
    print(rows.to_string(index=False, float_format="{:.2f}".format))
