"""``predict_proba`` for hosted models: what their lists of tokens let one know.

A hosted model shows the most probable tokens only. The probabilities given here are
what these hold, and every one comes with the limits between which the truth lies.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from sklearn.base import clone

from ..checks import check_between, check_choice, check_count, check_not_negative
from ..fetch import cache_dir
from ..prompted import OffLabelWarning, PromptedClassifier, check_texts, short_hash
from ..prompts import seam
from .answers import Answer, Failure
from .costs import Prices
from .desk import Desk, hides, is_same_model, shows
from .endpoints import (
    LEAST_TOKENS,
    PROMPTS,
    Request,
    build_request,
    check_address,
    open_client,
    plain_url,
    without_logprobs,
)
from .journal import Journal
from .scores import (
    HostedScores,
    mass_scores,
    read_label,
    report_scores,
    vote_scores,
)
from .spelling import LabelTexts
from .tree import LabelMass, LabelTree

if TYPE_CHECKING:
    from openai import AsyncOpenAI

FALLBACKS = ("sampling", "self-report")
QUESTION = (
    "How sure are you that this label is right? Answer with a number from 0 to 100 "
    "and nothing else:"
)
_WORDS = 8  # tokens of an answer that is read as text
_SHARED = ("client", "journal")
_NONSENSE = "The log-probabilities make no sense: "


class HostedClassifier(PromptedClassifier):
    """A hosted language model as a scikit-learn classifier.

    Parameters
    ----------
    client : openai.AsyncOpenAI or str
        Who asks, and with which key; or the server's address, asked without a key, or
        with that in the environment variable ``OPENAI_API_KEY`` if it is OpenAI's.
    model : str
        The model, as the server calls it.
    labels : sequence of str, optional
        The labels as the model is to write them. Without them, ``fit`` takes the
        classes of y.
    prompt : str, optional
        How one text is put to the model, with ``{text}`` once; the label follows it.
        Without one, that of :class:`helpers.classifier.LLMClassifier`.
    examples : sequence of (str, str) or int, optional
        Texts with their labels to show the model first; a number lets ``fit`` draw
        as many from its data, the labels in turn.
    protocol : {"chat", "completions", "responses"}, default="chat"
        "completions" sends the plain prompt that a local classifier
        (:class:`helpers.classifier.LLMClassifier`) uses, so that probabilities can be
        compared; the others send the instruction as a message of the system and the
        examples as turns.
    instruction : str, optional
        What stands before everything else, once.
    family : {"exact", "case", "wide"}, default="case"
        Which spellings count as a label: see :class:`helpers.verbalizer.Verbalizer`.
    spellings : mapping of str to sequence of str, optional
        Other texts that count as a label.
    terminator : str, sequence of str or None, default="auto"
        What must follow the label, as the beginning of the next token. "auto" is a
        line break or the end of the model's turn with "completions", and None, which
        lets the answer go on in any way, with the others, where many servers do not
        list the end of a turn: the probability that the label ends would stay open.
    separator : str, default="\\n\\n"
        What stands between examples in a plain prompt.
    top_logprobs : int, default=20
        Alternatives to ask for at each position.
    max_calls_per_text : int, default=8
        The most requests for one text. The first one answers for labels of one token;
        further ones follow the beginnings of longer labels, and the ends of others,
        where the server goes on from a given text.
    tolerance : float, default=0.001
        Beginnings with less probability are not followed.
    continue_with : mapping, optional
        Arguments that make a server of "chat" go on with an unfinished message of the
        assistant, ``{}`` where it does so anyway: :func:`helpers.hosted.probe` finds
        them. None says that it does not; then beginnings stay between their bounds.
    temperature : float, default=0.0
        What to ask with. At 0 the answer is the most probable one, whose later tokens
        save calls. Use 1 where a server reports probabilities after temperature.
    options : mapping, optional
        Further arguments of every request, such as ``{"seed": 0}``.
    old_limit : bool, default=False
        Whether "chat" calls its limit ``max_tokens``, as older servers do.
    fallback : {"sampling", "self-report"}, optional
        What to do where a server hides log-probabilities. "sampling": draw answers at
        temperature 1 and count them, with Wilson intervals of the shares at 95 %; a
        seed in ``options`` is raised by one for each.
        "self-report": ask how sure the model is, which bounds nothing.
    draws : int, default=10
        Answers to draw for each text.
    question : str, optional
        How to ask for the confidence, from 0 to 100.
    failed : {"error", "open"}, optional
        What to do about texts without an answer that can be used: the request failed
        for good, the model refused, a filter stopped it, no label was listed, or the
        log-probabilities make no sense. Such a text has no prediction, its
        probabilities are NaN between limits of 0 and 1, the column ``problem`` says
        why, and a warning how many they are. Without this argument, requests that
        fail for good are an error instead; with "error", so are log-probabilities
        that make no sense for any text; with "open", neither.
    concurrency : int, default=8
        The most requests in flight.
    journal : Journal or path, optional
        Where answers are kept; a file in the user's cache otherwise. What is in it is
        not asked again, but for requests that failed.
    budget : float, optional
        The most that all requests for the texts of one call may cost, with all that the
        journal says was paid for them before; needs prices. See
        :func:`helpers.hosted.run`.
    prices : mapping, optional
        A pair for each model: the price of a million tokens read, and of a million
        written.
    retries, timeout, deadline
        See :func:`helpers.hosted.run`.
    progress : bool, default=True
        Whether to show a bar.
    random_state : int, default=0
        Seed for drawing examples.

    Attributes
    ----------
    classes_ : numpy.ndarray of str
        The labels, sorted; the order of the columns of ``predict_proba``.
    examples_ : list of (str, str)
        The examples in the prompt.

    Notes
    -----
    An answer expresses a label where its tokens, put together, are one of the label's
    texts, and the next one is what must follow. A local classifier counts the tokens
    that its tokenizer makes of the text; here all ways to cut it count. Where a server
    is asked to go on from a text, it makes the tokens itself. That no token outside a
    list is more probable than the last in it takes each text to be one token.

    Without ``examples`` to draw, the classifier works without ``fit``.

    Examples
    --------
    >>> classifier = HostedClassifier(
    ...     "http://localhost:8000/v1",
    ...     "a-model",
    ...     ["positive", "negative"],
    ...     "Review: {text}\\nSentiment:",
    ...     protocol="completions",
    ... )
    >>> classifier.render("A joy.")
    'Review: A joy.\\nSentiment:'
    """

    _learned = ("labels_", "examples_", "_opened", "_answered")

    def __init__(
        self,
        client: AsyncOpenAI | str | None = None,
        model: str | None = None,
        labels: Sequence[str] | None = None,
        prompt: str | None = None,
        examples: Sequence[tuple[str, str]] | int | None = None,
        *,
        protocol: str = "chat",
        instruction: str | None = None,
        family: str = "case",
        spellings: Mapping[str, Sequence[str]] | None = None,
        terminator: str | Sequence[str] | None = "auto",
        separator: str = "\n\n",
        top_logprobs: int = 20,
        max_calls_per_text: int = 8,
        tolerance: float = 1e-3,
        continue_with: Mapping[str, Any] | None = None,
        temperature: float | None = 0.0,
        options: Mapping[str, Any] | None = None,
        old_limit: bool = False,
        fallback: str | None = None,
        draws: int = 10,
        question: str | None = None,
        failed: str | None = None,
        concurrency: int = 8,
        journal: Journal | str | Path | None = None,
        budget: float | None = None,
        prices: Prices | None = None,
        retries: int = 4,
        timeout: float = 60.0,
        deadline: float = 600.0,
        progress: bool = True,
        random_state: int = 0,
    ) -> None:
        self.client = client
        self.model = model
        self.labels = labels
        self.prompt = prompt
        self.examples = examples
        self.protocol = protocol
        self.instruction = instruction
        self.family = family
        self.spellings = spellings
        self.terminator = terminator
        self.separator = separator
        self.top_logprobs = top_logprobs
        self.max_calls_per_text = max_calls_per_text
        self.tolerance = tolerance
        self.continue_with = continue_with
        self.temperature = temperature
        self.options = options
        self.old_limit = old_limit
        self.fallback = fallback
        self.draws = draws
        self.question = question
        self.failed = failed
        self.concurrency = concurrency
        self.journal = journal
        self.budget = budget
        self.prices = prices
        self.retries = retries
        self.timeout = timeout
        self.deadline = deadline
        self.progress = progress
        self.random_state = random_state
        check_address(client)

    # What scikit-learn asks for ------------------------------------------------

    def __sklearn_clone__(self) -> Self:
        # A client and an open journal are shared: they cannot be copied.
        return type(self)(
            **{
                name: value if name in _SHARED else clone(value, safe=False)
                for name, value in self.get_params(deep=False).items()
            }
        )

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_opened", None)
        return state

    def set_params(self, **params: Any) -> Self:
        """Change parameters; what ``fit`` found under the old ones is forgotten.

        Parameters
        ----------
        **params : dict
            Parameters by name.

        Returns
        -------
        HostedClassifier
            Itself.
        """
        check_address(params.get("client"))
        return super().set_params(**params)

    def predict_proba(self, X: Iterable[str]) -> np.ndarray:
        """Label probabilities, normalised over the labels.

        Parameters
        ----------
        X : iterable of str
            Texts.

        Returns
        -------
        numpy.ndarray of shape (n_texts, n_classes)
            In [0, 1]; rows sum to one; columns in the order of ``classes_``. What the
            lists hold of each label, divided by what they hold of all: a point inside
            ``predict_interval``. NaN where they hold nothing of any.

        Raises
        ------
        ValueError
            A parameter breaks its rule, the server hides log-probabilities and there
            is no ``fallback``, or they make no sense for any text and ``failed`` is
            "error".
        RunStopped
            Requests failed for good, the budget would be passed, or the key is wrong.
            What was answered is in the journal.
        """
        return self._scores(X).shares

    def predict_log_proba(self, X: Iterable[str]) -> np.ndarray:
        """Logarithms of ``predict_proba``; minus infinity for what is in no list.

        Parameters
        ----------
        X : iterable of str
            Texts.

        Returns
        -------
        numpy.ndarray of shape (n_texts, n_classes)
        """
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """The most probable label of each text, also where it is not decided.

        None where nothing is known; the array is one of objects then.

        Parameters
        ----------
        X : iterable of str
            Texts.

        Returns
        -------
        numpy.ndarray of str, of shape (n_texts,)
        """
        return self._scores(X).predictions(self.classes_.tolist())

    # What a hosted model adds --------------------------------------------------

    def predict_interval(self, X: Iterable[str]) -> np.ndarray:
        """Between which limits the normalised probabilities lie.

        Parameters
        ----------
        X : iterable of str
            Texts.

        Returns
        -------
        numpy.ndarray of shape (n_texts, n_classes, 2)
            The lower and the upper limit. They are no confidence interval: the truth
            lies between them. Only with ``fallback="sampling"`` they are one, of the
            share among all answers that are labels.
        """
        found = self._scores(X)
        return np.stack([found.low, found.high], axis=-1)

    def decided(self, X: Iterable[str]) -> np.ndarray:
        """Whether the predicted label is the most probable, whatever is not listed.

        Parameters
        ----------
        X : iterable of str
            Texts.

        Returns
        -------
        numpy.ndarray of bool, of shape (n_texts,)
            With ``fallback="sampling"``, whether its interval lies above all others;
            with "self-report" always False.
        """
        return self._scores(X).decided

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
            One row a text: ``p_<label>`` (as ``predict_proba``), ``off_label``
            (probability not known to be a label's), ``prediction``, ``confidence``,
            ``lower_<label>`` and ``upper_<label>`` (as ``predict_interval``),
            ``decided``; the parts of ``off_label``: ``unlisted``, ``off_list`` (listed
            tokens that lead to no label) and ``unresolved`` (beginnings of labels that
            nobody followed); ``calls``, the requests that the text took; ``problem``,
            why nothing is known of it, or None; ``model``, the model that answered, as
            the server calls it; and, where the truth is given, ``truth`` and
            ``correct``, which is missing where there is no prediction.
            ``attrs["source"]`` is what :meth:`source` gives.
        """
        index = X.index if isinstance(X, pd.Series) else None
        found, by = self._answers(X)
        table = found.table(self.classes_.tolist(), index)
        table["model"] = np.array(by, dtype=object)
        if truth is not None:
            table["truth"] = self._check_truth(truth, "truth", table, X)
            table["correct"] = table["truth"] == table["prediction"]
            if (none := table["prediction"].isna()).any():
                table["correct"] = table["correct"].astype("boolean").mask(none)
        table.attrs["source"] = self.source()
        return table

    def source(self) -> dict[str, str]:
        """What these probabilities come from: a calibrator fits no others.

        Returns
        -------
        dict of str to str
            ``model``, its name, address and protocol; ``answered_by``, what the server
            has called it so far, where that is another name; ``prompt``, a hash of the
            prompt with its examples and of the arguments sent with it; ``labels``, a
            hash of their names, of the texts that express them and of how they are
            followed.
        """
        self._ready()
        texts = self._label_texts()
        asked = [self.render("A"), dict(self.options or {}), self.temperature]
        asked += [self.fallback, self.draws, self.question]
        spelled = {text.decode("utf-8"): at for text, at in texts.owners.items()}
        labels = [texts.labels, spelled, texts.ends, texts.turn_ends]
        reach = None if self.continue_with is None else dict(self.continue_with)
        how = [self.top_logprobs, self.max_calls_per_text, self.tolerance, reach]
        address = plain_url(str(self._client().base_url))
        answered = sorted(getattr(self, "_answered", ()))
        other = {"answered_by": ", ".join(answered)} if answered else {}
        return {
            "model": f"{self.model} at {address} by {self.protocol}",
            **(other if answered != [self.model] else {}),
            "prompt": short_hash(asked),
            "labels": short_hash([labels, how]),
        }

    def render(self, text: str) -> str | list[dict[str, str]]:
        """The prompt for one text, exactly as the server gets it.

        Parameters
        ----------
        text : str
            The text.

        Returns
        -------
        str or list of dict
            A text for "completions", messages for the others.
        """
        self._ready()
        prompt = self._prompt()
        return prompt.messages(text) if self._is_chat() else prompt.plain(text)

    # The rest is nobody else's business ----------------------------------------

    def _is_chat(self) -> bool:
        return self.protocol != "completions"

    def _check_parameters(self, truth: np.ndarray | None) -> tuple[str, ...]:
        labels = super()._check_parameters(truth)
        if self.client is None:
            raise ValueError("client must be given: an openai.AsyncOpenAI or a URL.")
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(f"model must be a name, not {self.model!r}.")
        check_choice("protocol", self.protocol, tuple(PROMPTS))
        if self.failed is not None:
            check_choice("failed", self.failed, ("error", "open"))
        if self.fallback is not None:
            check_choice("fallback", self.fallback, FALLBACKS)
        for name in ("max_calls_per_text", "draws"):
            check_count(name, getattr(self, name))
        check_between("tolerance", self.tolerance, 0, 1, closed=True)
        if self.budget is not None:
            check_not_negative("budget", self.budget)
        if self.question is not None and not str(self.question).strip():
            raise ValueError(f"question must be a text, not {self.question!r}.")
        return labels

    def _label_texts(self) -> LabelTexts:
        ends, turn_ends = self.terminator, False
        if ends == "auto":
            turn_ends = not self._is_chat()
            ends = "\n" if turn_ends else None
        ends = (ends,) if isinstance(ends, str) else tuple(ends or ())
        start = self.render("A")
        return LabelTexts.build(
            self.classes_.tolist(),
            family=self.family,
            spellings=self.spellings,
            after=start if isinstance(start, str) else "",
            ends=ends,
            turn_ends=turn_ends,
        )

    def _client(self) -> AsyncOpenAI:
        assert self.client is not None  # since fit has looked
        if not hasattr(self, "_opened"):
            self._opened = open_client(self.client)
        return self._opened

    def _scores(self, X: Iterable[str]) -> HostedScores:
        return self._answers(X)[0]

    def _answers(self, X: Iterable[str]) -> tuple[HostedScores, list[str | None]]:
        """Scores of texts, each different one asked about once, and who answered."""
        self._ready()
        texts = check_texts(X)
        unique = list(dict.fromkeys(texts))
        labels = self._label_texts()
        with ExitStack() as stack:
            if isinstance(self.journal, Journal):
                journal = self.journal
            else:
                path = self.journal or cache_dir() / "hosted.sqlite"
                journal = stack.enter_context(Journal(path))
            names = "concurrency budget prices retries timeout deadline progress"
            options = {name: getattr(self, name) for name in names.split()}
            stops = self.failed != "open"
            desk = Desk(self._client(), journal, stops=stops, **options)
            if self.budget is not None:
                # What earlier calls paid for later rounds counts from the start, too.
                with suppress(ValueError), warnings.catch_warnings(action="ignore"):
                    self._asked(desk.remembering(), unique, labels)
            found = self._asked(desk, unique, labels)
        self._look_at(found)
        rows = {text: row for row, text in enumerate(unique)}
        taken = [rows[text] for text in texts]
        self._note_models(desk)
        by = [", ".join(sorted(desk.models[row])) or None for row in taken]
        return found.take(taken), by

    def _note_models(self, desk: Desk) -> None:
        """Remember which models answered, and say so if they are not the one asked."""
        before: set[str] = getattr(self, "_answered", set())
        self._answered = before.union(*desk.models.values())
        others = [n for n in self._answered if not is_same_model(str(self.model), n)]
        if self._answered != before and (others or len(self._answered) > 1):
            warnings.warn(
                f"{self.model!r} was asked, and {' and '.join(sorted(self._answered))} "
                "answered: the column model says where. Probabilities of different "
                "models do not compare, and a calibrator fits one of them.",
                stacklevel=5,
            )

    def _look_at(self, found: HostedScores) -> None:
        """Say how many texts have no confidence; an error where it was asked for."""
        lost = [found.problems[row] or "" for row in np.flatnonzero(~found.known)]
        if not lost:
            return
        if self.failed == "error" and all(why.startswith(_NONSENSE) for why in lost):
            if len(lost) == len(found.problems):
                raise ValueError(f"{lost[0]} So it is for each of {len(lost)} texts.")
        warnings.warn(
            f"{len(lost)} of {len(found.problems)} texts have no confidence, for which "
            f"it is NaN: count them apart. The first: {lost[0]}",
            stacklevel=4,
        )

    def _asked(self, desk: Desk, texts: list[str], labels: LabelTexts) -> HostedScores:
        first = [self._request(text, labels) for text in texts]
        # The first text shows whether the server hides what all the others need.
        results = desk.ask(first[:1], may_hide=True)
        if any(map(hides, results)):
            return self._without_logprobs(desk, texts, labels)
        results += desk.ask(first[1:], rows=range(1, len(first)))
        if any(map(hides, results)) and not any(map(shows, results)):
            return self._without_logprobs(desk, texts, labels)
        trees = [LabelTree(labels) for _ in texts]
        calls = [0] * len(texts)
        problems: list[str | None] = [None] * len(texts)
        asked = [(row, b"") for row in range(len(texts))]
        while asked:
            for (row, prefix), result in zip(asked, results, strict=True):
                calls[row] += 1
                problem = _take_in(trees[row], prefix, result)
                problems[row] = problems[row] or problem
            asked = [
                (row, data)
                for row in dict.fromkeys(row for row, _ in asked)
                for data in self._branches(trees[row].mass(), calls[row])
            ]
            results = desk.ask(
                [self._request(texts[row], labels, data) for row, data in asked],
                rows=[row for row, _ in asked],
            )
        self._warn_if_cold(trees)
        masses = [tree.mass() for tree in trees]
        most = [(mass.lower + mass.gain).sum() for mass in masses]
        if most and np.median(most) < 0.5:
            end = self._prompt().plain("A")[-20:]
            warnings.warn(
                "Most probability is on no label, in the median text more than half. "
                f"The prompt ends in {end!r}. Try examples, an instruction, or another "
                "protocol or terminator.",
                OffLabelWarning,
                stacklevel=5,
            )
        return mass_scores(masses, len(labels.labels), calls, problems)

    def _branches(self, mass: LabelMass, calls: int) -> list[bytes]:
        """The beginnings of labels to follow next."""
        goes_on = self.protocol == "completions" or (
            self.protocol == "chat" and self.continue_with is not None
        )
        left = self.max_calls_per_text - calls if goes_on else 0
        wanted = [data for data, p in mass.branches if data and p > self.tolerance]
        return wanted[:left]

    def _request(
        self, text: str, labels: LabelTexts, begun: bytes = b"", **changes: Any
    ) -> Request:
        """The request for the label of a text, or for how one goes on."""
        prompt: Any = self.render(text)
        more = dict(self.options or {})
        if isinstance(prompt, str):
            prompt += begun.decode("utf-8")
        elif begun:
            prompt = [*prompt, {"role": "assistant", "content": begun.decode("utf-8")}]
            more |= self.continue_with or {}
        tokens = max(labels.tokens_to_go(begun), LEAST_TOKENS[self.protocol])
        return self._built(prompt, **{"max_tokens": tokens, **more, **changes})

    def _built(self, prompt: Any, **arguments: Any) -> Request:
        settings = {
            "top_logprobs": self.top_logprobs,
            "temperature": self.temperature,
            "old_limit": self.old_limit,
        }
        return build_request(
            self.protocol, str(self.model), prompt, **{**settings, **arguments}
        )

    def _warn_if_cold(self, trees: Sequence[LabelTree]) -> None:
        if self.temperature == 0 and len(trees) > 4:
            if all(tree.is_certain for tree in trees):
                warnings.warn(
                    "The first token of every answer has probability 1: the server may "
                    "report probabilities after temperature. Ask with temperature=1, "
                    "and see probe().",
                    stacklevel=4,
                )

    def _warn_if_same(self, answers: Sequence[Answer | Failure]) -> None:
        texts = [a.text if isinstance(a, Answer) else None for a in answers]
        rows = [texts[at : at + self.draws] for at in range(0, len(texts), self.draws)]
        drawn = [[text for text in row if text is not None] for row in rows]
        drawn = [row for row in drawn if len(row) > 1]
        if len(drawn) > 4 and all(len(set(row)) == 1 for row in drawn):
            warnings.warn(
                "For every text, all answers were the same, word for word. Either the "
                "model is sure of all, or the server ignores temperature, and then "
                "agreement means nothing: see probe().",
                stacklevel=5,
            )

    def _without_logprobs(
        self, desk: Desk, texts: list[str], labels: LabelTexts
    ) -> HostedScores:
        if self.fallback is None:
            raise ValueError(
                f"The server gives no log-probabilities for {self.model!r} by "
                f"{self.protocol!r}. Try another protocol, or set fallback='sampling' "
                "to draw answers and count them, or fallback='self-report' to ask the "
                "model how sure it is; see probe()."
            )
        length = max(labels.tokens_to_go(b"") + _WORDS, LEAST_TOKENS[self.protocol])
        sampling = self.fallback == "sampling"
        each = self.draws if sampling else 1
        changes: dict[str, Any] = {"temperature": 1.0} if sampling else {}
        changes["max_tokens"] = length
        seed, requests = (self.options or {}).get("seed"), []
        for text in texts:
            for draw in range(each):
                if seed is not None:
                    # With the same seed, all draws would be the same.
                    changes["seed"] = seed + draw
                request = self._request(text, labels, draw=draw, **changes)
                requests.append(without_logprobs(request))
        answers = desk.ask(requests, rows=[at // each for at in range(len(requests))])
        given = [
            read_label(answer, labels) if isinstance(answer, Answer) else None
            for answer in answers
        ]
        lost = [_why_lost(answer) for answer in answers]
        problems: list[str | None]
        if sampling:
            self._warn_if_same(answers)
            counts = np.zeros((len(texts), len(labels.labels) + 1), dtype=int)
            for at, label in enumerate(given):
                if lost[at] is None:
                    counts[at // self.draws, -1 if label is None else label] += 1
            starts = range(0, len(lost), self.draws)
            whys = [list(filter(None, lost[at : at + self.draws])) for at in starts]
            problems = [
                f"{len(why)} of {self.draws} draws failed: {why[0]}" if why else None
                for why in whys
            ]
            return vote_scores(counts, np.full(len(texts), self.draws), problems)
        problems = [
            None if label is not None else f"The answer is no label: {_words(answer)}."
            for label, answer in zip(given, answers, strict=True)
        ]
        return self._reports(desk, texts, labels, given, problems)

    def _reports(
        self,
        desk: Desk,
        texts: list[str],
        labels: LabelTexts,
        given: list[int | None],
        problems: list[str | None],
    ) -> HostedScores:
        from ..self_report import read_report

        rows = [row for row, label in enumerate(given) if label is not None]
        question = self.question or QUESTION
        requests = []
        for row in rows:
            name = labels.labels[given[row] or 0]
            prompt: Any = self.render(texts[row])
            if isinstance(prompt, str):
                lead = seam(self._prompt().plain("A"), name)
                prompt = f"{prompt}{lead}{name}\n{question}"
            else:
                prompt = [
                    *prompt,
                    {"role": "assistant", "content": name},
                    {"role": "user", "content": question},
                ]
            tokens = max(_WORDS, LEAST_TOKENS[self.protocol])
            more = dict(self.options or {})
            requests.append(
                without_logprobs(self._built(prompt, max_tokens=tokens, **more))
            )
        reports = [float("nan")] * len(texts)
        for row, answer in zip(rows, desk.ask(requests, rows=rows), strict=True):
            words = answer.text.lstrip() if isinstance(answer, Answer) else ""
            cut = isinstance(answer, Answer) and answer.finish_reason == "length"
            if not self._is_chat():  # whose turn does not end behind the line
                cut = cut and "\n" not in words
                words = words.split("\n")[0]
            report = read_report(words)
            status = "cut" if cut and report.status == "ok" else report.status
            if status == "ok":
                reports[row] = report.value
            else:
                problems[row] = f"The report is {status}: {_words(answer)}."
        return report_scores(given, reports, problems, len(labels.labels))


def _take_in(tree: LabelTree, prefix: bytes, result: Answer | Failure) -> str | None:
    """Add an answer to what is known of its text; why not, if it cannot be."""
    lost = _why_lost(result)
    if lost or isinstance(result, Failure) or result.refusal is not None:
        tree.add(prefix, ())
        return lost or (result.problem if isinstance(result, Answer) else None)
    try:
        problem = tree.add(prefix, result.tokens)
    except ValueError as error:
        return f"{_NONSENSE}{error}"
    # A cut is what was asked for.
    return problem or (None if prefix or result.tokens else result.problem)


def _why_lost(result: Answer | Failure) -> str | None:
    """Why there is no answer, if there is none."""
    if isinstance(result, Failure):
        return result.message
    return result.problem if result.finish_reason == "content_filter" else None


def _words(result: Answer | Failure) -> str:
    if isinstance(result, Failure):
        return result.message
    return repr(result.refusal or result.text[:80])
