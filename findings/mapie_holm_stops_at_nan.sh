#!/usr/bin/env bash
# mapie 1.6.0: BinaryClassificationController with its default correction, Holm's, finds no
# threshold at all if one of the thresholds has no prediction above it.
# Seen: 1,000 scores up to .97, precision .9 asked for, default thresholds 0, .01 ... .99:
# "bonferroni" finds 29, "bonferroni_holm" none, with a warning that the risk cannot be
# controlled. With thresholds up to .94 Holm finds 29, too.
# Natural guess: Holm rejects all that Bonferroni does, and an empty threshold is merely
# not rejected. Its p-value is binom.cdf(-1, -1, .), not a number; argmin takes it for the
# smallest, it is not below the level, and the procedure ends there.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check mapie==1.6.0 scikit-learn==1.9.1
"$work/env/bin/python" -W ignore - <<'PY'
import numpy as np
from mapie.risk_control import BinaryClassificationController

rng = np.random.default_rng(0)
scores = rng.uniform(0.5, 0.97, 1000)
right = (rng.random(1000) < np.where(scores > 0.7, 0.99, 0.6)).astype(int)


def found(method, cuts=np.linspace(0, 0.99, 100)):
    control = BinaryClassificationController(
        lambda p: np.stack([1 - p, p], 1), "precision", 0.9, 0.95,
        list_predict_params=cuts, fwer_method=method,
    ).calibrate(scores, right)
    return len(control.valid_predict_params), int(np.isnan(control.p_values).sum())


few = np.linspace(0, 0.94, 95)
for method in ("bonferroni", "bonferroni_holm"):
    print(method, "thresholds, p-values NaN:", found(method), "up to .94:", found(method, few))
assert found("bonferroni")[0] == 29 and found("bonferroni_holm") == (0, 3)
assert found("bonferroni_holm", few)[0] == 29
PY
