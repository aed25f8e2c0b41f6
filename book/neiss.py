"""Run the chapter on NEISS live: its models are asked about the cases of a file.

    python book/neiss.py neiss2024.tsv     # or a year, which is downloaded

The executed chapter is kept apart from the book, in _build/neiss. Nothing but the
notebook's own outputs is written: no narrative is among them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from build import ENVIRONMENT, PREPARE, BuildError, execute

from helpers.record import recorded

CHAPTER = "09_neiss_body_parts.ipynb"
MODELS = {"few": "few-shot", "tuned": "fine-tuned", "tfidf": "TF-IDF"}


def report(found: dict[str, float]) -> str:
    """What the chapter recorded, in lines for a terminal."""
    lines = [
        f"{found['n_fit']} cases to calibrate on, {found['n_test']} others to judge by",
        f"{'':12} {'accuracy (95 %)':>22} {'ECE raw':>9} {'calibrated':>11} "
        f"{'chance, up to':>14}",
    ]
    for key, name in MODELS.items():
        accuracy = (
            f"{found[f'{key}_acc']:.3f} ({found[f'{key}_acc_low']:.3f}–"
            f"{found[f'{key}_acc_high']:.3f})"
        )
        lines.append(
            f"{name:12} {accuracy:>22} {found[f'{key}_raw']:9.3f} "
            f"{found[f'{key}_cal']:11.3f} {found[f'{key}_cal_upper']:14.3f}"
        )
    lines.append(
        "mean absolute gap within predicted labels, few-shot: "
        f"{found['few_class_tva']:.3f} top-versus-all, {found['few_class_ppc']:.3f} "
        f"with maps per label (chance alone: {found['few_class_floor']:.3f})"
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, run the chapter, print its report."""
    parser = argparse.ArgumentParser(description="Run the chapter on NEISS live.")
    parser.add_argument("cases", help="a file of cases, or a year to download")
    parser.add_argument("--n", type=int, default=1000, help="how many cases to ask")
    parser.add_argument("--model", help="another model for the prompt with examples")
    options = parser.parse_args(arguments)
    root = Path(__file__).resolve().parents[1]
    os.environ.update(ENVIRONMENT)
    os.environ.pop("MPLBACKEND", None)
    cases = options.cases
    neiss = int(cases) if cases.isdigit() else str(Path(cases).resolve())
    executed = root / "_build" / "neiss" / CHAPTER
    print(f"Asking about {options.n} cases of {cases} ...", flush=True)
    try:
        subprocess.run([sys.executable, "-c", PREPARE], cwd=root, check=True)
        execute(
            root,
            root / "notebooks" / CHAPTER,
            executed,
            {"neiss": neiss, "n_live": options.n, "model": options.model},
        )
    except (BuildError, subprocess.CalledProcessError) as error:
        print(f"\nThe chapter was not run: {error}", file=sys.stderr)
        return 1
    print(report(recorded(executed)))
    print(f"\nThe chapter with these numbers: {executed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
