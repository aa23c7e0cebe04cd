import pytest
import yaml
from markupsafe import Markup

from reporting.card import code, fenced, license_fields, markdown_text, quoted


def test_markdown_marks_are_escaped_and_lines_joined():
    assert markdown_text("a_b|c\n<i>*x*[y](z)`q`") == r"a\_b\|c \<i\>\*x\*\[y\](z)\`q\`"


def test_plain_text_and_markup_pass():
    assert markdown_text("0.75 - fine, (really)") == "0.75 - fine, (really)"
    assert markdown_text(Markup("**bold**")) == "**bold**"


@pytest.mark.parametrize(
    ("text", "expected"), [("plain", "`plain`"), ("a`b", "``a`b``"), ("``", "``` `` ```"), ("a\nb", "`a b`")]
)
def test_code_spans_hold_any_text(text, expected):
    assert code(text) == expected


def test_a_fence_is_longer_than_what_it_holds():
    assert fenced("x", "yaml") == "```yaml\nx\n```"
    assert fenced("a\n```\nb\n", "") == "````\na\n```\nb\n````"


def test_quoted_is_a_python_literal():
    import ast

    text = 'say "hi"\\ \n```'
    assert ast.literal_eval(str(quoted(text))) == text
    assert "\n" not in quoted(text)


def test_licences_of_the_hub_stand_alone_and_others_bring_their_name():
    assert license_fields("CC-BY-4.0") == {"license": "cc-by-4.0"}
    assert license_fields("Fair AI 1.0-SD") == {"license": "other", "license_name": "fair-ai-1.0-sd"}
    assert yaml.safe_dump(license_fields("MIT")) == "license: mit\n"
