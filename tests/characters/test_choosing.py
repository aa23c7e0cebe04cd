"""References chosen from metadata: which are drawn, and what is said of the character."""

import io
from pathlib import Path

from repro.params import load_params
from repro.randomness import seed_for

import numpy as np
import pytest
from PIL import Image
from tiny_characters import MIKA, Booru, ids_of, make_booru, picture, training_counts

from booru.images.archives import ImageIndex
from booru.selection.draws import id_hashes
from characters.choosing import choose_references
from characters.references import Reference, ReferenceList, Skipped
from characters.training import TrainingPictures

TRAINED = {1000: {}, 2000: {"tags": ids_of([MIKA, "rin", "aoi_a"])}, 3000: {}}
UNSEEN = list(range(10_000, 30_000, 1000))
SEED = 7


def tags_of(place: int) -> list[int]:
    """Mika's 20 pictures: which of them have which tags."""
    names = ["solo", MIKA, "aurora"]
    names += ["1girl"] if place < 11 else ["1boy"] if place < 20 else []
    names += ["long_hair"] if place < 7 else []
    names += ["blue_eyes", "cat_ears", "smile", "hairband"] if place < 10 else ["red_eyes"] if place < 16 else []
    names += ["lorelei"] if place < 20 else []
    return ids_of(names)


POSTS = TRAINED | {number: {"tags": tags_of(place)} for place, number in enumerate(UNSEEN)}
RIN = {number: {"tags": ids_of(["solo", "rin", "zoish"])} for number in (50_000, 51_000, 52_000)}


def chosen(booru: Booru, wanted: tuple[str, ...] = (MIKA, "rin"), seed: int = SEED, **settings) -> ReferenceList:
    params = load_params(Path("params.yaml"))
    references = params.evaluate.references.model_copy(update={"pictures": 5} | settings)
    index = ImageIndex(booru.index)
    return choose_references(
        booru.metadata, wanted, training_counts(booru), references, params.filter, booru.captions,
        TrainingPictures(booru.captions, index), index, seed,
    )  # fmt: skip


@pytest.fixture(scope="module")
def booru(tmp_path_factory: pytest.TempPathFactory) -> Booru:
    return make_booru(tmp_path_factory.mktemp("choosing"), POSTS | RIN, list(TRAINED))


def drawn(ids: list[int], take: int, seed: int = SEED) -> tuple[int, ...]:
    hashes = id_hashes(np.array(ids), seed_for(seed, "references", MIKA))
    return tuple(sorted(number for _, number in sorted(zip(hashes.tolist(), ids, strict=True))[:take]))


def test_a_chosen_character(booru: Booru):
    mika = Reference(
        character=MIKA, series="aurora", gender_tag="1girl", core_tags=("blue_eyes", "cat_ears", "long_hair"),
        artists=("zoish", "aoi_a"), posts=drawn(UNSEEN, 5), held_out_artists=(), training_pictures=3,
    )  # fmt: skip
    few = "3 unseen pictures that show the character alone, evaluate.references.pictures needs 5"
    assert chosen(booru) == ReferenceList((mika,), (Skipped("rin", few),))


def test_seen_pictures_are_drawn_where_that_is_wished(booru: Booru):
    seen, rin = chosen(booru, unseen=False, pictures=3).characters
    assert seen.posts == drawn([1000, 3000, *UNSEEN], 3)
    assert rin.posts == (50_000, 51_000, 52_000)
    assert (rin.series, rin.gender_tag, rin.core_tags, rin.artists) == ("", "", (), ("aoi_a",))
    skipped = chosen(booru, wanted=("rin",), unseen=False, pictures=4).skipped
    assert skipped == (Skipped("rin", "3 pictures that show the character alone, evaluate.references.pictures needs 4"),)


def test_core_tags_are_on_the_share_of_the_pictures(booru: Booru):
    assert chosen(booru, core_tag_share=0.5).characters[0].core_tags == ("blue_eyes", "cat_ears")
    assert chosen(booru, core_tag_share=0.51).characters[0].core_tags == ()
    assert chosen(booru, core_tag_share=0.3).characters[0].core_tags == ("blue_eyes", "cat_ears", "long_hair", "red_eyes")


def test_a_picture_that_goes_changes_at_most_one(booru: Booru, tmp_path: Path):
    before = chosen(booru).characters[0].posts
    idle = next(number for number in UNSEEN if number not in before)
    for gone, kept in ((idle, 5), (before[2], 4)):
        less = make_booru(tmp_path / str(gone), {n: c for n, c in (POSTS | RIN).items() if n != gone}, list(TRAINED))
        after = chosen(less).characters[0].posts
        assert (len(after), len(set(after) & set(before))) == (5, kept)


def test_seeds_draw_other_pictures(booru: Booru):
    draws = {chosen(booru, seed=seed).characters[0].posts for seed in range(4)}
    assert len(draws) == 4


@pytest.mark.parametrize(("girls", "boys", "gender"), [(10, 9, ""), (9, 11, "1boy"), (0, 0, "")])
def test_a_gender_is_named_where_the_shares_differ_by_a_tenth(tmp_path: Path, girls: int, boys: int, gender: str):
    people = ["1girl"] * girls + ["1boy"] * boys + ["smile"] * (20 - girls - boys)
    posts = {10_000 + 1000 * i: {"tags": ids_of(["solo", MIKA, who])} for i, who in enumerate(people)}
    found = chosen(make_booru(tmp_path, TRAINED | posts, list(TRAINED)), wanted=(MIKA,)).characters[0]
    assert found.gender_tag == gender


@pytest.mark.parametrize(("on", "series"), [(5, "harbour"), (4, "")])
def test_a_series_is_on_half_of_the_pictures(tmp_path: Path, on: int, series: str):
    posts = {10_000 + 1000 * i: {"tags": ids_of(["solo", MIKA, *(["harbour"] if i < on else [])])} for i in range(10)}
    found = chosen(make_booru(tmp_path, TRAINED | posts, list(TRAINED)), wanted=(MIKA,)).characters[0]
    assert found.series == series


def test_a_near_duplicate_of_a_trained_picture_is_not_drawn(booru: Booru, tmp_path: Path):
    gone = chosen(booru).characters[0].posts[0]
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(1000))).resize((112, 112)).save(buffer, "JPEG", quality=90)
    copied = make_booru(tmp_path, POSTS | RIN, list(TRAINED), {gone: buffer.getvalue()})
    assert chosen(copied).characters[0].posts == drawn([number for number in UNSEEN if number != gone], 5)
