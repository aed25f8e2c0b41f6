#!/usr/bin/env bash
# torchmetrics 1.9.0: BinaryCalibrationError makes its bin edges in the type of the
# probabilities, so a share k/10 lies on its edge in one type and below it in the other.
# Seen, ten bins, two forecasts, the lower one wrong: .3 and .35 give .175 in float32 and
# .475 in float64; .9 and .95 give .425 in either, but .475 where float32 was widened to
# float64, as a table that stores float32 is read.
# Natural guess: the same two numbers give the same error in all types, or differ by 1e-7.
# Shares of ten votes all lie on edges, so the whole error depends on the type.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0
"$work/env/bin/python" - <<'PY'
import torch
from torchmetrics.classification import BinaryCalibrationError

error = BinaryCalibrationError(n_bins=10)
found = {}
for low in (0.3, 0.9):
    double = torch.tensor([low, low + 0.05], dtype=torch.float64)
    for name, stated in {
        "single": double.float(), "double": double, "widened": double.float().double()
    }.items():
        found[low, name] = round(float(error(stated, torch.tensor([0, 1]))), 3)
print(found)
assert [found[0.3, name] for name in ("single", "double")] == [0.175, 0.475]
assert [found[0.9, n] for n in ("single", "double", "widened")] == [0.425, 0.425, 0.475]
PY
