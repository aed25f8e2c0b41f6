"""Divide a table, choose a candidate on one part, certify it on the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pandas as pd

from .. import __version__
from ..calibration import ProbabilityCalibrator, cross_fitted
from ..checks import check_between, check_choice, check_count, plain_text
from ..decisions import (
    Costs,
    Policy,
    choose_threshold,
    review_queue,
    zero_failure_sample_size,
)
from ..logistic import grouped_folds
from ..metrics import (
    Interval,
    auroc,
    calibration_metrics,
    paired_difference,
    risk_coverage_curve,
)
from .applying import act, calibrated
from .by_label import label_bounds
from .candidates import (
    ANSWER,
    LONGEST,
    NAMES,
    PROBE,
    WORDS,
    Candidate,
    LinearProbe,
    ModelAnswer,
    WordCounts,
    draw_examples,
    held_out_proba,
)
from .decision import Decision
from .likeness import Likeness
from .prices import PolicyCost
from .table import OURS, PROPOSED, OwnTable

_FOLDS = 5
_TO_LABEL = 10
_MEASURES = ["accuracy", "brier", "auroc", "coverage", "seconds"]
_PACKAGES = ("numpy", "pandas", "scikit-learn", "torch", "transformers")
Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Plan:
    """How a table is divided, and what is tried: what :func:`decide` will do.

    ``shown`` are rows that stand in a prompt as examples, ``chosen_on`` those by which
    a candidate is calibrated and chosen, ``certified_on`` those that have no say in it.
    ``set_apart``, not drawn at random, are only learned from.
    """

    table: OwnTable
    risk: float
    delta: float
    seed: int
    shown: pd.Index
    chosen_on: pd.Index
    certified_on: pd.Index
    candidates: Sequence[Candidate]
    set_apart: pd.Index
    prices: Costs | None = None

    def seconds(self) -> pd.DataFrame:
        """Reading times, measured on a few texts: to compare, and more if chosen."""
        rng = np.random.default_rng(self.seed)
        texts = self.table.texts[self.chosen_on]
        some = texts.iloc[rng.permutation(len(texts))].tolist()
        rest = len(self.certified_on) + len(self.table.unlabelled)
        each = {one.name: one.seconds_a_text(some) for one in self.candidates}
        return pd.DataFrame(
            {
                name: {"compared": a_text * len(texts), "chosen": a_text * rest}
                for name, a_text in each.items()
            }
        ).T


def plan(
    table: OwnTable,
    *,
    risk: float = 0.1,
    delta: float = 0.05,
    seed: int = 0,
    model: Any = None,
    candidates: Sequence[str] = NAMES,
    prices: Costs | None = None,
) -> Plan:
    """Divide the labelled rows at random, groups on one side, and say what to try.

    Parameters
    ----------
    table : OwnTable
        As :func:`helpers.own_data.table.read_table` gives it.
    risk, delta : float
        The largest share of wrong rows among those accepted (default 0.1), and the
        probability with which that may fail (0.05).
    seed : int, default=0
        Of the division and of all else that is left to chance.
    model : LanguageModel or str, optional
        A model, or a name for :meth:`helpers.models.LanguageModel.load`.
    candidates : sequence of str, optional
        Some of "counting words", "the model's answer" and "linear probe". Default: all.
    prices : Costs, optional
        Of an error and of a look, to tell what the policy costs.

    Examples
    --------
    >>> texts, labels = [f"text {n}" for n in range(40)], ["a", "b"] * 20
    >>> rows = pd.DataFrame({"text": texts, "label": labels})
    >>> table = OwnTable("mine.csv", rows, "text", "label", None, (), "")
    >>> made = plan(table, candidates=["counting words"])
    >>> len(made.chosen_on), len(made.certified_on)
    (20, 20)
    """
    check_between("risk", risk, 0, 1)
    check_between("delta", delta, 0, 1)
    check_count("seed", seed, 0)
    for name in candidates:
        check_choice("candidates", name, NAMES)
    if not len(candidates):
        raise ValueError("candidates must name at least one.")
    table.check_free((*OURS, PROPOSED))
    table.check_labels()
    apart = table.set_apart
    groups = table.groups[table.labelled.difference(apart)]
    order = np.random.default_rng(seed).permutation(groups.unique())
    is_first = groups.isin(order[: len(order) // 2])
    first, second = groups.index[is_first], groups.index[~is_first]
    labels, known = table.labels[first], table.labels[first.union(apart)]
    if labels.nunique() < 2:
        raise ValueError(
            f"The {len(first)} rows to learn from, drawn at random, have one label, "
            f"{labels.iloc[0]!r}: label more rows of others."
        )
    notes = list(table.notes)
    if len(apart):
        notes.append(
            f"{len(apart)} labelled rows were not drawn at random, or belong with such "
            "rows: they are learned from, and nothing is chosen or certified by them."
        )
    needed, n_second = zero_failure_sample_size(risk, delta), groups[second].nunique()
    if n_second < needed:
        notes.append(
            f"{n_second} rows to certify on are too few for a risk of {risk:g}: even "
            f"without an error {needed} are needed. Label more, or allow more risk."
        )
    shown, examples = first[:0], []
    if ANSWER in candidates:
        most = groups[first].nunique() // 5
        texts = table.texts[first].tolist()
        places = draw_examples(texts, labels.tolist(), most, seed)
        examples = [(texts[at], labels.iloc[at]) for at in places]
        # Copies of an example are not judged either.
        shown = first[groups[first].isin(groups[first].iloc[places])]
    long = int((table.texts.str.len() > LONGEST).sum())
    if long and {*candidates} != {WORDS}:
        notes.append(
            f"{long} texts are longer than {LONGEST:,} characters; a model reads no "
            "more of them."
        )
    made = []
    for name in candidates:
        try:
            made.append(_made(name, known.unique().tolist(), examples, model))
        except ValueError as error:
            notes.append(f"{name} is left out: {error}")
    return Plan(
        replace(table, notes=tuple(notes)),
        float(risk),
        float(delta),
        seed,
        shown,
        first.difference(shown),
        second,
        made,
        apart,
        prices,
    )


def _made(
    name: str, labels: list[str], examples: list[tuple[str, str]], model: Any
) -> Candidate:
    if name == WORDS:
        return WordCounts()
    return LinearProbe(model) if name == PROBE else ModelAnswer(labels, examples, model)


@dataclass(frozen=True, eq=False)
class Choice:
    """The chosen candidate, fitted, with its calibrator, and how all of them did."""

    candidate: Candidate
    calibrator: ProbabilityCalibrator
    candidates: pd.DataFrame
    differences: pd.DataFrame
    n: int
    notes: tuple[str, ...]


def choose(
    candidates: Sequence[Candidate],
    texts: Sequence[str],
    truth: Sequence[str],
    groups: Sequence[int],
    *,
    names: Sequence[str],
    risk: float,
    seed: int = 0,
    tell: Tell = lambda said: None,
) -> Choice:
    """The candidate of least Brier score on folds that it was not fitted on.

    Scores and their calibration are cross-fitted, groups in one fold; the chosen
    candidate is to be fitted again, on all these rows. ``names`` are all labels,
    sorted.
    """
    labels, codes = np.array(truth, dtype=str), np.asarray(groups)
    columns = [f"p_{name}" for name in names]
    folds = grouped_folds(labels, codes, _FOLDS, seed)
    is_true = labels[:, None] == np.array(names)
    raw, rows, judged, notes = {}, {}, {}, []
    for one in candidates:
        start = time.perf_counter()
        try:
            found = held_out_proba(one, texts, labels, names, folds)
        except ValueError as error:
            notes.append(f"{one.name} is left out: {error}")
            continue
        raw[one.name] = pd.DataFrame(found, columns=columns)
        shares = np.asarray(
            cross_fitted(
                ProbabilityCalibrator(),
                raw[one.name],
                labels,
                groups=codes,
                n_splits=len(folds),
                seed=seed,
            )
        )
        right, sure = is_true[np.arange(len(labels)), shares.argmax(1)], shares.max(1)
        judged[one.name] = sure, right
        rows[one.name] = {
            "accuracy": right.mean(),
            "brier": ((shares - is_true) ** 2).sum(axis=1).mean(),
            "auroc": auroc(sure, right) if 0 < right.sum() < len(right) else np.nan,
            "coverage": _coverage(sure, right, risk),
            "seconds": time.perf_counter() - start,
        }
        tell(f"{one.name}: accuracy {right.mean():.1%}")
    if not rows:
        raise ValueError("No candidate could be used. " + " ".join(notes))
    table = pd.DataFrame(rows).T
    best = str(table["brier"].idxmin())
    winner = next(one for one in candidates if one.name == best)
    differences = {
        name: paired_difference(
            judged[best], judged[name], "accuracy", groups=codes, rng=seed
        )
        for name in rows
        if name != best
    }
    ids = [plain_text(text) for text in texts]
    calibrator = ProbabilityCalibrator().fit(raw[best], labels, ids=ids)
    return Choice(
        winner,
        calibrator,
        table,
        _differences(differences),
        len(labels),
        tuple(notes),
    )


def decide(plan: Plan, *, tell: Tell = lambda said: None) -> Decision:
    """Choose a candidate, certify it on rows without a say, predict the others.

    Parameters
    ----------
    plan : Plan
        What to do.
    tell : callable, optional
        Called with a sentence after each step.

    Examples
    --------
    >>> texts = [f"{word} {n}" for n in range(30) for word in ("apple", "saw")]
    >>> rows = pd.DataFrame({"text": texts, "label": ["fruit", "tool"] * 30})
    >>> table = OwnTable("mine.csv", rows, "text", "label", None, (), "")
    >>> decision = decide(plan(table, candidates=["counting words"]))
    >>> decision.certificate.n_accepted, decision.certificate.n_errors
    (30, 0)
    """
    table, first = plan.table, plan.chosen_on
    learned = first.union(plan.shown).union(plan.set_apart)
    choice = choose(
        plan.candidates,
        table.texts[first].tolist(),
        table.labels[first].tolist(),
        table.groups[first].tolist(),
        names=sorted(table.labels[learned].unique()),
        risk=plan.risk,
        seed=plan.seed,
        tell=tell,
    )
    tell(f"{choice.candidate.name} is chosen; certifying it on other rows")
    candidate, calibrator = choice.candidate, choice.calibrator
    candidate.fit(table.texts[learned].tolist(), table.labels[learned].tolist())
    raw, shares = calibrated(candidate, calibrator, table.texts[plan.certified_on])
    judged = pd.DataFrame(
        {
            "text": table.texts[plan.certified_on],
            "truth": table.labels[plan.certified_on],
            "prediction": raw["prediction"],
            "confidence": np.asarray(shares.max(axis=1)),
            **dict(zip(raw.filter(like="p_"), np.asarray(shares).T, strict=False)),
            **raw.filter(items=["off_label"]),
        }
    )
    coming = None
    if len(table.unlabelled):
        texts = table.texts[table.unlabelled]
        coming = calibrated(candidate, calibrator, texts)[0]
    return certify(
        replace(table, notes=table.notes + choice.notes),
        judged,
        shares.max(axis=1),
        coming,
        risk=plan.risk,
        delta=plan.delta,
        seed=plan.seed,
        choice=choice,
        learned=table.texts[learned],
        prices=plan.prices,
    )


def certify(
    table: OwnTable,
    judged: pd.DataFrame,
    confidence: Any,
    coming: pd.DataFrame | None,
    *,
    risk: float,
    delta: float,
    seed: int = 0,
    choice: Choice | None = None,
    learned: Iterable[str] = (),
    prices: Costs | None = None,
) -> Decision:
    """A decision from confidences in predictions with known truth.

    Parameters
    ----------
    table : OwnTable
        Where the rows come from.
    judged : pandas.DataFrame
        ``text``, ``truth``, ``prediction`` and ``confidence`` of rows that had no say.
    confidence : array-like
        The same confidences, which may know that no calibrator was fitted on them.
    coming : pandas.DataFrame, optional
        Rows without a truth, as a policy takes them.
    risk, delta, seed, choice, prices
        As for :class:`Decision`.
    learned : iterable of str, optional
        Texts that the candidate learned from.
    """
    right = (judged["truth"] == judged["prediction"]).to_numpy()
    groups = table.groups[judged.index].to_numpy()
    report = calibration_metrics(confidence, right, groups=groups, rng=seed)
    certificate = choose_threshold(
        confidence, right, risk, delta, groups=groups, rng=seed
    )
    calibrator = choice and choice.calibrator
    source = choice.candidate.source() if choice else None
    policy = Policy.from_certified(
        certificate, calibrator=calibrator, source=source, name=table.name
    )
    notes, likeness = list(table.notes), Likeness.of(judged, groups, learned)
    to_come, to_label = None, judged.iloc[:0]
    if coming is not None:
        to_come = act(policy, coming, table.texts, likeness, source=source)
        notes += likeness.warnings(to_come)
        first_of_copies = ~table.groups[to_come.index].duplicated()
        to_label = review_queue(to_come[first_of_copies], budget=_TO_LABEL)
    cost = None
    if prices is not None:
        cost = PolicyCost.of(
            prices,
            confidence,
            right,
            certificate,
            is_calibrated=choice is not None,
            groups=groups,
            seed=seed,
        )
    apart = len(table.set_apart)
    labelled = table.labels[table.labelled]
    if choice is not None:
        candidates, chosen = choice.candidates, choice.candidate.name
    else:
        candidates, chosen = pd.DataFrame(columns=_MEASURES), "confidences as given"
    return Decision(
        name=table.name,
        text=table.text or "",
        label=table.label or "",
        group=table.group,
        risk=risk,
        delta=delta,
        seed=seed,
        labels=labelled.value_counts(),
        counts={
            "rows": len(table.rows),
            "labelled": len(labelled),
            "unlabelled": 0 if coming is None else len(coming),
            "copies": int(table.groups[labelled.index].duplicated().sum()),
            "set_apart": apart,
            "shown": len(labelled) - apart - len(judged) - choice.n if choice else 0,
            "chosen_on": choice.n if choice else 0,
            "certified_on": len(np.unique(groups)),
        },
        candidates=candidates,
        differences=choice.differences if choice else _differences({}),
        chosen=chosen,
        judged=judged,
        report=report,
        certificate=certificate,
        by_label=label_bounds(
            judged, certificate.threshold, delta=delta, groups=groups, seed=seed
        ),
        to_come=to_come,
        to_label=to_label[["text", "prediction", "confidence"]],
        versions=_versions(table, source),
        policy=None if certificate.threshold is None else policy,
        notes=tuple(notes),
        candidate=choice.candidate if choice else None,
        likeness=likeness,
        cost=cost,
    )


def _differences(found: dict[str, Interval]) -> pd.DataFrame:
    return pd.DataFrame(found, index=["value", "low", "high"], dtype=float).T


def _coverage(confidence: np.ndarray, right: np.ndarray, risk: float) -> float:
    """The largest share of rows, the surest first, with so few errors among them."""
    curve = risk_coverage_curve(confidence, right)
    return max([0.0, *curve.loc[curve["risk"] <= risk, "coverage"]])


def _versions(table: OwnTable, source: Any) -> dict[str, str]:
    found = {"how-sure": __version__, "file": table.sha256}
    if source:
        found["model"] = source["model"]
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
