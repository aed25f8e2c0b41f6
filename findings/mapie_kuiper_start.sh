#!/usr/bin/env bash
# mapie 1.6.0: kuiper_statistic takes the range of the cumulative differences over the n
# sums behind the first row; the start of the walk, 0, is not among them.
# Seen: ten answers at .5, all right: Kuiper 2.846 (p .018), Kolmogorov-Smirnov 3.162.
# Natural guess: Kuiper's range (largest minus smallest) holds the largest absolute value,
# so that it is never below Kolmogorov-Smirnov, and here 3.162, p .006. The p-value is that
# of a Brownian motion's range, which starts at 0; leaving the start out loses power where
# all differences have one sign, as when a model is plainly overconfident.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check mapie==1.6.0 scikit-learn==1.9.1
"$work/env/bin/python" - <<'PY'
import numpy as np
from mapie.metrics.calibration import (
    kolmogorov_smirnov_statistic, kuiper_cdf, kuiper_p_value, kuiper_statistic,
)

right, stated = np.ones(10), np.full(10, 0.5)
kuiper, ks = kuiper_statistic(right, stated), kolmogorov_smirnov_statistic(right, stated)
walk = np.concatenate([[0], np.cumsum(right - stated)])
whole = np.ptp(walk) / np.sqrt(np.sum(stated * (1 - stated)))
print(f"Kuiper {kuiper:.3f}, p {kuiper_p_value(right, stated):.3f}; K-S {ks:.3f}")
print(f"with the start: {whole:.3f}, p {1 - kuiper_cdf(whole):.3f}")
assert abs(kuiper - 2.846) < 1e-3 and abs(ks - 3.162) < 1e-3 and abs(whole - ks) < 1e-6
PY
