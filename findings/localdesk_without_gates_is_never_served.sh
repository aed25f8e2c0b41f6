#!/usr/bin/env bash
# localdesk 0.3.1: an experiment without quality gates trains, but its model is refused
# as one that failed them.
# Seen: Experiment.load of a file without "gates" and run_experiment succeed, and write
# model and report; Registry(...).load of that run raises ValueError, "artifact has not
# passed declared quality gates".
# Natural guess: without a gate there is nothing to fail, so that it can be served.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check "localdesk[baseline]==0.3.1"
cd "$work" && "$work/env/bin/python" -W ignore - <<'PY'
import csv
import json
from pathlib import Path

from localdesk.config import Experiment
from localdesk.pipeline import run_experiment
from localdesk.registry import Registry

kinds = {"fruit": "apple pear plum", "tool": "hammer saw drill"}
texts = [(x, w, n) for n in range(40) for x, ws in kinds.items() for w in ws.split()]
with open("items.csv", "w", newline="") as file:
    rows = csv.writer(file)
    rows.writerow(["id", "text", "kind"])
    for at, (kind, word, n) in enumerate(texts):
        rows.writerow([at, f"one {word}, number {n}", kind])
task = {"id": "items", "version": "1", "instructions": "Fruit or tool?"}
task |= {"labels": {x: x for x in kinds}, "min_confidence": 0.8, "min_margin": 0.2}
Path("task.json").write_text(json.dumps(task))
columns = {"text_column": "text", "label_column": "kind", "id_column": "id"}
plan = {"task": "task.json", "registry": "registry"}
plan |= {"dataset": {"path": "items.csv", "format": "csv", **columns}}
plan |= {"training": {"backend": "tfidf"}}
Path("plan.json").write_text(json.dumps(plan))
experiment = Experiment.load(Path("plan.json"))
run_experiment(experiment, run_id="v1")
assert (Path(experiment.registry) / "v1" / "model.json.gz").exists()
try:
    Registry(experiment.registry).load("v1")
except ValueError as error:
    print("trained; refused:", error)
    assert "has not passed declared quality gates" in str(error)
else:
    raise AssertionError("it is served now")
PY
