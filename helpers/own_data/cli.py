"""The command ``how-sure``.

Exit codes: 0, done, and a threshold is certified or the promise holds; 1, nothing could
be certified, or the promise is broken; 2, the request or a file cannot be used; 130,
stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from . import options

if TYPE_CHECKING:
    import pandas as pd

    from .deciding import Decision
    from .prices import PolicyCost
    from .table import OwnTable


# Everything else is imported where it is needed: it takes seconds.
class _Stoppable(TyperGroup):
    """Ctrl-C ends each command with a sentence."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _tell(
                "how-sure: stopped. What a model has read is kept: the same command "
                "goes on from there. No file is half-written."
            )
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Stoppable,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From a table of texts, some of them labelled, to decisions with a promise. "
    "Exit codes: 0, done; 1, nothing certified, or the promise is broken; 2, the "
    "request or a file cannot be used; 130, stopped by Ctrl-C: what a model has read "
    "is kept, and the same command goes on from there.",
)
_WAYS = ("words", "answer", "probe")


@app.command()
def decide(
    file: options.File,
    text: options.Text = None,
    label: options.Label = None,
    group: options.Group = None,
    not_random: options.NotRandom = None,
    risk: options.Risk = 0.1,
    delta: options.Delta = 0.05,
    price_error: options.PriceError = None,
    price_look: options.PriceLook = None,
    model: options.Model = None,
    use: Annotated[
        str,
        typer.Option(
            help="What to try, with commas between; answer and probe are also tried "
            "together."
        ),
    ] = ",".join(_WAYS),
    tune: options.Tune = False,
    url: options.Url = None,
    prices: options.Prices = None,
    budget: options.Budget = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and stop.")
    ] = False,
    seed: options.Seed = 0,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Choose among ways to read the texts, certify, and decide on the others."""
    from . import deciding
    from .candidates import NAMES, TUNED
    from .table import read_table, with_proposed

    ways = dict(zip(_WAYS, NAMES, strict=True))
    if unknown := set(use.split(",")) - set(ways):
        raise ValueError(f"--use takes some of {','.join(_WAYS)}; not {unknown}.")
    table = read_table(file, text=text, label=label, group=group, not_random=not_random)
    table = with_proposed(table, _written(file.name, out or file.parent)["decisions"])
    hosted = options.hosted_model(url, model, prices, budget)
    names = [ways[way] for way in ways if way in use.split(",")]
    made = deciding.plan(
        table,
        risk=risk,
        delta=delta,
        seed=seed,
        model=None if hosted else model,
        candidates=[*names, *([TUNED] if tune else [])],
        hosted=hosted,
        prices=options.prices_of_policy(price_error, price_look),
    )
    _tell(
        f"{table.name}: {len(table.rows)} rows, {len(table.labelled)} with a label, "
        f"{len(table.unlabelled)} without one."
    )
    counts = table.labels[table.labelled].value_counts()
    _tell(
        f"{len(counts)} labels: "
        + ", ".join(f"{name} {n}" for name, n in counts.head(12).items())
        + (", …" if len(counts) > 12 else "")
    )
    for note in made.table.notes:
        _tell(note)
    _tell(
        f"To choose by: {len(made.chosen_on)} rows, and {len(made.shown)} shown "
        f"in a prompt. To certify on: {len(made.certified_on)} others."
    )
    seconds = made.seconds()
    for name, (compared, chosen) in seconds.dropna().iterrows():
        _tell(
            f"  {name}: about {compared:.0f} s for what it is chosen on, and "
            f"{chosen:.0f} s for the rest if it is chosen"
        )
    most = seconds["compared"].sum() + seconds["chosen"].max()
    _tell(
        f"In all about {most:.0f} s or less at the speed of this moment, and some "
        "seconds of fitting. What has been read before, here or in an earlier run, is "
        "kept and costs nothing."
    )
    for told in (payments := made.payments()):
        _tell(told)
    if dry_run:
        if as_json:
            known = json.loads(seconds.to_json(orient="index"))
            typer.echo(json.dumps({"seconds": known, "payments": payments}))
        return
    decision = deciding.decide(made, tell=_tell)
    _finish(decision, table, _rows_of(decision, table), out or file.parent, as_json)


@app.command()
def certify(
    file: options.File,
    prediction: Annotated[str, typer.Option(help="Column of the predictions.")],
    confidence: Annotated[str, typer.Option(help="Column of confidences, 0 to 1.")],
    truth: Annotated[str, typer.Option(help="Column of the truth; may have gaps.")],
    group: options.Group = None,
    not_random: options.NotRandom = None,
    risk: options.Risk = 0.1,
    delta: options.Delta = 0.05,
    price_error: options.PriceError = None,
    price_look: options.PriceLook = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Certify confidences that are there already, whoever stated them."""
    from . import deciding
    from .stored import given_confidences
    from .table import OURS, PROPOSED, read_table, with_proposed

    table = read_table(file, label=truth, group=group, not_random=not_random, needs=())
    table.check_free((*OURS[2:], PROPOSED))
    table = with_proposed(table, _written(file.name, out or file.parent)["decisions"])
    given = given_confidences(table, prediction, confidence)
    given["text"], given["truth"] = table.texts, table.labels
    known = given.dropna(subset=["prediction", "confidence"])
    apart = given.index.isin(table.set_apart)
    judged = known[(known["truth"] != "") & ~apart[known.index]]
    coming = given[given["truth"] == ""]
    if not len(judged):
        raise ValueError(
            f"No row of {table.name} has a prediction, a confidence and a truth, and "
            "is drawn at random."
        )
    notes = list(table.notes)
    if apart.any():
        notes.append(
            f"{apart.sum()} rows with a truth were not drawn at random, or belong with "
            "such rows: they do not certify."
        )
    if lost := int(((given["truth"] != "") & ~apart).sum()) - len(judged):
        notes.append(f"{lost} rows with a truth have no prediction or confidence.")
    values = judged["confidence"].to_numpy(float)
    for digits in (1, 2):
        if (abs(values - values.round(digits)) < 1e-9).all():
            notes.append(
                f"All confidences are rounded to {digits} decimals: rows with the same "
                "one are accepted together or not at all."
            )
            break
    for note in notes:
        _tell(note)
    decision = deciding.certify(
        replace(table, notes=tuple(notes)),
        judged,
        values,
        coming if len(coming) else None,
        risk=risk,
        delta=delta,
        seed=seed,
        prices=options.prices_of_policy(price_error, price_look),
    )
    rows = _rows_of(decision, table).drop(columns=["prediction", "confidence"])
    given_as = (prediction, confidence)
    _finish(decision, table, rows, out or file.parent, as_json, given_as)


@app.command()
def apply(
    policy: options.PolicyFile,
    file: options.File,
    out: options.Out = None,
    as_json: options.AsJson = False,
) -> None:
    """Decide on new rows by a policy that was certified."""
    from .stored import OwnPolicy
    from .table import OURS, PROPOSED, read_table, with_proposed

    kept = OwnPolicy.load(policy)
    table = read_table(file, text=kept.text or None, needs=())
    names = [*(OURS[2:] if kept.given else OURS)]
    table.check_free([*names, PROPOSED])
    path = _written(file.name, out or file.parent)["decisions"]
    proposed = with_proposed(replace(table, label=kept.label), path).not_random
    decided, warned = kept.apply(table)
    counts = decided["action"].value_counts().to_dict()
    if len(proposed):  # by a decide that wrote this file before
        names.append(PROPOSED)
        decided[PROPOSED] = _marks(decided.index, proposed)
    _write_rows(table, decided[names], path)
    for note in [*table.notes, *warned]:
        _tell(note)
    said = ", ".join(f"{n} {action}" for action, n in counts.items())
    _answer(
        as_json,
        {
            "rows": len(decided),
            "actions": counts,
            "warnings": warned,
            "file": str(path),
        },
        f"{len(decided)} rows: {said}. Written: {path}",
    )


@app.command()
def check(
    policy: options.PolicyFile,
    file: options.File,
    state: Annotated[
        Path | None, typer.Option(help="What was seen; default: beside the policy.")
    ] = None,
    label: options.Label = None,
    as_json: options.AsJson = False,
) -> None:
    """Whether the promise still holds, by rows labelled since; look whenever you like.

    Rows must be a random sample of those accepted, or all of them.
    """
    from .stored import OwnPolicy
    from .table import read_table

    kept = OwnPolicy.load(policy)
    table = read_table(
        file, text=kept.text or None, label=label or kept.label, needs=()
    )
    path = state or policy.with_name(f"{policy.stem.split('.')[0]}.monitor.json")
    monitor, counts = kept.check(table, path)
    verdict = "broken" if monitor.alarm else "not refuted"
    told = (
        f"{counts['labelled']} labelled rows: {counts['certified_with']} were there "
        f"when it was certified, {counts['seen_before']} were seen before, "
        f"{counts['accepted']} others are accepted, {counts['wrong']} of them wrong. "
        f"In all {monitor.n - monitor.n_right} of {monitor.n} wrong, where at most "
        f"{1 - monitor.promised:.3g} was promised: the promise is {verdict}"
    )
    if monitor.alarm:
        told += f", since the accepted row {monitor.alarm_at}; certify anew."
    found = {**counts, "verdict": verdict, "n": monitor.n, "right": monitor.n_right}
    _answer(as_json, {**found, "p_value": monitor.p_value, "state": str(path)}, told)
    raise typer.Exit(int(monitor.alarm))


@app.command()
def demo(out: options.Out = None, as_json: options.AsJson = False) -> None:
    """The whole report at once, on film reviews that come with the book."""
    from . import deciding
    from .demo import demo_plan

    made = demo_plan()
    _tell(
        "400 film reviews with a label, 300 without; what the model answered is kept."
    )
    decision = deciding.decide(made, tell=_tell)
    rows = _rows_of(decision, made.table)
    _finish(decision, made.table, rows, out or Path.cwd(), as_json)


@app.command()
def serve(
    policy: Annotated[
        Path | None, typer.Option(help="What decide wrote, asked as a model.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A hub id or path; default: the embedded model.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Others than this machine need HOW_SURE_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    chat: Annotated[
        bool, typer.Option("--chat", help="Use the model's chat template.")
    ] = False,
) -> None:
    """Answer /v1/decisions and /v1/systemone with exact probabilities, until Ctrl-C."""
    try:
        from .. import decision_server
    except ModuleNotFoundError as error:
        raise ValueError(
            f"serve needs {error.name}: pip install 'how-sure[serve]'."
        ) from error
    from ..models import LanguageModel
    from .stored import OwnPolicy

    kept = {} if policy is None else {policy.name.split(".")[0]: OwnPolicy.load(policy)}
    loaded = LanguageModel.load(model)
    _tell(f"Models: {', '.join([*kept, loaded.name])}")
    decision_server.serve(loaded, kept, host=host, port=port, chat=chat)


def main(arguments: list[str] | None = None) -> None:
    """Run the command; a user's error is told in a sentence."""
    try:
        app(arguments, prog_name="how-sure")
    except (ValueError, OSError, RuntimeError) as error:
        print(f"how-sure: {error}", file=sys.stderr)
        sys.exit(2)


def _rows_of(decision: Decision, table: OwnTable) -> pd.DataFrame:
    """What stands beside each row of the table."""
    import pandas as pd

    from .table import PROPOSED

    rows = pd.DataFrame(
        {
            "prediction": None,
            "confidence": float("nan"),
            "action": "review",
            "reason": "there is no text",
        },
        index=table.rows.index,
        dtype=object,
    )
    rows.loc[table.labelled, ["action", "reason"]] = ["labelled", "learned from"]
    judged, proposed = decision.judged, table.not_random.union(decision.to_label.index)
    rows.loc[judged.index, "reason"] = "certified on"
    for column in ("prediction", "confidence"):
        rows.loc[judged.index, column] = judged[column]
    if decision.to_come is not None:
        rows.loc[decision.to_come.index] = decision.to_come[rows.columns]
    rows[PROPOSED] = _marks(rows.index, proposed)
    rows["confidence"] = rows["confidence"].astype(float)
    return rows


def _marks(rows: pd.Index, proposed: pd.Index) -> list[str]:
    """What a later run reads, so as not to certify by rows labelled for it."""
    return ["yes" if one else "" for one in rows.isin(proposed)]


def _written(name: str, folder: Path) -> dict[str, Path]:
    """Where decisions, page and policy of a file go."""
    endings = {"page": "decisions.html", "policy": "policy.json"}
    return {
        kind: folder / f"{Path(name).stem}.{ending}"
        for kind, ending in {"decisions": "decisions.csv", **endings}.items()
    }


def _write_rows(table: OwnTable, added: pd.DataFrame, path: Path) -> None:
    from ..files import writing

    rows = table.rows.join(added)
    with writing(path) as unfinished:
        rows.to_csv(unfinished, index=False, float_format="%.6g")


def _finish(
    decision: Decision,
    table: OwnTable,
    rows: pd.DataFrame,
    folder: Path,
    as_json: bool,
    given: tuple[str, ...] = (),
) -> None:
    """Write rows, page and policy; say what was found; exit."""
    from ..files import writing
    from .page import page
    from .stored import OwnPolicy

    folder.mkdir(parents=True, exist_ok=True)
    paths = _written(decision.name, folder)
    html = page(decision)
    _write_rows(table, rows, paths["decisions"])
    with writing(paths["page"]) as unfinished:
        unfinished.write_text(html, encoding="utf-8")
    if decision.policy is None:
        if paths["policy"].exists():
            _tell(f"{paths['policy']} is of an earlier run, and stays as it is.")
        del paths["policy"]
    else:
        OwnPolicy.of(decision, table, given).save(paths["policy"])
    found, coming = decision.certificate, decision.to_come
    accepted = 0
    if coming is not None:
        accepted = int((coming["action"] == "accept").sum())
    told = [f"{decision.chosen}. {found}", *filter(None, [str(decision.cost or "")])]
    if coming is not None:
        told.append(f"{accepted} of {len(coming)} rows without a label are accepted.")
    told += [f"Written: {path}" for path in paths.values()]
    summary: dict[str, Any] = {
        "chosen": decision.chosen,
        "threshold": found.threshold,
        "risk": decision.risk,
        "delta": decision.delta,
        "certified_on": found.n_labels,
        "accepted": found.n_accepted,
        "errors": found.n_errors,
        "labels_needed": found.labels_needed,
        "to_come": 0 if coming is None else len(coming),
        "to_come_accepted": accepted,
        "candidates": json.loads(decision.candidates.to_json(orient="index")),
        "cost": _priced(decision.cost),
        "counts": decision.counts,
        "notes": list(decision.notes),
        "files": {name: str(path) for name, path in paths.items()},
    }
    _answer(as_json, summary, "\n".join(told))
    raise typer.Exit(int(found.threshold is None))


def _priced(cost: PolicyCost | None) -> dict[str, Any] | None:
    if cost is None:
        return None
    return {
        "per_rows": 1000,
        **{
            name: getattr(cost, name)._asdict()
            for name in ("policy", "accept_all", "at_cheapest")
        },
        "look_at_all": cost.look_at_all,
        "cheapest": cost.cheapest if cost.cheapest < float("inf") else None,
        "is_certified": cost.is_certified,
    }


def _answer(as_json: bool, found: dict[str, Any], told: str) -> None:
    typer.echo(json.dumps(found, ensure_ascii=False, indent=2) if as_json else told)


def _tell(said: str) -> None:
    typer.echo(said, err=True)
