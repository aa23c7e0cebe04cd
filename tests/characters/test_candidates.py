"""Which posts can stand for a character: every rule by a post of its own."""

from pathlib import Path

from repro.params import load_params

import pytest
from tiny_characters import MIKA, PLAIN, Booru, ids_of, make_booru, picture

from booru.images.archives import ImageIndex
from booru.shards import read_tags, shard_files
from characters.candidates import candidates
from characters.training import TrainingPictures

# Posts of one archive have the same last three digits.
TRAINED = 1000


def tagged(*names: str, without: tuple[str, ...] = ()) -> dict:
    return {"tags": ids_of([name for name in (*PLAIN, *names) if name not in without])}


# name: (changes of a plain picture of Mika, whether it is a candidate)
CASES = {
    "plain": ({}, True),
    "nobody counted": (tagged(without=("1girl",)), True),
    "a boy": (tagged("1boy", without=("1girl",)), True),
    "a tag twice": (tagged("1girl", MIKA), True),
    "sensitive": ({"rating": 1}, True),
    "a group picture": (tagged(without=("solo",)), False),
    "two characters": (tagged("extra"), False),
    "two that are looked for": (tagged("rin"), False),
    "no character": (tagged(without=(MIKA,)), False),
    "another character": (tagged("extra", without=(MIKA,)), False),
    "several girls": (tagged("2girls", without=("1girl",)), False),
    "a girl and a boy": (tagged("1boy"), False),
    "monochrome": (tagged("monochrome"), False),
    "comic": (tagged("comic"), False),
    "cosplay": (tagged("cosplay"), False),
    "animated": (tagged("animated"), False),
    "blocked": (tagged("loli"), False),
    "kin of a blocked one": (tagged("oppai_loli"), False),
    "questionable": ({"rating": 2}, False),
    "no rating": ({"rating": None}, False),
    "a folder's, rated": ({"source": "pictures", "fav_count": None}, True),
    "a folder's, not rated": ({"source": "pictures", "rating": None}, False),
    "deleted": ({"is_deleted": True}, False),
    "banned": ({"is_banned": True}, False),
    "a film": ({"file_ext": "mp4"}, False),
    "no file": ({"md5": None, "has_file": False}, False),
    "no tags": ({"tags": []}, False),
    "not archived": ({}, False),
    "unreadable": ({}, False),
    "too small": ({}, False),
    "large enough": ({}, True),
    "same md5 as one before": ({"md5": f"{2000:032x}"}, False),
    "same file as one before": ({}, False),
    "same md5 as a trained one": ({"md5": f"{TRAINED:032x}"}, False),
    "same file as a trained one": ({}, False),
}
NUMBER = {name: 2000 + 1000 * place for place, name in enumerate(CASES)}
PICTURES = {
    "not archived": None,
    "unreadable": b"a picture",
    "too small": picture(1, (63, 96)),
    "large enough": picture(2, (64, 64)),
    "same file as one before": picture(NUMBER["plain"]),
    "same file as a trained one": picture(TRAINED),
}
POSTS = {TRAINED: {}} | {NUMBER[name]: changes for name, (changes, _) in CASES.items()}
UNSEEN_ONLY = {"same md5 as a trained one", "same file as a trained one"}


@pytest.fixture(scope="module")
def booru(tmp_path_factory: pytest.TempPathFactory) -> Booru:
    folder = tmp_path_factory.mktemp("candidates")
    return make_booru(folder, POSTS, [TRAINED], {NUMBER[name]: data for name, data in PICTURES.items()})


def found(booru: Booru, characters: list[str] | None = None, **settings) -> list[tuple[int, int]]:
    params = load_params(Path("params.yaml"))
    index = ImageIndex(booru.index)
    references = params.evaluate.references.model_copy(update=settings)
    frame = candidates(
        shard_files(booru.metadata, "posts"), read_tags(booru.metadata), characters or [MIKA, "rin"], references, params.filter,
        TrainingPictures(booru.captions, index), index,
    )  # fmt: skip
    return frame.select("id", "character").rows()


@pytest.fixture(scope="module")
def unseen(booru: Booru) -> set[int]:
    rows = found(booru)
    assert {character for _, character in rows} == {0}
    return {number for number, _ in rows}


@pytest.mark.parametrize("name", CASES)
def test_each_rule_by_a_post_of_its_own(unseen: set[int], name: str):
    assert (NUMBER[name] in unseen) == CASES[name][1]


def test_a_trained_picture_is_a_candidate_only_where_that_is_wished(booru: Booru, unseen: set[int]):
    seen = {number for number, _ in found(booru, unseen=False)}
    # The trained post itself comes first of the three that are the same file or have the same md5.
    assert TRAINED not in unseen
    assert seen == unseen | {TRAINED}


def test_ratings_and_the_smallest_side_are_the_references_own(booru: Booru, unseen: set[int]):
    general = {number for number, _ in found(booru, ratings=["general"])}
    assert general == unseen - {NUMBER["sensitive"]}
    large = {number for number, _ in found(booru, min_side=65)}
    assert large == unseen - {NUMBER["large enough"]}


def test_numbers_are_the_characters_places(booru: Booru, unseen: set[int]):
    rows = found(booru, ["extra", MIKA])
    assert {number for number, character in rows if character == 1} == unseen
    assert {number for number, character in rows if character == 0} == {NUMBER["another character"]}


def test_neither_shards_nor_other_posts_matter(booru: Booru, unseen: set[int], tmp_path: Path):
    pictures = {NUMBER[name]: data for name, data in PICTURES.items()}
    sharded = make_booru(tmp_path / "sharded", POSTS, [TRAINED], pictures, shard_posts=7000)
    assert len(shard_files(sharded.metadata, "posts")) > 4
    assert found(sharded) == found(booru)
    few = {number: changes for number, changes in POSTS.items() if number in unseen | {TRAINED}}
    alone = make_booru(tmp_path / "alone", few, [TRAINED], {n: data for n, data in pictures.items() if n in few})
    assert found(alone) == found(booru)
