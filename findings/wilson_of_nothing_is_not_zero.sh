#!/usr/bin/env bash
# statsmodels 0.15.0: the Wilson interval of 0 successes begins at exactly 0 for most n,
# and at 2.2e-19 for some, such as 1,000; Clopper-Pearson ("beta") always begins at 0.
# Seen: proportion_confint(0, n, method="wilson")[0] is 0.0 for n = 10, 100, 997, and
# 2.168404344971009e-19 for n = 1000.
# Natural guess: no success, no lower bound, as the formula has it: centre and width are
# the same number there. They are computed in two ways and differ in the last bit, so
# "low == 0" or a stored "0 <= low <= share" holds at one n and fails at the next.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check statsmodels==0.15.0
"$work/env/bin/python" - <<'PY'
from statsmodels.stats.proportion import proportion_confint

lows = {n: proportion_confint(0, n, method="wilson")[0] for n in (10, 100, 997, 1000)}
exact = proportion_confint(0, 1000, method="beta")[0]
print(lows, exact)
assert lows[10] == lows[100] == lows[997] == 0 and 0 < lows[1000] < 1e-18
assert exact == 0
PY
