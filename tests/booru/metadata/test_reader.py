"""Posts with their tags, block by block, and the columns in which later stages have them."""

from pathlib import Path
from tempfile import TemporaryDirectory

from repro.errors import StageError

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_booru import METADATA_COLUMNS, TAGS, all_posts, make_database, make_tables, post

from booru.metadata.database import BooruDatabase
from booru.metadata.reader import MetadataReader, open_metadata, size_of, to_posts
from booru.metadata.relations import RelationBlocks, blocks_of
from booru.metadata.schema import POST_COLUMNS
from booru.metadata.tables import BooruTables

# Ids in several blocks, among them both ends of two.
IDS = st.sampled_from([0, 1, 2, 3, 49_998, 49_999, 50_000, 50_001, 125_000, 149_999])
POST_IDS = IDS | st.sampled_from([4, 50_000, 300_000, 7_000_000, 2**40])
TAG_IDS = st.integers(-1, 15) | st.sampled_from([2**31 - 1, 2**31, 2**40])


@given(
    ids=st.lists(IDS, min_size=1, unique=True),
    relations=st.lists(st.tuples(POST_IDS, TAG_IDS), max_size=40),
    tags=st.lists(st.sampled_from(TAGS), unique=True),
    parquet=st.booleans(),
)
@settings(max_examples=50)
def test_posts_have_the_known_tags_in_the_order_of_the_relations(ids, relations, tags, parquet):
    # Rows of the relation table need not belong to the post that was just inserted.
    rows = [post(number, tags=[]) for number in ids]
    with TemporaryDirectory() as name:
        path = make_database(Path(name) / "m.db", rows, tags=tags, relations=relations)
        path = make_tables(Path(name) / "tables", path) if parquet else path
        with open_metadata(path) as source:
            # As if there were a post for every id, so that there is more than one block.
            blocks = blocks_of(source.id_bounds(), 10**6)
            files = RelationBlocks(Path(name) / "relations")
            outside = files.fill(source, blocks)
            reader = MetadataReader(source, source.tags(), files)
            tagged = [reader.read(block) for block in blocks]
    found = pl.concat([part.posts for part in tagged])
    known = {tag[0] for tag in tags}
    expected = {number: [t for p, t in relations if p == number and t in known] for number in sorted(ids)}
    assert list(found.select("id", "tags").iter_rows()) == list(expected.items())
    assert found.schema["tags"] == pl.List(pl.Int32)
    assert outside + sum(part.orphans for part in tagged) == len(relations) - sum(map(len, expected.values()))


def test_the_form_of_the_metadata_is_seen_from_the_path(tmp_path):
    path = make_database(tmp_path / "m.db", [post(1)])
    folder = make_tables(tmp_path / "tables", path)
    (folder / "README.md").write_text("not counted")
    with open_metadata(path) as database, open_metadata(str(folder)) as tables:
        assert (type(database), type(tables)) == (BooruDatabase, BooruTables)
    assert size_of(path) == path.stat().st_size
    assert size_of(folder) == sum(file.stat().st_size for file in folder.glob("*.parquet"))
    with pytest.raises(StageError, match="no such metadata database"):
        open_metadata(tmp_path / "none")


def read_posts(tmp_path, *rows) -> pl.DataFrame:
    return to_posts(all_posts(make_database(tmp_path / "m.db", list(rows)), tmp_path), "m.db")


def test_columns_of_the_posts(tmp_path):
    posts = read_posts(tmp_path, post(1, is_deleted=1), post(2, is_banned=1, tags=[], score=-(2**31) + 1, fav_count=2**31 - 1))
    assert posts.schema == METADATA_COLUMNS
    assert posts.row(0, named=True) == {
        "id": 1, "source": "danbooru", "created_at": "2015-03-04T05:06:07.089-05:00", "rating": 0, "score": 3, "fav_count": 5,
        "md5": f"{1:032x}", "has_file": True, "file_ext": "webp", "image_width": 128, "image_height": 96,
        "is_deleted": True, "is_banned": False, "tags": [3, 1, 7, 8, 5, 2],
    }  # fmt: skip
    assert posts.select("score", "fav_count", "is_deleted", "is_banned", "tags").row(1) == (
        -(2**31) + 1,
        2**31 - 1,
        False,
        True,
        [],
    )


@pytest.mark.parametrize(
    ("changes", "has_file"),
    [
        ({}, True), ({"md5": None}, False), ({"md5": ""}, False), ({"file_url": None}, False), ({"file_url": ""}, False),
        ({"md5": None, "file_url": None}, False),
    ],
)  # fmt: skip
def test_a_post_has_a_file_if_it_has_md5_and_url(tmp_path, changes, has_file):
    assert read_posts(tmp_path, post(1, **changes))["has_file"].to_list() == [has_file]


def test_missing_values_stay_missing(tmp_path):
    nullable = [column.name for column in POST_COLUMNS if column.nullable]
    posts = read_posts(tmp_path, post(1, **dict.fromkeys(nullable), tags=[]))
    kept = {"id": 1, "source": "danbooru", "has_file": False, "tags": []}
    assert posts.row(0, named=True) == dict.fromkeys(METADATA_COLUMNS) | kept


@pytest.mark.parametrize("column", ["score", "fav_count", "image_width", "image_height"])
@pytest.mark.parametrize("number", [2**31, -(2**31), 2**62])
def test_numbers_of_more_than_32_bits_are_refused(tmp_path, column, number):
    with pytest.raises(StageError, match=rf"^m\.db: post\.{column}: post 2 holds {number}, expected a number of 32 bits$"):
        read_posts(tmp_path, post(1), post(2, **{column: number}))


def test_a_block_without_posts(tmp_path):
    """All its relations are orphans."""
    path = make_database(tmp_path / "m.db", [post(1), post(125_000)], relations=[(75_000, 1), (1, 1), (75_000, 2)])
    with open_metadata(path) as source:
        blocks = blocks_of(source.id_bounds(), 10**6)
        files = RelationBlocks(tmp_path / "relations")
        assert files.fill(source, blocks) == 0
        reader = MetadataReader(source, source.tags(), files)
        found = [reader.read(block) for block in blocks]
    assert [(part.posts.height, part.orphans) for part in found] == [(1, 0), (0, 2), (1, 0)]
    assert to_posts(found[1].posts, "m.db").schema == METADATA_COLUMNS
