#!/usr/bin/env bash
# peft 0.21.2: LoraConfig keeps target_modules as a set, and save_pretrained writes it in
# the set's order. Python draws that order anew in each process (PYTHONHASHSEED).
# Seen: the same configuration of seven modules, saved by three processes, gives three
# different adapter_config.json; with PYTHONHASHSEED=0 in all of them, one.
# Natural guess: the same settings, seed and data give the same files, so a hash of the
# adapter's folder tells whether two trainings are equal. It tells two equal ones apart:
# hash the weights and the sorted configuration instead.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
pip="$work/env/bin/pip --disable-pip-version-check"
$pip install -q torch==2.13.0 transformers==5.23.0 accelerate==1.15.0 peft==0.21.2
cat > "$work/save.py" <<'PY'
import json, sys, tempfile
from pathlib import Path

from peft import LoraConfig

names = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]
folder = Path(tempfile.mkdtemp(dir=sys.argv[1]))
LoraConfig(target_modules=names).save_pretrained(folder)
kept = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
assert sorted(kept) == sorted(names)
print(" ".join(kept))
PY
save() { PYTHONHASHSEED=$1 "$work/env/bin/python" "$work/save.py" "$work"; }
for seed in 0 1 2; do save $seed | tee -a "$work/drawn"; done
test "$(sort -u "$work/drawn" | wc -l)" -gt 1
test "$(save 0)" = "$(save 0)"
