"""Compare the values that the chapters of two builds recorded.

    python book/compare.py OTHER/_build/executed/full _build/executed/full

Numbers are the same where they agree to 1e-6, texts where they are equal. Prints what
differs, chapter by chapter (what was timed always does); the exit status is 1 if
anything does.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helpers.record import recorded

TOLERANCE = 1e-6


def same(before: Any, after: Any) -> bool:
    """Whether two recorded values agree."""
    if isinstance(before, str) or isinstance(after, str):
        return bool(before == after)
    return math.isclose(before, after, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def differences(before: Path, after: Path) -> Iterator[str]:
    """One line for each value that differs, or that only one build has."""
    names = {path.name for folder in (before, after) for path in folder.glob("*.ipynb")}
    if not names:
        raise SystemExit(f"no executed chapters in {before} or {after}")
    for name in sorted(names):
        old, new = (
            recorded(path) if path.exists() else {}
            for path in (before / name, after / name)
        )
        for key in sorted(old.keys() | new.keys()):
            if key not in new or key not in old:
                side = "gone" if key in old else "new"
                yield f"{name} {key}: {side}, {old.get(key, new.get(key))!r}"
            elif not same(old[key], new[key]):
                yield f"{name} {key}: {old[key]!r} -> {new[key]!r}"


def main() -> int:
    """Read the command line, print what differs."""
    parser = argparse.ArgumentParser(description="Compare recorded values.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    found = list(differences(options.before, options.after))
    print("\n".join([*found, f"{len(found)} values differ"]))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
