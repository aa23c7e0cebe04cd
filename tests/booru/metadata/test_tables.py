"""The metadata as one parquet a table: the same answers as the SQLite form, and what is refused in words."""

from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_booru import TAGS, all_posts, complaint, make_database, make_tables, post

from booru.metadata import tables
from booru.metadata.database import BooruDatabase
from booru.metadata.relations import RelationBlocks, blocks_of
from booru.metadata.schema import CAPTION_COLUMNS, POST_COLUMNS
from booru.metadata.tables import BooruTables

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.none()
POSTS = st.lists(
    st.fixed_dictionaries(
        {"id": st.integers(0, 300) | st.integers(0, 2_000_000), "tags": st.lists(st.integers(0, 15), max_size=5)},
        optional={
            "rating": st.none() | st.integers(0, 3), "fav_count": st.none() | st.integers(-9, 2**31 - 1),
            "created_at": TEXTS, "md5": TEXTS, "file_url": TEXTS, "file_ext": TEXTS, "is_deleted": st.none() | st.integers(0, 1),
        },
    ),
    min_size=1, max_size=12, unique_by=lambda row: row["id"],
)  # fmt: skip


def change(folder: Path, table: str, *columns: pl.Expr, rows: list[int] | None = None) -> None:
    """Write a table again with these columns, and of these rows only."""
    file = folder / f"{table}.parquet"
    frame = pl.read_parquet(file).with_columns(*columns)
    (frame if rows is None else frame[rows]).write_parquet(file)


def where_id(number: int, column: str, value: object) -> pl.Expr:
    return pl.when(pl.col("id") == number).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)


@pytest.fixture
def folder(tmp_path) -> Path:
    posts = [post(1, tags=[3, 1]), post(2, tags=[2]), post(5, tags=[]), post(4, tags=[8, 8, 7])]
    return make_tables(tmp_path / "tables", make_database(tmp_path / "m.db", posts))


@given(posts=POSTS)
@settings(max_examples=25)
def test_both_forms_give_the_same_posts(posts):
    with TemporaryDirectory() as name:
        database = make_database(Path(name) / "m.db", [post(row["id"], **row) for row in posts])
        folder = make_tables(Path(name) / "tables", database)
        assert all_posts(folder, Path(name)).equals(all_posts(database, Path(name)))


def test_both_forms_have_the_same_tags_bounds_and_counts(tmp_path, folder):
    with BooruDatabase(tmp_path / "m.db", POST_COLUMNS) as database, BooruTables(folder, POST_COLUMNS) as parquet:
        assert parquet.tags().equals(database.tags())
        assert parquet.tags().schema == database.tags().schema
        assert parquet.id_bounds() == database.id_bounds() == (1, 5)
        assert parquet.post_count() == database.post_count() == 4
        assert parquet.posts(2, 4).equals(database.posts(2, 4))
        assert parquet.relation_count() == database.relation_count() == 6


def test_a_folder_without_posts(tmp_path):
    folder = make_tables(tmp_path / "tables", make_database(tmp_path / "m.db", []))
    with BooruTables(folder, POST_COLUMNS) as parquet:
        assert (parquet.id_bounds(), parquet.post_count(), parquet.relation_count()) == (None, 0, 0)
        assert parquet.tags().height == len(TAGS)


def test_order_of_posts_and_tags_does_not_matter(tmp_path, folder):
    expected = all_posts(folder, tmp_path)
    change(folder, "post", rows=[2, 0, 3, 1])
    change(folder, "tag", rows=list(range(len(TAGS)))[::-1])
    assert all_posts(folder, tmp_path).equals(expected)
    with BooruTables(folder, POST_COLUMNS) as parquet:
        assert parquet.tags()["id"].is_sorted()


def test_narrower_numbers_booleans_and_columns_of_nulls_alone(tmp_path, folder):
    expected = all_posts(folder, tmp_path)
    change(folder, "post", pl.col("id").cast(pl.UInt32), pl.col("is_deleted").cast(pl.Boolean), pl.col("rating").cast(pl.Int8))
    change(folder, "posttagrelation", pl.all().cast(pl.UInt64))
    assert all_posts(folder, tmp_path).equals(expected)
    change(folder, "post", pl.lit(None).alias("md5"), pl.lit(None).alias("score"))
    empty = expected.with_columns(md5=pl.lit(None, dtype=pl.String), score=pl.lit(None, dtype=pl.Int64))
    assert all_posts(folder, tmp_path).equals(empty)


def test_columns_that_are_not_read_may_be_missing_or_odd(tmp_path, folder):
    expected = all_posts(folder, tmp_path, CAPTION_COLUMNS)
    frame = pl.read_parquet(folder / "post.parquet").select("fav_count", "created_at", "rating", "id", score=pl.lit(1.5))
    frame.write_parquet(folder / "post.parquet")
    assert all_posts(folder, tmp_path, CAPTION_COLUMNS).equals(expected)
    pl.read_parquet(folder / "tag.parquet").drop("popularity").write_parquet(folder / "tag.parquet")
    with BooruTables(folder, CAPTION_COLUMNS) as parquet:
        assert parquet.tags()["popularity"].null_count() == len(TAGS)


@pytest.mark.parametrize("table", ["post", "tag"])
def test_a_row_that_stands_twice_counts_once(tmp_path, folder, table):
    expected = all_posts(folder, tmp_path)
    change(folder, table, rows=[1, 0, 1, 2, 3, 1, 3, *range(4, pl.read_parquet(folder / f"{table}.parquet").height)])
    assert all_posts(folder, tmp_path).equals(expected)
    with BooruTables(folder, POST_COLUMNS) as parquet:
        assert parquet.tags()["id"].to_list() == [tag[0] for tag in TAGS]


def test_relations_are_read_in_pieces(tmp_path, folder, monkeypatch):
    expected = all_posts(folder, tmp_path)
    monkeypatch.setattr(tables, "RELATIONS_AT_ONCE", 2)
    assert all_posts(folder, tmp_path).equals(expected)
    change(folder, "posttagrelation", where_id(3, "id", 2))  # the first of the second piece
    assert "not in ascending order of id" in complaint(folder)
    change(folder, "posttagrelation", where_id(4, "tag_id", None))
    assert "row 3 has no tag_id" in complaint(folder)


@pytest.mark.parametrize(
    ("table", "change_of_rows", "text"),
    [
        ("post", [where_id(5, "score", 99)], "post.parquet: post 4 is there twice with different values"),
        ("post", [where_id(5, "md5", None)], "post.parquet: post 4 is there twice with different values"),
        ("tag", [where_id(5, "name", "other")], "tag.parquet: tag 4 is there twice with different values"),
    ],
)
def test_differing_rows_of_one_id_are_refused(folder, table, change_of_rows, text):
    change(folder, table, *change_of_rows)
    change(folder, table, where_id(5, "id", 4))
    assert text in complaint(folder)


@pytest.mark.parametrize("rows", [[1, 0, 2, 3], [0, 1, 1, 2], [0, 1, 2, 3, 4, 5, 0]])
def test_relations_out_of_order_are_refused(folder, rows):
    change(folder, "posttagrelation", rows=rows)
    assert "posttagrelation.parquet: its rows are not in ascending order of id" in complaint(folder)


@pytest.mark.parametrize(
    ("table", "column", "text"),
    [
        ("posttagrelation", where_id(1, "post_id", None), "posttagrelation.parquet: row 0 has no post_id"),
        ("posttagrelation", where_id(3, "tag_id", None), "posttagrelation.parquet: row 2 has no tag_id"),
        ("posttagrelation", where_id(3, "id", None), "posttagrelation.parquet: row 2 has no id"),
        ("post", where_id(2, "id", None), "post.parquet: post.id: a row has no value"),
        ("post", where_id(2, "rating", 7), "post.parquet: post 2 has the unknown rating 7"),
        ("post", where_id(2, "id", -1), "post.parquet: the id of post -1 is outside 0.."),
        ("post", where_id(2, "id", 10**11), "post.parquet: the id of post 100000000000 is outside 0.."),
        ("tag", where_id(2, "id", None), "tag.parquet: tag.id: tag None has no value"),
        ("tag", where_id(2, "name", None), "tag.parquet: tag.name: tag 2 has no value"),
        ("tag", where_id(2, "type", 5), "tag.parquet: tag 2 ('solo') has the unknown type 5"),
        ("tag", where_id(2, "id", 2_000_000_000), "tag.parquet: tag id 2000000000 ('solo') is outside"),
    ],
)
def test_values_that_do_not_fit(folder, table, column, text):
    change(folder, table, column)
    assert text in complaint(folder)


@pytest.mark.parametrize(("table", "column"), [("post", "score"), ("tag", "popularity"), ("posttagrelation", "post_id")])
def test_numbers_beyond_63_bits_are_refused(folder, table, column):
    change(folder, table, pl.lit(2**64 - 1, dtype=pl.UInt64).alias(column))
    assert f"{table}.parquet: cannot be read (" in complaint(folder)


@pytest.mark.parametrize("table", ["post", "tag", "posttagrelation"])
def test_missing_file(folder, table):
    (folder / f"{table}.parquet").unlink()
    assert f"{table}.parquet: no such file; expected danbooru2023's tables" in complaint(folder)


@pytest.mark.parametrize(("table", "column"), [("post", "fav_count"), ("tag", "name"), ("posttagrelation", "id")])
def test_missing_column(folder, table, column):
    pl.read_parquet(folder / f"{table}.parquet").rename({column: "other"}).write_parquet(folder / f"{table}.parquet")
    assert f"{table}.parquet: table {table} has no column {column}; it has " in complaint(folder)


@pytest.mark.parametrize(
    ("table", "column", "kind", "text"),
    [
        ("post", "rating", pl.String, "post.rating holds String, expected integers"),
        ("post", "score", pl.Float64, "post.score holds Float64, expected integers"),
        ("post", "md5", pl.Binary, "post.md5 holds Binary, expected text"),
        ("tag", "id", pl.String, "tag.id holds String, expected integers"),
        ("posttagrelation", "tag_id", pl.Float32, "posttagrelation.tag_id holds Float32, expected integers"),
    ],
)
def test_column_of_another_type(folder, table, column, kind, text):
    change(folder, table, pl.col(column).cast(kind))
    assert text in complaint(folder)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"SQLite format 3\0" * 100])
@pytest.mark.parametrize("table", ["post", "tag", "posttagrelation"])
def test_another_kind_of_file(folder, content, table):
    (folder / f"{table}.parquet").write_bytes(content)
    assert f"{table}.parquet: not a parquet file, or cut short; fetch it again" in complaint(folder)


@pytest.mark.parametrize("table", ["post", "tag", "posttagrelation"])
def test_file_that_was_cut_short(folder, table):
    file = folder / f"{table}.parquet"
    file.write_bytes(file.read_bytes()[:-10])
    assert f"{table}.parquet: not a parquet file, or cut short; fetch it again" in complaint(folder)


@pytest.mark.parametrize("table", ["post", "tag", "posttagrelation"])
def test_file_with_a_hole_in_its_data(folder, table):
    file = folder / f"{table}.parquet"
    content = file.read_bytes()
    footer = int.from_bytes(content[-8:-4], "little") + 8
    file.write_bytes(content[:4] + bytes(len(content) - footer - 4) + content[-footer:])
    assert f"{table}.parquet: cannot be read (" in complaint(folder)


def test_a_table_that_is_a_folder(folder):
    (folder / "tag.parquet").unlink()
    (folder / "tag.parquet").mkdir()
    assert "tag.parquet: no such file" in complaint(folder)


def test_relations_of_posts_that_are_not_there_are_counted(tmp_path, folder):
    change(folder, "posttagrelation", where_id(3, "post_id", 5_000_000), where_id(1, "tag_id", 99))
    with BooruTables(folder, POST_COLUMNS) as parquet:
        assert RelationBlocks(tmp_path / "r").fill(parquet, blocks_of((1, 5), 4)) == 1
    assert all_posts(folder, tmp_path)["tags"].to_list() == [[1], [], [8, 8, 7], []]
