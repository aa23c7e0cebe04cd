"""What sidecars say, in the forms in which they are found, and refusals that name file and key."""

import json

from repro.errors import StageError

import pytest

from booru.images.sidecars import Sidecar, parse_sidecar


def tags(values: dict) -> list[tuple]:
    return [tuple(name) for name in parse_sidecar("p/a.json", json.dumps(values)).tags]


def complaint(text: str) -> str:
    with pytest.raises(StageError) as error:
        parse_sidecar("p/a.json", text)
    assert str(error.value).startswith("p/a.json: ")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1girl, long hair,solo", ["1girl", "long hair", "solo"]),
        (" a ,, b\t,\n", ["a", "b"]),
        ("a, b\nc\r\nd,", ["a", "b", "c", "d"]),
        ("", []),
        (" \n", []),
        ("猫 耳, ^_^", ["猫 耳", "^_^"]),
    ],
)
def test_text_is_tags_between_commas(text, names):
    assert [tuple(name) for name in parse_sidecar("p/a.txt", text).tags] == [(name, None) for name in names]


def test_json_says_all():
    values = {
        "rating": "questionable", "created_at": "2020-01-02", "score": -3, "fav_count": 7, "md5": "ab", "tags": ["a"],
        "width": "any", "something": {"else": 1},
    }  # fmt: skip
    sidecar = parse_sidecar("p/a.json", json.dumps(values))
    assert (sidecar.rating, sidecar.created_at, sidecar.score, sidecar.fav_count, sidecar.md5) == (2, "2020-01-02", -3, 7, "ab")


def test_plain_keys_in_the_order_of_the_file():
    assert tags({"custom": "anime wallpaper", "tags": "a, b c", "artist": ["d e"], "general": "f, g", "meta": []}) == [
        ("anime wallpaper", 5), ("a", None), ("b c", None), ("d e", 1), ("f", 0), ("g", 0),
    ]  # fmt: skip
    assert tags({"character": "c", "copyright": ["s"], "meta": "highres"}) == [("c", 2), ("s", 3), ("highres", 4)]


def test_danbooru_s_keys():
    assert tags({"tag_string": "a b_c", "tag_string_artist": "b_c", "tag_string_general": "a"}) == [
        ("a", None), ("b_c", None), ("b_c", 1), ("a", 0),
    ]  # fmt: skip


@pytest.mark.parametrize("value", [["a_b", "c"], "a_b c"])
def test_gallery_dl_s_keys(value):
    assert tags({"tags_character": value}) == [("a_b", 2), ("c", 2)]


@pytest.mark.parametrize("word", ["explicit", "Explicit", "e", "E", " e "])
def test_ratings(word):
    assert parse_sidecar("p/a.json", json.dumps({"rating": word})).rating == 3


def test_date_where_created_at_is_missing():
    assert parse_sidecar("p/a.json", '{"date": "2021", "created_at": null}').created_at == "2021"
    assert parse_sidecar("p/a.json", '{"date": "2021", "created_at": "2020"}').created_at == "2020"


def test_nothing_said():
    assert parse_sidecar("p/a.json", "{}") == parse_sidecar("p/a.json", '{"rating": null, "tags": null}') == Sidecar()


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "[" * 100_000, '{"a": 1} x'])
def test_malformed_json(text):
    assert "not JSON" in complaint(text)


@pytest.mark.parametrize("text", ["[]", "3", '"solo"', "null"])
def test_json_that_is_no_object(text):
    assert "expected a JSON object" in complaint(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tags", 3), ("tags", [1]), ("artist", {"a": 1}), ("tag_string_meta", True), ("tags_general", [["a"]]),
        ("rating", "safe"), ("rating", 1), ("rating", ""), ("rating", ["g"]), ("created_at", 2020), ("date", []), ("score", "7"),
        ("score", 1.5), ("score", True), ("fav_count", 2**31), ("md5", 5),
    ],
)  # fmt: skip
def test_wrong_values_name_the_key(key, value):
    assert f"p/a.json: {key}: " in complaint(json.dumps({key: value}))
