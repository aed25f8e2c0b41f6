"""Candidates that are tried on request: an adapter that is trained, a hosted model."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from sklearn.base import clone

from ..calibration.files import Stored
from ..checks import plain_text
from ..files import writing
from ..hosted.requests import plain_url
from ..logistic import Folds
from .candidates import (
    ANSWER,
    HOSTED,
    TUNED,
    AnswerAndStates,
    Candidate,
    LinearProbe,
    ModelAnswer,
    Prompted,
    WordCounts,
    begun,
    same_model,
)
from .table import Rows

if TYPE_CHECKING:
    from ..finetune import FineTuned, TrainingSettings

# To train on, to choose among weights by, and to calibrate and compare on.
_SHARES = {"train": 0.5, "calibration": 0.15, "test": 0.35}
_TIMED, _FEW = 12, 4
SHOWN = {ANSWER, HOSTED}  # candidates that show labelled rows in a prompt
_CHARACTERS_A_TOKEN = 4  # about, in English


class TunedModel(ModelAnswer):
    """A low-rank adapter, trained once on a part of what others are cross-fitted on."""

    name = TUNED
    tuned: FineTuned
    _wanted: str  # the fingerprint of the tuned model

    def __init__(self, labels: Sequence[str], model: Any = None) -> None:
        super().__init__(labels, [], model)
        self.untuned = self.classifier

    def held_out_proba(
        self, rows: Rows, labels: Sequence[str], folds: Folds
    ) -> np.ndarray:
        from ..finetune import finetune, grouped_split

        shares = tuple(_SHARES.values())
        parts = grouped_split(rows.groups, shares=shares, stratify=rows.labels)
        judge = np.flatnonzero(parts == "test")
        train, choose = (rows[np.flatnonzero(parts == x)] for x in list(_SHARES)[:2])
        found = finetune(
            self.untuned,
            begun(train.texts),
            train.labels,
            validation=(begun(choose.texts), choose.labels),
            settings=self._settings(),
        )
        self._take(found)
        self.notes = (
            f"{TUNED}: trained on {len(train.texts)} rows of the first part; its "
            f"weights were chosen by {len(choose.texts)} others, and the {len(judge)} "
            "left calibrate it. On these all candidates are compared. The others learn "
            f"from up to {len(folds) - 1} of {len(folds)} parts of the first part each "
            "time, so that the comparison is rather in their favour.",
        )
        proba = np.full((len(rows.texts), len(labels)), np.nan)
        proba[judge] = self.predict_proba(rows[judge].texts)
        return proba

    def source(self) -> dict[str, str]:
        base, tuned = self._fingerprints()
        name = f"{base[0]} {base[1][:12]} with adapter {tuned[:12]}"
        return {**super().source(), "model": name}

    def seconds_to_compare(self, texts: Sequence[str]) -> float:
        some = list({plain_text(text): text for text in begun(texts)}.values())[:_TIMED]
        if len(some) < 2 * _FEW:
            return float("nan")
        # What it takes for any number of texts shows in a small number of them.
        once, all_of_them = self._training_time(some[:_FEW]), self._training_time(some)
        n = len(texts) * (_SHARES["train"] + _SHARES["calibration"])
        each = max(all_of_them - once, 0) / (len(some) - _FEW)
        left = len(texts) - n
        return once + (n - _FEW) * each + left * self.seconds_a_text(texts)

    def _training_time(self, texts: Sequence[str]) -> float:
        from ..finetune import finetune

        truth = [self.labels[at % len(self.labels)] for at in range(len(texts))]
        held_out = len(texts) // 4
        start = time.perf_counter()
        with TemporaryDirectory() as folder:
            finetune(
                self.untuned,
                texts[held_out:],
                truth[held_out:],
                validation=(texts[:held_out], truth[:held_out]),
                settings=self._settings(),
                folder=folder,
            )
        return time.perf_counter() - start

    def to_dict(self) -> dict[str, Any]:
        (name, fingerprint), tuned = self._fingerprints()
        told = {"kind": TUNED, "model": name, "fingerprint": fingerprint}
        return {**told, "labels": self.labels, "adapter": tuned}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        found = _StoredTuned.read(stored)
        made = cls(found.labels, same_model(found.model, found.fingerprint))
        made._wanted = found.adapter
        return made

    def write_beside(self, policy: Path) -> None:
        with writing(_folder(policy)) as unfinished:
            shutil.copytree(self.tuned.folder, unfinished)

    def read_beside(self, policy: Path) -> None:
        from ..finetune import load_finetuned

        self._take(load_finetuned(_folder(policy), self.untuned))
        if (tuned := self._fingerprints()[1]) != self._wanted:
            raise ValueError(
                f"The policy is for the adapter {self._wanted[:12]}; the one in "
                f"{_folder(policy)} is {tuned[:12]}."
            )

    def _take(self, found: FineTuned) -> None:
        self.tuned, self.classifier = found, found.classifier

    def _settings(self) -> TrainingSettings:
        from ..finetune import Lora, TrainingSettings

        config = self.untuned.inputs([])[0].network.config.get_text_config()
        lora = Lora(layers=max(1, config.num_hidden_layers // 5))
        return TrainingSettings(lora, epochs=6, learning_rate=2e-3, token_budget=256)

    def _fingerprints(self) -> tuple[tuple[str, str], str]:
        base = self.untuned.inputs([])[0]
        return (base.name, base.fingerprint), self.tuned.model.fingerprint


class HostedAnswer(Prompted):
    """What a hosted model answers to a prompt with a few examples."""

    name = HOSTED

    def __init__(
        self,
        labels: Sequence[str],
        examples: Sequence[tuple[str, str]],
        asked: Any,
    ) -> None:
        self.labels = sorted(labels)
        pairs = [tuple(pair) for pair in examples]
        self.classifier = clone(asked).set_params(labels=self.labels, examples=pairs)
        self.classifier.fit()
        self._asked: dict[str, None] = {}
        self._answered_by = str(asked.model)

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        own = begun(texts)
        # A budget is for what one call asks; what is known already costs nothing.
        places = {
            text: at for at, text in enumerate({**self._asked, **dict.fromkeys(own)})
        }
        self._asked = dict.fromkeys(places)
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            table = self.classifier.score_table([*places])  # what it warns of is told
        models = table["model"].dropna().unique()
        if len(models) > 1:
            raise ValueError(
                f"{' and '.join(sorted(models))} answered; only one model can be "
                "certified. Name the version that is to answer."
            )
        if len(models):
            self._answered_by = str(models[0])
        shares = table[[f"p_{label}" for label in self.labels]].to_numpy(float)
        self.notes = (f"{HOSTED}: {self._answered_by} answered.",)
        if lost := int(np.isnan(shares).any(axis=1).sum()):
            self.notes += (
                f"{HOSTED}: {lost} of {len(table)} texts have no answer that can be "
                "read; they judge nothing, and such texts are left to a person.",
            )
        return shares[[places[text] for text in own]]

    def source(self) -> dict[str, str]:
        return {**super().source(), "answered_by": self._answered_by}

    def _measured(self, texts: Sequence[str]) -> float:
        return float("nan")  # to find out would cost money

    def cost(self, n_compared: int, n_rest: int, texts: Sequence[str]) -> str:
        """What will be asked and where, and what that costs."""
        asked, transport = self.classifier, self.classifier.transport
        some = [str(asked.render(text)) for text in begun(texts[:_TIMED])]
        tokens = np.mean([len(one) for one in some]) / _CHARACTERS_A_TOKEN
        told = (
            f"{self.source()['model']} is asked about {n_compared} texts, and about "
            f"{n_rest} more if it is chosen, with about {tokens:.0f} tokens each"
        )
        if transport is not None and transport.prices is not None:
            price = tokens * transport.prices[asked.model][0] / 1e6
            told += f": about {price * n_compared:.2g} and {price * n_rest:.2g} dollars"
        if transport is not None and transport.budget is not None:
            told += f", and nothing beyond {transport.budget:g}"
        return f"{told}. These texts leave this machine."

    def to_dict(self) -> dict[str, Any]:
        asked = self.classifier.get_params(deep=False)
        url, how = asked.pop("client"), asked.pop("settings")
        del asked["journal"], asked["transport"]
        url = plain_url(getattr(url, "base_url", url))
        return {"kind": HOSTED, "url": url, "asked": asked, "how": how and asdict(how)}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        from ..hosted import HostedClassifier, RequestSettings

        found = _StoredHosted.read(stored)
        how = None if found.how is None else RequestSettings(**found.how)
        asked = HostedClassifier(found.url, **found.asked, settings=how)
        return cls(found.asked["labels"], found.asked["examples"], asked)


def from_dict(stored: Any) -> Candidate:
    """The candidate that ``to_dict`` described."""
    kind = stored.get("kind") if isinstance(stored, dict) else None
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {[*_KINDS]}, not {kind!r}.")
    found: Candidate = _KINDS[kind].from_dict(stored)
    return found


_ALL: tuple[Any, ...] = (
    *(WordCounts, ModelAnswer, LinearProbe, AnswerAndStates),
    *(TunedModel, HostedAnswer),
)
_KINDS = {one.name: one for one in _ALL}


def _folder(policy: Path) -> Path:
    """Where the adapter of a policy lies."""
    return policy.with_name(f"{policy.name.removesuffix('.json')}.adapter")


class _StoredTuned(Stored):
    kind: Literal["fine-tuned model"]
    model: str
    fingerprint: str
    labels: list[str]
    adapter: str


class _StoredHosted(Stored):
    kind: Literal["hosted model"]
    url: str
    asked: dict[str, Any]
    how: dict[str, Any] | None
