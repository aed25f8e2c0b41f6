"""Rules of helpers.logits: a few numbers of a large table, without the table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from helpers import logits
from helpers.logits import ProjectedLogits, WholeLogits


def both(
    n_texts: int, n_nodes: int, vocabulary: int, seed: int = 0, scale: float = 1.0
) -> tuple[ProjectedLogits, np.ndarray]:
    rng = torch.Generator().manual_seed(seed)
    states = torch.randn(n_texts, n_nodes, 8, generator=rng) * scale
    weight = torch.randn(vocabulary, 8, generator=rng)
    whole = np.einsum("tnh,vh->tnv", states.double(), weight.double())
    return ProjectedLogits(states, weight), whole


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 300), st.integers(0, 99))
def test_numbers_are_those_of_the_table(
    n_texts: int, n_nodes: int, vocabulary: int, seed: int
) -> None:
    found, whole = both(n_texts, n_nodes, vocabulary, seed)
    rng = np.random.default_rng(seed)
    nodes = rng.integers(0, n_nodes, 6).tolist()
    tokens = rng.integers(0, vocabulary, 6).tolist()
    for one in (found, WholeLogits(torch.tensor(whole))):
        np.testing.assert_allclose(one.whole(), whole, atol=1e-4)
        np.testing.assert_allclose(
            one.of(nodes, tokens), whole[:, nodes, tokens], atol=1e-4
        )
        np.testing.assert_allclose(
            one.each(nodes, tuple(tokens)), whole[:, nodes][..., tokens], atol=1e-4
        )
        np.testing.assert_allclose(
            one.normaliser(), logsumexp(whole, axis=-1), atol=1e-4
        )


@pytest.mark.parametrize("vocabulary", [63, 64, 65, 1000])
def test_slices_add_up(monkeypatch: pytest.MonkeyPatch, vocabulary: int) -> None:
    monkeypatch.setattr(logits, "_SLICE", 1)  # the narrowest there are
    found, whole = both(3, 2, vocabulary)
    np.testing.assert_allclose(found.normaliser(), logsumexp(whole, -1), atol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    found, whole = both(2, 2, 500, scale=1e3)
    assert np.abs(whole).max() > 1e3
    np.testing.assert_allclose(found.normaliser(), logsumexp(whole, -1), rtol=1e-5)


def test_half_precision_is_multiplied_in_float32() -> None:
    states = torch.randn(1, 1, 8, generator=torch.manual_seed(0)).bfloat16()
    weight = torch.randn(9, 8, generator=torch.manual_seed(1)).bfloat16()
    whole = (states.double() @ weight.double().T).numpy()
    found = ProjectedLogits(states, weight)
    np.testing.assert_allclose(found.whole(), whole, atol=1e-6)
    np.testing.assert_allclose(found.normaliser(), logsumexp(whole, -1), atol=1e-6)


def test_gradients_flow_through_a_table() -> None:
    table = torch.randn(2, 3, 4, generator=torch.manual_seed(0), requires_grad=True)
    WholeLogits(table).normaliser().sum().backward()
    assert table.grad is not None
    torch.testing.assert_close(table.grad, table.detach().softmax(-1))
