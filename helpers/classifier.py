"""``predict_proba`` for language models: a scikit-learn classifier over scoring."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import takewhile
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import logsumexp
from sklearn.base import clone

from .checks import check_choice, check_labels
from .models import MARK, LanguageModel
from .prompted import OffLabelWarning as OffLabelWarning
from .prompted import PromptedClassifier, check_texts
from .prompts import Prompt
from .scoring import check_lengths, label_logprobs, room_for_prompt
from .verbalizer import LabelTokens, Verbalizer

PRIORS = ("contextual", "domain", "unlabelled")
_CONTENT_FREE = ("N/A", "[MASK]", "")
Inputs = tuple[LanguageModel, LabelTokens, list[list[int]], tuple[int, ...]]


class LLMClassifier(PromptedClassifier):
    """A language model as a scikit-learn classifier.

    Probabilities are exact over the labels' token sequences and normalised over the
    labels. Without ``examples`` to draw, and with a prior that needs no texts, the
    classifier works without ``fit``. It has the attributes ``classes_`` (the sorted
    labels, one a column), ``examples_`` and ``prior_``, which sums to one.

    Parameters
    ----------
    model : LanguageModel or str, optional
        The model, or a name for :meth:`LanguageModel.load`.
    labels : sequence of str, optional
        The labels as the model is to write them; by default, ``fit`` takes those of y.
    prompt : str, optional
        How one text is put to the model, with ``{text}`` once; the label follows it.
        By default ``"Text: {text}\\nLabel:"`` after a line that names the labels.
    examples : sequence of (str, str) or int, optional
        Texts with their labels to show the model first, or how many ``fit`` draws
        from its data, the labels in turn.
    prior : {"contextual", "domain", "unlabelled"} or mapping of str to float, optional
        What to divide the label probabilities by: those for texts without content
        [1]_, those for random words of the texts given to ``fit`` [2]_, what makes the
        labels as frequent over these texts as their labels y are or, without y, all
        equally frequent (see :func:`balancing_prior`), or a number for each label.
    instruction : str, optional
        What stands before everything else, once.
    chat : bool, default=False
        Whether to use the model's chat template, with examples as turns.
    family : {"exact", "case", "wide"}, default="exact"
        Which spellings count as a label: see :class:`Verbalizer`.
    spellings : mapping of str to sequence of str, optional
        Other texts that count as a label: see :class:`Verbalizer`.
    terminator : str, sequence of str or None, default="auto"
        What must follow the label. "auto" is a line break or the end of the model's
        turn; None lets the answer go on in any way.
    separator : str, default="\\n\\n"
        What stands between examples in a plain prompt.
    too_long : {"error", "cut"}, default="error"
        What to do with a text that does not fit into the model's window.
    cache : bool, default=True
        Whether to keep scores (not texts) in the user's cache.
    token_budget : int, optional
        The most positions in one batch: see :func:`label_logprobs`.
    random_state : int, default=0
        Seed for drawing examples and random words.
    calibrator : calibrator of label probabilities, optional
        Fitted by ``fit`` on the texts and labels that are no examples, and applied to
        all probabilities that the classifier gives: the recommended one is
        :class:`helpers.calibration.ProbabilityCalibrator`. It is copied, not changed;
        ``calibrator_`` is the fitted one. What it gives for the texts of ``fit`` is
        marked as in-sample; ``cross_val_predict`` of scikit-learn gives them held-out
        probabilities, as the example shows.

    References
    ----------
    .. [1] Zhao et al., Calibrate before use, ICML 2021.
    .. [2] Fei et al., Mitigating label biases for in-context learning, ACL 2023.

    Examples
    --------
    >>> classifier = LLMClassifier(
    ...     labels=["positive", "negative"],
    ...     prompt="Review: {text}\\nSentiment:",
    ...     examples=[("A joy.", "positive"), ("A bore.", "negative")],
    ... )
    >>> classifier.predict(["A delightful, moving film."])
    array(['positive'], dtype='<U8')

    Calibrated probabilities of labelled texts, each from a fit on the other folds:

    >>> from helpers.calibration import ProbabilityCalibrator
    >>> from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    >>> hows = ["good", "bad", "fine", "dull", "great", "weak"]
    >>> texts = [f"A {how} film." for how in hows] * 4
    >>> p = cross_val_predict(
    ...     classifier.set_params(calibrator=ProbabilityCalibrator()),
    ...     *(texts, ["positive", "negative"] * 12),
    ...     method="predict_proba",
    ...     groups=texts,  # copies of a text stay in one fold
    ...     cv=StratifiedGroupKFold(),
    ... )
    >>> p.shape, p.evaluation
    ((24, 2), 'held-out')
    """

    def __init__(
        self,
        model: LanguageModel | str | None = None,
        labels: Sequence[str] | None = None,
        prompt: str | None = None,
        examples: Sequence[tuple[str, str]] | int | None = None,
        prior: str | Mapping[str, float] | None = None,
        *,
        instruction: str | None = None,
        chat: bool = False,
        family: str = "exact",
        spellings: Mapping[str, Sequence[str]] | None = None,
        terminator: str | Sequence[str] | None = "auto",
        separator: str = "\n\n",
        too_long: Literal["error", "cut"] = "error",
        cache: bool = True,
        token_budget: int | None = None,
        random_state: int = 0,
        calibrator: Any = None,
    ) -> None:
        self.model = model
        self.labels = labels
        self.prompt = prompt
        self.examples = examples
        self.prior = prior
        self.instruction = instruction
        self.chat = chat
        self.family = family
        self.spellings = spellings
        self.terminator = terminator
        self.separator = separator
        self.too_long = too_long
        self.cache = cache
        self.token_budget = token_budget
        self.random_state = random_state
        self.calibrator = calibrator

    _learned = (
        *PromptedClassifier._learned,
        *("prior_", "calibrator_", "_kept"),
    )
    _learns = "draws examples, learns its labels, a prior or a calibrator from texts"

    def predict_log_proba(self, X: Iterable[str]) -> np.ndarray:
        """Logarithms of the label probabilities, normalised over the labels."""
        if self.calibrator is not None:
            return super().predict_log_proba(X)
        return self._corrected(self._raw(check_texts(X), stacklevel=3))

    def raw_log_proba(self, X: Iterable[str]) -> np.ndarray:
        """The model's log-probabilities of the labels, not corrected or normalised."""
        return self._raw(check_texts(X), stacklevel=3)

    def render(self, text: str) -> str:
        """The prompt for one text; control tokens that texts spell count as text."""
        model, prompt = self._frame()
        return prompt.render(model, text).replace(MARK, "")

    def follow_up(
        self,
        X: Iterable[str],
        predictions: Iterable[str],
        question: str,
        *,
        examples: Sequence[tuple[str, str, str]] = (),
    ) -> pd.Series:
        """Prompts for self-reports: the text, the label it was given, and a question.

        Parameters
        ----------
        X : iterable of str
            Texts; the index of a pandas Series is kept.
        predictions : iterable of str
            The label that each was given.
        question : str
            What is asked about the label, such as "How sure, from 0 to 100:".
        examples : sequence of (str, str, str), optional
            Texts, labels, and answers to the question, instead of the classifier's own
            examples.

        Examples
        --------
        >>> classifier = LLMClassifier(labels=["good", "bad"], prompt="{text} It is")
        >>> print(classifier.follow_up(["A joy."], ["good"], "How sure?")[0])
        A joy. It is good
        How sure?
        """
        model, prompt = self._frame()
        index = X.index if isinstance(X, pd.Series) else None
        texts = check_texts(X)
        given = check_labels(predictions, "predictions", texts, X).tolist()
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"question must be a text, not {question!r}.")
        for shown in examples:
            if len(shown) != 3 or not all(isinstance(part, str) for part in shown):
                raise ValueError(
                    f"examples must be texts, labels and answers; not {shown!r}."
                )
        for label in (*given, *(label for _, label, _ in examples)):
            if label not in self.classes_:
                raise ValueError(
                    f"predictions must be labels, {self.classes_.tolist()!r}; not "
                    f"{label!r}."
                )
        asked = question.rstrip(" ")
        made = [
            prompt.follow_up(model, text, label, asked, examples)
            for text, label in zip(texts, given, strict=True)
        ]
        return pd.Series(made, index=index, dtype=object)

    def inputs(self, X: Iterable[str]) -> Inputs:
        """Model, labels, token ids of each prompt, and those they all begin with."""
        texts, (model, prompt, tokens, prefix) = check_texts(X), self._asked()
        encode = self._prompts(model, prompt, tokens, texts)[1]
        prompts = [encode(at) for at in range(len(texts))]
        check_lengths(model, dict(enumerate(prompts)), tokens)
        return model, tokens, prompts, prefix

    def _read(
        self, texts: list[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, None]:
        raw = self._raw(texts, stacklevel=5)
        shares = np.exp(self._corrected(raw))
        if self.calibrator is not None:
            shares = self.calibrator_.predict(self._columns(shares), ids=texts)
        return shares, np.asarray(shares).argmax(axis=1), _off_label(raw), None

    def _identity(self) -> tuple[dict[str, str], Any, Any]:
        model, prompt, tokens, _ = self._asked()
        asked = [prompt.render(model, "A"), self.prior_.tolist()]
        if hasattr(self, "calibrator_"):
            told = self.calibrator_.to_dict()
            asked.append([told[name] for name in ("class", "parameters", "fitted")])
        return (
            {"model": f"{model.name} {model.fingerprint[:12]}"},
            asked,
            [tokens.labels, tokens.sequences, tokens.owners, tokens.stop_ids],
        )

    def _frame(self) -> tuple[LanguageModel, Prompt]:
        self._ready()
        model = self.model
        if not isinstance(model, LanguageModel):
            # Held here, so that a model given by name is loaded once.
            model = self._loaded = LanguageModel.load(model)
        return model, self._prompt(self.chat, model.fill)

    def _asked(self) -> tuple[LanguageModel, Prompt, LabelTokens, tuple[int, ...]]:
        """Model, frame, tokens of the labels and of the shared prefix; kept."""
        model, prompt = self._frame()
        spelled = self.classes_.tolist(), self.family, self.spellings, self.terminator
        key = model, prompt, spelled
        if getattr(self, "_kept", (None,))[0] != key:
            terminator = self.terminator
            if terminator == "auto":
                terminator = ("\n", *filter(None, model.token_texts(model.stop_ids)))
            verbalizer = Verbalizer(
                tuple(self.classes_.tolist()),
                family=self.family,
                spellings=self.spellings or {},
                terminator=terminator,
            )
            start = prompt.render(model, "A")
            tokens = verbalizer.tokens(model, after=start)
            probes = (start, prompt.render(model, "0 b"))
            ids = [self._encoded(model, probe, tokens) for probe in probes]
            pairs = zip(*ids, strict=False)
            same = takewhile(lambda pair: pair[0] == pair[1], pairs)
            prefix = tuple(token for token, _ in same)
            self._kept = (model, prompt, deepcopy(spelled)), tokens, prefix
        return model, prompt, *self._kept[1:]

    def _needs_fit(self) -> bool:
        drawn = isinstance(self.prior, str) and self.prior in ("domain", "unlabelled")
        return super()._needs_fit() or drawn or self.calibrator is not None

    def _learn(self, texts: Sequence[str], truth: np.ndarray | None) -> None:
        check_choice("too_long", self.too_long, ("error", "cut"))
        if self.calibrator is None:
            self.prior_ = self._estimate_prior(texts, truth)
            return
        if getattr(self.calibrator, "_columns", "") != "classes_":
            raise ValueError(
                "calibrator must be one of label probabilities, such as "
                f"ProbabilityCalibrator(), not {self.calibrator!r}."
            )
        if truth is None:
            raise ValueError("calibrator needs labels: fit(texts, y).")
        self.prior_ = self._estimate_prior(texts, truth)
        rows = np.flatnonzero(~self._are_shown(texts)).tolist()
        texts = [texts[at] for at in rows]
        if not texts:
            raise ValueError("calibrator needs texts that are no examples.")
        table = self._columns(np.exp(self._corrected(self._raw(texts, stacklevel=4))))
        found = clone(self.calibrator)
        found.fit(table, truth[rows], ids=texts, source=self.source())
        if np.ndim(found.predict(table.head(1))) != 2:
            raise ValueError(
                f"calibrator must give a probability for each label; {found!r} gives "
                "one confidence a row."
            )
        self.calibrator_ = found

    def _columns(self, shares: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(shares, columns=[f"p_{label}" for label in self.classes_])

    def _estimate_prior(
        self, texts: Sequence[str], truth: np.ndarray | None
    ) -> np.ndarray:
        if self.prior is None:
            return np.full(len(self.classes_), 1 / len(self.classes_))
        if not isinstance(self.prior, str):
            told = dict(self.prior) if isinstance(self.prior, Mapping) else {}
            given = np.array([told.get(x, np.nan) for x in self.classes_], float)
            positive = bool(np.all(np.isfinite(given) & (given > 0)))
            if not positive or set(told) != set(self.labels_):
                raise ValueError(
                    f"prior must give each label a positive number, not {self.prior!r}."
                )
            return given / given.sum()
        check_choice("prior", self.prior, PRIORS)
        if self.prior == "contextual":
            free = [text for text in _CONTENT_FREE if self.render(text)]
            return self._probabilities(free).mean(axis=0)
        if not texts:
            raise ValueError(f"prior={self.prior!r} needs texts: fit(texts).")
        if self.prior == "domain":
            drawn = _random_words(texts, self.random_state)
            return self._probabilities(drawn).mean(axis=0)
        shares = None
        if truth is not None:  # one more of each, as a label may not occur
            shares = np.array([1 + np.sum(truth == label) for label in self.classes_])
        return balancing_prior(self._probabilities(texts), shares)

    def _probabilities(self, texts: Sequence[str]) -> np.ndarray:
        raw = self._label_scores(texts)
        return np.exp(raw - logsumexp(raw, axis=1, keepdims=True))

    def _raw(self, texts: list[str], *, stacklevel: int) -> np.ndarray:
        """Scores of texts, with a warning where most of the mass is on no label."""
        scores = self._label_scores(texts)
        off_label = _off_label(scores)
        lost = int((off_label > 0.5).sum())
        if 2 * lost > len(texts) and self._is_news(OffLabelWarning):
            cause = self._likely_cause(texts[int(off_label.argmax())])
            warnings.warn(
                f"Most probability is on no label, more than half in {lost} of "
                f"{len(texts)} texts. {cause}",
                OffLabelWarning,
                stacklevel=stacklevel,
            )
        return scores

    def _likely_cause(self, text: str) -> str:
        """What the model would write about a text, and what to try."""
        (model, frame, _), tokens, _ = self._kept
        encode = self._prompts(model, frame, tokens, [text])[1]
        logprobs = model.logprobs_behind(encode(0))
        best = int(logprobs.argmax())
        bare = model.vocabulary[best].strip().casefold()
        alike = [x for x in tokens.labels if bare and x.casefold().startswith(bare)]
        firsts = list({sequence[0] for sequence in tokens.sequences})
        advice = f"Try examples, an instruction or chat={not self.chat}."
        if np.exp(logprobs[firsts]).sum() > 0.5:
            advice = "It begins labels and goes on otherwise: try terminator=None."
        elif alike and best not in firsts:
            advice = "It may be a label in another form: try family='case' or 'wide'."
        end = frame.render(model, "A").replace(MARK, "")[-20:]
        return (
            f"The prompt ends in {end!r} and the first label is read as "
            f"{tokens.describe(model)[0][1]}; in the worst text, the model's likeliest "
            f"token is {model.visible_texts([best])[0]!r}. {advice} More by "
            "model.next_tokens(classifier.render(text))."
        )

    def _label_scores(self, texts: Sequence[str]) -> np.ndarray:
        model, prompt, tokens, prefix = self._asked()
        prompts, encode = self._prompts(model, prompt, tokens, texts)
        rule = f"{self.too_long} {model.window}"
        return label_logprobs(
            model,
            [f"{rule} {written}" for written in prompts],
            tokens,
            encode=encode,
            prefix=prefix,
            token_budget=self.token_budget,
            cache=self.cache,
        )

    def _prompts(
        self,
        model: LanguageModel,
        prompt: Prompt,
        tokens: LabelTokens,
        texts: Sequence[str],
    ) -> tuple[list[str], Callable[[int], list[int]]]:
        """The prompts in words, and what gives the token ids of the one at a place."""
        render = prompt.renderer(model)
        prompts = [render(text) for text in texts]

        def encode(at: int) -> list[int]:
            ids = self._encoded(model, prompts[at], tokens)
            room = room_for_prompt(model, tokens)
            if len(ids) <= room or self.too_long != "cut":
                return ids
            kept = model.text_ids(texts[at])
            while len(ids) > room and kept:
                kept = kept[: -(len(ids) - int(room))]
                shorter = model.tokenizer.decode(
                    kept, clean_up_tokenization_spaces=False
                )
                whole = render(str(shorter).rstrip("\ufffd"))
                ids = self._encoded(model, whole, tokens)
            return ids

        return prompts, encode

    def _encoded(
        self, model: LanguageModel, prompt: str, tokens: LabelTokens
    ) -> list[int]:
        if prompt[-1:].isspace():
            answer = tokens.sequences[0]
            label = tokens.labels[0]
            spelling = (self.spellings or {}).get(label, (label,))[0].strip()
            whole = model.encode(model.fill(spelling, prompt))
            if tuple(whole[-len(answer) :]) == answer:
                return whole[: -len(answer)]
        return model.encode(prompt)

    def _corrected(self, raw: np.ndarray) -> np.ndarray:
        weighed = raw - np.log(self.prior_)
        return weighed - logsumexp(weighed, axis=1, keepdims=True)


def _off_label(raw: np.ndarray) -> np.ndarray:
    return np.clip(1 - np.exp(logsumexp(raw, axis=1)), 0, 1)


def _random_words(texts: Sequence[str], seed: int) -> list[str]:
    words = [text.split() for text in texts]
    pool = np.array([word for text in words for word in text])
    length = round(float(np.mean([len(text) for text in words])))
    rng = np.random.default_rng(seed)
    draws = rng.choice(pool, size=(20, max(1, length)))
    return [" ".join(draw) for draw in draws]


def balancing_prior(
    probabilities: np.ndarray, shares: np.ndarray | None = None
) -> np.ndarray:
    """The prior that, divided out, leaves labels as frequent on average as they are.

    The fixed point of w ← w · mean(p/w normalised) / shares; batch calibration (Zhou et
    al., ICLR 2024) divides by its first step for equal shares, the mean probabilities.

    Parameters
    ----------
    probabilities : numpy.ndarray of shape (n_texts, n_labels)
        Label probabilities; rows sum to one.
    shares : numpy.ndarray of shape (n_labels,), optional
        How frequent each label is; positive. Default: all equally, which makes the
        answers worse where they are not.

    Examples
    --------
    >>> import numpy as np
    >>> balancing_prior(np.array([[0.9, 0.1], [0.6, 0.4]])).round(3)
    array([0.786, 0.214])
    """
    n_labels = probabilities.shape[1]
    due = np.ones(n_labels) if shares is None else np.asarray(shares, float)
    if due.shape != (n_labels,) or not (due > 0).all():
        raise ValueError(
            f"shares must be a positive number for each of {n_labels} labels, not "
            f"{shares!r}."
        )
    due, prior = due / due.sum(), np.full(n_labels, 1 / n_labels)
    for _ in range(1000):
        weighed = probabilities / prior
        step = (weighed / weighed.sum(axis=1, keepdims=True)).mean(axis=0)
        prior = prior * step / due
        prior /= prior.sum()
        if np.allclose(step, due, rtol=0, atol=1e-10):
            break
    return prior
