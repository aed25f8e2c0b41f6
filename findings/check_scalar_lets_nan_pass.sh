#!/usr/bin/env bash
# scikit-learn 1.9.1: sklearn.utils.check_scalar, made to validate parameters, lets NaN
# through any bounds, and True through as a whole number.
# Seen: check_scalar(nan, "level", Real, min_val=0, max_val=1,
# include_boundaries="neither") returns nan; check_scalar(True, "n", Integral, min_val=1)
# returns True; 1.5 is refused as it should be.
# Natural guess: what is not inside the bounds is refused. It compares "x < min" and
# "x > max", which are both false for NaN, so a level of NaN goes on into every quantile.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check scikit-learn==1.9.1
"$work/env/bin/python" - <<'PY'
import math
from numbers import Integral, Real

from sklearn.utils import check_scalar

bounds = {"min_val": 0, "max_val": 1, "include_boundaries": "neither"}
nan = check_scalar(math.nan, "level", Real, **bounds)
true = check_scalar(True, "n", Integral, min_val=1)
try:
    check_scalar(1.5, "level", Real, **bounds)
    refused = False
except ValueError:
    refused = True
print(f"nan -> {nan}, True -> {true}, 1.5 refused: {refused}")
assert math.isnan(nan) and true is True and refused
PY
