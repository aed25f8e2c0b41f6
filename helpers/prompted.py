"""What classifiers share that put a text to a language model and read off a label."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import chain, zip_longest
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError

from .calibration import Calibrated
from .checks import as_array, check_labels, in_order_of
from .prompts import SLOT, Prompt
from .verbalizer import Verbalizer

_NUMBER = re.compile(r"[\W\d_]*\d[\W\d_]*")  # of whatever: "2", "2/5", "$2"


class OffLabelWarning(UserWarning):
    """Most of the probability is on no label: the probabilities are of a small rest."""


class TextClassifier(ClassifierMixin, BaseEstimator):
    """The base of all classifiers of texts here: tables of label probabilities."""

    _learned: tuple[str, ...] = ()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.no_validation = True
        return tags

    def set_params(self, **params: Any) -> Self:
        """Change parameters; what ``fit`` found under the old ones is forgotten."""
        super().set_params(**params)
        if params:
            self._forget()
        return self

    def predict_proba(self, X: Iterable[str]) -> np.ndarray:
        """Label probabilities in the order of ``classes_``; rows sum to one.

        Texts that are examples in the prompt, or that a linear probe learned from, are
        marked as in-sample. Of a hosted model: the listed probability of each label,
        normalised; NaN where none is listed.
        """
        return self._scored(X)[0]

    def predict_log_proba(self, X: Iterable[str]) -> np.ndarray:
        """Logarithms of ``predict_proba``; minus infinity where that is 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """The most probable label of each text; None where nothing is known."""
        return self._named(self._scored(X)[1])

    def score_table(self, X: Iterable[str], truth: Any = None) -> pd.DataFrame:
        """Everything about each text in one tidy table.

        Parameters
        ----------
        X : iterable of str
            Texts; the index of a pandas Series is kept.
        truth : array-like of str, optional
            The true labels.

        Returns
        -------
        pandas.DataFrame
            One row a text: ``p_<label>``, ``off_label`` (probability not known to be a
            label's, before any correction; NaN of a linear probe, which reads no
            answer), ``prediction``, ``confidence`` and, with the truth, ``truth`` and
            ``correct``. ``attrs["source"]`` is :meth:`source`.

            Of a hosted model also ``lower_<label>``, ``upper_<label>``, ``decided``;
            the parts of ``off_label``: ``unlisted``, ``off_list`` (listed, of no label)
            and ``unresolved`` (beginnings of labels not followed); ``calls``;
            ``problem``, why nothing is known; and ``model``, the server's name for it.
        """
        index = X.index if isinstance(X, pd.Series) else None
        shares, best, off_label, more = self._scored(X)
        columns = [f"p_{label}" for label in self.classes_]
        table = pd.DataFrame(shares, columns=columns, index=index)
        table["off_label"] = off_label
        table["prediction"] = self._named(best)
        table["confidence"] = shares[np.arange(len(best)), best]
        if more is not None:
            table = pd.concat([table, more.set_axis(table.index)], axis=1)
        if truth is not None:
            table["truth"] = self._check_truth(truth, "truth", table, X)
            table["correct"] = table["truth"] == table["prediction"]
            if (none := table["prediction"].isna()).any():
                table["correct"] = table["correct"].astype("boolean").mask(none)
        table.attrs["source"] = self.source()
        return table

    def source(self) -> dict[str, str]:
        """What these probabilities come from, for calibrators to compare.

        The ``model`` with its fingerprint or server, hashes of ``prompt`` (examples,
        prior and arguments included) and ``labels``, and ``answered_by``.
        """
        model, asked, labels = self._identity()
        return {**model, "prompt": _short_hash(asked), "labels": _short_hash(labels)}

    def _scored(
        self, X: Iterable[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, pd.DataFrame | None]:
        """Probabilities, predicted positions, -1 for none, off-label mass, and more."""
        raise NotImplementedError

    def _identity(self) -> tuple[dict[str, str], Any, Any]:
        """The model in words, and plain data that tell prompt and labels."""
        raise NotImplementedError

    def _named(self, best: np.ndarray) -> np.ndarray:
        if not (best < 0).any():
            return self.classes_[best]
        return np.asarray([*self.classes_.tolist(), None], dtype=object)[best]

    def _check_truth(self, y: Any, name: str, *rows: Any) -> np.ndarray | None:
        """Labels of these rows, if any are given; ValueError for others."""
        raise NotImplementedError

    def _forget(self) -> None:
        for found in self._learned:
            self.__dict__.pop(found, None)


class PromptedClassifier(TextClassifier):
    """The base of :class:`LLMClassifier` and :class:`HostedClassifier`."""

    labels: Sequence[str] | None
    prompt: str | None
    examples: Sequence[tuple[str, str]] | int | None
    instruction: str | None
    separator: str
    random_state: int
    _learned: tuple[str, ...] = ("labels_", "examples_", "_warned")
    _learns = "draws examples or learns its labels"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "examples_") or not self._needs_fit()

    @property
    def classes_(self) -> np.ndarray:
        labels = getattr(self, "labels_", self.labels)
        if labels is None:
            raise AttributeError("classes_ is known after fit, or from labels.")
        return np.unique(np.asarray(labels, dtype=str))

    def fit(self, X: Iterable[str] | None = None, y: Any = None) -> Self:
        """Draw examples, learn labels and estimate the prior; no training.

        Parameters
        ----------
        X : iterable of str, optional
            Texts, to draw examples and for the priors "domain" and "unlabelled".
        y : array-like of str, optional
            Their labels; whole numbers, as in scikit-learn's ``cross_val_predict``, are
            positions in ``classes_``.
        """
        self._forget()
        texts = check_texts(X) if X is not None else []
        given = self._decoded(in_order_of(X, y, "y"))
        truth = self._check_truth(given, "y", texts, X)
        self.labels_ = self._check_parameters(truth)
        try:
            self.examples_, drawn = self._choose_examples(texts, truth)
            rest = [at for at in range(len(texts)) if at not in drawn]
            known = None if truth is None else truth[rest]
            self._learn([texts[at] for at in rest], known)
        except BaseException:
            self._forget()
            raise
        return self

    def _scored(
        self, X: Iterable[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, pd.DataFrame | None]:
        """What ``_read`` finds, with the texts that the prompt shows marked."""
        texts = check_texts(X)
        shares, best, off_label, more = self._read(texts)
        shown = self._are_shown(texts)
        if shown.any():
            if not isinstance(shares, Calibrated):
                shares = Calibrated(shares, shown, known=False, can_tell=True)
            shares.fitted_on[shown] = True
            if self._is_news(UserWarning):
                warnings.warn(
                    f"{shown.sum()} of {len(texts)} texts are examples in the prompt, "
                    "with their labels: they are marked as in-sample. Judge by the "
                    "others.",
                    stacklevel=3,
                )
        return shares, best, off_label, more

    def _read(
        self, texts: list[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, pd.DataFrame | None]:
        """Probabilities, predicted positions, -1 for none, off-label mass, and more."""
        raise NotImplementedError

    def _are_shown(self, texts: Sequence[str]) -> np.ndarray:
        """Which texts are examples in the prompt."""
        shown = {text for text, _ in self.examples_}
        return np.array([text in shown for text in texts], dtype=bool)

    def _is_news(self, category: type[Warning]) -> bool:
        """Whether this was not asked before since the last fit: each warns once."""
        warned: set[type[Warning]] = self.__dict__.setdefault("_warned", set())
        is_news = category not in warned
        warned.add(category)
        return is_news

    def _learn(self, texts: Sequence[str], truth: np.ndarray | None) -> None:
        """What else is taken from texts that are no examples, and from their labels."""

    def _needs_fit(self) -> bool:
        return self.labels is None or isinstance(self.examples, (int, np.integer))

    def _prompt(self, chat: bool, fill: Callable[[str], str] = str) -> Prompt:
        item = f"Text: {SLOT}\nLabel:" if self.prompt is None else self.prompt
        instruction = self.instruction
        if self.prompt is None and instruction is None:
            named = ", ".join(map(fill, self.classes_.tolist()))
            instruction = f"Classify the text as one of: {named}."
        # A trailing space belongs to the label: tokenizers join the two.
        return Prompt(
            item.rstrip(" "),
            tuple(getattr(self, "examples_", ())),
            instruction,
            self.separator,
            chat,
        )

    def _ready(self) -> None:
        if hasattr(self, "examples_"):
            return
        if self._needs_fit():
            raise NotFittedError(
                f"This {type(self).__name__} {self._learns}: call fit(texts, labels) "
                "first."
            )
        self.fit()

    def _decoded(self, y: Any) -> Any:
        codes = None if y is None else as_array(y, "y")
        if self.labels is None or codes is None or codes.dtype.kind not in "iu":
            return y
        names = self.classes_.tolist()
        numbers = [name for name in names if _NUMBER.fullmatch(name)]
        if numbers and names != [str(at) for at in range(len(names))]:
            raise ValueError(
                "y must be strings where labels are numbers, such as "
                f"{numbers[0]!r}: whole numbers are positions in {names!r}. Pass "
                "np.asarray(y).astype(str); for cross_val_predict, which always passes "
                "positions, name labels by words and spell them as numbers (spellings)."
            )
        if codes.size and not 0 <= codes.min() <= codes.max() < len(self.classes_):
            raise ValueError(
                "y must be strings, or whole numbers from 0 to "
                f"{len(self.classes_) - 1}, not {codes.min()} to {codes.max()}."
            )
        return self.classes_[codes]

    def _check_truth(self, y: Any, name: str, *rows: Any) -> np.ndarray | None:
        if y is None:
            return None
        truth = check_labels(y, name, *rows)
        wrong = [v for v in truth.tolist() if not isinstance(v, str)]
        if wrong:
            raise ValueError(f"{name} must be strings, not {wrong[0]!r}.")
        if self.labels is not None:
            strange = sorted(set(truth.tolist()) - set(self.labels))
            if strange:
                raise ValueError(f"{name} must be in labels; not {strange!r}.")
        return truth

    def _check_parameters(self, truth: np.ndarray | None) -> tuple[str, ...]:
        if self.prompt is not None and self.prompt.count(SLOT) != 1:
            raise ValueError(f"prompt must contain {SLOT} once, not {self.prompt!r}.")
        labels = self.labels
        if labels is None:
            if truth is None:
                raise ValueError("labels must be given here or as y of fit.")
            labels = np.unique(truth).tolist()
        return tuple(Verbalizer(labels).labels)

    def _choose_examples(
        self, texts: Sequence[str], truth: np.ndarray | None
    ) -> tuple[list[tuple[str, str]], set[int]]:
        if self.examples is None:
            return [], set()
        if not isinstance(self.examples, (int, np.integer)):
            pairs: list[tuple[Any, ...]] = [tuple(pair) for pair in self.examples]
            for pair in pairs:
                if len(pair) != 2 or pair[1] not in self.labels_:
                    raise ValueError(
                        f"examples must be pairs of text and label; not {pair!r}."
                    )
            check_texts([text for text, _ in pairs])
            return [(text, label) for text, label in pairs], set()
        if self.examples < 0:
            raise ValueError(f"examples must be 0 or more, not {self.examples!r}.")
        if truth is None:
            raise ValueError("examples are drawn from the data: fit needs X and y.")
        rng = np.random.default_rng(self.random_state)
        rows = [rng.permutation(np.flatnonzero(truth == x)) for x in self.classes_]
        turns = chain.from_iterable(zip_longest(*rows))
        chosen = [int(row) for row in turns if row is not None][: self.examples]
        if len(chosen) < self.examples:
            raise ValueError(
                f"examples asks for {self.examples}; the data has {len(chosen)}."
            )
        return [(texts[row], str(truth[row])) for row in chosen], set(chosen)


def check_texts(X: Iterable[str], name: str = "texts") -> list[str]:
    """Texts as a list, or an error that names the first one that is none."""
    if isinstance(X, (str, bytes)):
        raise TypeError(f"{name} must be a list of strings, not the one string {X!r}.")
    if isinstance(X, (Mapping, Set)):
        raise TypeError(f"{name} must be a list of strings, not a {type(X).__name__}.")
    if isinstance(X, (pd.DataFrame, np.ndarray)) and X.ndim != 1:
        raise TypeError(f"{name} must be one column of strings, not shape {X.shape}.")
    as_array(X, name, dtype=object)  # refuses masked values
    texts = list(X)
    for at, text in enumerate(texts):
        if isinstance(text, str):
            if not text.strip():
                raise ValueError(f"{name} must not be empty; text {at} is {text!r}.")
            if re.search("[\ud800-\udfff]", text):
                raise ValueError(
                    f"{name} must not have halves of characters (surrogates), which no "
                    f"model reads; text {at} is {text!r}."
                )
        elif text is None or text is pd.NA or text != text:
            raise ValueError(f"{name} must not be missing; text {at} is {text!r}.")
        else:
            raise TypeError(f"{name} must be strings; text {at} is {text!r}.")
    return [str(text) for text in texts]


def _short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
