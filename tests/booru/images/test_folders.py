"""Pictures of folders as posts: ids, columns, tags looked up in the booru's table or added to it."""

import hashlib
import json
import unicodedata
from types import SimpleNamespace

from repro.errors import StageError

import polars as pl
import pytest
from tiny_booru import make_archives

from booru.images.archives import INDEX_SCHEMA, ImageIndex
from booru.images.folders import POST_SCHEMA, ROW_SCHEMA, folder_id, folder_posts, told_types
from booru.images.indexing import index_here

TAGS = pl.DataFrame(
    [(1, "1girl", 0, 900), (4, "long_hair", 0, 500), (7, "artist name", 1, 2), (8, "saber", 2, 30), (12, "saber", 3, 1)],
    schema={"id": pl.Int64, "name": pl.String, "type": pl.Int64, "popularity": pl.Int64},
    orient="row",
)
SETTINGS = {
    "wallpapers": SimpleNamespace(custom=["anime wallpaper", "1girl"], rating="general"),
    "pixiv": SimpleNamespace(custom=[], rating=None),
}


def rows(*sidecars, folder: str = "pixiv") -> pl.DataFrame:
    """Index rows with the ids 1, 2, ... of these sidecars: text, an object, or None."""
    given = []
    for number, sidecar in enumerate(sidecars, start=1):
        file = None if sidecar is None else f"{number}.txt" if isinstance(sidecar, str) else f"{number}.json"
        text = json.dumps(sidecar) if isinstance(sidecar, dict) else sidecar
        given.append((2**52 + number, f"{folder}/a/{number}.JPG", f"{number}.JPG", 0, 9, "", 30, 40, 5, b"", None, file, text))
    return pl.DataFrame(given, schema=INDEX_SCHEMA, orient="row")


def tags_of(*sidecars, folder: str = "pixiv") -> tuple[list[list[int]], list[tuple]]:
    """The posts' tags and the tags that are new."""
    given = rows(*sidecars, folder=folder)
    posts, tags = folder_posts(given, TAGS, SETTINGS, told_types([given]))
    assert tags[: TAGS.height].equals(TAGS)
    assert tags["id"].is_sorted()
    return posts["tags"].to_list(), tags[TAGS.height :].rows()


def test_id_is_the_first_52_bits_of_the_path_s_sha256():
    bits = int(hashlib.sha256("pixiv/é.png".encode()).hexdigest(), 16) >> (256 - 52)
    assert folder_id("pixiv/é.png") == 2**52 + bits
    assert folder_id(unicodedata.normalize("NFD", "pixiv/é.png")) == 2**52 + bits
    assert json.loads(json.dumps(float(folder_id("a")))) == folder_id("a") < 2**53


def test_columns_of_a_post():
    said = {"rating": "s", "date": "2020", "score": 3, "fav_count": 4, "md5": "ab", "tags": "1girl"}
    posts, tags = folder_posts(rows(said, None), TAGS, SETTINGS, {})
    assert posts.schema == POST_SCHEMA
    assert tags.equals(TAGS)
    assert posts.row(0) == (2**52 + 1, "pixiv", "2020", 1, 3, 4, "ab", True, "jpg", 30, 40, False, False, [1])
    assert posts.row(1) == (2**52 + 2, "pixiv", None, None, None, None, None, True, "jpg", 30, 40, False, False, [])


def test_posts_are_sorted_by_id():
    posts, tags = folder_posts(rows("b", "a").reverse(), TAGS, SETTINGS, {})
    assert posts["id"].to_list() == [2**52 + 1, 2**52 + 2]
    assert tags["name"].to_list()[-2:] == ["b", "a"]


def test_known_names_are_found_as_they_are_or_with_underscores():
    assert tags_of("1girl, long hair", "long_hair, artist name") == ([[1, 4], [4, 7]], [])


def test_new_names_become_general_tags_in_order_of_appearance():
    given, new = tags_of("zebra stripes, 1girl", "apple, zebra_stripes, pear")
    assert given == [[13, 1], [14, 13, 15]]
    assert new == [(13, "zebra_stripes", 0, 0), (14, "apple", 0, 0), (15, "pear", 0, 0)]


def test_names_with_a_type():
    given, new = tags_of({"character": "saber", "copyright": ["saber"], "artist": "saber", "general": "blue sky"})
    assert given == [[8, 12, 13, 14]]
    assert new == [(13, "saber", 1, 0), (14, "blue_sky", 0, 0)]


def test_a_name_without_a_type_is_the_tag_of_the_lowest_id():
    assert tags_of("saber") == ([[8]], [])


def test_a_type_told_anywhere_in_a_sidecar_holds_for_all_of_it():
    given, new = tags_of({"tags": ["new name", "1girl"], "tags_artist": ["new_name"]})
    assert given == [[13, 1]]
    assert new == [(13, "new_name", 1, 0)]


def test_a_type_told_in_one_sidecar_holds_for_new_names_in_all_whichever_comes_first():
    told, bare = {"artist": "new name", "character": "1girl", "custom": "blue sky"}, "new_name, 1girl, blue sky"
    given, new = tags_of(told, bare)
    assert given == [[13, 14, 15], [13, 1, 16]]
    assert new == [(13, "new_name", 1, 0), (14, "1girl", 2, 0), (15, "blue sky", 5, 0), (16, "blue_sky", 0, 0)]
    given, new = tags_of(bare, told)
    assert given == [[13, 1, 14], [13, 15, 16]]
    assert new == [(13, "new_name", 1, 0), (14, "blue_sky", 0, 0), (15, "1girl", 2, 0), (16, "blue sky", 5, 0)]


def test_of_two_told_types_the_lower_id_s_is_meant():
    told = rows({"artist": "new name"}, {"copyright": "new_name"})
    assert told_types([told[:1], told[1:]]) == told_types([told.reverse()]) == {"new_name": 1}


def test_each_tag_once():
    assert tags_of("1girl, long hair, 1girl, long_hair")[0] == [[1, 4]]


def test_custom_words_come_first_and_keep_their_spelling():
    given, new = tags_of("long hair, 1girl", None, folder="wallpapers")
    assert given == [[13, 14, 4], [13, 14]]
    assert new == [(13, "anime wallpaper", 5, 0), (14, "1girl", 5, 0)]
    given, new = tags_of({"custom": ["my words"], "tags": "my words, solo"})
    assert given == [[13, 14]]
    assert new == [(13, "my words", 5, 0), (14, "solo", 0, 0)]


def test_custom_words_are_not_taken_for_tags_of_other_pictures():
    given, new = tags_of({"custom": "solo"}, "solo")
    assert given == [[13], [14]]
    assert new == [(13, "solo", 5, 0), (14, "solo", 0, 0)]


def test_the_folder_s_rating_is_for_pictures_without_their_own():
    posts, _ = folder_posts(rows({"rating": "e"}, {}, None, "1girl", folder="wallpapers"), TAGS, SETTINGS, {})
    assert posts["rating"].to_list() == [3, 0, 0, 0]


def test_a_folder_without_settings():
    posts, _ = folder_posts(rows("1girl", folder="cg"), TAGS, {}, {})
    assert posts.select("source", "rating", "tags").rows() == [("cg", None, [1])]


def test_pieces_give_what_the_whole_gives():
    sidecars = ["a, b", {"artist": "b c", "custom": "W"}, None, "b_c, c, W", {"meta": "a"}]
    types = told_types([rows(*sidecars)])
    whole, grown = folder_posts(rows(*sidecars), TAGS, SETTINGS, types)
    tags, parts = TAGS, []
    for part in rows(*sidecars).iter_slices(2):
        posts, tags = folder_posts(part, tags, SETTINGS, types)
        parts.append(posts)
    assert pl.concat(parts).equals(whole)
    assert tags.equals(grown)


def test_no_rows_and_no_tags():
    posts, tags = folder_posts(rows(), TAGS[:0], {}, {})
    assert posts.schema == POST_SCHEMA
    assert (posts.height, tags.height) == (0, 0)
    assert folder_posts(rows("a"), TAGS[:0], {}, {})[0]["tags"].to_list() == [[1]]


def test_from_the_index_to_posts(tmp_path):
    root = make_archives(tmp_path / "images", [3, 1003])
    for name in ("pixiv/b.png", "cg/a/c.png"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(b"no picture")
        (root / name).with_suffix(".txt").write_text("1girl, new")
    index_here(root, tmp_path / "index")
    rows = pl.concat(ImageIndex(tmp_path / "index").folder_frames(list(ROW_SCHEMA)))
    posts, tags = folder_posts(rows, TAGS, SETTINGS, {})
    assert posts["id"].to_list() == sorted([folder_id("pixiv/b.png"), folder_id("cg/a/c.png")])
    assert set(posts["source"]) == {"pixiv", "cg"}
    assert posts["tags"].to_list() == [[1, 13], [1, 13]]
    assert tags["name"][-1] == "new"


def test_an_index_without_folders_has_no_folder_rows(tmp_path):
    index_here(make_archives(tmp_path / "images", [3]), tmp_path / "index")
    assert list(ImageIndex(tmp_path / "index").folder_frames(list(ROW_SCHEMA))) == []


def test_a_wrong_sidecar_is_named():
    with pytest.raises(StageError, match=r"^pixiv/a/2\.json: rating: 'R-18' is none of"):
        folder_posts(rows(None, {"rating": "R-18"}), TAGS, SETTINGS, {})
