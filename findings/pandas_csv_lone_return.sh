#!/usr/bin/env bash
# pandas 3.1.1: DataFrame.to_csv quotes a text with a line feed, but not one with a lone
# carriage return, which older exports and scraped texts hold.
# Seen: "a\rb" is written bare, and both Python's csv.reader and pandas' own reader give
# three rows for two: the first ends at "a", without a number.
# Natural guess: what to_csv writes, any CSV reader reads back, as RFC 4180 wants fields
# with CR or LF in quotes.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check pandas==3.1.1
"$work/env/bin/python" - "$work/t.csv" <<'PY'
import csv, sys

import pandas as pd

table = pd.DataFrame({"text": ["a\rb", "c\nd"], "n": [1, 2]})
table.to_csv(sys.argv[1], index=False)
raw = open(sys.argv[1], "rb").read()
with open(sys.argv[1], newline="") as file:
    rows = list(csv.reader(file))
back = pd.read_csv(sys.argv[1])
print(raw, "|", rows, "|", back.to_dict("list"))
assert b"a\rb" in raw and b'"a\rb"' not in raw and b'"c\nd"' in raw
assert rows[1:3] == [["a"], ["b", "1"]] and len(back) == 3
PY
