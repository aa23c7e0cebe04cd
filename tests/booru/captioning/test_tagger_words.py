"""How captions spell a tagger's names, with the reference's quirks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru.captioning.tagger_words import character_words, expanded, spelled


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("long_hair", "long hair"),
        ("^_^", "^_^"),
        ("|_|", "|_|"),
        ("||_||", "|| ||"),
        ("a_ib", "a ib"),
        ("saber_(fate)", "saber (fate)"),
    ],
)
def test_underscores_become_spaces_but_in_emoticons(name, text):
    assert spelled(name) == text
    assert spelled(name, remove_underscore=False) == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hatsune_miku", "hatsune_miku"),
        ("skadi_(arknights)", "skadi, arknights"),
        ("ganyu_(qixing_project)_(genshin_impact)", "ganyu_(qixing_project), genshin_impact"),
        ("x_(y)_z", "x_(y)_z"),
        ("a.b_(c_(d))", "a.b_(c, d"),
        ("(nameless)", ", nameless"),
        ("odd)", ", odd"),
    ],
)
def test_the_last_bracket_becomes_an_element(name, text):
    assert expanded(name) == text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hatsune_miku", ["hatsune miku"]),
        ("skadi_(arknights)", ["skadi", "arknights"]),
        ("ai_(love_live!_(series))", ["ai (love live!", "series"]),
        ("(nameless)", ["nameless"]),
        ("yu_(o_o)", ["yu", "o o"]),
        ("one", ["one"]),
    ],
)
def test_the_elements_of_a_character(name, words):
    assert character_words(name) == words


@given(st.text("ab_() ,", min_size=1, max_size=12))
def test_an_expanded_name_loses_nothing_but_brackets_and_one_underscore(name):
    letters = str.maketrans("", "", "_() ,")
    assert expanded(name).translate(letters) == name.translate(letters)
    assert all(character_words(name))
