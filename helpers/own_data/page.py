"""The page that tells a boss what was decided, and an analyst on what grounds."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..decisions import CertifiedThreshold, choose_threshold, zero_failure_sample_size
from ..metrics import CalibrationReport, Interval, class_table
from ..plots import LINES, PALETTE, legend_below, plot_reliability_diagram, style
from .deciding import Decision

# Chapters of the book that explain a part of the page.
CHAPTERS = {
    2: "From tokens to labels",
    7: "Measuring calibration",
    8: "Fixing calibration",
    9: "Injuries to twenty-six body parts",
    10: "From confidence to decision",
    11: "Fine-tuning, compared honestly",
    15: "What the model says and what it knows",
    16: "Your own data",
}
Row = dict[Any, Any]
_LEVEL = 0.95
_TIMES = 10  # as many labels as there are would be too much to ask for
_SHOWN = 10  # rows of the user's own texts
_LONGEST = {"text": 400, "name": 80}
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SPACE = "\N{NO-BREAK SPACE}"


def page(decision: Decision) -> str:
    """The decision as one HTML page that needs nothing beside itself.

    What was found is said first, in a sentence; then what would make it untrue, its
    grounds, and, where nothing could be certified, why and what may help. Texts and
    names of the user's table are escaped and shortened.

    Parameters
    ----------
    decision : helpers.own_data.deciding.Decision
        What was decided about a table.

    Examples
    --------
    >>> from helpers.own_data.deciding import decide, plan
    >>> from helpers.own_data.table import OwnTable
    >>> texts = [f"{word} {n}" for n in range(30) for word in ("apple", "saw")]
    >>> rows = pd.DataFrame({"text": texts, "label": ["fruit", "tool"] * 30})
    >>> table = OwnTable("mine.csv", rows, "text", "label", None, (), "")
    >>> html = page(decide(plan(table, candidates=["counting words"])))
    >>> "30 of them passed, and none of these were wrong" in html
    True
    """
    certificate, judged = decision.certificate, decision.judged
    correct = (judged["truth"] == judged["prediction"]).to_numpy()
    wrong = judged[~correct].sort_values("confidence", ascending=False, kind="stable")
    labels = _labels(decision)
    template = _templates().get_template("page.html")
    return template.render(
        decision=decision,
        certificate=certificate,
        report=decision.report,
        counts=decision.counts,
        passing=_passing(decision),
        upper=_upper(certificate),
        best=_tightest(certificate),
        reason=_reason(certificate),
        least=zero_failure_sample_size(decision.risk, decision.delta),
        steps=next_steps(decision),
        candidates=_candidates(decision),
        labels=labels,
        worst=_worst(labels, certified=certificate.threshold is not None),
        wrong=_rows(wrong),
        n_wrong=len(wrong),
        to_label=_rows(decision.to_label),
        reliability=_reliability(decision.report),
        coverage=_coverage(certificate),
        stem=_short(Path(decision.name).stem, "name"),
        inf=math.inf,
    )


def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("helpers.own_data", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"chapters": CHAPTERS}
    made.filters |= {
        "percent": _percent,
        "number": _number,
        "points": lambda share: _number(100 * share, 1),
        "share": lambda right, n: _interval(Interval.of_share(right, n, _LEVEL)),
        "interval": _interval,
        "money": _money,
        "costs": _costs,
        "rounded": lambda n: f"{_rounded(n):,}",
        "name": lambda text: _short(text, "name"),
    }
    return made


def _passing(decision: Decision) -> int | None:
    """How many rows without a label pass; None where there are no such rows."""
    if decision.to_come is None or not len(decision.to_come):
        return None
    if decision.policy is None:
        return 0
    accept = decision.policy.buckets.names[-1]  # the actions rise with confidence
    return int((decision.to_come["action"] == accept).sum())


def _upper(certificate: CertifiedThreshold) -> float | None:
    tested = certificate.tested
    chosen = tested[tested["threshold"] == certificate.threshold]
    return float(chosen["upper"].iloc[0]) if len(chosen) else None


def _tightest(certificate: CertifiedThreshold) -> Mapping[str, float]:
    """The lowest bound on the risk that any threshold reached."""
    tested = certificate.tested
    best = tested.iloc[int(tested["upper"].argmin())]
    return {"upper": best["upper"], "coverage": best["n"] / certificate.n_labels}


def _reason(certificate: CertifiedThreshold) -> str | None:
    """Why nothing was certified, in a word."""
    if certificate.threshold is not None:
        return None
    if not certificate.can_rank:
        return "rank"
    n, needed = certificate.n_labels, certificate.labels_needed or math.inf
    return "few" if n < _enough(certificate) or needed <= _TIMES * n else "wrong"


def _enough(certificate: CertifiedThreshold) -> int:
    """Labels from which on something can be said of how many more it takes."""
    return 4 * zero_failure_sample_size(certificate.max_risk, certificate.delta)


def next_steps(decision: Decision) -> list[tuple[str, str]]:
    """What may help where nothing was certified, the cheapest first, and how much.

    Empty where a threshold was certified.

    Parameters
    ----------
    decision : helpers.own_data.deciding.Decision
        What was decided about a table.

    Examples
    --------
    >>> from helpers.own_data.deciding import decide, plan
    >>> from helpers.own_data.table import OwnTable
    >>> texts = [f"{word} {n}" for n in range(30) for word in ("apple", "saw")]
    >>> rows = pd.DataFrame({"text": texts, "label": ["fruit", "tool"] * 30})
    >>> table = OwnTable("mine.csv", rows, "text", "label", None, (), "")
    >>> strict = plan(table, risk=0.01, candidates=["counting words"])
    >>> what, effect = next_steps(decide(strict))[0]
    >>> what
    'Label about 540 more texts, drawn at random.'
    """
    certificate, counts = decision.certificate, decision.counts
    if certificate.threshold is not None:
        return []
    reason, needed = _reason(certificate), certificate.labels_needed
    steps = []
    if reason == "few":
        n, enough = certificate.n_labels, _enough(certificate)
        effect = (
            f"With about {{}} to check on instead of {n:,}, a threshold may be "
            "expected to pass in 8 of 10 tries, if they are like these."
        )
        if needed is None or needed > _TIMES * n:
            needed = enough
            effect = (
                f"From {n:,} to check on, little can be said. With about {{}} the next "
                "run either passes some texts or tells how many more it takes."
            )
        more = needed * counts["labelled"] / max(n, 1) - counts["labelled"]
        label = (
            f"Label about {_rounded(max(more, 1)):,} more texts, drawn at random.",
            effect.format(f"{_rounded(needed):,}"),
        )
        steps.append(label)
    else:
        if len(decision.to_label):
            label = (
                "Label the texts under “Label these next”.",
                "The classifier has most to learn from these; how much it helps shows "
                "in the next run, which does not check on them.",
            )
            steps.append(label)
        steps += [
            (
                "Try another, larger model.",
                "How much it helps shows only when it is tried, by the AUROC of its "
                f"confidence, here {_number(decision.report.auroc.value)}; 0.5 is a "
                "coin, 1 is perfect.",
            ),
            (
                "Fine-tune the model on your labels.",
                "Chapter 11 measures what this brings and what it costs; for your "
                "texts it has not been measured.",
            ),
        ]
    merge, helps = _merge(decision)
    if helps and reason != "few":
        steps = merge + steps
    else:
        steps += merge
    best = _tightest(certificate)
    if best["upper"] < 0.5:
        steps.append(
            (
                f"Live with more errors than {_percent(decision.risk)}.",
                f"The tightest bound was {_percent(best['upper'])}, if "
                f"{_percent(best['coverage'])} of the texts pass. A limit that is "
                "chosen after seeing this has to be checked on other labelled texts.",
            )
        )
    return steps


def _merge(decision: Decision) -> tuple[list[tuple[str, str]], bool]:
    """To join the two labels that are confused most often; whether any then pass."""
    judged = decision.judged
    wrong = judged[judged["truth"] != judged["prediction"]]
    columns = [f"p_{label}" for label in decision.labels.index]
    if len(columns) < 3 or not len(wrong) or not set(columns) <= set(judged.columns):
        return [], False
    pairs = zip(wrong["truth"], wrong["prediction"], strict=True)
    (pair, n), *_ = Counter(tuple(sorted(pair)) for pair in pairs).most_common(1)
    one, other = pair
    before = 1 - len(wrong) / len(judged)
    of_labels = judged[columns].set_axis(decision.labels.index, axis=1)
    merged = of_labels.drop(columns=other)
    merged[one] += of_labels[other]
    correct = merged.idxmax(axis=1) == judged["truth"].replace(other, one)
    confidence = merged.max(axis=1).clip(0, 1)
    found = choose_threshold(confidence, correct, decision.risk, decision.delta)
    passes = "still none of them would pass"
    if found.threshold is not None:
        passes = f"{_percent(found.coverage)} of them would pass"
    step = (
        f"Make one label of “{_short(one, 'name')}” and “{_short(other, 'name')}”.",
        f"They are taken for each other in {n:,} of the {len(wrong):,} errors. As one "
        f"label, {_percent(correct.mean())} of the checked texts would be right, not "
        f"{_percent(before)}, and {passes}: a guess from these rows, which a new run "
        "on other rows has to confirm.",
    )
    return [step], found.threshold is not None


def _candidates(decision: Decision) -> list[Row]:
    """The table of candidates, the chosen one first; empty where there were none."""
    if not len(decision.candidates):
        return []
    n = decision.counts["compared_on"]
    table = decision.candidates.sort_values("brier", kind="stable")
    gaps = decision.differences.reindex(table.index)[["value", "low", "high"]]
    rows = table.reset_index(names="name").to_dict("records")
    for row, gap in zip(rows, gaps.to_numpy(dtype=float), strict=True):
        row["accuracy"] = Interval.of_share(row["accuracy"] * n, n, _LEVEL)
        row["difference"] = Interval(*gap)
        row["chosen"] = row["name"] == decision.chosen
    return sorted(rows, key=lambda row: not row["chosen"])


def _labels(decision: Decision) -> list[Row]:
    """One row a predicted label: what was accepted, and all of its predictions."""
    judged = decision.judged
    correct = judged["truth"] == judged["prediction"]
    stated = {"confidence": judged["confidence"]}
    table = class_table(judged["prediction"], correct, stated)
    table = table[["n", "accuracy", "accuracy_low", "accuracy_high"]]
    rows = decision.by_label.drop(columns="n").join(table).reset_index(names="label")
    if decision.certificate.threshold is None:
        rows = rows.sort_values("accuracy_high", kind="stable")
    else:
        bound = rows["upper"].where(rows["accepted"] > 0, -1)
        rows = rows.iloc[np.argsort(-bound.to_numpy(), kind="stable")]
    found = rows.to_dict("records")
    for row in found:
        ends = (row.pop(f"accuracy{end}") for end in ("", "_low", "_high"))
        row["accuracy"] = Interval(*ends)
    return found


def _worst(rows: list[Row], *, certified: bool) -> Row:
    """The label with the most errors, of which chance explains the least."""
    if not certified:
        return rows[0]
    passed = [row for row in rows if row["accepted"]]

    def at_least(row: Row) -> float:
        return Interval.of_share(row["errors"], row["accepted"], _LEVEL).low

    return max(passed, key=lambda row: (at_least(row), row["errors"]))


def _rows(table: pd.DataFrame) -> list[Row]:
    shown = table.head(_SHOWN)
    shown = shown.assign(prediction=shown["prediction"].fillna("nothing"))
    rows = shown.to_dict("records")
    for row in rows:
        row["shown"], row["length"] = _short(row["text"], "text"), len(row["text"])
    return rows


def _reliability(report: CalibrationReport) -> Markup:
    about = (
        f"{report.n:,} predictions, in bins of their stated confidence. On the whole "
        f"{_percent(report.mean_confidence)} was stated and "
        f"{_percent(report.accuracy.value)} was right. The table below holds the "
        "numbers."
    )
    with style():
        figure = Figure(figsize=(4.8, 4.7))
        ax = figure.subplots()
        bare = {"points": False, "panel": False, "counts": False}
        plot_reliability_diagram(report, ax=ax, **bare)
        lowest = float(report.curve[["accuracy_low", "band_low"]].min().min())
        ax.set(xlabel="stated confidence", ylabel="share that was right")
        ax.set_ylim(max(lowest, 0) - 0.03, 1.03)
        _in_percent(ax)
        legend_below(ax)
        return _svg(figure, "reliability", "Share right by stated confidence", about)


def _coverage(certificate: CertifiedThreshold) -> Markup:
    """Accuracy among the accepted by the share that is accepted, with its bound."""
    tested = certificate.tested
    share, bound = tested["n"] / certificate.n_labels, 1 - tested["upper"]
    right, asked = 1 - tested["risk"], 1 - certificate.max_risk
    about = f"Asked for: {_percent(asked)} right. "
    with style():
        figure = Figure(figsize=(4.8, 4.7))
        ax = figure.subplots()
        look: dict[str, Any] = {"marker": ".", "markersize": 4}
        ax.plot(share, right, color=PALETTE[0], **look, label="right among the passed")
        look |= {"color": PALETTE[1], "linestyle": LINES[1]}
        ax.plot(share, bound, **look, label="at least (bound)")
        look = {"color": "black", "linewidth": 1, "linestyle": LINES[3]}
        ax.axhline(asked, **look, label=f"asked for: {_percent(asked)}")
        upper = _upper(certificate)
        if upper is None:
            about += (
                f"The bound comes up to {_percent(bound.max())} at most, at a coverage "
                f"of {_percent(share.iloc[int(bound.argmax())])}: none is certified."
            )
        else:
            at = certificate.coverage
            value = 1 - certificate.n_errors / certificate.n_accepted
            ax.vlines(at, 1 - upper, value, color=PALETTE[2], linewidth=2)
            look = {"color": PALETTE[2], "marker": "D", "markersize": 9}
            look |= {"linestyle": "", "zorder": 5, "label": "certified"}
            ax.plot([at], [value], **look)
            about += (
                f"Certified: {_percent(at)} pass, {_percent(value)} of them were right "
                f"on the checked texts, at least {_percent(1 - upper)} by the bound."
            )
        bottom = min(right.min(), asked, bound.max() - 0.05) - 0.05
        ax.set(xlim=(0, 1.03), ylim=(max(bottom, -0.02), 1.02))
        ax.set(xlabel="share that passes without a look", ylabel="share that is right")
        _in_percent(ax)
        legend_below(ax)
        return _svg(figure, "passing", "Share right by share that passes", about)


def _in_percent(ax: Axes) -> None:
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: _percent(value))


def _svg(figure: Figure, name: str, title: str, about: str) -> Markup:
    """A figure inside the page: ids of its own, colours that the page can change."""
    file = StringIO()
    bare = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata=bare)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", text)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r"#([0-9a-f]{6})\b", r"var(--x\1, #\1)", text)
    told = f'role="img" aria-labelledby="{name}-title {name}-desc"'
    words = f'<title id="{name}-title">{escape(title)}</title>'
    words += f'<desc id="{name}-desc">{escape(about)}</desc>'
    return Markup(text.replace("<svg", f"<svg {told}", 1).replace(">", f">{words}", 1))


def _short(text: Any, kind: str) -> str:
    """A text of the user's, without what no page can show, and not too long."""
    whole = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(text))
    longest = _LONGEST[kind]
    return whole if len(whole) <= longest else whole[:longest].rstrip() + "…"


def _rounded(n: float) -> int:
    """A number that is a guess, up to two digits."""
    unit = 10 ** max(len(str(int(n))) - 2, 0)
    return -int(-n // unit) * unit


def _number(value: float, digits: int = 3) -> str:
    return "–" if np.isnan(value) else f"{value:,.{digits}f}".replace("-", "−")


def _percent(share: float) -> str:
    if np.isnan(share):
        return "–"
    return f"{100 * share:.1f}".removesuffix(".0").replace("-", "−") + _SPACE + "%"


def _money(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.2f}"


def _costs(found: Interval) -> str | Markup:
    """A cost with its interval beneath."""
    if found.low == found.high:
        return _money(found.value)
    ends = f"{_money(found.low)} to {_money(found.high)}"
    return Markup(f'{_money(found.value)}<span class="span">{ends}</span>')


def _interval(found: Interval) -> str:
    """A share with its interval."""
    if np.isnan(found.low):
        return _percent(found.value)
    ends = f"{_percent(found.low)} to {_percent(found.high)}"
    return f"{_percent(found.value)} ({_percent(_LEVEL)} interval {ends})"
