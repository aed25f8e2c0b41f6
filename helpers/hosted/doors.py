"""What the numbers of a server mean that answers with probabilities, found by asking.

Two servers with the same form can round, normalise and order in their own ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import entr
from sklearn.base import clone

from ..answers import DOORS, Answer, Failure
from ..bounds import rounding_step
from ..checks import check_choice
from ..prompted import check_texts
from ..uncertainty import PositionBias, orders, position_bias
from .classifier import HostedClassifier
from .decisions import Decision, Question, decision_request, read_decisions
from .journal import Journal
from .probe import Asked, Finding, Probe
from .requests import open_client

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_TEXTS = (
    "The train left on time, and the staff were kind.",
    "It rained, and the roof leaks again.",
    "There is a meeting on Tuesday at nine.",
)
_MOOD = Question(["good", "bad", "neither"], "What is the mood of the text?")
_TURNED = Question(_MOOD.options[::-1], _MOOD.instructions)
_LEVELS = ["very bad", "bad", "good", "very good"]
_NAMES = [f"topic {at}" for at in range(1, 256)]
_ASKED = {
    "choice": _MOOD,
    "predicate": Question(["true", "false"], "The text is about trains.", "predicate"),
    "score": Question(_LEVELS, "How good is the mood of the text?", "score"),
    "several tokens": Question(
        ["rather cheerful on the whole", "rather gloomy on the whole"], "Which is it?"
    ),
    "27 options": Question(_NAMES[:27], "Which topic?"),
    "255 options": Question(_NAMES, "Which topic?"),
}
_LASTING = (400, 404, 405, 413, 422, 501)
_CLOSE = 2e-3

_Seen = tuple[str, str]  # a verdict, and what it is drawn from


@dataclass(frozen=True)
class OrderEffect:
    """How far answers depend on the order in which the options are listed.

    ``probabilities`` are those under each of the ``orders``, of shape (m, n, K) in the
    columns of ``classes_``. By text: ``moved`` is the most that the probability of a
    label differs between two orders, and ``flips`` says whether another label is
    predicted in one of them. ``bias`` is the mean over the orders and the mean by
    position. Texts that some order has no answer for are ``unknown``: NaN in ``moved``,
    and left out of ``bias``.
    """

    orders: tuple[tuple[str, ...], ...]
    probabilities: np.ndarray
    moved: np.ndarray
    flips: np.ndarray
    unknown: np.ndarray
    bias: PositionBias

    def __str__(self) -> str:
        known = ~self.unknown
        moved, flips = self.moved[known], self.flips[known]
        places = ", ".join(f"{p:.3f}" for p in self.bias.by_position)
        return (
            f"{len(self.orders)} orders of the options, {known.sum()} of {len(known)} "
            f"texts: probabilities move by {moved.mean():.3f} on average and "
            f"{moved.max():.3f} at most, {flips.mean():.0%} of the decisions change. "
            f"Mean probability by position: {places}."
        )


def order_effect(
    classifier: HostedClassifier,
    X: Iterable[str],
    *,
    shown: Sequence[Sequence[str]] | None = None,
) -> OrderEffect:
    """Ask about texts with the options in other orders, and compare the answers.

    A request for each text and order that the journal does not know yet.

    Parameters
    ----------
    classifier : HostedClassifier
        One with ``protocol="decisions"`` or "systemone" that asks for a choice.
    X : iterable of str
        Texts.
    shown : sequence of sequence of str, optional
        The orders, with each label in each place equally often; by default those of
        :func:`helpers.uncertainty.orders`: all of up to four labels, else rotations.
    """
    kind = classifier.settings.kind if classifier.settings else "choice"
    if classifier.protocol not in DOORS or kind != "choice":
        raise ValueError(
            f"classifier must ask for a choice by {' or '.join(DOORS)}, not for a "
            f"{kind} by {classifier.protocol!r}."
        )
    texts, labels = check_texts(X), classifier.classes_.tolist()
    given = [tuple(order) for order in (orders(labels) if shown is None else shown)]
    examples = getattr(classifier, "examples_", classifier.examples)
    rows, best = [], []
    for order in given:
        asked = clone(classifier).set_params(labels=order, examples=examples or None)
        rows.append(np.asarray(asked.predict_proba(texts)))
        best.append(asked.predict(texts))
    p = np.stack(rows)
    unknown = np.isnan(p).any(axis=(0, 2))
    if unknown.all():
        raise ValueError("X must have a text that is answered in every order.")
    return OrderEffect(
        tuple(given),
        p,
        np.ptp(p, axis=0).max(axis=1),
        (np.stack(best) != best[0]).any(axis=0) & ~unknown,
        unknown,
        position_bias(p[:, ~unknown], given, labels=labels),
    )


def probe_door(
    client: AsyncOpenAI | str,
    model: str,
    *,
    protocol: str = "decisions",
    journal: Journal | None = None,
    **transport: Any,
) -> Probe:
    """Find out what the probabilities of a server mean, in 13 short requests.

    Among the findings: which questions it takes, and how many options; "confidence is
    the top probability", or what else it is; "rounded", with the step (also ``step``
    of the result, for :class:`RequestSettings`); "off-label mass told"; "order
    matters", of the options; "repeatable"; "questions apart", whether a question is
    answered alike alone and beside another; and "levels from 0".

    Parameters
    ----------
    client : openai.AsyncOpenAI or str
        The client or the server's address, as for :class:`HostedClassifier`.
    model : str
        The model, as the server calls it.
    protocol : {"decisions", "systemone"}, default="decisions"
        Which of the two forms the server is asked in.
    journal, **transport
        As for :func:`probe`.
    """
    check_choice("protocol", protocol, tuple(DOORS))
    sent = {name: (0, {"label": one}, 0) for name, one in _ASKED.items()}
    for at in range(len(_TEXTS)):
        sent[f"mood {at}"] = (at, {"label": _MOOD}, 0)
        sent[f"turned {at}"] = (at, {"label": _TURNED}, 0)
    sent["again"] = (0, {"label": _MOOD}, 1)
    both = {"other": _ASKED["score"], "label": _MOOD}
    sent["beside"] = (0, both, 0)
    requests = {
        name: decision_request(protocol, model, _TEXTS[at], asked, draw=draw)
        for name, (at, asked, draw) in sent.items()
    }
    with nullcontext(journal) if journal else Journal(":memory:") as kept:
        to = Asked(open_client(client), kept, transport)
        # Without an answer to the first there is nothing more to find.
        first = to.ask([requests["choice"]])
        names = list(sent) if isinstance(first[0], Answer) else ["choice"]
        results = to.ask([requests[name] for name in names])
    found = dict(zip(names, results, strict=True))
    look = _Look(
        found,
        {name: read_decisions(found[name], sent[name][1])["label"] for name in names},
    )
    works = look.is_read("choice")
    findings = {name: Finding(*look.taken(name)) for name in _ASKED if name in found}
    for name, judge in _JUDGES.items() if works else ():
        findings[name] = Finding(*judge(look))
    return Probe(
        model=model,
        protocol=protocol if works else None,
        findings=findings,
        step=look.step if works else None,
        **to.told,
    )


@dataclass(frozen=True)
class _Look:
    """What came, and what was read from it."""

    results: Mapping[str, Answer | Failure]
    read: Mapping[str, Decision]

    def is_read(self, name: str) -> bool:
        return not np.isnan(self.read[name].probabilities).any()

    @property
    def known(self) -> list[Decision]:
        return [one for name, one in self.read.items() if self.is_read(name)]

    @property
    def moods(self) -> list[Decision]:
        """Answers to choices, of which the confidence is looked at."""
        return [
            one
            for name, one in self.read.items()
            if self.is_read(name) and name not in ("predicate", "score")
        ]

    @property
    def step(self) -> float | None:
        return rounding_step(np.concatenate([one.probabilities for one in self.known]))

    @property
    def slack(self) -> float:
        return _CLOSE + (self.step or 0.0)

    def taken(self, name: str) -> _Seen:
        """Whether a question was answered."""
        result, one = self.results[name], self.read[name]
        if isinstance(result, Failure):
            lasting = "no" if result.status in _LASTING else "unclear"
            return lasting, result.message[:200]
        if one.problem:
            return "unclear" if one.refused else "no", one.problem[:200]
        p = one.probabilities
        return "yes", f"{len(p)} probabilities, the highest {p.max():.4g}."


def _rounded(look: _Look) -> _Seen:
    n = sum(one.probabilities.size for one in look.known)
    if look.step is None:
        return "no", f"{n} probabilities have no step in common."
    return "yes", f"All of {n} probabilities are multiples of {look.step:g}."


def _sums(look: _Look) -> _Seen:
    totals = np.array([one.probabilities.sum() for one in look.known])
    off = np.abs(totals - 1).max()
    seen = f"The sums of {len(totals)} answers are {totals.min():.6g} to "
    return "yes" if off < 1e-3 else "no", f"{seen}{totals.max():.6g}."


def _mass(look: _Look) -> _Seen:
    told = [one.label_mass for one in look.known if not np.isnan(one.label_mass)]
    if not told:
        return "no", "No answer has a label_mass: what is on no label is not known."
    return "yes", f"All labels together have {min(told):.4g} to {max(told):.4g}."


def _margin(p: np.ndarray) -> float:
    return float(np.sort(p)[-1] - np.sort(p)[-2])


# What a vendor's confidence can be, of probabilities and the mass of all labels.
_MEANINGS: dict[str, Callable[[np.ndarray, float], float]] = {
    "the top probability": lambda p, mass: p.max(),
    "the top probability times label_mass": lambda p, mass: p.max() * mass,
    "the lead over the second": lambda p, mass: _margin(p),
    "one minus the entropy, as a part of its maximum": lambda p, mass: (
        1 - entr(p / p.sum()).sum() / np.log(len(p))
    ),
}


def _confidence(look: _Look) -> _Seen:
    said = [one for one in look.moods if not np.isnan(one.confidence)]
    if not said:
        return "unclear", "No answer to a choice has a confidence."
    fit = [
        meaning
        for meaning, of in _MEANINGS.items()
        # What is not told, NaN, fits nothing.
        if all(
            abs(of(one.probabilities, one.label_mass) - one.confidence) <= look.slack
            for one in said
        )
    ]
    one = said[0]
    example = f"{one.confidence:.4g} beside a top probability of "
    example += f"{one.probabilities.max():.4g}"
    if not fit:
        return "no", f"It is none of what was tried: {example}."
    if len(fit) > 1 and fit[0] == "the top probability":
        return "unclear", f"It is {' or '.join(fit)}, which are alike here: {example}."
    verdict = "yes" if fit[0] == "the top probability" else "no"
    return verdict, f"It is {' or '.join(fit)}: {example}."


def _order(look: _Look) -> _Seen:
    pairs = [
        (look.read[f"mood {at}"].probabilities, look.read[f"turned {at}"].probabilities)
        for at in range(len(_TEXTS))
        if look.is_read(f"mood {at}") and look.is_read(f"turned {at}")
    ]
    if not pairs:
        return "unclear", "No text was answered in both orders."
    moved = max(np.abs(p - q[::-1]).max() for p, q in pairs)
    flips = sum(p.argmax() != q[::-1].argmax() for p, q in pairs)
    seen = f"With the options turned round, probabilities move by up to {moved:.3f}, "
    seen += f"and {flips} of {len(pairs)} decisions change."
    return "yes" if moved > look.slack else "no", seen


def _same(look: _Look, name: str, words: str) -> _Seen:
    if not (look.is_read(name) and look.is_read("mood 0")):
        return "unclear", look.read[name].problem or "There is no answer."
    p, q = look.read["mood 0"].probabilities, look.read[name].probabilities
    moved = np.abs(p - q).max()
    seen = f"Asked {words}, probabilities differ by up to {moved:.2g}."
    return "yes" if moved <= _CLOSE else "no", seen


def _levels(look: _Look) -> _Seen:
    one = look.read["score"]
    if not look.is_read("score") or np.isnan(one.score):
        return "unclear", "No answer has a score."
    mean = float(one.probabilities @ np.arange(len(one.probabilities)))
    seen = f"The score is {one.score:.4g}; the expected level from 0 is {mean:.4g}."
    near = abs(one.score - mean) <= look.slack * len(one.probabilities)
    return "yes" if near else "no", seen


# What is judged from all answers together.
_JUDGES: dict[str, Callable[[_Look], _Seen]] = {
    "confidence is the top probability": _confidence,
    "rounded": _rounded,
    "sums to one": _sums,
    "off-label mass told": _mass,
    "order matters": _order,
    "repeatable": lambda look: _same(look, "again", "twice"),
    "questions apart": lambda look: _same(look, "beside", "beside another question"),
    "levels from 0": _levels,
}
