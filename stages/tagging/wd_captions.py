"""Captions from a WD tagger's probabilities, as sd-scripts' finetune/tag_images_by_wd14_tagger.py writes them.

The rules are those of the revisions fdbb03c3 (2024-04-23) to 48d368fa (2026-02-16), which agree; what differs is:

* 48d368fa itself stops with an UnboundLocalError at the first character that it finds, since a local name hides the
  prepared list, and its `tag_replacement` does nothing. Here both work, as in the revisions before.
* A second run with `append_tags` appends nothing that is there. The reference takes elements that hold the separator, such
  as `skadi, arknights`, for new each time, since it looks for them whole among the parts of the existing caption.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from repro.errors import StageError

import numpy as np

from booru.captioning.tagger_words import SEPARATOR, expanded, spelled
from booru.captioning.thresholds import reaches
from tagging.wd_tagger import CHARACTER, GENERAL, RATING, RATINGS, Vocabulary

UNESCAPED_COMMA, UNESCAPED_SEMICOLON = re.compile(r"(?<!\\),"), re.compile(r"(?<!\\);")


@dataclass(frozen=True)
class TagOptions:
    """sd-scripts' options of these names.

    Attributes:
        remove_underscore: write spaces, except in names of up to three characters (emoticons).
        use_rating_tags: open the caption with the likeliest rating; use_rating_tags_as_last_tag: end with it. The first wins.
        character_tags_first: characters before the others, in reverse order of the vocabulary.
        character_tag_expand: `name_(series)` becomes `name, series`.
        undesired_tags: tags to leave out, as they would be written, separated as the caption is.
        always_first_tags: tags to move to the front where they occur, the last of these to the very front.
        tag_replacement: `tag,other;tag,other` with names as written after the options above; `\\,` and `\\;` stand for
            themselves.
        append_tags: keep what the caption's file says, and append the tags that it lacks.
    """

    general_threshold: float = 0.35
    character_threshold: float = 0.35
    remove_underscore: bool = False
    use_rating_tags: bool = False
    use_rating_tags_as_last_tag: bool = False
    character_tags_first: bool = False
    character_tag_expand: bool = False
    undesired_tags: str = ""
    always_first_tags: str = ""
    tag_replacement: str = ""
    caption_separator: str = SEPARATOR
    append_tags: bool = False


class TagCaptions:
    """Captions in the words of one vocabulary, with one set of options."""

    def __init__(self, vocabulary: Vocabulary, options: TagOptions):
        """Raises:
        StageError: the separator is blank, or the replacements are not pairs."""
        if not options.caption_separator.strip():
            raise StageError(f"--caption_separator {options.caption_separator!r}: expected a mark besides spaces, such as ','")
        self._options = options
        self._words = _written_names(vocabulary, options)
        self._characters_from = RATINGS + len(vocabulary.of(GENERAL))
        mark = options.caption_separator.strip()
        self._undesired = set(_parts(options.undesired_tags, mark))
        self._always_first = [word for word in options.always_first_tags.split(mark) if word.strip()]

    def tags(self, probabilities: np.ndarray) -> list[str]:
        """The caption's elements, in its order, from float32 [tags of the vocabulary]."""
        options, first_character = self._options, self._characters_from
        general = RATINGS + np.flatnonzero(reaches(probabilities[RATINGS:first_character], options.general_threshold))
        characters = self._desired(
            first_character + np.flatnonzero(reaches(probabilities[first_character:], options.character_threshold))
        )
        found = self._desired(general)
        found = characters[::-1] + found if options.character_tags_first else found + characters
        rating = self._desired(np.argmax(probabilities[:RATINGS], keepdims=True))
        if options.use_rating_tags:
            found = rating + found
        elif options.use_rating_tags_as_last_tag:
            found = found + rating
        for word in self._always_first:
            if word in found:
                found.remove(word)
                found.insert(0, word)
        return found

    def caption(self, tags: Sequence[str], existing: str | None = None) -> str:
        """The caption of these elements, without a newline; `existing` is what its file has now (None: there is none)."""
        if existing is None or not self._options.append_tags:
            return self._options.caption_separator.join(tags)
        return _appended(existing.strip("\n"), tags, self._options.caption_separator)

    def _desired(self, places: np.ndarray) -> list[str]:
        return [word for word in (self._words[place] for place in places) if word not in self._undesired]


def _written_names(vocabulary: Vocabulary, options: TagOptions) -> list[str]:
    """The vocabulary's names as captions have them, by place."""
    blocks = {category: list(vocabulary.of(category)) for category in (RATING, GENERAL, CHARACTER)}
    if options.character_tag_expand:
        blocks[CHARACTER] = [expanded(name, options.caption_separator) for name in blocks[CHARACTER]]
    for names in blocks.values():
        names[:] = [spelled(name, options.remove_underscore) for name in names]
    for source, target in _replacements(options.tag_replacement):
        for category in (GENERAL, CHARACTER, RATING):
            if source in blocks[category]:
                blocks[category][blocks[category].index(source)] = target
                break
    return [*blocks[RATING], *blocks[GENERAL], *blocks[CHARACTER]]


def _replacements(text: str) -> list[tuple[str, str]]:
    """The pairs of `tag,other;tag,other`, in their order.

    Raises:
        StageError: what stands between semicolons is not two names.
    """
    pairs = [UNESCAPED_COMMA.split(pair) for pair in UNESCAPED_SEMICOLON.split(text)] if text else []
    for pair in pairs:
        if len(pair) != 2:
            raise StageError(
                f"--tag_replacement '{text}': expected pairs as in 'tag,other;tag,other'; '{','.join(pair)}' is none"
            )
    return [(_unescaped(source), _unescaped(target)) for source, target in pairs]


def _unescaped(name: str) -> str:
    return name.replace("\\,", ",").replace("\\;", ";")


def _parts(text: str, mark: str) -> list[str]:
    """What stands between the marks, without spaces around it; nothing where only spaces do."""
    return [part.strip() for part in text.split(mark) if part.strip()]


def _appended(existing: str, tags: Sequence[str], separator: str) -> str:
    """The existing caption, and after it the elements that it lacks: where it lacks none, it stays as it is."""
    mark = separator.strip()
    there = _parts(existing, mark)
    new = [tag for tag in tags if not _has_run(there, _parts(tag, mark))]
    return separator.join([*there, *new]) if new else existing


def _has_run(parts: Sequence[str], run: Sequence[str]) -> bool:
    """Whether `run` stands in `parts`, one after the other."""
    return any(parts[start : start + len(run)] == run for start in range(len(parts) - len(run) + 1))
