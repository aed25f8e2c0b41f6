"""Ways to read a text that have one face: words, an answer, hidden states, both."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler

from ..calibration import ProbabilityCalibrator
from ..calibration.files import Floats, Share, Stored, packed
from ..checks import plain_text
from ..logistic import (
    Folds,
    chosen_strength,
    fitted_weights,
    grouped_folds,
    log_proba,
    regression,
)
from .table import Rows

if TYPE_CHECKING:
    from ..models import LanguageModel

WORDS, ANSWER, PROBE = "counting words", "the model's answer", "linear probe"
BOTH = "answer and hidden states"
TUNED, HOSTED = "fine-tuned model", "hosted model"
NAMES = (WORDS, ANSWER, PROBE)

_STRENGTHS = np.logspace(-0.5, 3.5, 9)  # inverse penalties of word weights
_BLOCK_STRENGTHS = np.logspace(-2, 4, 7)  # of blocks whose variance is 1
_EXAMPLES, _MOST_EXAMPLES = 8, 16
_CHARACTERS = 4000  # of all examples together, so that they fit into a window
_TIMED = 16
LONGEST = 2000  # characters of a text that a model reads


class Candidate:
    """What gives each text a probability for each of its ``labels``, sorted."""

    name: ClassVar[str]
    labels: list[str]
    notes: tuple[str, ...] = ()  # what the page is to say of it
    _a_text: float | None = None

    def fit(self, rows: Rows) -> Self:
        raise NotImplementedError

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Probabilities of the labels; NaN for a text of which nothing is known."""
        raise NotImplementedError

    def held_out_proba(
        self, rows: Rows, labels: Sequence[str], folds: Folds
    ) -> np.ndarray:
        """Probabilities of these labels, of fits on other folds; NaN for no such fit.

        ``fit`` with all these rows follows for the candidate that is chosen.
        """
        found = np.empty((len(rows.texts), len(labels)))
        for fit, judge in folds:
            known = np.unique(rows.labels[fit])
            shares = np.ones((len(judge), 1))
            if len(known) > 1:
                shares = self.fit(rows[fit]).predict_proba(rows[judge].texts)
            # A label that a fold has not seen gets Laplace's share.
            found[judge] = 1 / (len(fit) + len(labels))
            found[np.ix_(judge, np.searchsorted(labels, known))] = shares
        return found / found.sum(axis=1, keepdims=True)

    def source(self) -> dict[str, str]:
        """What the probabilities come from, for a policy to compare."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """All that predictions need, as a JSON-serialisable dict."""
        raise NotImplementedError

    def write_beside(self, policy: Path) -> None:
        """Write what else they need beside the file of the policy."""

    def read_beside(self, policy: Path) -> None:
        """Read what ``write_beside`` wrote."""

    def seconds_a_text(self, texts: Sequence[str]) -> float:
        """Time to read one text, measured once on a few of these; NaN if not known."""
        if self._a_text is None:
            self._a_text = self._measured(texts)
        return self._a_text

    def seconds_to_compare(self, texts: Sequence[str]) -> float:
        """Time to read these and to learn from them, told in advance."""
        return self.seconds_a_text(texts) * len(texts)

    def _measured(self, texts: Sequence[str]) -> float:
        return 0.0

    def cost(self, n_compared: int, n_rest: int, texts: Sequence[str]) -> str:
        """What it costs beside time, in a sentence; "" for nothing."""
        return ""

    def score_table(self, texts: pd.Series) -> pd.DataFrame:
        """``p_<label>``, ``prediction`` and ``confidence``, not yet calibrated."""
        found = self.predict_proba(texts.tolist())
        table = pd.DataFrame(
            found, texts.index, [f"p_{label}" for label in self.labels]
        )
        table["prediction"] = np.array(self.labels, dtype=object)[found.argmax(axis=1)]
        table["confidence"] = found.max(axis=1)
        table.loc[table["confidence"].isna(), "prediction"] = None
        table.attrs["source"] = self.source()
        return table

    def calibrated(
        self, calibrator: ProbabilityCalibrator, texts: pd.Series
    ) -> tuple[pd.DataFrame, Any]:
        """The table with calibrated predictions, and the calibrated probabilities.

        These are of the rows of which anything is known; the others have no prediction.
        """
        table = self.score_table(texts)
        known = table.dropna(subset="confidence")
        columns = [f"p_{name}" for name in self.labels]
        ids = [plain_text(text) for text in texts[known.index]]
        shares = calibrator.predict(known[columns], ids=ids)
        labels = np.array(self.labels, dtype=object)
        best = np.asarray(shares).argmax(axis=1)
        table.loc[known.index, "prediction"] = labels[best]
        return table, shares


class WordCounts(Candidate):
    """Logistic regression on counts of words, weighted by how rare a word is."""

    name = WORDS

    def fit(self, rows: Rows) -> Self:
        self._words = _vectorizer()
        counts = self._words.fit_transform(rows.texts)
        codes = np.unique(rows.labels, return_inverse=True)[1]
        folds = grouped_folds(codes, rows.groups, 3)
        strength = chosen_strength(counts, codes, folds, _STRENGTHS)
        self._model = regression(strength).fit(counts, rows.labels)
        self.labels = self._model.classes_.tolist()
        return self

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        return np.asarray(self._model.predict_proba(self._words.transform(texts)))

    def source(self) -> dict[str, str]:
        told = json.dumps(self.to_dict(), sort_keys=True)
        return {"model": f"{WORDS} {hashlib.sha256(told.encode()).hexdigest()[:12]}"}

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": WORDS,
            "labels": self.labels,
            "words": self._words.get_feature_names_out().tolist(),
            "idf": packed(self._words.idf_),
            "coef": packed(self._model.coef_),
            "intercept": packed(self._model.intercept_),
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        found, made = _StoredWords.read(stored), cls()
        n_rows = 1 if len(found.labels) == 2 else len(found.labels)
        lengths = [len(part) for part in (found.idf, found.coef, found.intercept)]
        if lengths != [len(found.words), n_rows * len(found.words), n_rows]:
            raise ValueError("words, idf, coef and intercept do not fit together.")
        made.labels = found.labels
        made._words = _vectorizer(found.words)
        made._words.idf_ = found.idf
        made._model = regression()
        made._model.classes_ = np.array(found.labels)
        made._model.coef_ = found.coef.reshape(n_rows, -1)
        made._model.intercept_ = found.intercept
        return made


class Prompted(Candidate):
    """A classifier that is asked, and learns nothing from the rows that judge it."""

    classifier: Any

    def fit(self, rows: Rows) -> Self:
        return self

    def held_out_proba(
        self, rows: Rows, labels: Sequence[str], folds: Folds
    ) -> np.ndarray:
        return self.predict_proba(rows.texts)

    def source(self) -> dict[str, str]:
        found: dict[str, str] = self.classifier.source()
        return found


class ModelAnswer(Prompted):
    """What a language model answers to a prompt with a few examples."""

    name = ANSWER

    def __init__(
        self,
        labels: Sequence[str],
        examples: Sequence[tuple[str, str]],
        model: Any = None,
        **settings: Any,
    ) -> None:
        from ..classifier import LLMClassifier

        self.labels = sorted(labels)
        self.settings = {"examples": [tuple(pair) for pair in examples], **settings}
        self.classifier = LLMClassifier(
            model, self.labels, too_long="cut", **self.settings
        ).fit()

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        return np.asarray(quietly(self.classifier.predict_proba, begun(texts)))

    def score_table(self, texts: pd.Series) -> pd.DataFrame:
        """Also ``off_label``, the probability of what is no label."""
        own = pd.Series(begun(texts.tolist()), texts.index, dtype=object)
        table: pd.DataFrame = quietly(self.classifier.score_table, own)
        table.attrs["source"] = self.source()
        return table

    def _measured(self, texts: Sequence[str]) -> float:
        from sklearn.base import clone

        timed = clone(self.classifier).set_params(cache=False).fit()
        return _seconds(timed.predict_proba, begun(texts))

    def to_dict(self) -> dict[str, Any]:
        model = self.classifier.inputs([])[0]
        return {
            "kind": ANSWER,
            "model": model.name,
            "fingerprint": model.fingerprint,
            "labels": self.labels,
            "settings": self.settings,
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        found = _StoredAnswer.read(stored)
        model = same_model(found.model, found.fingerprint)
        return cls(found.labels, model=model, **found.settings)


class LinearProbe(Candidate):
    """A linear map of a language model's hidden states."""

    name = PROBE

    def __init__(self, model: Any = None, **settings: Any) -> None:
        from ..linear_probe import LinearProbeClassifier

        self.probe = LinearProbeClassifier(model, too_long="cut", **settings)

    def fit(self, rows: Rows) -> Self:
        quietly(self.probe.fit, begun(rows.texts), rows.labels, rows.groups)
        self.labels = self.probe.classes_.tolist()
        return self

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        return np.asarray(self.probe.predict_proba(begun(texts)))

    def source(self) -> dict[str, str]:
        return self.probe.source()

    def _measured(self, texts: Sequence[str]) -> float:
        from sklearn.base import clone

        timed = clone(self.probe).set_params(cache=False)
        return _seconds(timed.features, begun(texts))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": PROBE, "probe": self.probe.to_dict()}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        made = cls()
        made.probe = made.probe.from_dict(_StoredProbe.read(stored).probe)
        made.labels = made.probe.classes_.tolist()
        return made


class AnswerAndStates(Candidate):
    """One linear map of what a model answers and of its hidden states."""

    name = BOTH

    def __init__(self, answer: ModelAnswer, states: LinearProbe) -> None:
        self.answer, self.states = answer, states

    def fit(self, rows: Rows) -> Self:
        # The answers about examples are given away in the prompt.
        shown = {plain_text(text) for text, _ in self.answer.settings["examples"]}
        new = [plain_text(text) not in shown for text in rows.texts]
        rows = rows[np.flatnonzero(new)]
        labels, codes = np.unique(rows.labels, return_inverse=True)
        blocks = self._blocks(rows.texts)
        features = np.hstack(blocks)
        scaler = StandardScaler().fit(features)
        # Each block weighs the same, however many columns it has.
        widths = [block.shape[1] for block in blocks]
        self._mean = scaler.mean_
        self._scale = scaler.scale_ * np.sqrt(np.repeat(widths, widths))
        folds = grouped_folds(codes, rows.groups, 3)
        found = fitted_weights(self._scaled(features), codes, folds, _BLOCK_STRENGTHS)
        self._coef, self._intercept = found[1:]
        self.labels = labels.tolist()
        return self

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        features = self._scaled(np.hstack(self._blocks(texts)))
        return np.exp(log_proba(features, self._coef, self._intercept))

    def source(self) -> dict[str, str]:
        told = [self.answer.source(), packed(self._coef), packed(self._intercept)]
        weights = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]
        return {**self.answer.source(), "weights": weights}

    def seconds_to_compare(self, texts: Sequence[str]) -> float:
        return 0.0  # the others have read them

    def _measured(self, texts: Sequence[str]) -> float:
        return sum(one.seconds_a_text(texts) for one in (self.answer, self.states))

    def to_dict(self) -> dict[str, Any]:
        probe = self.states.probe
        return {
            "kind": BOTH,
            "answer": self.answer.to_dict(),
            "layers": [float(share) for share in probe.layers],
            "instruction": probe.instruction,
            "labels": self.labels,
            "mean": packed(self._mean),
            "scale": packed(self._scale),
            "coef": packed(self._coef),
            "intercept": packed(self._intercept),
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Self:
        found = _StoredBoth.read(stored)
        answer = ModelAnswer.from_dict(found.answer)
        how = {"layers": found.layers, "instruction": found.instruction}
        made = cls(answer, LinearProbe(answer.classifier.model, **how))
        n, n_rows = len(found.mean), 1 if len(found.labels) == 2 else len(found.labels)
        lengths = [len(part) for part in (found.scale, found.coef, found.intercept)]
        if lengths != [n, n * n_rows, n_rows]:
            raise ValueError("mean, scale, coef and intercept do not fit together.")
        made.labels, made._mean, made._scale = found.labels, found.mean, found.scale
        made._coef = found.coef.reshape(-1, len(found.mean))
        made._intercept = found.intercept
        return made

    def _blocks(self, texts: Sequence[str]) -> list[np.ndarray]:
        own = begun(texts)
        said = quietly(self.answer.classifier.raw_log_proba, own)
        return [self.states.probe.features(own), said]

    def _scaled(self, features: np.ndarray) -> np.ndarray:
        return (features - self._mean) / self._scale


def draw_examples(rows: Rows, most: int, seed: int) -> list[int]:
    """Places of examples for a prompt, the labels in turn, none of them very long."""
    kinds, rng = np.unique(rows.labels), np.random.default_rng(seed)
    wanted = min(max(_EXAMPLES, len(kinds)), _MOST_EXAMPLES, most)
    places = [rng.permutation(np.flatnonzero(rows.labels == x)) for x in kinds]
    chosen: list[int] = []
    room = _CHARACTERS
    for place in chain.from_iterable(zip_longest(*places)):
        length = 0 if place is None else len(rows.texts[place])
        if place is None or length > _CHARACTERS // 4 or length > room:
            continue
        if len(chosen) == wanted:
            break
        chosen.append(int(place))
        room -= length
    return chosen


def same_model(name: str, fingerprint: str) -> LanguageModel:
    """The model of this name, if it is still the same."""
    from ..models import LanguageModel

    model = LanguageModel.load(name)
    if model.fingerprint != fingerprint:
        raise ValueError(
            f"The policy is for the model {name} {fingerprint[:12]}; the one of that "
            f"name is now {model.fingerprint[:12]}."
        )
    return model


def _vectorizer(words: list[str] | None = None) -> TfidfVectorizer:
    return TfidfVectorizer(
        sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", vocabulary=words
    )


def quietly(function: Any, *given: Any) -> Any:
    from ..prompted import OffLabelWarning

    with warnings.catch_warnings():
        # The calibrator mends what these warn of.
        warnings.simplefilter("ignore", OffLabelWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        return function(*given)


def begun(texts: Sequence[str]) -> list[str]:
    return [text.strip()[:LONGEST] for text in texts]


def _seconds(read: Any, texts: Sequence[str]) -> float:
    some = list(texts[:_TIMED])
    quietly(read, some[:1])  # what is prepared once
    times = []
    for part in (some[:1], some):
        start = time.perf_counter()
        quietly(read, part)
        times.append(time.perf_counter() - start)
    return max(times[1] - times[0], 0.0) / max(len(some) - 1, 1)


class _StoredWords(Stored):
    kind: Literal["counting words"]
    labels: list[str]
    words: list[str]
    idf: Floats
    coef: Floats
    intercept: Floats


class _StoredAnswer(Stored):
    kind: Literal["the model's answer"]
    model: str
    fingerprint: str
    labels: list[str]
    settings: dict[str, Any]


class _StoredBoth(Stored):
    kind: Literal["answer and hidden states"]
    answer: dict[str, Any]
    layers: list[Share]
    instruction: str | None
    labels: list[str]
    mean: Floats
    scale: Floats
    coef: Floats
    intercept: Floats


class _StoredProbe(Stored):
    kind: Literal["linear probe"]
    probe: dict[str, Any]
