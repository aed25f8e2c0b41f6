"""The recommended calibrator: what it learns from how many labels, and how surely."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from helpers.calibration import (
    Calibrated,
    ProbabilityCalibrator,
    VectorScaling,
    cross_fitted,
    from_dict,
    load_calibrator,
)
from helpers.metrics import brier_score, calibration_metrics, log_loss


def _draw(logits, rng):
    """True classes drawn from softmax(logits)."""
    p = softmax(logits, axis=1)
    return (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1)


def _leaning(n, k=3, seed=0, shift=2.0, scale=1.8):
    """Label probabilities that are too sure and lean to the first, with the truth."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, k))
    lean = np.eye(k)[0] * shift
    return softmax(scale * logits + lean, axis=1), _draw(logits, rng)


def _pieces(logs, knots):
    """The columns of a curve that is linear between knots, and flat beyond them."""
    return np.stack([np.interp(logs, knots, hat) for hat in np.eye(len(knots))])


def _map(theta, logs, knots):
    """Logits, written out; after the shared weight and curve come three by label."""
    k, m = logs.shape[1], len(knots)
    curve = np.tensordot(theta[1 : m + 1], _pieces(logs, knots), 1)
    z = (1 + theta[0]) * logs + curve
    for at, one in enumerate(theta[m + 1 :].reshape(k, -1)):
        z[:, at] += one[0] * logs[:, at] + one[1]
        others = [other for other in range(k) if other != at]
        for other, weight in zip(others, one[2:], strict=True):
            z[:, at] += weight * (logs[:, other] - logs[:, other].mean())
    return z


def _posterior(found, rows, truth):
    """The negative log of likelihood and priors, as a function of the parameters."""
    logs, knots = np.log(rows), found.knots_
    shared, own, shift, between, curve = found.widths_
    k = logs.shape[1]
    by_label = [own, shift, *[between] * (k - 1)]
    widths = np.array([shared, *[curve] * len(knots), *by_label * k])

    def loss(theta, widths=widths):
        fit = log_softmax(_map(theta, logs, knots), axis=1)[range(len(logs)), truth]
        return ((theta / widths) ** 2).sum() / 2 - fit.sum()

    return loss, widths


def test_it_is_the_mode_that_an_optimiser_finds():
    rows, truth = _leaning(120)
    found = ProbabilityCalibrator().fit(rows, truth)
    loss, widths = _posterior(found, rows, truth)
    best = minimize(loss, np.zeros(len(widths)), method="BFGS", tol=1e-10).x
    expected = softmax(_map(best, np.log(rows), found.knots_), axis=1)
    np.testing.assert_allclose(found.predict(rows), expected, atol=1e-5)


def test_widths_are_those_of_the_greatest_marginal_likelihood():
    rows, truth = _leaning(200, shift=3, scale=2)
    rows = softmax(np.log(rows) + np.log(rows) @ np.eye(3)[[1, 0, 2]] / 2, axis=1)
    found = ProbabilityCalibrator().fit(rows, truth)
    loss, widths = _posterior(found, rows, truth)
    part = np.array([0, *[4] * len(found.knots_), *[1, 2, 3, 3] * 3])
    sizes = np.array([0.5, 0.1, 0.5, 0.03, 0.1])

    def evidence(width):
        sd = width[part]
        mode = minimize(loss, found.parameters_, args=(sd,), tol=1e-8).x
        step, eye = 1e-3, np.eye(len(mode))
        moved, (below, columns) = np.zeros(eye.shape), np.tril_indices(len(mode))
        moved[below, columns] = moved[columns, below] = [
            loss(mode + step * (a + b), sd)
            for a, b in zip(eye[below], eye[columns], strict=True)
        ]
        alone = np.array([loss(mode + step * a, sd) for a in eye])
        hessian = moved - alone[:, None] - alone + loss(mode, sd)
        volume = np.linalg.slogdet(hessian / step**2 * sd[:, None] * sd)[1]
        # A share of a number of this size is taken for seen.
        more = 0.3 * (-np.log(width) - (sizes / width) ** 2 / 2)
        return -loss(mode, sd) - volume / 2 + more[1:].sum()

    top = evidence(found.widths_)
    for at in range(1, 5):
        for factor in (0.6, 1.7):
            others = found.widths_.copy()
            others[at] *= factor
            assert evidence(others) < top + 0.05


@pytest.mark.parametrize("n", [1, 5, 30])
@pytest.mark.parametrize("right", [True, False])
def test_labels_of_one_kind_give_a_finite_map(n, right):
    scores = np.linspace(0.5, 1, n)
    found = ProbabilityCalibrator().fit(scores, [right] * n)
    p = np.asarray(found.predict([0.0, 0.5, 0.9, 1.0]))
    assert np.isfinite(p).all()
    assert np.isfinite(log_loss([found.predict([0.9])[0]], [not right]))
    moved = p[2] - 0.9
    assert moved > 0 if right else moved < 0


def test_a_confidence_is_two_probabilities():
    rng = np.random.default_rng(0)
    scores = rng.random(200)
    right = rng.random(200) < scores**2
    one = ProbabilityCalibrator().fit(scores, right)
    both = np.column_stack([1 - scores, scores])
    two = ProbabilityCalibrator().fit(both, right.astype(int))
    np.testing.assert_allclose(one.predict(scores), two.predict(both)[:, 1])
    np.testing.assert_allclose(
        one.predict_interval(scores), two.predict_interval(both)[:, 1]
    )
    with pytest.raises(ValueError, match="must be confidences, as in fit, not label"):
        one.predict(both)
    with pytest.raises(ValueError, match="must be label probabilities, as in fit"):
        two.predict(scores)


@settings(max_examples=10)
@given(st.permutations(range(4)), st.integers(0, 50))
def test_the_order_of_labels_does_not_matter(order, seed):
    rows, truth = _leaning(60, k=4, seed=seed)
    plain = ProbabilityCalibrator().fit(rows, truth).predict(rows)
    places = np.argsort(order)
    turned = ProbabilityCalibrator().fit(rows[:, order], places[truth])
    found = turned.predict(rows[:, order])
    np.testing.assert_allclose(found, np.asarray(plain)[:, order], atol=1e-6)


def test_little_is_learned_where_there_is_little_to_mend():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, (2000, 4))
    rows, truth = softmax(logits, axis=1), _draw(logits, rng)
    found = ProbabilityCalibrator().fit(rows, truth)
    assert found.n_parameters_ < 14
    assert np.abs(np.asarray(found.predict(rows)) - rows).mean() < 0.02


def test_a_leaning_is_mended_and_told():
    rows, truth = _leaning(4000, shift=4)
    few = slice(0, 100)
    table = pd.DataFrame(rows, columns=["p_a", "p_b", "p_c"])
    names = np.array(["a", "b", "c"])[truth]
    found = ProbabilityCalibrator().fit(table[few], names[few])
    mended = np.asarray(found.predict(table))
    raw = (rows.argmax(axis=1) == truth).mean()
    assert (mended.argmax(axis=1) == truth).mean() > raw + 0.1
    assert "a shift for each label" in found.choice_
    assert "from 100 labels" in found.choice_
    assert 2 < found.n_parameters_ < 7
    # The scale was 1.8, the shift 4 towards the first.
    best = np.asarray(ProbabilityCalibrator().fit(rows, truth).predict(rows))
    true = softmax((np.log(rows) - 4 * np.eye(3)[0]) / 1.8, axis=1)
    assert np.abs(best - true).mean() < 0.02


def test_labels_that_are_mistaken_for_each_other_are_told_apart():
    """What the third label says tells the first two apart: matrix, not vector."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (3000, 3))
    truth = _draw(logits, rng)
    mixed = logits @ [[1, 0, 0], [0, 1, 0], [0.8, -0.8, 1]]
    rows = softmax(mixed, axis=1)
    found = ProbabilityCalibrator().fit(rows[:400], truth[:400])
    few = VectorScaling(penalty=1e-3).fit(rows[:400], truth[:400])
    ours, theirs, best = (
        brier_score(np.asarray(p)[400:], truth[400:])
        for p in (found.predict(rows), few.predict(rows), softmax(logits, axis=1))
    )
    assert best < ours < theirs - 0.03
    assert "weights of labels on each other" in found.choice_


def test_a_bend_is_learned():
    """Right most often in the middle: no map of few numbers can say so."""
    rng = np.random.default_rng(0)
    scores = rng.random(4000)
    true = 0.5 + 0.4 * np.sin(6 * scores)
    right = rng.random(4000) < true
    found = ProbabilityCalibrator().fit(scores, right)
    assert np.abs(np.asarray(found.predict(scores)) - true).mean() < 0.06
    assert "a curve that all labels share" in found.choice_


def test_intervals_cover_and_shrink():
    covered, widths = [], []
    for seed in range(20):
        rows, truth = _leaning(250, seed=seed)
        logits = np.log(rows) / 1.8 - np.array([2, 0, 0]) / 1.8
        found = ProbabilityCalibrator().fit(rows[:200], truth[:200])
        ends = np.asarray(found.predict_interval(rows[200:]))
        true = softmax(logits[200:], axis=1)
        covered.append(((ends[..., 0] <= true) & (true <= ends[..., 1])).mean())
        widths.append(np.diff(ends, axis=2).mean())
    assert 0.94 < np.mean(covered) < 0.995
    rows, truth = _leaning(2000)
    found = ProbabilityCalibrator().fit(rows, truth)
    half, whole = (
        np.asarray(found.predict_interval(rows[:100], level=level))
        for level in (0.5, 0.95)
    )
    assert np.diff(whole, axis=2).mean() < np.mean(widths) / 2
    assert (half[..., 0] > whole[..., 0]).all() and (half[..., 1] < whole[..., 1]).all()


def test_intervals_do_not_hang_on_the_order_of_rows():
    rows, truth = _leaning(200)
    orders = [np.random.default_rng(seed).permutation(200) for seed in range(8)]
    first, *others = (
        np.asarray(
            ProbabilityCalibrator().fit(rows[at], truth[at]).predict_interval(rows)
        )
        for at in orders
    )
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-9)


def test_saved_and_read_again(tmp_path):
    rows, truth = _leaning(80)
    for scores, right in ((rows, truth), (rows[:, 0], truth == 0)):
        found = ProbabilityCalibrator().fit(scores, right)
        found.save(tmp_path / "map.json")
        again = load_calibrator(tmp_path / "map.json")
        np.testing.assert_array_equal(again.predict(scores), found.predict(scores))
        assert again.choice_ == found.choice_
        with pytest.raises(ValueError, match="not one that was read from a file"):
            again.predict_interval(scores)


def test_a_report_tells_the_luck_of_the_labels_from_misfit():
    """The map has the right form: its error passes the plain floor, not its own."""
    plain, own = [], []
    for seed in range(6):
        rows, truth = _leaning(2200, seed=seed)
        found = ProbabilityCalibrator().fit(rows[:100], truth[:100])
        p = found.predict(rows[100:])
        right = np.asarray(p).argmax(axis=1) == truth[100:]
        report = calibration_metrics(p.max(axis=1), right, n_resamples=100)
        plain.append(report.ece <= report.floor.upper)
        own.append("cannot be told from a perfect forecaster" in report.verdict)
        assert report.fitted_floor.upper > report.floor.upper
    assert np.mean(plain) < 0.7 < 0.8 <= np.mean(own)
    assert "100 labels" in str(report)


def test_a_report_tells_misfit():
    rng = np.random.default_rng(0)
    scores = rng.random(6000)
    right = rng.random(6000) < 0.5 + 0.45 * np.sin(8 * scores)
    found = ProbabilityCalibrator().fit(scores[:3000], right[:3000])
    report = calibration_metrics(found.predict(scores[3000:]), right[3000:])
    assert report.ece > report.fitted_floor.upper
    assert "more than chance and the labels fitted on explain" in report.verdict


def test_what_a_prediction_knows_stays_with_it():
    """Whatever becomes of the calibrator, of the data, or of the values."""
    rows, truth = _leaning(300)
    given = rows[200:].copy()
    found = ProbabilityCalibrator().fit(rows[:200], truth[:200])
    top = found.predict(given).max(axis=1)

    def drawn():
        return next(top.plausible(1, np.random.default_rng(0)))

    kept = drawn()
    found.fit(rows[:50], truth[:50])
    given[:] = 1 / 3
    np.testing.assert_array_equal(drawn(), kept)
    assert top.n_labels == top[::2].n_labels == 200
    assert np.max(found.predict(rows), axis=1).n_labels == 50
    square = found.predict(np.vstack([rows[:1], rows[250:252]]))
    for changed in (top**2, np.concatenate([top, top]), square.max(axis=0)):
        assert changed.n_labels is None
        assert changed.plausible(1, np.random.default_rng(0)) is None
    top *= 0.9
    assert top.n_labels is None
    marked = Calibrated(np.eye(3), [True, False, False], known=True)
    assert np.max(marked, axis=0)[1:].evaluation == "in-sample"
    assert np.max(marked, axis=1)[1:].evaluation == "held-out"


def test_it_is_cross_fitted_and_refitted():
    rng = np.random.default_rng(0)
    scores = rng.random(100)
    right = rng.random(100) < scores
    found = ProbabilityCalibrator()
    assert cross_fitted(found, scores, right).shape == (100,)
    rows, truth = _leaning(60)
    found.fit(rows, truth)
    before = np.asarray(found.predict(rows))
    with pytest.raises(ValueError, match="correct must be one of the classes"):
        found.fit(rows, ["zz"] * 60)
    np.testing.assert_array_equal(found.predict(rows), before)
    assert found.fit(scores, right).predict(scores).shape == (100,)


def test_a_file_whose_parts_do_not_fit_is_refused():
    rows, truth = _leaning(60)
    stored = ProbabilityCalibrator().fit(rows, truth).to_dict()
    for name, value in (("classes_", [0, 1]), ("parameters_", {"array": [0.0] * 3})):
        wrong = {**stored, "fitted": {**stored["fitted"], name: value}}
        with pytest.raises(ValueError, match="must fit together"):
            from_dict(wrong)


def test_a_claim_counts_where_below_would_have_been_recognised():
    rng = np.random.default_rng(0)
    scores = rng.random(400)
    right = rng.random(400) < scores
    names = [f"row {at}" for at in range(400)]
    for digits, ids, stated in (
        (8, None, "held-out"),
        (1, None, "unstated"),
        (1, names, "held-out"),
    ):
        given = scores.round(digits)
        before, after = (ids and ids[part] for part in (slice(200), slice(200, None)))
        found = ProbabilityCalibrator().fit(given[:200], right[:200], ids=before)
        p = found.predict(given[200:], ids=after)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            report = calibration_metrics(p, right[200:], evaluation="held-out")
        assert report.evaluation == stated
        says = [str(w.message) for w in told]
        assert any("not believed" in one and "ids" in one for one in says) == (
            stated == "unstated"
        )


def test_rounded_probabilities_are_put_right():
    found = brier_score([[0.34, 0.34, 0.33]], [0])
    whole = brier_score(np.array([[0.34, 0.34, 0.33]]) / 1.01, [0])
    assert found == pytest.approx(whole, abs=1e-12)
    for wrong in ([[0.34, 0.34, 0.35]], [[0.0, 0.0, 0.0]], [[0.341, 0.342, 0.333]]):
        with pytest.raises(ValueError, match="must sum to one in each row"):
            brier_score(wrong, [0])
