"""Calibration errors side by side with the packages in common use.

Run by ``make bench``, in one run, since machines are noisy: the ECE with 20 bins of ten
million rows by this package, torchmetrics and netcal; the memory it takes; and the
bootstrap and the noise floor of 100,000 rows. All on one thread.
"""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cases import seconds

from helpers.metrics import (
    bootstrap_interval,
    calibration_metrics,
    expected_calibration_error,
    labels_needed,
    noise_floor,
)

N_ROWS = 10_000_000


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def forecasts(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, n)
    return p, rng.random(n) < p - 0.05


def test_ece_speed(capsys: pytest.CaptureFixture[str]) -> None:
    netcal = pytest.importorskip("netcal.metrics")
    theirs = pytest.importorskip("torchmetrics.functional.classification")
    p, correct = forecasts(N_ROWS)
    y = correct.astype(int)
    tensors = torch.from_numpy(p), torch.from_numpy(y)

    def ours() -> float:
        return expected_calibration_error(p, y)

    def torchmetrics() -> float:
        # Without its checks of the input, which ours are timed with.
        return float(
            theirs.binary_calibration_error(*tensors, n_bins=20, validate_args=False)
        )

    def by_netcal() -> float:
        return float(netcal.ECE(20).measure(p, y))

    mine, other = seconds(ours, 3), seconds(torchmetrics, 3)
    third = seconds(by_netcal)
    values = ours(), torchmetrics(), by_netcal()
    with capsys.disabled():
        print(f"\nECE, 20 bins, {N_ROWS:,} rows")
        print(f"  this package      {mine:8.3f} s")
        print(f"  torchmetrics      {other:8.3f} s  {other / mine:6.1f} times")
        print(f"  netcal            {third:8.3f} s  {third / mine:6.1f} times")
    np.testing.assert_allclose(values, values[0], atol=1e-6)
    assert other > 2.5 * mine
    assert third > 6 * mine


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_ece_memory(dtype: type, capsys: pytest.CaptureFixture[str]) -> None:
    p, y = forecasts(N_ROWS)
    p = p.astype(dtype)
    tracemalloc.start()
    expected_calibration_error(p, y)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    share = peak / (p.nbytes + y.nbytes)
    with capsys.disabled():
        print(f"\nECE, {np.dtype(dtype)}: peak of {share:.3f} times the input")
    assert share < 3


def test_resampling_speed(capsys: pytest.CaptureFixture[str]) -> None:
    p, y = forecasts(100_000)
    groups = np.arange(100_000) // 2
    bootstrap = {
        measure: seconds(lambda measure=measure: bootstrap_interval(p, y, measure), 2)
        for measure in ("ece", "brier", "squared", "auroc")
    }
    rows = {
        **{f"bootstrap, {measure}": took for measure, took in bootstrap.items()},
        "bootstrap, in groups": seconds(
            lambda: bootstrap_interval(p, y, groups=groups)
        ),
        "noise floor": seconds(lambda: noise_floor(p)),
        "whole report": seconds(lambda: calibration_metrics(p, y)),
        "labels needed": seconds(lambda: labels_needed(p)),
    }
    with capsys.disabled():
        print("\n100,000 rows, 1,000 resamples or simulations")
        for name, took in rows.items():
            print(f"  {name:<21} {took:6.2f} s")
    assert max(bootstrap.values()) < 2
