"""A decision in one file: applied to new rows, and checked on labelled ones."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from ..calibration import ProbabilityCalibrator
from ..calibration.files import Stored
from ..checks import plain_text
from ..decisions import AccuracyMonitor, Policy, detection_delay
from ..files import read_json, write_json
from .candidates import Candidate
from .deciding import Decision
from .likeness import Likeness, act
from .on_request import from_dict
from .table import OwnTable, without_missing


@dataclass(frozen=True, eq=False)
class OwnPolicy:
    """A candidate with its calibrator and policy, and what was certified on what.

    Without a ``candidate``, predictions and confidences come with the rows, in the
    columns that ``given`` names.
    """

    candidate: Candidate | None
    policy: Policy
    text: str
    label: str
    given: tuple[str, ...]
    certified: dict[str, Any]
    likeness: Likeness
    known: frozenset[str]

    @classmethod
    def of(
        cls, decision: Decision, table: OwnTable, given: tuple[str, ...] = ()
    ) -> Self:
        """The policy of a decision that certified a threshold."""
        if decision.policy is None:
            raise ValueError(f"There is no policy to keep. {decision.certificate}")
        found, promised = decision.certificate, 1 - decision.risk
        delay = detection_delay(promised, max(1 - 2 * decision.risk, 0)).median
        return cls(
            decision.candidate,
            decision.policy,
            decision.text,
            decision.label,
            given,
            {
                "risk": decision.risk,
                "delta": decision.delta,
                "rows": found.n_labels,
                "accepted": found.n_accepted,
                "errors": found.n_errors,
                "file": decision.name,
                "file_sha256": table.sha256,
                "versions": decision.versions,
                "median_delay_if_errors_double": delay if np.isfinite(delay) else None,
            },
            decision.likeness,
            frozenset(_hashes(table, table.labelled)),
        )

    def apply(self, table: OwnTable) -> tuple[pd.DataFrame, list[str]]:
        """``prediction``, ``confidence``, ``action`` and ``reason``, and warnings."""
        if self.candidate is None:
            scored = given_confidences(table, *self.given[:2])
            decided = act(self.policy, scored, table.texts, self.likeness)
        else:
            decided = self.decide(table.texts[table.has_text])
        # What the candidate learned from is not to be compared.
        is_old = pd.Index(_hashes(table, decided.index)).isin(self.known)
        warned = self.likeness.warnings(decided[~is_old])
        decided = decided[["prediction", "confidence", "action", "reason"]]
        decided = decided.reindex(table.rows.index)
        left = {"action": self.policy.buckets.names[0], "reason": "there is no text"}
        return decided.fillna(left), warned

    @property
    def labels(self) -> list[str]:
        """The labels among which :meth:`decide` decides."""
        if self.candidate is None:
            raise ValueError(
                "The policy is for confidences that come with the rows, from the "
                f"column {self.given[1]!r}: it reads no text by itself."
            )
        return self.candidate.labels

    @property
    def rule(self) -> str:
        """The fingerprint of the policy."""
        return self.policy.rule

    def decide(self, texts: pd.Series) -> pd.DataFrame:
        """Texts read and decided on: ``p_<label>``, calibrated, beside the others."""
        columns, calibrator = [f"p_{x}" for x in self.labels], self.policy.calibrator
        assert self.candidate and isinstance(calibrator, ProbabilityCalibrator)
        scored, shares = self.candidate.calibrated(calibrator, texts)
        source = self.candidate.source()
        decided = act(self.policy, scored, texts, self.likeness, source=source)
        known = scored.index[scored["confidence"].notna()]
        return decided.join(pd.DataFrame(np.asarray(shares), known, columns))

    def check(
        self, table: OwnTable, state: str | Path
    ) -> tuple[AccuracyMonitor, dict[str, int]]:
        """Whether the promise holds on labelled rows, those of earlier checks included.

        What was seen is kept in the file ``state``: rows that are there already, or
        that the policy was made on, count once or not at all.
        """
        path, told = Path(state), self.certified
        monitor = AccuracyMonitor(1 - told["risk"], alpha=told["delta"])
        seen: set[str] = set()
        if path.exists():
            kept = read_json(path, _Watched.read)
            if kept.rule != self.policy.rule:
                raise ValueError(
                    f"{path} is of another policy: move it away to start anew."
                )
            monitor, seen = AccuracyMonitor.from_dict(kept.monitor), set(kept.seen)
        found = self.apply(table)[0].loc[table.labelled]
        hashes = pd.Series(_hashes(table, found.index), found.index)
        old = hashes.isin(self.known)
        again = ~old & (hashes.isin(seen) | hashes.duplicated())
        accepted = found["action"] == self.policy.buckets.names[-1]
        new = found.index[accepted & ~old & ~again]
        right = table.labels[new] == found["prediction"][new]
        if len(new):
            monitor.update(right.to_numpy())
        seen |= set(hashes[~old])
        watched = {
            "format": "helpers.own_data.monitor/1",
            "rule": self.policy.rule,
            "monitor": monitor.to_dict(),
            "seen": sorted(seen),
        }
        write_json(watched, path)
        counts = {
            "labelled": len(found),
            "certified_with": int(old.sum()),
            "seen_before": int(again.sum()),
            "accepted": len(new),
            "wrong": int((~right).sum()),
        }
        return monitor, counts

    def save(self, path: str | Path) -> None:
        """Write everything to a JSON file, whole or not at all."""
        stored = {
            "format": "helpers.own_data/2",
            "text": self.text,
            "label": self.label,
            "given": list(self.given),
            "certified": self.certified,
            "policy": self.policy.to_dict(),
            "candidate": self.candidate and self.candidate.to_dict(),
            "likeness": self.likeness.to_dict(),
            "known": sorted(self.known),
        }
        if self.candidate is not None:
            self.candidate.write_beside(Path(path))
        write_json(stored, path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The policy that :meth:`save` wrote; a ValueError refuses another model."""
        found = read_json(path, cls._of_stored)
        if found.candidate is not None:
            found.candidate.read_beside(Path(path))
        return found

    @classmethod
    def _of_stored(cls, stored: Any) -> Self:
        found = _Kept.read(stored)
        return cls(
            None if found.candidate is None else from_dict(found.candidate),
            Policy.from_dict(found.policy),
            found.text,
            found.label,
            tuple(found.given),
            found.certified,
            Likeness.from_dict(found.likeness),
            frozenset(found.known),
        )


def given_confidences(
    table: OwnTable, prediction: str, confidence: str
) -> pd.DataFrame:
    """Predictions and confidences of a table's own columns, missing ones as None."""
    for column in (prediction, confidence):
        if column not in table.rows:
            raise ValueError(
                f"{table.name} has no column {column!r}; it has {list(table.rows)}."
            )
    labels = without_missing(table.rows[prediction])
    words = without_missing(table.rows[confidence])
    numbers = pd.to_numeric(words.mask(words == ""), errors="coerce")
    bad = (numbers.isna() & (words != "")) | (numbers < 0) | (numbers > 1)
    if bad.any():
        row = int(bad.to_numpy().argmax())
        raise ValueError(
            f"Confidences must be numbers from 0 to 1; row {row + 1} of {table.name} "
            f"has {words.iloc[row]!r}. Divide percentages by 100, and write a decimal "
            "point."
        )
    return pd.DataFrame(
        {"prediction": labels.mask(labels == "").astype(object), "confidence": numbers}
    )


def _hashes(table: OwnTable, rows: pd.Index) -> list[str]:
    """The same for copies of a text."""
    texts = table.texts[rows].map(plain_text)
    return [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]


class _Kept(Stored):
    format: Literal["helpers.own_data/2"]
    text: str
    label: str
    given: list[str]
    certified: dict[str, Any]
    policy: dict[str, Any]
    candidate: dict[str, Any] | None
    likeness: dict[str, Any]
    known: list[str]


class _Watched(Stored):
    format: Literal["helpers.own_data.monitor/1"]
    rule: str
    monitor: dict[str, Any]
    seen: list[str]
