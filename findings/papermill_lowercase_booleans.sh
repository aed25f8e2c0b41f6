#!/usr/bin/env bash
# papermill 2.7.0: on the command line only "True" and "False" are booleans; "true" and
# "false" are injected as texts, and so is what a YAML file would read as a boolean, while
# "nan" becomes a number and "1_000" an integer.
# Seen: -p fast false -> fast = "false", which Python takes for true; -p name nan ->
# name = float('nan'); -p n 1_000 -> n = 1000.
# Natural guess: as in YAML (papermill's -f and -y read YAML), false is false. The run goes
# the opposite way without a word, though the parameters cell says fast: bool = False:
# neither the default nor the annotation is looked at.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check papermill==2.7.0 ipykernel==7.4.0
"$work/env/bin/python" - "$work/in.ipynb" <<'PY'
import sys
import nbformat
from nbformat.v4 import new_code_cell, new_notebook

source = "fast: bool = False\nname = 'a'\nn = 1"
cell = new_code_cell(source, metadata={"tags": ["parameters"]})
metadata = {"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}}
nbformat.write(new_notebook(cells=[cell], metadata=metadata), sys.argv[1])
PY
"$work/env/bin/papermill" "$work/in.ipynb" "$work/out.ipynb" --prepare-only \
    -p fast false -p name nan -p n 1_000 2>"$work/log" || { cat "$work/log"; exit 1; }
"$work/env/bin/papermill" "$work/in.ipynb" "$work/yaml.ipynb" --prepare-only \
    -y 'fast: false' 2>"$work/log" || { cat "$work/log"; exit 1; }
"$work/env/bin/python" - "$work" <<'PY'
import math, sys
import nbformat


def injected(name):
    values = {}
    for cell in nbformat.read(f"{sys.argv[1]}/{name}.ipynb", as_version=4).cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            exec(cell.source, values)
    return values


line, yaml = injected("out"), injected("yaml")
print({name: line[name] for name in ("fast", "name", "n")}, "| by YAML:", yaml["fast"])
assert line["fast"] == "false" and yaml["fast"] is False
assert math.isnan(line["name"]) and line["n"] == 1000
PY
