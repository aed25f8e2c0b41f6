"""``predict_proba`` for language models: a scikit-learn classifier over scoring.

The probabilities are the model's own: exact over the whole token sequences of the
labels, normalised over the labels, with the mass that fell on no label kept in view.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from .checks import check_choice, check_labels
from .models import MARK, LanguageModel
from .priors import CONTENT_FREE, balancing_prior, random_words
from .prompted import OffLabelWarning as OffLabelWarning
from .prompted import PromptedClassifier, check_texts, short_hash
from .scoring import check_lengths, label_logprobs, room_for_prompt
from .verbalizer import LabelTokens, Verbalizer

PRIORS = ("contextual", "domain", "unlabelled")


class LLMClassifier(PromptedClassifier):
    """A language model as a scikit-learn classifier.

    Parameters
    ----------
    model : LanguageModel or str, optional
        The model, or a name for :meth:`LanguageModel.load`; without one, the embedded
        default.
    labels : sequence of str, optional
        The labels as the model is to write them. Without them, ``fit`` takes the
        classes of y.
    prompt : str, optional
        How one text is put to the model, with ``{text}`` once; the label follows it.
        Without one: ``"Text: {text}\\nLabel:"`` behind a line that names the labels.
        Control tokens are such where the prompt spells them, and text in all else.
    examples : sequence of (str, str) or int, optional
        Texts with their labels to show the model first; a number lets ``fit`` draw
        as many from its data, the labels in turn.
    prior : {"contextual", "domain", "unlabelled"} or mapping of str to float, optional
        What to divide the label probabilities by. "contextual": the probabilities for
        texts without content [1]_. "domain": for random words of the texts given to
        ``fit`` [2]_. "unlabelled": such that the corrected probabilities of the texts
        given to ``fit`` are balanced on average, in the spirit of [3]_. Or a number
        for each label.
    instruction : str, optional
        What stands before everything else, once.
    chat : bool, default=False
        Whether to put the prompt into the model's chat template, examples as turns.
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
        Whether to keep scores in the user's cache, under a hash of the model and of
        the tokens; texts are not kept.
    token_budget : int, optional
        The most positions in one batch: see :func:`label_logprobs`.
    random_state : int, default=0
        Seed for drawing examples and random words.

    Attributes
    ----------
    classes_ : numpy.ndarray of str
        The labels, sorted; the order of the columns of ``predict_proba``.
    examples_ : list of (str, str)
        The examples in the prompt.
    prior_ : numpy.ndarray of shape (n_classes,)
        What probabilities are divided by; it sums to one.

    Notes
    -----
    Without ``examples`` to draw, and with a prior that needs no texts, the classifier
    works without ``fit``.

    References
    ----------
    .. [1] Zhao et al., Calibrate before use, ICML 2021.
    .. [2] Fei et al., Mitigating label biases for in-context learning, ACL 2023.
    .. [3] Zhou et al., Batch calibration, ICLR 2024.

    Examples
    --------
    >>> classifier = LLMClassifier(
    ...     labels=["positive", "negative"],
    ...     prompt="Review: {text}\\nSentiment:",
    ...     examples=[("A joy.", "positive"), ("A bore.", "negative")],
    ... )
    >>> classifier.predict(["A delightful, moving film."])
    array(['positive'], dtype='<U8')
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

    _learned = ("labels_", "examples_", "prior_", "_loaded")
    _learns = "draws examples, learns its labels or estimates a prior from texts"

    # What scikit-learn asks for ------------------------------------------------

    def fit(self, X: Iterable[str] | None = None, y: Any = None) -> LLMClassifier:
        """Draw the examples and estimate the label prior, as far as asked for.

        The model itself is not trained.

        Parameters
        ----------
        X : iterable of str, optional
            Texts; needed to draw examples and for the priors "domain" and
            "unlabelled".
        y : array-like of str, optional
            Their labels; needed to draw examples, or where no labels were given.
            Whole numbers are positions in ``classes_``: so scikit-learn's
            ``cross_val_predict`` hands labels over.

        Returns
        -------
        LLMClassifier
            Itself.

        Raises
        ------
        ValueError
            A parameter breaks its rule, or data that it needs is missing.
        """
        return super().fit(X, y)

    def predict_log_proba(self, X: Iterable[str]) -> np.ndarray:
        """Logarithms of the label probabilities, normalised over the labels.

        Parameters
        ----------
        X : iterable of str
            Texts.

        Returns
        -------
        numpy.ndarray of shape (n_texts, n_classes)
        """
        self._ready()
        return self._corrected(self.raw_log_proba(X))

    def predict_proba(self, X: Iterable[str]) -> np.ndarray:
        """Label probabilities, normalised over the labels.

        Parameters
        ----------
        X : iterable of str
            Texts.

        Returns
        -------
        numpy.ndarray of shape (n_texts, n_classes)
            In [0, 1]; rows sum to one; columns in the order of ``classes_``.
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """The most probable label of each text.

        Parameters
        ----------
        X : iterable of str
            Texts.

        Returns
        -------
        numpy.ndarray of str, of shape (n_texts,)
        """
        best = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[best]

    # What a language model adds ------------------------------------------------

    def raw_log_proba(self, X: Iterable[str]) -> np.ndarray:
        """The model's own log-probabilities of the labels: no prior, no normalising.

        Parameters
        ----------
        X : iterable of str
            Texts.

        Returns
        -------
        numpy.ndarray of shape (n_texts, n_classes)
            What a row's probabilities lack to one is the off-label mass.
        """
        self._ready()
        scores = self._text_scores(check_texts(X))
        off = np.median(1 - np.exp(logsumexp(scores, axis=1))) if len(scores) else 0
        if off > 0.5:
            first = self._tokens().describe(self._model())[0][1]
            warnings.warn(
                "Most probability is on no label, in the median text more than half. "
                f"The prompt ends in {self.render('A')[-20:]!r}; the first label is "
                f"read as {first}. See what the model would write instead, by "
                "model.next_tokens(classifier.render(text)), and try examples, an "
                "instruction, chat=True, family='case' or another terminator.",
                OffLabelWarning,
                stacklevel=2,
            )
        return scores

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
            One row a text: ``p_<label>`` (sum to one), ``off_label`` (probability
            that fell on no label, before any correction), ``prediction``,
            ``confidence`` (the probability of the prediction) and, where the truth is
            given, ``truth`` and ``correct``. ``attrs["source"]`` is what
            :meth:`source` gives.
        """
        index = X.index if isinstance(X, pd.Series) else None
        raw = self.raw_log_proba(X)
        probabilities = np.exp(self._corrected(raw))
        columns = [f"p_{label}" for label in self.classes_]
        table = pd.DataFrame(probabilities, columns=columns, index=index)
        table["off_label"] = np.clip(1 - np.exp(logsumexp(raw, axis=1)), 0, 1)
        table["prediction"] = self.classes_[probabilities.argmax(axis=1)]
        table["confidence"] = probabilities.max(axis=1)
        if truth is not None:
            table["truth"] = self._check_truth(truth, "truth", table, X)
            table["correct"] = table["truth"] == table["prediction"]
        table.attrs["source"] = self.source()
        return table

    def source(self) -> dict[str, str]:
        """What these probabilities come from: a calibrator fits no others.

        Returns
        -------
        dict of str to str
            ``model``, its name and the start of its fingerprint; ``prompt``, a hash of
            the prompt with its examples and of the prior; ``labels``, a hash of their
            names and of the tokens that express them.
        """
        self._ready()
        model, tokens = self._model(), self._tokens()
        asked = [self._rendered("A"), self.prior_.tolist()]
        labels = [tokens.labels, tokens.sequences, tokens.owners, tokens.stop_ids]
        return {
            "model": f"{model.name} {model.fingerprint[:12]}",
            "prompt": short_hash(asked),
            "labels": short_hash(labels),
        }

    def render(self, text: str) -> str:
        """The prompt for one text, as the model gets it.

        Control tokens that texts or labels spell look like the template's own here, but
        are text to the model: see :meth:`LanguageModel.fill`.

        Parameters
        ----------
        text : str
            The text.

        Returns
        -------
        str
        """
        return self._rendered(text).replace(MARK, "")

    def follow_up(
        self,
        X: Iterable[str],
        predictions: Iterable[str],
        question: str,
        *,
        examples: Sequence[tuple[str, str, str]] = (),
    ) -> pd.Series:
        """Prompts that ask something about labels that were given to texts.

        They show the text as the classifier's own prompt does, then the label, then
        the question: for :func:`helpers.self_report.self_report` and
        :func:`helpers.self_report.p_true`.

        Parameters
        ----------
        X : iterable of str
            Texts; the index of a pandas Series is kept.
        predictions : iterable of str
            The label that each was given, such as those of ``predict``.
        question : str
            What is asked about the label, such as "How sure, from 0 to 100:".
        examples : sequence of (str, str, str), optional
            Texts, their labels, and answers to the question. They take the place of
            the classifier's own examples.

        Returns
        -------
        pandas.Series of str
            Where texts or labels spell control tokens, marked as text by
            :meth:`LanguageModel.fill`.

        Raises
        ------
        ValueError
            An empty question, a prediction or an example that is no label, or another
            number of predictions than of texts.

        Examples
        --------
        >>> classifier = LLMClassifier(
        ...     labels=["good", "bad"], prompt="Review: {text}\\nSentiment:"
        ... )
        >>> print(classifier.follow_up(["A joy."], ["good"], "How sure?")[0])
        Review: A joy.
        Sentiment: good
        How sure?
        """
        self._ready()
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
        prompt, model, asked = self._prompt(), self._model(), question.rstrip(" ")
        made = [
            prompt.follow_up(model, text, label, asked, examples)
            for text, label in zip(texts, given, strict=True)
        ]
        return pd.Series(made, index=index, dtype=object)

    def inputs(
        self, X: Iterable[str]
    ) -> tuple[LanguageModel, LabelTokens, list[list[int]], tuple[int, ...]]:
        """What the model is given, for functions that read it in another way.

        Parameters
        ----------
        X : iterable of str
            Texts.

        Returns
        -------
        model : LanguageModel
            The model.
        labels : LabelTokens
            The labels, in the order of ``classes_``.
        prompts : list of list of int
            Token ids of the whole prompt of each text.
        prefix : tuple of int
            Tokens that all prompts begin with.
        """
        self._ready()
        model = self._model()
        return model, *self._inputs(model, check_texts(X))

    # The rest is nobody else's business ----------------------------------------

    def _rendered(self, text: str) -> str:
        """The prompt for one text, what texts and labels spell marked as text."""
        self._ready()
        return self._prompt().render(self._model(), text)

    def _spelled(self, label: str) -> str:
        return self._model().fill(label)

    def _model(self) -> LanguageModel:
        if isinstance(self.model, LanguageModel):
            return self.model
        # Held here, so that a model given by name is loaded once.
        self._loaded = LanguageModel.load(self.model)
        return self._loaded

    def _is_chat(self) -> bool:
        return self.chat

    def _needs_fit(self) -> bool:
        return super()._needs_fit() or (
            isinstance(self.prior, str) and self.prior in ("domain", "unlabelled")
        )

    def _check_parameters(self, truth: np.ndarray | None) -> tuple[str, ...]:
        labels = super()._check_parameters(truth)
        check_choice("too_long", self.too_long, ("error", "cut"))
        if isinstance(self.prior, str):
            check_choice("prior", self.prior, PRIORS)
        return labels

    def _learn(self, texts: Sequence[str]) -> None:
        self.prior_ = self._estimate_prior(texts)

    def _estimate_prior(self, texts: Sequence[str]) -> np.ndarray:
        n = len(self.classes_)
        if self.prior is None:
            return np.full(n, 1 / n)
        if not isinstance(self.prior, str):
            if not isinstance(self.prior, Mapping) or set(self.prior) != set(
                self.labels_
            ):
                raise ValueError(
                    f"prior must give each label a number, not {self.prior!r}."
                )
            given = np.array([self.prior[label] for label in self.classes_], float)
            if not np.all(np.isfinite(given) & (given > 0)):
                raise ValueError(f"prior must be positive, not {self.prior!r}.")
            return given / given.sum()
        if self.prior == "contextual":
            free = [text for text in CONTENT_FREE if self.render(text)]
            return self._probabilities(free).mean(axis=0)
        if not texts:
            raise ValueError(f"prior={self.prior!r} needs texts: fit(texts).")
        if self.prior == "domain":
            drawn = random_words(texts, seed=self.random_state)
            return self._probabilities(drawn).mean(axis=0)
        return balancing_prior(self._probabilities(texts))

    def _probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Normalised probabilities without a prior, for texts as they are."""
        raw = self._text_scores(texts)
        return np.exp(raw - logsumexp(raw, axis=1, keepdims=True))

    def _text_scores(self, texts: Sequence[str]) -> np.ndarray:
        """Log-probabilities of the labels for texts as they are, cut if asked for."""
        model = self._model()
        tokens, prompts, prefix = self._inputs(model, texts)
        return label_logprobs(
            model,
            prompts,
            tokens,
            prefix=prefix,
            token_budget=self.token_budget,
            cache=self.cache,
        )

    def _inputs(
        self, model: LanguageModel, texts: Sequence[str]
    ) -> tuple[LabelTokens, list[list[int]], tuple[int, ...]]:
        tokens = self._tokens()
        prompts = [self._prompt_tokens(text, tokens) for text in texts]
        if self.too_long == "cut":
            room = room_for_prompt(model, tokens)
            prompts = [
                ids if len(ids) <= room else self._cut(text, tokens, room)
                for ids, text in zip(prompts, texts, strict=True)
            ]
        check_lengths(model, prompts, tokens)
        probes = [self._prompt_tokens(text, tokens) for text in ("A", "0 b")]
        return tokens, prompts, _common_start(*probes)

    def _corrected(self, raw: np.ndarray) -> np.ndarray:
        weighed = raw - np.log(self.prior_)
        return weighed - logsumexp(weighed, axis=1, keepdims=True)

    def _tokens(self) -> LabelTokens:
        model = self._model()
        terminator = self.terminator
        if terminator == "auto":
            terminator = ("\n", *filter(None, model.token_texts(model.stop_ids)))
        verbalizer = Verbalizer(
            tuple(self.classes_.tolist()),
            family=self.family,
            spellings=self.spellings or {},
            terminator=terminator,
        )
        return verbalizer.tokens(model, after=self._rendered("A"))

    def _prompt_tokens(self, text: str, tokens: LabelTokens) -> list[int]:
        """Tokens of the prompt as they are with a label behind it."""
        model, prompt = self._model(), self._rendered(text)
        if prompt[-1:].isspace():
            answer = tokens.sequences[0]
            label = tokens.labels[0]
            spelling = (self.spellings or {}).get(label, (label,))[0].strip()
            whole = model.encode(model.fill(spelling, prompt))
            if tuple(whole[-len(answer) :]) == answer:
                return whole[: -len(answer)]
        return model.encode(prompt)

    def _cut(self, text: str, tokens: LabelTokens, room: float) -> list[int]:
        """Tokens of the prompt for as much of the text's beginning as fits."""
        model = self._model()
        kept = model.text_ids(text)
        ids = self._prompt_tokens(text, tokens)
        while len(ids) > room and kept:
            kept = kept[: -(len(ids) - int(room))]
            shorter = model.tokenizer.decode(kept, clean_up_tokenization_spaces=False)
            ids = self._prompt_tokens(str(shorter).rstrip("\ufffd"), tokens)
        return ids


def _common_start(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    same = (a == b for a, b in zip(first, second, strict=False))
    stop = next((at for at, equal in enumerate(same) if not equal), len(first))
    return tuple(first[:stop])
