"""Options of the command ``how-sure``, and what is made of some that go together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..decisions import Costs
    from ..hosted import HostedClassifier

File = Annotated[Path, typer.Argument(help="A CSV (UTF-8), Excel or Parquet file.")]
PolicyFile = Annotated[Path, typer.Argument(help="What decide or certify wrote.")]
Text = Annotated[str | None, typer.Option(help="Column of the texts.")]
Label = Annotated[str | None, typer.Option(help="Column of the labels.")]
Group = Annotated[
    str | None, typer.Option(help="Column of what rows share, such as a patient.")
]
NotRandom = Annotated[
    str | None,
    typer.Option(
        help="Column that marks rows not drawn at random, such as those that looked "
        "hard: they are learned from, not judged by."
    ),
]
PriceError = Annotated[float | None, typer.Option(help="What a wrong label costs.")]
PriceLook = Annotated[float | None, typer.Option(help="What a person's look costs.")]
Risk = Annotated[float, typer.Option(help="Largest share of wrong rows accepted.")]
Delta = Annotated[float, typer.Option(help="Probability that this fails.")]
Seed = Annotated[int, typer.Option(help="Of the division at random.")]
Out = Annotated[
    Path | None, typer.Option(help="Folder for what is written.", file_okay=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="A hub id or path; default: the embedded model. With --url, the name "
        "of the hosted model, beside which the embedded one is used."
    ),
]
Tune = Annotated[
    bool, typer.Option("--tune", help="Try a fine-tuned adapter of the model, too.")
]
Url = Annotated[
    str | None,
    typer.Option(
        help="Address of a hosted model to try, too, such as "
        "https://api.openai.com/v1; the key is read from OPENAI_API_KEY."
    ),
]
Prices = Annotated[
    str | None,
    typer.Option(help="Of the hosted model: dollars a million tokens, IN,OUT."),
]
Budget = Annotated[
    float | None, typer.Option(help="The most dollars to spend; needs --prices.")
]


def hosted_model(
    url: str | None, model: str | None, prices: str | None, budget: float | None
) -> HostedClassifier | None:
    """The hosted model that is asked for, if any."""
    if url is None:
        if prices is not None or budget is not None:
            raise ValueError(
                "--prices and --budget are for a hosted model: give --url."
            )
        return None
    if model is None:
        raise ValueError("--url needs --model, the name of the hosted model.")
    from ..hosted import HostedClassifier, Transport

    table = None
    if prices is not None:
        try:
            read, written = (float(price) for price in prices.split(","))
        except ValueError:
            raise ValueError(
                f"--prices must be two numbers, as in 0.15,0.60; not {prices!r}."
            ) from None
        table = {model: (read, written)}
    transport = Transport(budget=budget, prices=table)
    return HostedClassifier(url, model, transport=transport)


def prices_of_policy(error: float | None, look: float | None) -> Costs | None:
    """What an error and a look cost: both, or None."""
    from ..decisions import Costs

    if error is None and look is None:
        return None
    if error is None or look is None or not 0 < look < error < float("inf"):
        raise ValueError(
            "--price-error and --price-look go together, and an error costs more than "
            f"a look: 80 and 4, for instance, not {error} and {look}."
        )
    return Costs(error, look)
