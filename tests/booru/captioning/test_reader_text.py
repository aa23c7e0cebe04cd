"""The text of a caption, from the reader's answer."""

import json
from pathlib import Path

from repro.errors import StageError

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_annotations import PREFIX

from booru.captioning.reader_text import text_word


@pytest.mark.golden
@pytest.mark.parametrize("mode", ["exact", "clean"])
def test_answers_become_the_references_words(golden: Path, mode: str):
    answers = json.loads((golden / "evaluate" / "sote" / "set" / "expected.json").read_text(encoding="utf-8"))["llava_post"]
    assert [text_word(answer["decoded"], PREFIX, mode) for answer in answers] == [answer["out"] for answer in answers]


@pytest.mark.parametrize("answer", ["", " ", "\n", ' "', ".", '".', " .\n", '   "'])
def test_an_empty_answer_is_a_lone_mark_for_the_script_and_nothing_when_clean(answer: str):
    assert text_word(PREFIX + answer, PREFIX, "exact").strip() == '"'
    assert text_word(PREFIX + answer, PREFIX, "clean") is None


@pytest.mark.parametrize("answer", [' The text says ""', ' The text says "', ' "', " The text says", ' The text says "".', '""'])
def test_an_empty_quotation_says_nothing_when_clean(answer: str):
    assert text_word(PREFIX + answer, PREFIX, "exact").endswith('"')
    assert text_word(PREFIX + answer, PREFIX, "clean") is None
    assert text_word(f"{PREFIX}{answer} !", PREFIX, "clean") is not None


@pytest.mark.parametrize("start", ["", " ", "\n", "<s>", "<s> ", "<s>\n", "<image>", "<s><image>\n", "<|begin_of_text|> \n"])
@pytest.mark.parametrize(
    "prompt", [PREFIX, PREFIX.lstrip(), f" {PREFIX}", PREFIX.replace("\n", " "), PREFIX.replace("\n", " \n")]
)
def test_the_prompt_is_taken_off_however_it_is_decoded(start: str, prompt: str):
    assert text_word(f"{start}{prompt} The text says <s>.", PREFIX, "exact") == 'The text says <s>"'
    assert text_word(f"{start}{prompt}  assistant: no, b", PREFIX, "exact") == ' assistant: no. b"'


@pytest.mark.parametrize("decoded", ["Hello", f"well {PREFIX} Hello", PREFIX[:-1], PREFIX.replace("the", ""), "assistant: Hello"])
def test_a_text_that_is_no_answer_to_the_prompt_is_refused(decoded: str):
    with pytest.raises(StageError, match="does not begin with its prompt"):
        text_word(decoded, PREFIX, "clean")


def test_a_prompt_that_is_a_picture_alone_leaves_all_to_the_answer():
    assert text_word("<s> Hello.", "", "exact") == 'Hello"'


@given(answer=st.text(alphabet='ab ,."\n', max_size=12))
def test_a_word_has_neither_commas_nor_lines_and_clean_differs_only_where_there_is_nothing(answer: str):
    exact, clean = (text_word(PREFIX + answer, PREFIX, mode) for mode in ("exact", "clean"))
    assert exact.endswith('"') and not set(exact) & {",", "\n"}
    assert clean == exact or (clean is None and not exact.strip(' "'))
