"""``predict_proba`` for hosted models, with bounds for what their token lists hide."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from sklearn.base import clone

from ..answers import DOORS, PROTOCOLS
from ..checks import check_choice
from ..files import cache_dir
from ..prompted import OffLabelWarning, PromptedClassifier, check_texts
from ..prompts import SLOT, Prompt
from ..verbalizer import Verbalizer
from .client import Transport
from .decisions import (
    NAME,
    NO_SENSE,
    DecisionRounds,
    DecisionScores,
    Question,
    decision_request,
)
from .journal import Journal
from .labels import HostedScores, LabelTexts
from .requests import Request, check_client, open_client, plain_url
from .rounds import NONSENSE, Asking, RequestSettings, Rounds

if TYPE_CHECKING:
    from openai import AsyncOpenAI

FALLBACKS = ("sampling", "self-report")
_LATEST = re.compile(r"[-:]latest$")
_REVISION = re.compile(r"(-\d{4}-\d\d-\d\d|-\d{8}|-\d{3,4}|@[\w.-]+|:latest)$")


class HostedClassifier(PromptedClassifier):
    """A hosted language model as a scikit-learn classifier.

    A server lists the most probable tokens only, or rounds, so each probability has
    bounds: see :meth:`predict_interval`. Requests that fail for good, a spent budget
    and a rejected key raise :class:`RunStopped`; answers so far are in the journal.

    Parameters
    ----------
    client : openai.AsyncOpenAI or str
        The client, or a server's address. Only OpenAI's own address gets the key in
        ``OPENAI_API_KEY``; others are asked without a key.
    model : str
        The model, as the server calls it.
    labels, prompt, examples, instruction, spellings, separator, random_state
        As for :class:`helpers.classifier.LLMClassifier`.
    protocol : {"chat", "completions", "responses", "decisions", "systemone"}
        "completions" sends the plain prompt that a local classifier uses; "chat", the
        default, and "responses" send a system message and the examples as turns.
        "decisions" and "systemone" ask a typed question with the labels as options, in
        their order: ``prompt`` is what is asked about, by default the text alone, and
        instruction and examples are the question's instructions, as they are. An
        instruction with ``{text}`` is how each example is written, and the whole prompt
        for the server of ``how-sure serve``. Several questions about each text travel
        in one request by :func:`~helpers.hosted.decision_request` with a ``Question``
        for each, :func:`~helpers.hosted.ask`, and
        :func:`~helpers.hosted.read_decisions`.
    family : {"exact", "case", "wide"}, default="case"
        Which spellings count as a label: see :class:`helpers.verbalizer.Verbalizer`.
        Of a typed question the server decides that, and on the terminator.
    terminator : str, sequence of str or None, default="auto"
        What must follow the label. "auto" is a line break or the end of the turn for
        "completions", and None (anything) for the others.
    fallback : {"sampling", "self-report"}, optional
        What to do where a server hides log-probabilities: count answers drawn at
        temperature 1 (95 % Wilson intervals), or ask how sure the model is, which
        gives no bounds.
    journal : Journal or path, optional
        Where answers are kept; by default a file in the user's cache.
    settings : RequestSettings, optional
        How a text is asked about.
    transport : Transport, optional
        How requests are sent. Its budget covers everything spent on the texts of one
        call, including what the journal says was paid before.

    Examples
    --------
    >>> classifier = HostedClassifier(
    ...     "http://localhost:8000/v1", "a-model", ["positive", "negative"],
    ...     "Review: {text}\\nSentiment:", protocol="completions",
    ... )
    >>> classifier.render("A joy.")
    'Review: A joy.\\nSentiment:'
    """

    _learned = (*PromptedClassifier._learned, "_opened", "_answered")

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
        fallback: str | None = None,
        journal: Journal | str | Path | None = None,
        settings: RequestSettings | None = None,
        transport: Transport | None = None,
        random_state: int = 0,
    ) -> None:
        if isinstance(client, str):
            check_client(client)
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
        self.fallback = fallback
        self.journal = journal
        self.settings = settings
        self.transport = transport
        self.random_state = random_state

    def __sklearn_clone__(self) -> Self:
        # A client and an open journal are shared: they cannot be copied.
        shared = ("client", "journal")
        params = self.get_params(deep=False)
        copied = {
            name: value if name in shared else clone(value, safe=False)
            for name, value in params.items()
        }
        return type(self)(**copied)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_opened", None)
        return state

    def set_params(self, **params: Any) -> Self:
        """Change parameters; what ``fit`` found under the old ones is forgotten."""
        if isinstance(params.get("client"), str):
            check_client(params["client"])
        return super().set_params(**params)

    def predict_interval(self, X: Iterable[str]) -> np.ndarray:
        """Bounds of the normalised probabilities, shape (n_texts, n_classes, 2).

        They contain the true value, except with ``fallback="sampling"``, where they are
        a confidence interval for the label's share of the valid answers.
        """
        found, _ = self._answers(check_texts(X))
        return np.stack([found.low, found.high], axis=-1)

    def decided(self, X: Iterable[str]) -> np.ndarray:
        """Whether the predicted label is the most probable whatever is not listed.

        With ``fallback="sampling"``, whether its interval lies above all others; with
        "self-report" always False.
        """
        return self._answers(check_texts(X))[0].decided

    def score_table(self, X: Iterable[str], truth: Any = None) -> pd.DataFrame:
        table = super().score_table(X, truth)
        if truth is not None and (self.settings or RequestSettings()).kind == "score":
            levels = {label: at for at, label in enumerate(self.labels_)}
            off = table["prediction"].map(levels) - table["truth"].map(levels)
            table["within_one"] = off.abs().le(1).astype("boolean").mask(off.isna())
        return table

    def render(self, text: str) -> Any:
        """The prompt for one text as the server gets it: a text, or messages.

        Of a typed question, what is sent but for the model.
        """
        self._ready()
        if self.protocol in DOORS:
            sent = self._decision_request(text).arguments
            return {name: sent[name] for name in sent if name != "model"}
        prompt = self._prompt(chat=self.protocol != "completions")
        return prompt.messages(text) if prompt.chat else prompt.plain(text)

    def _read(
        self, texts: list[str]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, pd.DataFrame]:
        found, models = self._answers(texts)
        more: dict[str, Any] = {}
        for at, label in enumerate(self.classes_):
            more[f"lower_{label}"] = found.low[:, at]
            more[f"upper_{label}"] = found.high[:, at]
        for name in found.columns:
            more[name] = getattr(found, name)
        more["problem"] = pd.Series(found.problems, dtype=object)
        more["model"] = np.array(models, dtype=object)
        return found.shares, found.best, found.off_label, pd.DataFrame(more)

    def _identity(self) -> tuple[dict[str, str], Any, Any]:
        self._ready()
        how, asked, labels, limits = self.settings or RequestSettings(), [], [], []
        if self.protocol in DOORS:
            asked, labels = [self.render("A")], self.classes_.tolist()
        else:
            texts = self._label_texts()
            asked = [self.render("A"), dict(how.options or {}), how.temperature]
            asked += [self.fallback, how.draws, how.question]
            spelled = {text.decode("utf-8"): at for text, at in texts.owners.items()}
            labels = [texts.labels, spelled, texts.ends, texts.turn_ends]
            reach = None if how.continue_with is None else dict(how.continue_with)
            limits = [how.top_logprobs, how.max_calls_per_text, how.tolerance, reach]
        address = plain_url(str(self._client().base_url))
        model = {"model": f"{self.model} at {address} by {self.protocol}"}
        answered = sorted(getattr(self, "_answered", ()))
        if answered not in ([], [self.model]):
            model["answered_by"] = ", ".join(answered)
        return model, asked, [labels, limits]

    def _check_parameters(self, truth: np.ndarray | None) -> tuple[str, ...]:
        labels = super()._check_parameters(truth)
        if self.client is None:
            raise ValueError("client must be given: an openai.AsyncOpenAI or a URL.")
        if not isinstance(self.model, str) or not self.model:
            raise ValueError(f"model must be a name, not {self.model!r}.")
        check_choice("protocol", self.protocol, tuple(PROTOCOLS))
        if self.fallback is not None:
            check_choice("fallback", self.fallback, FALLBACKS)
        if self.protocol in DOORS:
            for name in ("fallback", "spellings"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} must be left out for {self.protocol!r}, where the "
                        f"server reads the labels, not {getattr(self, name)!r}."
                    )
            self._question(labels)
            return labels
        if (how := self.settings) and (how.kind, how.descriptions) != ("choice", None):
            raise ValueError(
                "kind and descriptions are for typed questions, by "
                f"{' or '.join(DOORS)}, and {self.protocol!r} asks none."
            )
        # What is wrong here is told before it is looked up among what was built.
        Verbalizer(
            labels,
            family=self.family,
            spellings=self.spellings or {},
            terminator=self.terminator or None,
        )
        return labels

    def _label_texts(self) -> LabelTexts:
        ends, turn_ends = self.terminator, False
        if ends == "auto":
            turn_ends = self.protocol == "completions"
            ends = "\n" if turn_ends else None
        start = self.render("A")
        spelled = [
            # One text in place of several is refused there.
            (label, texts if isinstance(texts, str) else tuple(texts))
            for label, texts in (self.spellings or {}).items()
        ]
        return LabelTexts.build(
            tuple(self.classes_.tolist()),
            family=self.family,
            spellings=tuple(spelled),
            after=start if isinstance(start, str) else "",
            ends=(ends,) if isinstance(ends, str) else tuple(ends or ()),
            turn_ends=turn_ends,
        )

    def _door_prompt(self) -> Prompt:
        """What is asked about, and before it what is said of every text."""
        shown = tuple(getattr(self, "examples_", ()))
        item = SLOT if self.prompt is None else self.prompt.rstrip(" ")
        return Prompt(item, shown, self.instruction, self.separator)

    def _question(self, labels: Sequence[str]) -> Question:
        how, prompt = self.settings or RequestSettings(), self._door_prompt()
        if how.kind == "predicate" and self.instruction is None:
            raise ValueError(
                "instruction must be given for a predicate: the statement that is true "
                f"of texts with the label {labels[0]!r}, the first of labels."
            )
        said = prompt.plain("A").removesuffix(prompt.ask("A"))
        said = said.removesuffix(self.separator) or "Classify the text."
        if self.instruction and SLOT in self.instruction:
            whole = Prompt(self.instruction, prompt.examples, None, self.separator)
            said = whole.plain(SLOT)
        return Question(tuple(labels), said, how.kind, how.descriptions)

    def _decision_request(self, text: str) -> Request:
        options = (self.settings or RequestSettings()).options or {}
        asked = {NAME: self._question(self.labels_)}
        about = self._door_prompt().ask(text)
        return decision_request(self.protocol, str(self.model), about, asked, **options)

    def _decisions(self, journal: Journal) -> DecisionRounds:
        labels = list(self.labels_)
        return DecisionRounds(
            question=self._question(labels),
            order=[labels.index(label) for label in self.classes_],
            request=self._decision_request,
            **self._asking(journal),
        )

    def _asking(self, journal: Journal) -> dict[str, Any]:
        return {
            "client": self._client(),
            "journal": journal,
            "model": str(self.model),
            "protocol": self.protocol,
            "how": self.settings or RequestSettings(),
            "transport": self.transport or Transport(),
        }

    def _client(self) -> AsyncOpenAI:
        assert self.client is not None  # since fit has looked
        if not hasattr(self, "_opened"):
            self._opened = open_client(self.client)
        return self._opened

    def _answers(self, texts: list[str]) -> tuple[HostedScores, list[str | None]]:
        self._ready()
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        with ExitStack() as stack:
            journal = self.journal or cache_dir() / "hosted.sqlite"
            if not isinstance(journal, Journal):
                journal = stack.enter_context(Journal(journal))
            rounds: Asking
            if self.protocol in DOORS:
                rounds = self._decisions(journal)
            else:
                rounds = Rounds(
                    prompt=self._prompt(chat=self.protocol != "completions"),
                    labels=self._label_texts(),
                    fallback=self.fallback,
                    **self._asking(journal),
                )
            if rounds.transport.budget is not None:
                # What earlier calls paid for later rounds counts from the start, too.
                rounds.recalls = True
                with suppress(ValueError), warnings.catch_warnings(action="ignore"):
                    rounds.scores(list(rows))
                rounds.recalls = False
            found = rounds.scores(list(rows))
        if rounds.off_label is not None and self._is_news(OffLabelWarning):
            warnings.warn(rounds.off_label, OffLabelWarning, stacklevel=5)
        self._warn_of_lost(found)
        self._note_models(rounds.models)
        taken = [rows[text] for text in texts]
        by = [", ".join(sorted(rounds.models[row])) or None for row in taken]
        return found.take(taken), by

    def _note_models(self, models: Mapping[int, set[str]]) -> None:
        before: set[str] = getattr(self, "_answered", set())
        self._answered = before.union(*models.values())
        others = [n for n in self._answered if not _is_same_model(str(self.model), n)]
        if self._answered != before and (others or len(self._answered) > 1):
            warnings.warn(
                f"{self.model!r} was asked, and {' and '.join(sorted(self._answered))} "
                "answered: the column model says where. Probabilities of different "
                "models do not compare, and a calibrator fits one of them.",
                stacklevel=6,
            )

    def _warn_of_lost(self, found: HostedScores) -> None:
        lost = [found.problems[row] or "" for row in np.flatnonzero(~found.known)]
        if not lost:
            return
        nonsense = all(why.startswith((NONSENSE, NO_SENSE)) for why in lost)
        if (self.settings or RequestSettings()).failed == "error" and nonsense:
            if len(lost) == len(found.problems):
                raise ValueError(f"{lost[0]} So it is for each of {len(lost)} texts.")
        refused = found.refused.sum() if isinstance(found, DecisionScores) else 0
        words = f" {refused} were refused." if refused else ""
        warnings.warn(
            f"{len(lost)} of {len(found.problems)} texts have no confidence, for which "
            f"it is NaN: count them apart.{words} The first: {lost[0]}",
            stacklevel=6,
        )


def _is_same_model(asked: str, answered: str) -> bool:
    one, other = (
        re.split(r"[/\\]", name.lower())[-1].removesuffix(".gguf")
        for name in (asked, answered)
    )
    return other == one or _REVISION.sub("", other) == _LATEST.sub("", one)
