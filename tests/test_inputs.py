"""Every public function that takes data, with every kind of bad or odd data.

The functions are found in the packages, and a valid call of each is built of what its
arguments are called: a new function joins by itself. What is odd but sound gives the
result of plain arrays; what is bad is refused, and the error names the argument.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers import calibration, decisions, finetune, metrics, plots
from helpers.classifier import LLMClassifier
from helpers.finetune import run

FIGURE = Figure()
MODELS: dict[str, Any] = {}  # a tiny model, once there is one
PACKAGES = (
    "metrics calibration decisions uncertainty sampling self_report plots finetune "
    "datasets"
).split()

# Valid arguments -----------------------------------------------------------------

N = 8
P = np.array([0.5, 0.625, 0.75, 0.875, 0.9375, 0.5625, 0.8125, 0.6875])
Y = np.array([1, 0, 1, 1, 1, 0, 0, 1])
NAMES = np.array(["x", "y", "x", "x", "y", "y", "x", "y"], dtype=object)
TRUE = np.array([0, 1, 0, 0, 1, 1, 0, 1])
ROWS = np.stack([P, 1 - P], axis=1)
TEXTS = np.array([f"film {at}" for at in range(N)], dtype=object)
PLATT = calibration.PlattScalingCalibrator()
COSTS = decisions.Costs(error=8, review=1)
SCORES = pd.DataFrame(
    {
        "p_x": P,
        "p_y": 1 - P,
        "off_label": P / 4,
        "prediction": "x",
        "confidence": P,
        "correct": Y,
    }
)
VOTES = pd.DataFrame({"x": [3, 1] * 4, "y": [1, 3] * 4, "invalid": [0, 1] * 4})


@dataclass(frozen=True)
class Data:
    """A valid value of an argument: of numbers, outcomes, labels, …"""

    kind: str
    value: Any


NUMBERS = Data("numbers", P)
OUTCOMES = Data("outcomes", Y)
ROW_DATA = Data("rows", ROWS)
WORDS = np.where(TRUE, "positive", "negative").astype(object)


def labels(value: Any = NAMES) -> Data:
    return Data("labels", value)


def table(value: pd.DataFrame = SCORES) -> Data:
    return Data("table", value)


# By the names of arguments; those that are not of class Data are settings.
GIVEN: dict[str, Any] = {
    **dict.fromkeys("confidence scores first values reference a".split(), NUMBERS),
    **dict.fromkeys(("second", "b"), Data("numbers", 1 - P)),
    "weights": Data("numbers", P + 1),
    "current": Data("numbers", P**2),
    **dict.fromkeys(("correct", "accepted"), OUTCOMES),
    **dict.fromkeys(("predicted", "prediction", "stratify"), labels()),
    "truth": labels(TRUE),
    "groups": labels(np.arange(N) // 2),
    "strata": labels(np.arange(N) // 4),
    "clusters": labels(np.arange(N) // 2),
    "ids": labels(np.arange(N) + 100),
    **dict.fromkeys(("probabilities", "sample_targets"), ROW_DATA),
    "truth_onehot": Data("rows", np.eye(2)[TRUE]),
    **dict.fromkeys(("table", "base", "tuned"), table()),
    "votes": table(VOTES),
    "signals": table(SCORES[["p_x", "off_label"]]),
    "cases": table(pd.DataFrame({"text": TEXTS, "body_part": 1})),
    **dict.fromkeys(("texts", "X", "prompts", "reviews"), Data("texts", TEXTS)),
    "y": labels(WORDS),
    "predictions": labels(WORDS),
    "confidences": Data("named", {"raw": P}),
    **dict.fromkeys(
        ("members", "probabilities_by_order"), Data("stack", [ROWS, ROWS[:, ::-1]])
    ),
    # Settings.
    **dict.fromkeys(("model", "classifier", "ensemble")),
    "binning": metrics.Binning(2),
    "budget": 3,
    "calibrator": PLATT,
    "costs": COSTS,
    **dict.fromkeys(("n_bins", "n_passes", "n_splits"), 2),
    **dict.fromkeys(("n_resamples", "n_simulations"), 9),
    "promised": 0.9,
    "question": "Sure?",
    "rng": 0,
    "seeds": [0],
    "shares": {0: 0.5, 1: 0.5},
    "sizes": [6],
    **dict.fromkeys(("max_risk", "power", "strength", "threshold"), 0.5),
    "target": 0.2,
    "thresholds": {"x": 0.5},
    "orders": [("x", "y"), ("y", "x")],
    "how": "few-shot",
    "max_new_tokens": 1,
    "settings": finetune.TrainingSettings(finetune.Lora(layers=1), epochs=1),
    "validation": (["a joy", "a bore"], ["positive", "negative"]),
}
# Where a name means something else than elsewhere.
_OF_ROWS = {"scores": ROW_DATA, "correct": labels(TRUE)}
OTHERWISE: dict[str, dict[str, Any]] = {
    "CombinedConfidence": {"scores": table(SCORES[["p_x", "off_label"]])},
    **dict.fromkeys(
        "MulticlassTemperatureScaling TopLabelCalibrator TopVersusAll".split(), _OF_ROWS
    ),
    "VectorScaling": _OF_ROWS,
    "CalibrationSums.of": {"n_cells": 4},
    "choose_threshold": {"grid": [0.5, 0.75]},
    "choose_thresholds_per_class": {"grid": [0.5, 0.75]},
    "agreement": {"prediction": labels(np.where(TRUE, "x", "y").astype(object))},
    "agreement_targets": {"votes": table(VOTES[["x", "y"]])},
    "accuracy_above_table": {"thresholds": [0.5]},
    "compare": {"truth": labels()},
    "cost_curve": {"thresholds": [0.5]},
    "grouped_split": {"shares": (0.5, 0.25, 0.25)},
    "labels_needed": {"most": 1000},
    "near_duplicates": {"groups": labels(NAMES)},
    "noise_floor": {"measure": None},
    "paired_difference": dict.fromkeys("ab", Data("pair", (P, Y))),
    "class_gap_difference": {"confidences": Data("pair", (P, Y))},
    "plot_reliability_diagram": {"report": NUMBERS, "points": False},
    "review_queue": {"costs": None, "threshold": None},
    "sample_votes": {"n": 3},
    "resample_label_shift": {"n": 5},
    "winners_share": {
        "probabilities": Data("numbers", np.array([0.5, 0.25, 0.25])),
        "n": 3,
    },
    "ConformalSets.fit": {"level": 0.5},
    "LLMClassifier.score_table": {"truth": labels(WORDS)},
    "neiss_log_proba": {"how": "other"},
    "measure_neiss": {"how": "other"},
}
# Settings and results of other functions: who takes nothing else takes no data.
NO_DATA = set(
    """actual after answer answered ax axes before certified curves delta errors folder
    key labels logprobs maps max_risk measure model path promised question report
    reports shares stored tokens width other how every name text low high split
    raw""".split()
)
NOT_TRIED = {
    "measure_review_signals": "loads a model: its texts are those of a classifier",
    "measure_neiss": "what neiss_log_proba gives",
    "neiss_log_proba": "loads a model",
}
# What errors call an argument, where not by its own name.
CALLED = {
    "X": "texts|X",
    "a": "of a|a must",
    "b": "of b|b must",
    "confidences": "raw|confidences",
    "report": "confidence|report",
    "table": "table|confidence|prediction|correct",
    "base": "base|truth",
}
# Odd data that have a meaning of their own.
MEANT = {
    ("CalibrationSums.of", "correct", "missing"),  # not labelled yet
    ("joined_groups", "groups", "missing"),  # joins nothing
    ("grouped_split", "groups", "missing"),
    ("grouped_split", "stratify", "missing"),  # a stratum of its own
    ("grouped_split", "groups", "2-D"),
    ("grouped_split", "stratify", "2-D"),
    ("joined_groups", "groups", "2-D"),
    ("brier_score", "probabilities", "2-D"),
    ("log_loss", "probabilities", "2-D"),
}
OF_ANOTHER_LENGTH = {"winners_share"}
# Rows of their own.
UNPAIRED = {
    ("score_drift", "current"),
}
MEANT |= {
    ("score_drift", name, kind)
    for name in ("reference", "current")
    for kind in ("longer", "shorter")
}


# The functions -------------------------------------------------------------------


class Ready(Exception):
    """A training would begin, with these data."""


@dataclass(frozen=True)
class Call:
    """A function, and arguments by their names with which it works."""

    name: str
    function: Callable[..., Any]
    data: dict[str, Data]
    settings: dict[str, Any]

    def __call__(self, **changed: Any) -> Any:
        plain = {name: copy.deepcopy(data.value) for name, data in self.data.items()}
        arguments = self.settings | plain | changed
        if "ax" in inspect.signature(self.function).parameters:
            # What was refused has drawn nothing.
            if len(FIGURE.axes) != 1 or FIGURE.axes[0].get_children()[10:]:
                FIGURE.clear()
                FIGURE.add_subplot()
            arguments["ax"] = FIGURE.axes[0]
        arguments |= {name: MODELS[name] for name in arguments if name in MODELS}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return described(self.function(**arguments))
            except Ready as ready:
                return described(ready.args)
            finally:
                plt.close("all")


def arguments_of(name: str, function: Any) -> tuple[dict[str, Data], dict[str, Any]]:
    """Data and settings for a function; an error where an argument is unknown."""
    given = GIVEN | OTHERWISE.get(name.split(".")[0], {}) | OTHERWISE.get(name, {})
    data: dict[str, Data] = {}
    settings: dict[str, Any] = {}
    for called, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if isinstance(given.get(called), Data):
            data[called] = given[called]
        elif called in given:
            settings[called] = given[called]
        elif parameter.default is parameter.empty and called not in NO_DATA | {
            "self",
            "cls",
        }:
            raise LookupError(
                f"{name} has the argument {called!r}, which this matrix does not know: "
                "put a valid value into GIVEN, or the name into NO_DATA."
            )
    return data, settings


def exported() -> Iterator[tuple[str, Any]]:
    """What the packages export, and the classifier."""
    for package in PACKAGES:
        module = importlib.import_module(f"helpers.{package}")
        for name, found in vars(module).items():
            own = getattr(found, "__module__", "").startswith(module.__name__)
            if own and callable(found) and not name.startswith("_"):
                yield name, found
    yield "LLMClassifier", LLMClassifier


def instance(cls: type, fitted: bool) -> Any:
    """An object of a class, fitted on plain data if it is to be."""
    if cls is LLMClassifier:
        return MODELS["classifier"]
    made = {
        "Buckets": decisions.TRUST_BUCKETS,
        "Policy": decisions.Policy(decisions.TRUST_BUCKETS),
        "ConformalSets": decisions.ConformalSets(0.5),
        "TopVersusAll": calibration.TopVersusAll(PLATT),
        "TopLabelCalibrator": calibration.TopLabelCalibrator(PLATT),
    }.get(cls.__name__)
    if made is None:
        made = cls(**arguments_of(cls.__name__, cls)[1])
    made = copy.deepcopy(made)
    if fitted and hasattr(made, "fit"):
        data, _ = arguments_of(f"{cls.__name__}.fit", made.fit)
        made.fit(**{name: one.value for name, one in data.items() if name != "ids"})
    return made


def calls_of(name: str, found: Any) -> Iterator[Call]:
    """The calls that an exported function or class makes."""
    if not inspect.isclass(found):
        data, settings = arguments_of(name, found)
        if data and name not in NOT_TRIED:
            yield Call(name, found, data, settings)
        return
    for method in dir(found):
        attribute = inspect.getattr_static(found, method)
        plain = attribute.__func__ if isinstance(attribute, classmethod) else attribute
        ours = getattr(plain, "__module__", None) or ""
        whole = f"{name}.{method}"
        if (
            method.startswith("_")
            or not (inspect.isfunction(plain) and ours.startswith("helpers"))
            or whole in NOT_TRIED
            or not set(inspect.signature(plain).parameters) & set(GIVEN)
        ):
            continue
        data, settings = arguments_of(whole, plain)
        if data:
            yield Call(whole, _method(found, attribute, method), data, settings)


def _method(cls: Any, attribute: Any, method: str) -> Callable[..., Any]:
    if isinstance(attribute, classmethod):
        return getattr(cls, method)

    def call(**arguments: Any) -> Any:
        made = instance(cls, fitted=method != "fit")
        result = getattr(made, method)(**arguments)
        if method == "fit" and hasattr(made, "predict"):
            data, _ = arguments_of(f"{cls.__name__}.predict", made.predict)
            plain = {name: one.value for name, one in data.items() if name != "ids"}
            return made.predict(**plain)
        return getattr(made, "e_value", result) if method == "update" else result

    return call


EXPORTED = dict(exported())


def is_abstract(found: Any) -> bool:
    """A base of other exported classes, which does nothing by itself."""
    others = [other for other in EXPORTED.values() if inspect.isclass(other)]
    return any(found in other.__mro__[1:] for other in others)


CALLS = {
    call.name: call
    for name, found in EXPORTED.items()
    if not is_abstract(found) and name not in ("FineTuned", "Calibrated")
    for call in calls_of(name, found)
}


@pytest.fixture(autouse=True)
def with_a_model(tiny_gpt2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks a model asks a tiny one, and training stops before it begins."""
    made = LLMClassifier(
        tiny_gpt2, ["negative", "positive"], "Review: {text}\nLabel:", cache=False
    )
    member = SimpleNamespace(classifier=made)
    found = {"model": tiny_gpt2, "classifier": made, "ensemble": [member]}
    monkeypatch.setattr(sys.modules[__name__], "MODELS", found)
    make_task = run.Task

    def ready(*arguments: Any, **more: Any) -> None:
        task = make_task(*arguments, **more)
        raise Ready([task.truth, task.targets])

    monkeypatch.setattr(run, "Task", ready)


# Odd data ------------------------------------------------------------------------


def sound(data: Data) -> Iterator[tuple[str, Any]]:
    """The same data in other containers and types."""
    value = data.value
    if data.kind == "pair":
        yield from ((kind, (odd, Y)) for kind, odd in sound(NUMBERS))
    elif data.kind == "named":
        yield from ((kind, {"raw": odd}) for kind, odd in sound(NUMBERS))
    elif data.kind == "stack":
        yield from ((kind, [odd, value[1]]) for kind, odd in sound(ROW_DATA))
    elif data.kind == "table":
        yield "nullable", value.convert_dtypes()
        yield "Arrow", value.convert_dtypes(dtype_backend="pyarrow")
        yield "object", value.astype(object)
    else:
        yield "list", value.tolist()
        yield "object", value.astype(object)
        yield "unmasked", np.ma.array(value)
        if data.kind in ("numbers", "rows") and value.dtype == float:
            yield "float32", value.astype(np.float32)
        frame = pd.DataFrame(value) if value.ndim == 2 else pd.Series(value)
        if data.kind != "rows" or value.dtype == float:
            yield "nullable", frame.convert_dtypes()
            yield "Arrow", frame.convert_dtypes(dtype_backend="pyarrow")
        if value.ndim == 1:
            yield "pandas", frame
            yield "Arrow array", pa.array(value.tolist())
            classes = [*dict.fromkeys(value.tolist()), 0.03125]
            yield "unused classes", pd.Series(pd.Categorical(value, classes))


def bad(data: Data, *, alone: bool) -> Iterator[tuple[str, Any]]:
    """Data with something in them that no result can be right with."""
    value = data.value
    if data.kind == "pair":
        yield from ((kind, (odd, Y)) for kind, odd in bad(NUMBERS, alone=False))
        yield from ((kind, (P, odd)) for kind, odd in bad(OUTCOMES, alone=False))
    elif data.kind == "named":
        yield from ((k, {"raw": odd}) for k, odd in bad(NUMBERS, alone=False))
    elif data.kind == "stack":
        yield from ((k, [odd, value[1]]) for k, odd in bad(ROW_DATA, alone=False))
        masked = np.ma.array(value, mask=np.zeros((2, N, 2)))
        masked[0, 0, 0] = np.ma.masked
        yield "masked", masked
    elif data.kind == "table":
        yield "equal names", pd.concat([value, value.iloc[:, :1]], axis=1)
        yield "no table", value.to_numpy()
    else:
        mask = np.zeros(value.shape, dtype=bool)
        mask.flat[0] = True
        yield "masked", np.ma.array(value, mask=mask)
        if value.ndim == 1:
            yield "masked", [np.ma.masked, *value[1:].tolist()]
            yield "2-D", np.stack([value, value], axis=1)
            for none in (None, np.nan, pd.NA, pd.NaT):
                yield "missing", [none, *value[1:].tolist()]
                yield "missing", pd.Series([none, *value[1:].tolist()], dtype=object)
            gaps = pd.Series(value).convert_dtypes().mask(mask)
            yield "missing", gaps
            yield "missing", gaps.convert_dtypes(dtype_backend="pyarrow")
            yield "missing", pd.Series(value).where(~mask).astype("category")
        else:
            holes = value.astype(object)
            holes[0, 0] = None
            yield "missing", holes
            yield "missing", pd.DataFrame(holes)
            names = ["p_x", "x"]
            yield "equal names", pd.DataFrame(value, columns=names)
            yield "equal names", pd.DataFrame(value, columns=["p_x", "p_x"])
        if data.kind in ("numbers", "rows"):
            odd = value.astype(float)
            odd.flat[0] = np.inf
            yield "infinite", odd
            yield "text", np.where(mask, "high", value.astype(object))
        if data.kind == "texts":
            yield "one text", "film"
            yield "numbers", [1, *value[1:]]
        if not alone:
            yield "longer", np.concatenate([value, value[:1]])
            yield "shorter", value[1:]


def described(result: Any) -> Any:
    """A result in plain numbers, words and lists."""
    if isinstance(result, Axes):
        lines = [line.get_xydata() for line in result.lines]
        boxes = (bar for bar in result.patches if isinstance(bar, Rectangle))
        bars = [bar.get_bbox().bounds for bar in boxes]
        points = [dots.get_offsets() for dots in result.collections]
        said = [text.get_text() for text in result.texts]
        return described([lines, bars, points, said])
    if is_dataclass(result) and not isinstance(result, type):
        return {at.name: described(getattr(result, at.name)) for at in fields(result)}
    if isinstance(result, calibration.Calibrated):
        return [np.asarray(result).tolist(), result.fitted_on.tolist()]
    if isinstance(result, pd.DataFrame):
        columns = [result[name].astype(object).tolist() for name in result.columns]
        return described([list(result.columns), list(result.index), columns])
    if isinstance(result, (pd.Series, pd.Index)):
        return described([list(getattr(result, "index", [])), result.tolist()])
    if isinstance(result, np.ndarray):
        return described(result.tolist())
    if isinstance(result, Mapping):
        return {name: described(value) for name, value in result.items()}
    if isinstance(result, (list, tuple)):
        return [described(part) for part in result]
    return result


def same(one: Any, other: Any) -> bool:
    """Whether results are equal but for rounding."""
    if isinstance(one, dict):
        return set(one) == set(other) and all(same(one[at], other[at]) for at in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return bool(np.isclose(one, other, rtol=1e-5, atol=1e-7, equal_nan=True))
    return bool(one is other or one == other)


def refusal(call: Call, names: list[str], **changed: Any) -> str | None:
    """None where a call is refused by one of these names; else what is wrong."""
    try:
        call(**changed)
    except (TypeError, ValueError) as error:
        for name in names:
            if re.search(rf"\b({CALLED.get(name, name)})\b", str(error)):
                return None
        return f"is refused without the argument's name: {error}"
    except Exception as error:
        return f"fails by accident: {error!r}"
    return "is taken without a word"


def first(value: Any, n: int) -> Any:
    """The first rows of data."""
    if isinstance(value, dict):
        return {name: first(one, n) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([first(one, n) for one in value])
    return value[:n]


def in_pandas(value: Any, index: list[str], order: list[int]) -> Any:
    """Data with an index, both in another order."""
    if isinstance(value, dict):
        return {name: in_pandas(one, index, order) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([in_pandas(one, index, order) for one in value])
    if isinstance(value, pd.DataFrame):
        return value.set_axis(index, axis=0).iloc[order]
    make = pd.DataFrame if np.ndim(value) == 2 else pd.Series
    return make(value, index=index).iloc[order]


# What must hold ------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_odd_containers_and_types(name):
    call = CALLS[name]
    plain = call()
    faults = []
    # Drawing takes long: each figure tries a part of the kinds, together they try all.
    begin, step = ([*CALLS].index(name) % 4, 4) if name in plots.__all__ else (0, 1)
    kinds = [[*islice(sound(data), begin, None, step)] for data in call.data.values()]
    # Each argument in turn of another kind than its neighbour, as many calls as kinds.
    for at in range(max(map(len, kinds))):
        odd = {
            argument: some[(at + place) % len(some)]
            for place, (argument, some) in enumerate(zip(call.data, kinds, strict=True))
            if some
        }
        with suppress(TypeError, ValueError):
            if same(
                call(**{argument: value for argument, (_, value) in odd.items()}), plain
            ):
                continue
        for argument, (kind, value) in odd.items():
            try:
                if not same(call(**{argument: value}), plain):
                    faults.append(f"{kind} as {argument}: another result")
            except (TypeError, ValueError):
                fault = refusal(call, [argument], **{argument: value})
                faults += [f"{kind} as {argument} {fault}"] if fault else []
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", CALLS)
def test_bad_data_are_refused_by_name(name):
    call = CALLS[name]
    faults = []
    for argument, data in call.data.items():
        for kind, value in bad(data, alone=len(call.data) == 1):
            if (name, argument, kind) in MEANT:
                continue
            # Of two lengths either is the other one.
            names = [*call.data] if kind in ("longer", "shorter") else [argument]
            fault = refusal(call, names, **{argument: value})
            faults += [f"{kind} as {argument} {fault}"] if fault else []
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", CALLS)
def test_no_rows_and_one_row(name):
    call = CALLS[name]
    faults = []
    for n in (0, 1):
        cut = {argument: first(data.value, n) for argument, data in call.data.items()}
        names = [*call.data, *call.settings, *CALLED, "n_bins"]
        fault = refusal(call, names, **cut)
        if fault and fault != "is taken without a word":
            faults.append(f"{n} rows: {fault}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", CALLS)
def test_pandas_data_are_paired_by_index(name):
    call = CALLS[name]
    argument, *others = call.data
    index, order = list("stuvwxyz"), [3, 7, 0, 5, 1, 6, 2, 4]
    if not others or name in OF_ANOTHER_LENGTH:
        return
    whole = list(range(N))
    given = {at: in_pandas(one.value, index, whole) for at, one in call.data.items()}
    expected = call(**given)
    faults = []
    for other in others:
        value = call.data[other].value
        shuffled = in_pandas(value, index, order)
        if not same(call(**given | {other: shuffled}), expected):
            faults.append(f"{other} in another order: another result")
        if (name, other) in UNPAIRED:
            continue
        stranger = in_pandas(value, [*index[:-1], "other"], whole)
        fault = refusal(call, [other], **given | {other: stranger})
        faults += [f"{other} with another index {fault}"] if fault else []
    assert not faults, "\n".join(faults)


def test_a_new_function_has_to_be_known():
    def new(confidence, moons): ...

    with pytest.raises(LookupError, match="new has the argument 'moons'"):
        arguments_of("new", new)
    assert len(CALLS) > 90
