"""Divide a table, choose a candidate on one part, certify it on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import __version__
from ..checks import check_between, check_choice, check_count
from ..decisions import (
    CertifiedThreshold,
    Costs,
    Policy,
    choose_threshold,
    review_queue,
    zero_failure_sample_size,
)
from ..metrics import CalibrationReport, calibration_metrics
from .by_label import label_bounds
from .candidates import (
    ANSWER,
    BOTH,
    HOSTED,
    LONGEST,
    NAMES,
    PROBE,
    TUNED,
    WORDS,
    AnswerAndStates,
    Candidate,
    LinearProbe,
    ModelAnswer,
    WordCounts,
    draw_examples,
)
from .choosing import MEASURES, Choice, Tell, choose
from .likeness import Likeness, act
from .on_request import SHOWN, HostedAnswer, TunedModel
from .prices import PolicyCost
from .table import OURS, PROPOSED, OwnTable

if TYPE_CHECKING:
    from ..hosted import HostedClassifier

_TO_LABEL = 10
_PACKAGES = ("numpy", "pandas", "scikit-learn", "torch", "transformers")


@dataclass(frozen=True, eq=False, kw_only=True)
class Decision:
    """What was decided about a table, and on what grounds.

    Parameters
    ----------
    name : str
        Of the file, for headings.
    text, label, group : str
        Names of columns; ``group`` may be None.
    risk, delta : float
        The largest share of wrong rows among the accepted, and the probability with
        which that may fail.
    seed : int
        Of everything that was left to chance.
    labels : pandas.Series
        Number of labelled rows of each label.
    counts : dict of str to int
        ``rows``, ``labelled``, ``unlabelled``, ``copies`` (labelled rows that repeat
        another one's text or group), ``set_apart`` (not drawn at random), ``shown``
        (in a prompt), ``chosen_on``, ``compared_on`` (those of them that judged all
        candidates), and ``certified_on`` (of copies and groups, one counts).
    candidates : pandas.DataFrame
        One row a candidate: ``accuracy``, ``brier``, ``auroc`` and ``coverage`` (share
        of rows accepted at this risk, expected) on the rows that it was chosen on, and
        ``seconds``.
    differences : pandas.DataFrame
        One row for each other candidate: its accuracy less that of the chosen one, as
        ``value``, ``low``, ``high``.
    chosen : str
        Which candidate.
    judged : pandas.DataFrame
        Rows that certified: ``text``, ``truth``, ``prediction``, ``confidence`` and
        ``p_<label>``.
    report : CalibrationReport
        Of these rows.
    certificate : CertifiedThreshold
        Of these rows, one of each group.
    by_label : pandas.DataFrame
        One row a predicted label: ``n``, ``accepted``, ``errors``, ``upper`` (a bound
        on the share of errors; all of them hold together).
    to_come : pandas.DataFrame or None
        Rows without a label: ``text``, ``prediction``, ``confidence``, ``action``,
        ``reason``.
    to_label : pandas.DataFrame
        Ten rows to label next: ``text``, ``prediction``, ``confidence``.
    versions : dict of str to str
        Of packages, and hashes of ``file`` and ``model``.
    policy : Policy or None
        What to do with new rows; None where nothing could be certified.
    notes : tuple of str
        Sentences on what was found in the table and what was left out.
    candidate : Candidate or None
        The chosen one, fitted; None where the confidences were given.
    likeness : Likeness
        What the rows certified on are like.
    cost : PolicyCost or None
        What the policy costs, where prices are known.
    """

    name: str
    text: str
    label: str
    group: str | None = None
    risk: float
    delta: float
    seed: int
    labels: pd.Series
    counts: dict[str, int]
    candidates: pd.DataFrame
    differences: pd.DataFrame
    chosen: str
    judged: pd.DataFrame = field(repr=False)
    report: CalibrationReport = field(repr=False)
    certificate: CertifiedThreshold
    by_label: pd.DataFrame
    to_come: pd.DataFrame | None = field(default=None, repr=False)
    to_label: pd.DataFrame = field(repr=False)
    versions: dict[str, str]
    policy: Policy | None = None
    notes: tuple[str, ...] = ()
    candidate: Candidate | None = field(default=None, repr=False)
    likeness: Likeness = field(repr=False)
    cost: PolicyCost | None = None


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
        found = {}
        for one in self.candidates:
            found[one.name] = {
                "compared": one.seconds_to_compare(some),
                "chosen": one.seconds_a_text(some) * rest,
            }
        return pd.DataFrame(found).T

    def payments(self) -> list[str]:
        """What is to be paid beside time, in sentences."""
        texts = self.table.texts[self.chosen_on].tolist()
        rest = len(self.certified_on) + len(self.table.unlabelled)
        each = [one.cost(len(texts), rest, texts) for one in self.candidates]
        return [told for told in each if told]


def plan(
    table: OwnTable,
    *,
    risk: float = 0.1,
    delta: float = 0.05,
    seed: int = 0,
    model: Any = None,
    candidates: Sequence[str] = NAMES,
    hosted: HostedClassifier | None = None,
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
        Some of "counting words", "the model's answer" and "linear probe", which are the
        default, and "fine-tuned model". Where the second and the third are tried,
        "answer and hidden states" is, too.
    hosted : HostedClassifier, optional
        A hosted model to try, too; labels and examples are set here.
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
        check_choice("candidates", name, (*NAMES, TUNED))
    names = [*candidates, *([HOSTED] if hosted is not None else [])]
    if not names:
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
    if SHOWN & {*names}:
        most = groups[first].nunique() // 5
        rows = table.labelled_rows(first)
        places = draw_examples(rows, most, seed)
        examples = [(rows.texts[at], str(rows.labels[at])) for at in places]
        # Copies of an example are not judged either.
        shown = first[groups[first].isin(groups[first].iloc[places])]
    long = int((table.texts.str.len() > LONGEST).sum())
    if long and {*names} != {WORDS}:
        notes.append(
            f"{long} texts are longer than {LONGEST:,} characters; a model reads no "
            "more of them."
        )
    if {*candidates} - {WORDS}:
        from ..models import LanguageModel

        if not isinstance(model, LanguageModel):
            # Held by all of them, so that it is loaded once.
            model = LanguageModel.load(model)
    kinds = known.unique().tolist()
    ways: dict[str, Callable[[], Candidate]] = {
        WORDS: WordCounts,
        ANSWER: lambda: ModelAnswer(kinds, examples, model),
        PROBE: lambda: LinearProbe(model),
        TUNED: lambda: TunedModel(kinds, model),
        HOSTED: lambda: HostedAnswer(kinds, examples, hosted),
    }
    made: dict[str, Any] = {}
    for name in names:
        try:
            made[name] = ways[name]()
        except ValueError as error:
            notes.append(f"{name} is left out: {error}")
    if {ANSWER, PROBE} <= {*made}:  # what needs nothing else to be read
        made[BOTH] = AnswerAndStates(made[ANSWER], made[PROBE])
    return Plan(
        replace(table, notes=tuple(notes)),
        float(risk),
        float(delta),
        seed,
        shown,
        first.difference(shown),
        second,
        [*made.values()],
        apart,
        prices,
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
        table.labelled_rows(first),
        names=sorted(table.labels[learned].unique()),
        risk=plan.risk,
        seed=plan.seed,
        tell=tell,
    )
    tell(f"{choice.candidate.name} is chosen; certifying it on other rows")
    candidate, calibrator = choice.candidate, choice.calibrator
    candidate.fit(table.labelled_rows(learned))
    raw, shares = candidate.calibrated(calibrator, table.texts[plan.certified_on])
    raw = raw.dropna(subset="confidence")
    judged = pd.DataFrame(
        {
            "text": table.texts[raw.index],
            "truth": table.labels[raw.index],
            "prediction": raw["prediction"],
            "confidence": np.asarray(shares.max(axis=1)),
            **dict(zip(raw.filter(like="p_"), np.asarray(shares).T, strict=False)),
            **raw.filter(items=["off_label"]),
        }
    )
    coming = None
    if len(table.unlabelled):
        texts = table.texts[table.unlabelled]
        coming = candidate.calibrated(calibrator, texts)[0]
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
        candidates, differences = choice.candidates, choice.differences
        chosen = choice.candidate.name
    else:
        candidates = pd.DataFrame(columns=MEASURES)
        differences = pd.DataFrame(columns=["value", "low", "high"])
        chosen = "confidences as given"
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
            "compared_on": choice.n_compared if choice else 0,
            "certified_on": len(np.unique(groups)),
        },
        candidates=candidates,
        differences=differences,
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
