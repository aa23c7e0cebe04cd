"""Blocked tags in prompts: what no picture is asked for, however it is spelled.

Prompts are compared in plain spelling: lower-case, without brackets, backslashes and weights of emphasis, `_` for spaces.
"""

import re
from collections.abc import Iterable

# `(tag:1.2)`, as interfaces for sampling write emphasis; the bracket that ends it stays.
WEIGHT = re.compile(r":\s*[0-9]*\.?[0-9]+\s*(?=[)\]}])")
BRACKETS = str.maketrans("", "", "()[]{}\\")
LETTER_OR_DIGIT = r"[^\W_]"


def plain(text: str) -> str:
    """A tag or several between commas in plain spelling, with no space left at the commas."""
    text = WEIGHT.sub("", text.lower().replace("\\", "")).translate(BRACKETS)
    return re.sub(r"_?,_?", ",", re.sub(r"[\s_]+", "_", text)).strip("_")


def blocked_piece(prompt: str, blocked: Iterable[str]) -> str | None:
    """The first of the blocked tags that stands between two commas of the prompt, or at its ends; None where none does."""
    pieces = f",{plain(prompt)},"
    return next((tag for tag in blocked if (spelled := plain(tag)) and f",{spelled}," in pieces), None)


def blocked_words(prompt: str, blocked: Iterable[str]) -> str | None:
    """The first of the blocked tags that is a run of whole words of the prompt, also inside a piece; None where none is."""
    words = plain(prompt)
    return next((tag for tag in blocked if (spelled := plain(tag)) and re.search(_as_whole_words(spelled), words)), None)


def _as_whole_words(text: str) -> str:
    return f"(?<!{LETTER_OR_DIGIT}){re.escape(text)}(?!{LETTER_OR_DIGIT})"
