"""The metadata database: what is read, in which order, and what is refused in words."""

import sqlite3

from repro.errors import StageError

import numpy as np
import pytest
from tiny_booru import POST_SCHEMA, make_database, post

from booru.metadata.database import BooruDatabase


def read(path, ids):
    with BooruDatabase(path) as database:
        return database.posts(np.array(ids), database.tags()["id"].to_numpy())


def change(path, *statements):
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


def test_posts_keep_their_columns_and_the_order_of_their_relations(tmp_path):
    path = make_database(tmp_path / "m.db", [post(7, tags=[8, 1, 3]), post(5, tags=[2, 1], md5=None), post(6, tags=[])])
    # Appended later, as the tags of old posts are in the published database.
    change(path, "INSERT INTO posttagrelation (post_id, tag_id) VALUES (7, 2)")
    posts = read(path, [5, 6, 7])
    assert posts["id"].to_list() == [5, 6, 7]
    assert posts["tags"].to_list() == [[2, 1], [], [8, 1, 3, 2]]
    assert posts["md5"].to_list() == [None, f"{6:032x}", f"{7:032x}"]
    assert posts["image_width"].to_list() == [128] * 3
    assert str(posts["tags"].dtype) == "List(Int32)"


def test_only_the_chosen_posts_are_read_also_the_second_time(tmp_path):
    path = make_database(tmp_path / "m.db", [post(i) for i in range(1, 10)])
    with BooruDatabase(path) as database:
        known = database.tags()["id"].to_numpy()
        assert database.posts(np.array([2, 4]), known)["id"].to_list() == [2, 4]
        assert database.posts(np.array([3, 11]), known)["id"].to_list() == [3]


def test_orphan_relations_are_dropped_and_doubled_ones_stay(tmp_path):
    path = make_database(tmp_path / "m.db", [post(1, tags=[3, 99, 3, 1]), post(2, tags=[99])])
    change(path, "INSERT INTO posttagrelation (post_id, tag_id) VALUES (77, 1)")
    assert read(path, [1, 2])["tags"].to_list() == [[3, 3, 1], []]


def test_same_answer_without_the_index(tmp_path):
    path = make_database(tmp_path / "m.db", [post(i, tags=[i % 3 + 1, 5, 2]) for i in range(1, 50)])
    with_index = read(path, range(1, 50))
    with BooruDatabase(path) as database:
        assert database.has_relation_index()
    change(path, "DROP INDEX posttagrelation_post_id")
    with BooruDatabase(path) as database:
        assert not database.has_relation_index()
    assert read(path, range(1, 50)).equals(with_index)


def test_older_revision_without_updated_at(tmp_path):
    path = make_database(tmp_path / "m.db", [post(1)])
    change(path, "ALTER TABLE post DROP COLUMN updated_at", "ALTER TABLE post ADD COLUMN tag_list VARCHAR(255)")
    posts = read(path, [1])
    assert posts["updated_at"].to_list() == [None]
    assert "tag_list" not in posts.columns


def test_reading_leaves_nothing_beside_the_file(tmp_path):
    path = make_database(tmp_path / "folder" / "m ?#%.db", [post(1)])
    change(path, "PRAGMA journal_mode = wal")
    before = path.read_bytes()
    read(path, [1])
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == before


def complaint(path) -> str:
    with pytest.raises(StageError) as error:
        read(path, [1])
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_missing_file_is_not_created(tmp_path):
    assert "no such metadata database" in complaint(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_another_kind_of_file(tmp_path):
    (tmp_path / "m.db").write_text("id,name\n")
    assert "not an SQLite database" in complaint(tmp_path / "m.db")


def test_unmerged_changes_are_refused(tmp_path):
    path = make_database(tmp_path / "m.db", [post(1)])
    (tmp_path / "m.db-wal").write_bytes(b"x")
    assert "m.db-wal holds changes" in complaint(path)


@pytest.mark.parametrize("table", ["post", "tag", "posttagrelation"])
def test_missing_table(tmp_path, table):
    path = make_database(tmp_path / "m.db", [post(1)])
    change(path, f"DROP TABLE {table}")
    assert f"no table {table}" in complaint(path)


def test_missing_column(tmp_path):
    path = make_database(tmp_path / "m.db", [post(1)])
    change(path, "ALTER TABLE post RENAME COLUMN fav_count TO favs")
    assert "table post has no column fav_count" in complaint(path)


def test_column_of_another_type(tmp_path):
    schema = POST_SCHEMA.replace('"rating" INTEGER', '"rating" VARCHAR(1)')
    path = make_database(tmp_path / "m.db", [post(1)], post_schema=schema)
    assert "post.rating is declared VARCHAR(1), expected INTEGER" in complaint(path)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"fav_count": "many"}, "post.fav_count: post 1 holds 'many', expected an integer"),
        ({"image_width": 12.5}, "post.image_width: post 1 holds 12.5, expected an integer"),
        ({"created_at": None}, "post.created_at: post 1 has no value, expected text"),
        ({"file_ext": b"png"}, "post.file_ext: post 1 holds b'png', expected text"),
        ({"rating": 4}, "post 1 has the unknown rating 4"),
        ({"tags": [3, None]}, "posttagrelation.tag_id: a relation of post 1 has no value"),
        ({"tags": ["solo"]}, "posttagrelation.tag_id: a relation of post 1 holds 'solo'"),
    ],
)
def test_values_that_do_not_fit(tmp_path, changes, text):
    assert text in complaint(make_database(tmp_path / "m.db", [post(1, **changes), post(2)]))


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ((20, "odd", 5), "tag 20 ('odd') has the unknown type 5"),
        ((20, "odd", "artist"), "tag.type: tag 20 holds 'artist'"),
        ((2_000_000_000, "far", 0), "tag id 2000000000 ('far') is outside"),
    ],
)
def test_tags_that_do_not_fit(tmp_path, tag, text):
    assert text in complaint(make_database(tmp_path / "m.db", [post(1)], tags=[tag]))


def test_file_that_was_cut_short(tmp_path):
    path = make_database(tmp_path / "m.db", [post(i, source="s" * 200) for i in range(1, 400)])
    path.write_bytes(path.read_bytes()[:8192])
    text = complaint(path)
    assert "SQLite says" in text
    assert "fetch it again" in text


def test_text_that_is_not_utf8(tmp_path):
    path = make_database(tmp_path / "m.db", [post(1, source="marker")])
    path.write_bytes(path.read_bytes().replace(b"marker", b"m\xffrker"))
    assert "source" in complaint(path)
