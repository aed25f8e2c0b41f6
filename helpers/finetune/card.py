"""The README of an adapter: what it was made from, how, and how good it is."""

from __future__ import annotations

from typing import Any

import pandas as pd


def model_card(record: dict[str, Any]) -> str:
    """Write down in Markdown what a reader of the folder needs to know."""
    base, settings = record["base"], record["settings"]
    history = pd.DataFrame(record["history"])
    best = history[history["best"]].iloc[0]
    facts = {
        "Base model": f"{base['name']} ({base['dtype']})",
        "Fingerprint of the base": f"`{base['fingerprint']}`",
        "Labels": ", ".join(record["labels"]),
        "Texts trained on": record["n"],
        "Held-out texts": record["n_held_out"],
        "Loss": f"`{record['loss']}`",
        "Confidence head": f"`{record['head']}`" if record["head"] else "none",
        "Trained weights": f"{record['n_trainable']:,}",
        "Chosen by": f"lowest held-out {settings['monitor']}, at step {best['step']}",
        "Date": record["date"],
    }
    lines = ["# A fine-tuned classifier", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += [
        "",
        "The adapter is in the format of the package `peft`. The weights were chosen",
        "on the held-out texts, so that the numbers below are a little too good;",
        "measure calibration on texts of their own.",
        "",
        "## Held-out numbers by step",
        "",
        *_table(history),
        "",
        "## Prompt",
        "",
        *(f"    {line}" for line in record["prompt"].splitlines()),
        "",
        "## Settings",
        "",
        *(f"- {name}: `{value!r}`" for name, value in settings.items()),
        "",
        "## Versions",
        "",
        *(f"- {name} {value}" for name, value in record["versions"].items()),
        "",
    ]
    return "\n".join(lines)


def _table(history: pd.DataFrame) -> list[str]:
    names = list(history.columns)
    lines = [f"| {' | '.join(names)} |", f"|{'---:|' * len(names)}"]
    for row in history.to_dict("records"):
        shown = [_shown(row[name]) for name in names]
        lines.append(f"| {' | '.join(shown)} |")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return "" if value != value else f"{value:.4f}"
    return str(value)
