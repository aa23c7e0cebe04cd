"""The metadata database: what is read, in which order, and what is refused in words."""

import os
import sqlite3

import polars as pl
import pytest
from tiny_booru import POST_SCHEMA, TAGS, all_posts, complaint, make_database, post

from booru.metadata.database import BooruDatabase
from booru.metadata.schema import CAPTION_COLUMNS, POST_COLUMNS


def change(path, *statements):
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA synchronous = OFF")
        for statement in statements:
            db.execute(statement)
    db.close()
    return path


def test_posts_keep_their_columns_and_the_order_of_their_relations(tmp_path):
    path = make_database(tmp_path / "m.db", [post(7, tags=[8, 1, 3]), post(5, tags=[2, 1], md5=None), post(6, tags=[])])
    # Appended later, as the tags of old posts are in the published database.
    change(path, "INSERT INTO posttagrelation (post_id, tag_id) VALUES (7, 2)")
    posts = all_posts(path, tmp_path)
    assert posts["id"].to_list() == [5, 6, 7]
    assert posts["tags"].to_list() == [[2, 1], [], [8, 1, 3, 2]]
    assert posts["md5"].to_list() == [None, f"{6:032x}", f"{7:032x}"]
    assert posts["image_width"].to_list() == [128] * 3
    assert posts.schema == {c.name: c.dtype() for c in POST_COLUMNS} | {"tags": pl.List(pl.Int32)}


def test_the_posts_of_a_range_and_no_others(tmp_path):
    path = make_database(tmp_path / "m.db", [post(i) for i in range(1, 10)])
    with BooruDatabase(path, POST_COLUMNS) as database:
        assert (database.id_bounds(), database.post_count()) == ((1, 9), 9)
        assert database.posts(2, 4)["id"].to_list() == [2, 3, 4]
        assert database.posts(9, 11)["id"].to_list() == [9]
        assert database.posts(10, 11).schema == database.posts(1, 9).schema


def test_a_database_without_posts(tmp_path):
    with BooruDatabase(make_database(tmp_path / "m.db", []), POST_COLUMNS) as database:
        assert (database.id_bounds(), database.post_count(), database.relation_count()) == (None, 0, 0)
        assert database.tags().height == len(TAGS)


def test_tags_come_by_id(tmp_path):
    path = make_database(tmp_path / "m.db", [], tags=[(9, "nine", 4), (2, "two", 0)])
    change(path, "UPDATE tag SET popularity = NULL WHERE id = 2")
    with BooruDatabase(path, POST_COLUMNS) as database:
        assert database.tags().rows() == [(2, "two", 0, None), (9, "nine", 4, 10)]
        assert database.tags().schema == {"id": pl.Int64, "name": pl.String, "type": pl.Int64, "popularity": pl.Int64}


def test_tags_without_popularity(tmp_path):
    path = change(make_database(tmp_path / "m.db", []), "ALTER TABLE tag DROP COLUMN popularity")
    with BooruDatabase(path, POST_COLUMNS) as database:
        tags = database.tags()
    assert tags.schema["popularity"] == pl.Int64
    assert tags["popularity"].null_count() == len(TAGS)


def test_orphan_relations_are_dropped_and_doubled_ones_stay(tmp_path):
    path = make_database(tmp_path / "m.db", [post(1, tags=[3, 99, 3, 1]), post(2, tags=[99])])
    change(path, "INSERT INTO posttagrelation (post_id, tag_id) VALUES (77, 1)")
    assert all_posts(path, tmp_path)["tags"].to_list() == [[3, 3, 1], []]


def test_same_answer_without_the_index(tmp_path):
    path = make_database(tmp_path / "m.db", [post(i, tags=[i % 3 + 1, 5, 2]) for i in range(1, 50)])
    with_index = all_posts(path, tmp_path)
    change(path, "DROP INDEX posttagrelation_post_id", "CREATE INDEX other ON posttagrelation (tag_id)")
    assert all_posts(path, tmp_path).equals(with_index)


def test_order_of_insertion_does_not_matter(tmp_path):
    posts = [post(i, score=i) for i in range(1, 50)]
    a, b = make_database(tmp_path / "a.db", posts), make_database(tmp_path / "b.db", posts[::-1], tags=TAGS[::-1])
    with BooruDatabase(a, POST_COLUMNS) as first, BooruDatabase(b, POST_COLUMNS) as second:
        assert first.posts(1, 49).equals(second.posts(1, 49))
        assert first.tags().equals(second.tags())


def test_older_revision_without_updated_at(tmp_path):
    path = make_database(tmp_path / "m.db", [post(1)])
    newer = all_posts(path, tmp_path)
    change(path, "ALTER TABLE post DROP COLUMN updated_at", "ALTER TABLE post ADD COLUMN tag_list VARCHAR(255)")
    assert all_posts(path, tmp_path).equals(newer)


@pytest.mark.parametrize("columns", [CAPTION_COLUMNS, POST_COLUMNS])
def test_a_database_with_the_needed_columns_alone(tmp_path, columns):
    path = make_database(tmp_path / "m.db", [post(1), post(2, tags=[2])])
    needed = [column.name for column in columns]
    change(
        path,
        f"CREATE TABLE few ({', '.join(f'{c.name} ' + ('INTEGER' if c.integer else 'TEXT') for c in columns)}, PRIMARY KEY (id))",
        f"INSERT INTO few SELECT {', '.join(needed)} FROM post",
        "DROP TABLE post",
        "ALTER TABLE few RENAME TO post",
    )
    posts = all_posts(path, tmp_path, columns)
    assert posts.columns == [*needed, "tags"]
    assert posts["tags"].to_list() == [[3, 1, 7, 8, 5, 2], [2]]


@pytest.mark.parametrize("table", ["post", "tag", "posttagrelation"])
def test_tables_named_in_capitals_are_the_same_to_sqlite(tmp_path, table):
    path = make_database(tmp_path / "m.db", [post(1)])
    expected = all_posts(path, tmp_path)
    change(path, f"ALTER TABLE {table} RENAME TO t", f"ALTER TABLE t RENAME TO {table.upper()}")
    assert all_posts(path, tmp_path).equals(expected)


def test_missing_values_come_out_as_null(tmp_path):
    nullable = [column.name for column in POST_COLUMNS if column.nullable]
    path = make_database(tmp_path / "m.db", [post(1), post(2, **dict.fromkeys(nullable)), post(3)])
    posts = all_posts(path, tmp_path)
    assert posts.row(1, named=True) == {"id": 2, "tags": [3, 1, 7, 8, 5, 2]} | dict.fromkeys(nullable)
    assert posts["fav_count"].to_list() == [5, None, 5]


def test_names_with_quotes_and_line_breaks_are_kept(tmp_path):
    names = ['"quoted"', "it's", "a,b", "two\nlines", "tab\there", "back\\slash", "\u2028", "𝒳é", "", " ", "null", "[1]"]
    path = make_database(tmp_path / "m.db", [], tags=[(i, name, 0) for i, name in enumerate(names)])
    with BooruDatabase(path, POST_COLUMNS) as database:
        assert database.tags()["name"].to_list() == names


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_database_of_another_encoding(tmp_path, encoding):
    path, names = tmp_path / "m.db", ["1girl", "é", "𝒳"]
    change(path, f"PRAGMA encoding = '{encoding}'", "CREATE TABLE localpost (id INTEGER)")
    make_database(path, [post(1, tags=[2, 0])], tags=[(i, name, 0) for i, name in enumerate(names)])
    with BooruDatabase(path, POST_COLUMNS) as database:
        assert database.tags()["name"].to_list() == names
    assert all_posts(path, tmp_path)["tags"].to_list() == [[2, 0]]


def test_reading_leaves_nothing_beside_the_file(tmp_path):
    path = make_database(tmp_path / "folder" / "m ?#%ü'.db", [post(1)])
    change(path, "PRAGMA journal_mode = wal")
    before = path.read_bytes()
    all_posts(path, tmp_path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_missing_file_is_not_created(tmp_path):
    assert "no such metadata database" in complaint(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("content", [b"", b"id,name\n", b"SQLite format 2\0"])
def test_another_kind_of_file(tmp_path, content):
    (tmp_path / "m.db").write_bytes(content)
    assert "not an SQLite database" in complaint(tmp_path / "m.db")


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_unmerged_changes_are_refused(tmp_path, suffix):
    path = make_database(tmp_path / "m.db", [post(1)])
    (tmp_path / f"m.db{suffix}").write_bytes(b"x")
    assert f"m.db{suffix} holds changes" in complaint(path)


def test_changes_of_a_program_that_was_killed_are_refused(tmp_path):
    path = change(make_database(tmp_path / "m.db", [post(1)]), "PRAGMA journal_mode = wal")
    if os.fork() == 0:
        sqlite3.connect(path, isolation_level=None).execute("DELETE FROM post")
        os._exit(0)
    os.wait()
    assert "m.db-wal holds changes" in complaint(path)


@pytest.mark.parametrize("table", ["post", "tag", "posttagrelation"])
def test_missing_table(tmp_path, table):
    path = change(make_database(tmp_path / "m.db", [post(1)]), f"DROP TABLE {table}")
    assert f"no table {table}" in complaint(path)


@pytest.mark.parametrize(
    ("table", "column"), [("post", c.name) for c in POST_COLUMNS[1:]] + [("tag", "type"), ("posttagrelation", "tag_id")]
)
def test_missing_column(tmp_path, table, column):
    path = make_database(tmp_path / "m.db", [post(1)])
    change(path, f"ALTER TABLE {table} RENAME COLUMN {column} TO other")
    assert f"table {table} has no column {column}; it has id, " in complaint(path)


def test_column_of_another_type(tmp_path):
    schema = POST_SCHEMA.replace('"rating" INTEGER', '"rating" VARCHAR(1)')
    path = make_database(tmp_path / "m.db", [post(1)], post_schema=schema)
    assert "post.rating is declared VARCHAR(1), expected INTEGER" in complaint(path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"fav_count": "many"}, "post.fav_count: post 2 holds 'many', expected an integer"),
        ({"fav_count": "1,2"}, "post.fav_count: post 2 holds '1,2', expected an integer"),
        ({"fav_count": "5 "}, None),  # SQLite's own rules make an integer of it
        ({"fav_count": b"5"}, "post.fav_count: post 2 holds b'5', expected an integer"),
        ({"score": 1e300}, "post.score: post 2 holds '1.0e+300', expected an integer"),
        ({"image_width": 12.5}, "post.image_width: post 2 holds '12.5', expected an integer"),
        ({"image_width": float("inf")}, "post.image_width: post 2 holds 'Inf', expected an integer"),
        ({"file_ext": b"png"}, "post.file_ext: post 2 holds b'png', expected text"),
        ({"rating": 4}, "table post: post 2 has the unknown rating 4"),
        ({"rating": -1}, "table post: post 2 has the unknown rating -1"),
        ({"tags": [3, None]}, "posttagrelation.tag_id: relation 8 has no value, expected an integer"),
        ({"tags": ["solo"]}, "posttagrelation.tag_id: relation 7 holds 'solo', expected an integer"),
        ({"tags": [b"7"]}, "posttagrelation.tag_id: relation 7 holds b'7', expected an integer"),
        ({"tags": ["7,7", 2.5]}, "posttagrelation.tag_id: relation 7 holds '7,7', expected an integer"),
    ],
)
def test_values_that_do_not_fit(tmp_path, changes, text):
    path = make_database(tmp_path / "m.db", [post(1), post(2, **changes), post(3)])
    if text is None:
        assert all_posts(path, tmp_path)["fav_count"].to_list() == [5] * 3
    else:
        assert text in complaint(path)


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ((20, "odd", 5), "tag 20 ('odd') has the unknown type 5"),
        ((20, "odd", "artist"), "tag.type: tag 20 holds 'artist'"),
        ((20, None, 0), "tag.name: tag 20 has no value, expected text"),
        ((20, b"odd", 0), "tag.name: tag 20 holds b'odd', expected text"),
        ((2_000_000_000, "far", 0), "tag id 2000000000 ('far') is outside"),
        ((-1, "near", 0), "tag id -1 ('near') is outside"),
    ],
)
def test_tags_that_do_not_fit(tmp_path, tag, text):
    assert text in complaint(make_database(tmp_path / "m.db", [post(1)], tags=[(1, "solo", 0), tag]))


def replace_by_keyless_copy(path, table, statement):
    """Replace a table by a copy without its primary key, after the statement changed the copy."""
    change(
        path,
        f"CREATE TABLE copy AS SELECT * FROM {table}",
        statement,
        f"DROP TABLE {table}",
        f"ALTER TABLE copy RENAME TO {table}",
    )


@pytest.mark.parametrize("table", ["post", "tag"])
def test_an_id_that_is_there_twice(tmp_path, table):
    """A table that was copied without its primary key can hold one."""
    path = make_database(tmp_path / "m.db", [post(1), post(2)])
    replace_by_keyless_copy(path, table, f"INSERT INTO copy SELECT * FROM {table} WHERE id = 2")
    assert f"table {table}: {table} 2 is there more than once" in complaint(path)


@pytest.mark.parametrize("table", ["post", "tag", "posttagrelation"])
@pytest.mark.parametrize(("value", "text"), [("NULL", "has no value"), ("'seven'", "holds 'seven'"), ("x'37'", "holds b'7'")])
def test_an_id_that_is_no_number(tmp_path, table, value, text):
    path = make_database(tmp_path / "m.db", [post(1), post(2)])
    replace_by_keyless_copy(path, table, f"UPDATE copy SET id = {value} WHERE id = 2")
    assert f"{table}.id: a row {text}, expected an integer" in complaint(path)


@pytest.mark.parametrize("number", [-1, 50_000_000_000, 2**62])
def test_an_id_of_a_post_beyond_all_shards(tmp_path, number):
    assert f"post {number}" in complaint(make_database(tmp_path / "m.db", [post(1), post(number)]))


@pytest.mark.parametrize("pages", [2, 20])
def test_file_that_was_cut_short(tmp_path, pages):
    path = make_database(tmp_path / "m.db", [post(i, source="s" * 200) for i in range(1, 400)])
    path.write_bytes(path.read_bytes()[: pages * 4096])
    text = complaint(path)
    assert "SQLite says: database disk image is malformed" in text
    assert "fetch it again" in text


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        (b"marker_name", r"tag.name: tag 20 holds b'marker\xffname', which is not UTF-8 text"),
        (b"marker_date", r"post.created_at: post 2 holds b'marker\xffdate', which is not UTF-8 text"),
    ],
)
def test_text_that_is_not_utf8_is_named(tmp_path, marker, text):
    tags = [*TAGS, (20, "marker_name", 0)]
    path = make_database(tmp_path / "m.db", [post(1), post(2, created_at="marker_date"), post(3)], tags=tags)
    path.write_bytes(path.read_bytes().replace(marker, marker.replace(b"_", b"\xff")))
    assert text in complaint(path)


def test_text_that_is_not_utf8_in_a_column_that_is_not_read(tmp_path):
    path = make_database(tmp_path / "m.db", [post(1, source="marker")])
    path.write_bytes(path.read_bytes().replace(b"marker", b"m\xffrker"))
    assert all_posts(path, tmp_path).height == 1
