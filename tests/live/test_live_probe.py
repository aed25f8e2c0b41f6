"""What the probe finds out about the server of llama-cpp-python.

Findings that hang on what the model happens to write are left out.
"""

from __future__ import annotations

import pytest

from helpers import EMBEDDED
from helpers.hosted import Probe, probe


@pytest.fixture(scope="module")
def found(base_url: str) -> Probe:
    return probe(base_url, EMBEDDED)


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("chat", "yes"),
        ("completions", "yes"),
        ("responses", "no"),
        ("max_completion_tokens", "no"),
        ("logprobs", "yes"),
        ("20 alternatives", "yes"),
        ("5 alternatives", "yes"),
        ("1 alternative", "yes"),
        ("bytes", "no"),
        ("after temperature", "no"),
        ("logit_bias", "yes"),
        ("json_object", "yes"),
        ("schema in json_object", "yes"),
        ("after the mask", "no"),
        ("reasoning", "no"),
        ("sentinel", "no"),
    ],
)
def test_finding(found: Probe, name: str, verdict: str) -> None:
    assert found[name].verdict == verdict, found[name].seen


def test_json_schema_is_not_to_be_had(found: Probe) -> None:
    # The server breaks (500) where others refuse (400), which is not quite a no.
    assert found["json_schema"].verdict != "yes"
    assert "'text' or 'json_object'" in found["json_schema"].seen


def test_both_protocols_show_logprobs(found: Probe) -> None:
    assert found.protocol == "chat"
    assert found["logprobs"].seen == "By chat, completions."
    assert found["20 alternatives"].seen == "20 came."


def test_the_limit_goes_by_its_old_name(found: Probe) -> None:
    assert found.old_limit
    assert "use max_tokens" in found["max_completion_tokens"].seen


def test_it_costs_what_it_says(found: Probe) -> None:
    assert 15 <= found.requests <= 25
    assert 0 < found.completion_tokens <= 24 * found.requests
    assert str(found).startswith(f"{EMBEDDED} at {found.base_url} ({found.requests} ")
