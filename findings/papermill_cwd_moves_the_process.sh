#!/usr/bin/env bash
# papermill 2.7.0: execute_notebook(cwd=...) moves the whole calling process there while
# the notebook runs, not its kernel alone.
# Seen: with a notebook running in a thread under cwd=there, os.getcwd() of the main
# thread is "there", and a relative path that the caller opens meanwhile is looked up
# there; afterwards it is back.
# Natural guess: a directory for the kernel, as subprocess.run(cwd=...) is one for the
# child. So two notebooks run side by side in threads disturb each other's paths.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check \
  papermill==2.7.0 nbclient==0.11.0 ipykernel==7.4.0
cd "$work" && JUPYTER_PREFER_ENV_PATH=1 "$work/env/bin/python" - <<'PY'
import os
import threading
import time
from pathlib import Path

import nbformat
import papermill

here = Path.cwd()
there = here / "there"
there.mkdir()
cell = nbformat.v4.new_code_cell("import time; time.sleep(3)")
kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
book = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
nbformat.write(book, here / "book.ipynb")
paths = str(here / "book.ipynb"), str(here / "run.ipynb")
run = threading.Thread(
    target=papermill.execute_notebook,
    args=paths,
    kwargs={"cwd": str(there), "progress_bar": False},
)
run.start()
seen = set()
while run.is_alive():
    seen.add(os.path.realpath(os.getcwd()))
    time.sleep(0.05)
print(sorted(Path(one).name for one in seen))
assert os.path.realpath(there) in seen
assert os.path.realpath(os.getcwd()) == os.path.realpath(here)
PY
