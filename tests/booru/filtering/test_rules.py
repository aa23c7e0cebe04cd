"""The filter's rules one by one, their order, and the counts that follow from the ledger."""

import io
import itertools

from repro.errors import StageError
from repro.params import Filter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_booru import FIRST_PICTURE, METADATA_COLUMNS, TAGS, make_tar, metadata_post

from booru.filtering.rules import (
    KEPT,
    NEAR_DUPLICATE,
    NOT_ARCHIVED,
    PICTURE_REASONS,
    POST_REASONS,
    REASONS,
    SAME_FILE,
    UNREADABLE,
    funnel_of,
    ledger_of,
    refuse_empty,
    refuse_losses,
    same_files,
)
from booru.images.archives import ImageIndex
from booru.images.folders import folder_id
from booru.images.indexing import index_here

PARAMS = Filter.model_validate(
    {
        "image_index": "image_index",
        "blocked_tags": ["loli", "shota", "toddlercon"],
        "ratings": ["general", "sensitive"],
        "drop_deleted": True,
        "drop_banned": True,
        "extensions": ["webp", "png"],
        "min_side": 64,
        "min_pixels": 6000,
        "max_aspect_ratio": 3.0,
        "near_duplicates": {"max_dhash": 4, "max_phash": 32, "max_aspect": 1.05},
        "max_lost_share": 0.02,
    }
)
TAG_TABLE = pl.DataFrame(TAGS, schema=["id", "name", "type"], orient="row")


def drawing(seed: int, size: tuple[int, int]) -> Image.Image:
    """A picture unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 10), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def file_of(image: Image.Image, form: str = "WEBP", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


PLAIN = drawing(1, (128, 96))
FOLDER_PICTURE = folder_id("art/1.png")
# Members of data-0000.tar by id / 1000.
PICTURES = {
    "1000.webp": file_of(PLAIN, lossless=True),
    "2000.webp": file_of(drawing(2, (128, 96))),
    "3000.webp": file_of(drawing(3, (128, 96))),
    "21000.webp": b"no picture at all",
    "22000.mp4": b"a film",
    "23000.webp": file_of(PLAIN)[:200],
    "24000.webp": file_of(drawing(4, (10, 60))),
    "25000.webp": file_of(drawing(5, (64, 80))),
    "26000.webp": file_of(drawing(6, (300, 64))),
    "27000.webp": file_of(PLAIN, quality=90),
    "28000.webp": file_of(PLAIN.resize((120, 90)), quality=80),
    "30000.webp": file_of(drawing(7, (64, 192))),
    "31000.webp": file_of(drawing(8, (193, 64))),
    "32000.webp": file_of(drawing(9, (63, 120))),
    "33000.webp": file_of(drawing(10, (75, 80))),
    "34000.webp": file_of(drawing(11, (79, 75))),
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    root = tmp_path_factory.mktemp("rules") / "images"
    make_tar(root / "data-0000.tar", PICTURES)
    (root / "art").mkdir()
    (root / "art" / "1.png").write_bytes(file_of(drawing(12, (96, 128)), "PNG"))
    index_here(root, root.with_name("index"))
    return ImageIndex(root.with_name("index"))


def ledger(index: ImageIndex, *posts: dict, params: Filter = PARAMS) -> pl.DataFrame:
    """The ledger of posts that come in two shards, so that a rule over all posts has to look across them."""
    frame = pl.DataFrame(list(posts), schema=METADATA_COLUMNS).sort("id")
    frames = [frame[: frame.height // 2], frame[frame.height // 2 :]]
    found = ledger_of(frames, params, TAG_TABLE, index)
    assert found.schema == {"id": pl.Int64, "reason": pl.String, "instead": pl.Int64}
    assert found["id"].equals(frame["id"])
    return found


def reasons(index: ImageIndex, *posts: dict, **changes: object) -> list[str]:
    return ledger(index, *posts, params=PARAMS.model_copy(update=changes))["reason"].to_list()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, KEPT),
        ({"tags": []}, KEPT),
        ({"tags": [1, 11]}, "blocked tag"),
        ({"tags": [12, 3]}, "blocked tag"),
        ({"tags": [13]}, KEPT),
        ({"is_deleted": True}, "deleted"),
        ({"is_banned": True}, "banned"),
        ({"md5": None, "has_file": False}, "no md5 or file_url"),
        ({"rating": None}, "incomplete metadata"),
        ({"fav_count": None}, "incomplete metadata"),
        ({"is_deleted": None}, "incomplete metadata"),
        ({"is_banned": None}, "incomplete metadata"),
        ({"created_at": None, "score": None, "image_width": None, "image_height": None}, KEPT),
        ({"file_ext": "mp4"}, "extension not allowed"),
        ({"file_ext": "webpx"}, "extension not allowed"),
        ({"file_ext": None}, "extension not allowed"),
        ({"file_ext": "PNG"}, KEPT),
        ({"rating": 1}, KEPT),
        ({"rating": 2}, "rating not allowed"),
        ({"rating": 3}, "rating not allowed"),
    ],
)
def test_each_rule_of_a_post(index: ImageIndex, changes: dict, reason: str):
    assert reasons(index, metadata_post(2000, **changes)) == [reason]


@pytest.mark.parametrize(
    ("post_id", "reason"),
    [
        (20_000, NOT_ARCHIVED),
        (21_000, UNREADABLE),
        (22_000, UNREADABLE),
        (23_000, UNREADABLE),
        (24_000, "too small"),
        (25_000, "too few pixels"),
        (26_000, "aspect ratio"),
        (30_000, KEPT),
        (31_000, "aspect ratio"),
        (32_000, "too small"),
        (33_000, KEPT),
        (34_000, "too few pixels"),
    ],
)
def test_each_rule_of_a_picture_at_its_edge(index: ImageIndex, post_id: int, reason: str):
    # What the database says of the size is not asked.
    assert reasons(index, metadata_post(post_id, image_width=9, image_height=9000)) == [reason]


FAULTS = [
    {"tags": [1, 11]}, {"is_deleted": True}, {"is_banned": True}, {"md5": None, "has_file": False}, {"fav_count": None},
    {"file_ext": "mp4"}, {"rating": 3},
]  # fmt: skip


def test_the_first_rule_that_holds_gives_the_reason(index: ImageIndex):
    """Each post has the fault of one reason and, as far as they go together, those of all later ones."""
    posts = [metadata_post(1000, md5="f" * 32)]
    for i in range(len(FAULTS)):
        faults = {name: value for fault in FAULTS[i:] for name, value in fault.items()}
        posts.append(metadata_post(10_000 + 1000 * i, **faults))
    posts += [metadata_post(post_id, md5="f" * 32) for post_id in (20_000, 21_000, 24_000, 25_000, 26_000, 27_000)]
    posts.append(metadata_post(28_000))
    found = ledger(index, *posts)
    assert found["reason"].to_list() == [KEPT, *REASONS[:-1]]
    assert found.filter(pl.col("instead").is_not_null()).rows() == [(27_000, SAME_FILE, 1000), (28_000, NEAR_DUPLICATE, 1000)]
    assert (*POST_REASONS, *PICTURE_REASONS, SAME_FILE, NEAR_DUPLICATE, KEPT) == REASONS


def test_rules_that_a_recipe_switches_off(index: ImageIndex):
    posts = [metadata_post(1000, is_deleted=True), metadata_post(2000, is_banned=True), metadata_post(28_000)]
    assert reasons(index, *posts) == ["deleted", "banned", KEPT]
    loose = {"drop_deleted": False, "drop_banned": False}
    assert reasons(index, *posts, **loose) == [KEPT, KEPT, NEAR_DUPLICATE]
    assert reasons(index, *posts, **loose, near_duplicates=None) == [KEPT, KEPT, KEPT]


def test_a_post_that_another_rule_drops_takes_none_with_it(index: ImageIndex):
    same = {"md5": "f" * 32}
    posts = [metadata_post(1000, **same, is_deleted=True), *(metadata_post(i, **same) for i in (2000, 3000, 27_000))]
    assert ledger(index, *posts).rows() == [
        (1000, "deleted", None), (2000, KEPT, None), (3000, SAME_FILE, 2000), (27_000, SAME_FILE, 2000),
    ]  # fmt: skip
    # 27000 looks as 28000 does, but is no longer there to be its near-duplicate.
    assert ledger(index, *posts, metadata_post(28_000)).rows()[-1] == (28_000, KEPT, None)


def test_of_near_duplicates_the_larger_stays_whichever_came_first(index: ImageIndex):
    posts = [metadata_post(27_000), metadata_post(28_000)]
    assert ledger(index, *posts).rows() == [(27_000, KEPT, None), (28_000, NEAR_DUPLICATE, 27_000)]
    assert ledger(index, *posts, metadata_post(1000)).rows() == [
        (1000, KEPT, None), (27_000, NEAR_DUPLICATE, 1000), (28_000, NEAR_DUPLICATE, 1000),
    ]  # fmt: skip


def test_folder_pictures_need_neither_rating_nor_favourites_nor_marks(index: ImageIndex):
    assert FOLDER_PICTURE >= FIRST_PICTURE
    picture = metadata_post(FOLDER_PICTURE, source="art", rating=None, md5=None, file_ext="png")
    assert picture["fav_count"] is picture["is_deleted"] is picture["is_banned"] is None
    assert reasons(index, picture) == [KEPT]
    assert reasons(index, picture | {"rating": 3}) == ["rating not allowed"]
    assert reasons(index, picture | {"tags": [1, 12]}) == ["blocked tag"]
    assert reasons(index, picture | {"source": "danbooru"}) == ["incomplete metadata"]


def test_shards_without_a_post_that_is_left_are_no_trouble(index: ImageIndex):
    assert reasons(index, metadata_post(1000, is_deleted=True), metadata_post(2000)) == ["deleted", KEPT]
    assert reasons(index, metadata_post(1000, is_deleted=True), metadata_post(2000, is_banned=True)) == ["deleted", "banned"]


WHOLE = [f"{i:032x}" for i in (0, 1, 2**64 - 1, 2**127, 2**128 - 1)]
# Of one beginning, of which the heads of 60 bits are the same; of other spellings; and what is no md5 at all.
MD5 = st.sampled_from([
    *WHOLE, *("abcdef0123456789" + tail * 16 for tail in "0f"), WHOLE[-1].upper(), None, "", "x" * 32, "xyz", "-1", "+1", "é" * 9,
])  # fmt: skip


@settings(max_examples=200)
@given(md5s=st.lists(MD5, max_size=20))
def test_same_files_are_those_of_one_md5(md5s: list[str | None]):
    first: dict[str, int] = {}
    expected = []
    for post_id, md5 in enumerate(md5s, start=10):
        if md5 and first.setdefault(md5, post_id) != post_id:
            expected.append((post_id, first[md5]))
    posts = pl.DataFrame({"id": range(10, 10 + len(md5s)), "md5": md5s}, schema={"id": pl.Int64, "md5": pl.String})
    assert same_files(posts).rows() == expected


@settings(max_examples=60)
@given(st.lists(st.sampled_from(REASONS), max_size=40))
def test_the_counts_of_a_funnel_add_up(names: list[str]):
    funnel = funnel_of(pl.DataFrame({"id": range(len(names)), "reason": names}, schema_overrides={"reason": pl.String}))
    assert (funnel["selected"], funnel["kept"]) == (len(names), names.count(KEPT))
    assert [(step["reason"], step["dropped"]) for step in funnel["steps"]] == [(r, names.count(r)) for r in REASONS[:-1]]
    lefts = [funnel["selected"], *(step["left"] for step in funnel["steps"])]
    assert [a - b for a, b in itertools.pairwise(lefts)] == [step["dropped"] for step in funnel["steps"]]
    assert lefts[-1] == funnel["kept"]


def test_nothing_kept_names_the_hardest_rule():
    found = pl.DataFrame({"id": [1, 2, 3], "reason": ["banned", "too small", "too small"]})
    with pytest.raises(StageError, match=r"none of 3 posts is kept; 'too small' dropped the most \(2\)"):
        refuse_empty(funnel_of(found))


def test_losses_are_measured_by_the_posts_that_are_wanted():
    """Posts that other rules dropped before are not missed."""
    names = ["deleted"] * 50 + [NOT_ARCHIVED] * 3 + [UNREADABLE] * 2 + ["too small"] * 5 + [KEPT] * 90
    funnel = funnel_of(pl.DataFrame({"id": range(len(names)), "reason": names}))
    refuse_losses(funnel, 0.05)
    with pytest.raises(StageError, match=r"of 100 posts 3 not in the archives and 2 unreadable: more than filter.max_lost_share"):
        refuse_losses(funnel, 0.049)
