#!/usr/bin/env bash
# pyarrow 26.0.1: ParquetFile.iter_batches(batch_size=10) gives batches of ten rows, but
# not where a column is dictionary-encoded (a pandas categorical, say): there batches end
# at row groups, too, and the next one is only as long as what the last left of ten.
# Seen: 40 rows in row groups of 7: plain strings 10, 10, 10, 10; the same column as a
# dictionary 7, 3, 4, 6, 1, 7, 2, 5, 5.
# Natural guess: batch_size is the size of all batches but the last, as for plain columns,
# so that the number of a batch tells which rows it has. Whoever resumes a run by counting
# batches reads other rows; helpers.shards cuts blocks by rows.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check pyarrow==26.0.1
"$work/env/bin/python" - <<'PY'
import io

import pyarrow as pa
import pyarrow.parquet as pq

words = pa.array([f"w{at % 7}" for at in range(40)])
sizes = []
for column in (words, words.dictionary_encode()):
    file = io.BytesIO()
    pq.write_table(pa.table({"word": column}), file, row_group_size=7)
    sizes.append([len(batch) for batch in pq.ParquetFile(file).iter_batches(10)])
print(*sizes)
assert sizes[0] == [10, 10, 10, 10]
assert sizes[1] == [7, 3, 4, 6, 1, 7, 2, 5, 5]
PY
