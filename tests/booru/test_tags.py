"""The name rule and the tag table's checks."""

from repro.errors import StageError

import numpy as np
import polars as pl
import pytest

from booru.tags import by_tag_id, caption_names, check_tags


def plain_rule(name: str) -> str | None:
    """HakuBooru's rule, as Python writes it."""
    text = name.replace("_", " ") if len(name) > 3 else name
    return text if text.strip() else None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("long_hair", "long hair"),
        ("^_^", "^_^"),
        ("°_°", "°_°"),
        ("||_||", "|| ||"),
        ("<o>_<o>", "<o> <o>"),
        ("a_i", "a_i"),
        ("a_ib", "a ib"),
        ("___", "___"),
        ("____", None),
        ("", None),
        ("saber_(fate)", "saber (fate)"),
        ("\\m/", "\\m/"),
        ("初音ミク_", "初音ミク "),
    ],
)
def test_name_rule(name, text):
    assert caption_names(pl.Series("name", [name])).to_list() == [text]
    assert plain_rule(name) == text


def test_every_character_that_python_takes_for_space():
    names = [chr(c) * n for c in range(0x11000) if not 0xD800 <= c < 0xE000 for n in (1, 4)]
    assert caption_names(pl.Series("name", names)).to_list() == [plain_rule(name) for name in names]


def test_lookup_by_tag_id():
    tags = pl.DataFrame({"id": [2, 5]})
    assert by_tag_id(tags, np.array([7, 9]), default=-1).tolist() == [-1, -1, 7, -1, -1, 9]
    assert by_tag_id(tags.clear(), np.array([], dtype=np.int8), default=3).tolist() == [3]


def test_unknown_type_names_the_tag():
    tags = pl.DataFrame({"id": [1, 2], "name": ["fine", "odd"], "type": [4, -1]})
    with pytest.raises(StageError, match=r"here: tag 2 \('odd'\) has the unknown type -1"):
        check_tags(tags, "here")
