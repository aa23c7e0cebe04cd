"""Blocked tags are found in every spelling, and only whole."""

from repro.blocked_tags import blocked_piece, blocked_words, plain

import pytest
from hypothesis import given
from hypothesis import strategies as st

BLOCKED = ("loli", "onee-shota", "eins,_zwei", "re:zero", "wide_eyes_(doll)")
SPELLED = (
    "loli", "Loli", "  loli ", "(loli)", "((loli))", "[loli]", "{loli}", r"\(loli\)", "(loli:1.2)", "((loli:1.2):0.9)",
    "(loli: .5 )", "_loli_", "onee-shota", "eins, zwei", "Re:Zero", "wide eyes (doll)", r"wide_eyes_\(doll\)",
    "(wide  eyes doll:2)",
)  # fmt: skip
OTHERS = ("lolita fashion", "lolita_fashion", "alolia", "eins", "zwei, eins", "zero", "doll", "solo", "", "loli2")


@pytest.mark.parametrize("tag", SPELLED)
@pytest.mark.parametrize("prompt", ["{}", "1girl, {}", "{}, solo", "solo,{},smile", "(solo, {}:1.1)"])
def test_every_spelling_of_a_blocked_tag_is_found(tag: str, prompt: str) -> None:
    found = {blocked_piece(prompt.format(tag), BLOCKED), blocked_words(prompt.format(tag), BLOCKED)}
    assert {plain(one) for one in found} == {plain(tag)} and found <= set(BLOCKED)


@pytest.mark.parametrize("words", OTHERS)
def test_other_words_are_free(words: str) -> None:
    for prompt in (words, f"solo, {words}, smile"):
        assert blocked_piece(prompt, BLOCKED) is None and blocked_words(prompt, BLOCKED) is None


@pytest.mark.parametrize("words", ["loli bikini", "a loli.", "oji-loli", "loli|solo", "smile, black (loli:1.3) dress"])
def test_inside_a_piece_words_are_found_and_pieces_are_not(words: str) -> None:
    assert blocked_words(words, BLOCKED) == "loli" and blocked_piece(words, BLOCKED) is None


def test_a_blocked_tag_without_a_letter_is_no_empty_piece() -> None:
    assert blocked_piece("solo,, smile", ["", "()"]) is None and blocked_words("solo,, smile", ["", "()"]) is None


@given(st.text("lo_ ,()\\:1.", max_size=20))
def test_plain_spelling_is_plain(text: str) -> None:
    assert plain(plain(text)) == plain(text)
