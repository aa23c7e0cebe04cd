"""Blocked tags: whole names, their kin by implication, and a list that cannot be emptied."""

from itertools import pairwise
from pathlib import Path

from repro.errors import StageError
from repro.params import ALWAYS_BLOCKED, load_params

import polars as pl
import pytest

from booru.filtering.blocked import blocked_ids, kin_of_tags, with_kin

TAGS = pl.DataFrame(
    [
        (1, "loli", 0), (2, "oppai_loli", 0), (3, "lollipop", 0), (4, "shotacon", 0), (5, "solo", 0), (6, "toddlercon", 4),
        (7, "loli_(artist)", 1), (8, "shota", 2), (9, "gore", 0), (10, "lolidom", 5),
    ],
    schema={"id": pl.Int32, "name": pl.String, "type": pl.Int64},
    orient="row",
)  # fmt: skip


def test_a_blocked_tag_blocks_its_kin():
    assert with_kin(["loli"]) == {"loli", *kin_of_tags()["loli"]}
    assert {"oppai_loli", "lolidom", "straight_shota", "shotacon"} <= with_kin(["loli", "shota"])
    assert with_kin(["solo"]) == {"solo"}
    assert with_kin([]) == set()


def test_the_shipped_kin_hold_what_is_always_blocked_in_their_names():
    for tag, kin in kin_of_tags().items():
        assert tag in ALWAYS_BLOCKED
        assert all(tag in name for name in kin)


def test_names_are_compared_whole_and_of_any_type():
    assert blocked_ids(TAGS, list(ALWAYS_BLOCKED)) == [1, 2, 4, 6, 8, 10]
    assert blocked_ids(TAGS, ["gore"]) == [9]
    assert blocked_ids(TAGS, ["no_such_tag"]) == []


@pytest.mark.parametrize("name", ["Loli", "LOLI", "oppai loli", "Oppai Loli", "straight shota"])
@pytest.mark.parametrize("kind", [0, 5])
def test_a_sidecars_spelling_of_a_blocked_tag_is_blocked_as_well(name: str, kind: int):
    tags = pl.DataFrame({"id": [3, 4], "name": [name, "solo"], "type": [kind, 0]})
    assert blocked_ids(tags, list(ALWAYS_BLOCKED)) == [3]


def test_no_recipe_can_empty_the_list():
    for text in ("[]", "[loli]", "[loli, shota]", "[gore]"):
        with pytest.raises(StageError, match=r"blocked_tags must contain .*toddlercon.*: no recipe trains on these"):
            load_params(Path("recipes/sample.yaml"), [f"filter.blocked_tags={text}"])
    longer = load_params(Path("recipes/sample.yaml"), ["filter.blocked_tags=[gore, toddlercon, shota, loli]"])
    assert "gore" in longer.filter.blocked_tags


def test_kin_are_found_through_any_number_of_steps(monkeypatch: pytest.MonkeyPatch):
    chain = ["a", "b", "c", "a"]
    monkeypatch.setattr("booru.filtering.blocked.kin_of_tags", lambda: {one: [other] for one, other in pairwise(chain)})
    assert with_kin(["b"]) == {"a", "b", "c"}
