"""A list of references: which of its characters and posts are taken, and why the others are not."""

from pathlib import Path

from repro.params import References, load_params

import pytest
from tiny_characters import Booru, make_booru, picture

from booru.images.archives import ImageIndex
from characters.listed import listed_references
from characters.references import Reference, ReferenceList, Skipped, read_references
from characters.training import TrainingPictures, characters_to_evaluate

TRAINED, COPY, MISSING, BROKEN, NARROW, LOW, JUST = 1000, 2000, 3000, 4000, 5000, 6000, 7000
FIT = (9000, 8000, 10_000)
SIDE = 80
PICTURES = {
    COPY: picture(TRAINED), MISSING: None, BROKEN: b"no picture", NARROW: picture(NARROW, (SIDE - 1, 200)),
    LOW: picture(LOW, (200, SIDE - 1)), JUST: picture(JUST, (SIDE, SIDE)),
}  # fmt: skip


@pytest.fixture(scope="module")
def booru(tmp_path_factory: pytest.TempPathFactory) -> Booru:
    posts = {number: {} for number in (TRAINED, *PICTURES, *FIT)}
    return make_booru(tmp_path_factory.mktemp("listed"), posts, [TRAINED], PICTURES)


def entry(name: str, *posts: int, held_out: tuple[str, ...] = ()) -> Reference:
    return Reference(name, "lorelei", "1girl", ("tail",), ("zoish",), posts, held_out, 0)


def settings(**changes) -> References:
    references = load_params(Path("params.yaml")).evaluate.references
    defaults = {"min_posts": 40, "pictures": 2, "most_characters": None, "unseen": True, "min_side": SIDE}
    return references.model_copy(update=defaults | changes)


def taken(booru: Booru, listed: ReferenceList, counts: dict[str, int], rules: References) -> ReferenceList:
    index = ImageIndex(booru.index)
    training = TrainingPictures(booru.captions, index)
    return listed_references(listed, characters_to_evaluate(counts, rules), counts, rules, training, index)


def posts_taken(booru: Booru, *posts: int, **changes) -> tuple[int, ...] | str:
    """The posts that are taken of Mika's, or why she is skipped."""
    found = taken(booru, ReferenceList((entry("mika", *posts),), ()), {"mika": 40}, settings(**changes))
    return found.characters[0].posts if found.characters else found.skipped[0].reason


def test_the_first_pictures_and_the_training_count_are_taken(booru: Booru):
    listed = ReferenceList((entry("mika", *FIT, held_out=("amon",)),), ())
    found = taken(booru, listed, {"mika": 41}, settings())
    assert found == ReferenceList((Reference("mika", "lorelei", "1girl", ("tail",), ("zoish",), FIT[:2], ("amon",), 41),), ())


def test_posts_that_are_not_fit_are_passed_over(booru: Booru):
    assert posts_taken(booru, TRAINED, COPY, FIT[0], MISSING, BROKEN, NARROW, LOW, JUST, FIT[1]) == (FIT[0], JUST)
    assert posts_taken(booru, TRAINED, FIT[0], COPY, unseen=False, pictures=3) == (TRAINED, FIT[0], COPY)
    assert posts_taken(booru, NARROW, JUST, LOW, FIT[0], min_side=SIDE - 1, pictures=4) == (NARROW, JUST, LOW, FIT[0])


def test_a_skipped_character_tells_why_its_posts_were_left_out(booru: Booru):
    assert posts_taken(booru, BROKEN, TRAINED, NARROW, COPY, FIT[0], 999_000, 2**63 - 1, MISSING) == (
        "1 reference pictures in the list, evaluate.references.pictures needs 2 (left out: 3 not in the image index,"
        " 1 unreadable, 1 smaller than min_side, 2 trained on)"
    )
    assert posts_taken(booru, TRAINED, COPY, *FIT, pictures=4).endswith("needs 4 (left out: 2 trained on)")


def test_a_trained_picture_that_is_missing_from_the_index_is_told_as_missing(tmp_path: Path):
    lost = make_booru(tmp_path, {TRAINED: {}, FIT[0]: {}}, [TRAINED], {TRAINED: None})
    assert posts_taken(lost, TRAINED, FIT[0]).endswith("(left out: 1 not in the image index)")


def test_everybody_else_is_skipped_with_the_reason(booru: Booru):
    two = FIT[:2]
    listed = ReferenceList(
        (entry("few", FIT[0]), entry("mika", *two), entry("rare", *two), entry("unknown", *two)),
        (Skipped("cut", "the artist asked for it"),),
    )
    counts = {"mika": 50, "few": 50, "rare": 39, "unlisted": 44, "cut": 60, "elsewhere": 10}
    found = taken(booru, listed, counts, settings())
    assert [reference.character for reference in found.characters] == ["mika"]
    assert [(one.character, one.reason) for one in found.skipped] == [
        ("cut", "the artist asked for it"),
        ("few", "1 reference pictures in the list, evaluate.references.pictures needs 2"),
        ("rare", "39 training pictures, evaluate.references.min_posts needs 40"),
        ("unknown", "0 training pictures, evaluate.references.min_posts needs 40"),
        ("unlisted", "not in the list of references (evaluate.references.source)"),
    ]


def test_of_too_many_characters_those_with_most_training_pictures_are_taken(booru: Booru):
    listed = ReferenceList(tuple(entry(name, *FIT[:2]) for name in ("aoi", "mika", "rin")), ())
    found = taken(booru, listed, {"aoi": 40, "mika": 50, "rin": 40}, settings(most_characters=2))
    assert [reference.character for reference in found.characters] == ["aoi", "mika"]
    reason = "not among the 2 with most training pictures (evaluate.references.most_characters)"
    assert found.skipped == (Skipped("rin", reason),)


def test_the_samples_posts_are_all_fit_by_its_image_index(booru: Booru):
    params = load_params(Path("recipes/sample.yaml"))
    rules, listed = params.evaluate.references, read_references(Path(params.evaluate.references.source))
    index = ImageIndex(Path(params.filter.image_index))
    counts = {one.character: rules.min_posts for one in listed.characters}
    found = listed_references(
        listed, sorted(counts), counts, rules, TrainingPictures(booru.captions, ImageIndex(booru.index)), index
    )
    assert [one.posts for one in found.characters] == [one.posts[: rules.pictures] for one in listed.characters]
    assert not found.skipped
