"""Sidecars: what the file beside a picture says of it, as caption text (.txt) or as JSON (.json).

Text is what sd-scripts' caption files are: tags between commas. JSON is an object in our own plain
keys, in those of Danbooru's API (`tag_string_general`), or in those of gallery-dl (`tags_general`).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from repro.errors import StageError

from booru.ratings import RATINGS
from booru.tags import TAG_TYPES

RATING_OF_LETTER = {name[0]: name for name in RATINGS}
INT32 = range(-(2**31), 2**31)


class Name(NamedTuple):
    """A tag as a sidecar writes it; `type` (place in TAG_TYPES) where the sidecar tells it."""

    text: str
    type: int | None


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar says; None for what it does not."""

    tags: tuple[Name, ...] = ()
    rating: int | None = None
    created_at: str | None = None
    score: int | None = None
    fav_count: int | None = None
    md5: str | None = None


def parse_sidecar(file: str, text: str) -> Sidecar:
    """What the sidecar `file` (its extension says which kind it is) with this text says.

    Raises:
        StageError: JSON that is malformed or no object, a value of the wrong type, or an unknown rating; names file and key.
    """
    if not file.endswith(".json"):
        return Sidecar(tuple(Name(tag, None) for tag in _between_commas(text)))
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StageError(f"{file}: not JSON ({error}); mend it or take it away") from None
    if not isinstance(values, dict):
        raise StageError(f"{file}: expected a JSON object of keys and values")
    return _from_object(file, {key: value for key, value in values.items() if value is not None})


def _from_object(file: str, values: dict[str, Any]) -> Sidecar:
    """Keys without a value have been taken out; unknown ones are passed over."""
    tags: list[Name] = []
    for key, value in values.items():
        if key in _TAG_KEYS:
            kind, split = _TAG_KEYS[key]
            tags += [Name(tag, kind) for tag in _names(file, key, value, split)]
    return Sidecar(
        tags=tuple(tags),
        rating=_rating(file, values["rating"]) if "rating" in values else None,
        created_at=_text(file, "created_at", values) or _text(file, "date", values),
        score=_integer(file, "score", values),
        fav_count=_integer(file, "fav_count", values),
        md5=_text(file, "md5", values),
    )


def _between_commas(text: str) -> list[str]:
    return [tag for tag in (part.strip() for line in text.splitlines() for part in line.split(",")) if tag]


def _tag_keys() -> dict[str, tuple[int | None, Callable[[str], list[str]]]]:
    """{key: (type of its tags, how its text is taken apart)}; Danbooru and gallery-dl put spaces between tags."""
    keys = {"tags": (None, _between_commas), "tag_string": (None, str.split)}
    for number, kind in enumerate(TAG_TYPES):
        keys |= {kind: (number, _between_commas), f"tag_string_{kind}": (number, str.split), f"tags_{kind}": (number, str.split)}
    return keys


_TAG_KEYS = _tag_keys()


def _names(file: str, key: str, value: Any, split: Callable[[str], list[str]]) -> list[str]:
    if isinstance(value, str):
        return split(value)
    if not isinstance(value, list) or not all(isinstance(tag, str) for tag in value):
        raise StageError(f"{file}: {key}: expected a text or a list of texts")
    return [tag.strip() for tag in value if tag.strip()]


def _rating(file: str, value: Any) -> int:
    word = value.strip().lower() if isinstance(value, str) else None
    name = RATING_OF_LETTER.get(word, word)
    if name not in RATINGS:
        raise StageError(f"{file}: rating: {value!r} is none of {', '.join(RATINGS)} or their first letters")
    return RATINGS.index(name)


def _text(file: str, key: str, values: dict[str, Any]) -> str | None:
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise StageError(f"{file}: {key}: expected a text, found {value!r}")
    return value


def _integer(file: str, key: str, values: dict[str, Any]) -> int | None:
    value = values.get(key)
    if value is not None and (type(value) is not int or value not in INT32):
        raise StageError(f"{file}: {key}: expected a whole number of 32 bits, found {value!r}")
    return value
