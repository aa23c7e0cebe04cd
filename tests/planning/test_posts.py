"""Posts expected of a recipe's ranges, against HakuBooru's draws and against a database."""

import random

from repro.errors import StageError
from repro.params import Params, load_params

import pytest

from planning.posts import different_of_draws, expected_posts


def params(*overrides: str, recipe: str = "sample") -> Params:
    return load_params(f"recipes/{recipe}.yaml", list(overrides))


def test_draws_with_replacement_are_as_many_as_random_choices_gives() -> None:
    """facts of HakuBooru's script: a million draws of two and of three million posts."""
    assert different_of_draws(2_000_000, 1_000_000) == pytest.approx(787_041, rel=1e-3)
    assert different_of_draws(3_000_000, 1_000_000) == pytest.approx(850_290, rel=1e-3)
    drawn = len(set(random.Random(1).choices(range(20_000), k=10_000)))
    assert different_of_draws(20_000, 10_000) == pytest.approx(drawn, rel=0.02)
    assert (different_of_draws(1, 5), different_of_draws(10, 1)) == (1, 1)


def test_delta_and_epsilon_have_the_cards_posts() -> None:
    """Delta's 3,665,398 images are 98.2 % of what the script's draws give; Epsilon has 5.35 million posts."""
    delta = sum(r.chosen for r in expected_posts(params(recipe="kohaku-xl-delta")))
    assert 3_665_398 / delta == pytest.approx(0.982, abs=0.002)
    assert sum(r.chosen for r in expected_posts(params(recipe="kohaku-xl-epsilon"))) == 5_350_000


def test_the_database_is_counted_where_it_is_there() -> None:
    counted = expected_posts(params())
    assert all(r.counted for r in counted)
    assert [r.chosen for r in counted[:2]] == [220, 440]
    assert counted[2].chosen == counted[2].available < 2_999_999
    absent = expected_posts(params("ingest.database=not/there.db"))
    assert [(r.available, r.counted) for r in absent] == [(2_000_000, False), (3_000_000, False), (3_000_000, False)]


def test_a_range_that_asks_for_more_than_there_is_gives_all() -> None:
    (lone,) = expected_posts(params("select.ranges=[{first: 1, last: 10, take: 100}]", "ingest.database=not/there.db"))
    assert (lone.available, lone.chosen) == (10, 10)


def test_folders_give_what_is_taken_of_them() -> None:
    last = expected_posts(params(recipe="sotediffusion-base"))[-1]
    assert (last.name, last.available, last.chosen) == ("folder anime-wallpaper", None, 105_000)


def test_a_file_that_is_no_database_is_named(tmp_path) -> None:
    (tmp_path / "posts.db").write_bytes(b"no database, only text" * 100)
    with pytest.raises(StageError, match=r"posts\.db: cannot be read as a booru database .*ingest\.database"):
        expected_posts(params(f"ingest.database={tmp_path}/posts.db"))
