"""What the models are asked for: prompts and seeds, fixed by character, template and picture number.

A prompt has the parts of a training caption of the recipe's profile, in its order: who is shown first, then the tags of the
looks (where the mode names them) and of the template, with the words of the best quality and the newest year.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from repro.blocked_tags import blocked_piece
from repro.errors import StageError
from repro.params import ALWAYS_BLOCKED, Generation

from booru.captioning.captions import SEPARATOR
from booru.captioning.profiles import Profile
from booru.captioning.quality import quality_words
from booru.captioning.tagger_words import character_words, spelled
from booru.filtering.blocked import with_kin
from characters.references import Reference

NAME, CORE_TAGS, NEW_ARTIST = "name", "core_tags", "new_artist"
# Posts of one boy alone carry both tags, and captions keep both in front.
SUBJECTS = {"1boy": ["1boy", "male focus"]}


@dataclass(frozen=True)
class PictureRequest:
    """One picture to make with every model compared: same prompt, same seed.

    mode: how the character is asked for: by `name`, by name and `core_tags`, or by name with a `new_artist`, who never drew
    it in training. template: its name; artist: empty where none is named; number: of the picture within the mode.
    """

    character: str
    mode: str
    template: str
    artist: str
    number: int
    prompt: str
    seed: int


def picture_seed(character: str, template: str, number: int) -> int:
    """32-bit seed of a picture: from the request alone and not from its mode, so that all models and modes are compared from
    the same noise."""
    digest = hashlib.sha256(f"{character}|{template}|{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 2**32


def _best_words(rules: Profile, part: str) -> list[str]:
    """The word that the profile's quality or score makes of the best pictures for this part."""
    made_by = rules.scores.get(part) or (rules.quality if part == "quality" else None)
    return quality_words(made_by)[-1:] if made_by else []


def _newest_word(rules: Profile) -> list[str]:
    return [max(rules.years, key=lambda year: year.last).word] if rules.years else []


def prompt_for(reference: Reference, artist: str, tags: list[str], generation: Generation, rules: Profile) -> str:
    """The prompt: each part of the profile in its order, without the mark; what is empty for this character (no series, no
    artist) leaves no comma behind. Who is shown is a general tag where the profile has no part for it, and a series that
    the character's expanded name tells is not told again.

    Args:
        tags: general ones.
    """
    subject = SUBJECTS.get(reference.gender_tag, [reference.gender_tag])
    name = character_words(reference.character) if rules.expand_characters else [spelled(reference.character)]
    series = spelled(reference.series)
    has_special = "special" in (*rules.keep, *rules.general)
    words = {
        "special": subject,
        "character": name,
        "copyright": [] if series in name else [series],
        "artist": [spelled(artist)],
        "general": ([] if has_special else subject) + [spelled(tag) for tag in tags],
        "year": _newest_word(rules),
        "rating": rules.ratings[generation.rating],
        "quality": _best_words(rules, "quality"),
        "aesthetic": _best_words(rules, "aesthetic"),
        "meta": [],
        "custom": [],
        "text": [],
    }
    return SEPARATOR.join(word for part in (*rules.keep, *rules.general) for word in words[part] if word)


def _refuse_blocked(requests: Sequence[PictureRequest], blocked: Collection[str]) -> None:
    # All prompts as one, which is all right but for an error: so each of the blocked tags is spelled once.
    if not blocked_piece(SEPARATOR.join(request.prompt for request in requests), blocked):
        return
    for request in requests:
        if tag := blocked_piece(request.prompt, blocked):
            raise StageError(
                f"the prompt of {request.character} ({request.mode}) asks for '{tag}', one of filter.blocked_tags or of their"
                " kin: no picture is made of it; take it out of the references or the templates"
            )


def _requests(
    reference: Reference, mode: str, artists: list[str], first: int, generation: Generation, rules: Profile
) -> Iterator[PictureRequest]:
    """A request for each artist, numbered from `first`, the templates in turn."""
    looks = list(reference.core_tags) if mode == CORE_TAGS else []
    templates = list(generation.templates.items())
    for number, artist in enumerate(artists, start=first):
        name, template = templates[number % len(templates)]
        tags = looks + [tag.strip() for tag in template.split(",")]
        yield PictureRequest(
            character=reference.character,
            mode=mode,
            template=name,
            artist=artist,
            number=number,
            prompt=prompt_for(reference, artist, tags, generation, rules),
            seed=picture_seed(reference.character, name, number),
        )


def requests_for(
    reference: Reference, generation: Generation, rules: Profile, blocked_tags: Sequence[str]
) -> list[PictureRequest]:
    """Pictures 0..n-1 of a character in each mode of the recipe, templates in turn and, where the recipe names artists, each
    of its own artists with every template before the next; then, if it does, one picture with each of the character's
    held-out artists, numbered on.

    Args:
        blocked_tags: the recipe's, which no prompt may ask for, nor for their kin or what is always blocked.

    Raises:
        StageError: a prompt does.
    """
    own = (generation.artists and reference.artists) or ("",)
    artists = [own[number // len(generation.templates) % len(own)] for number in range(generation.pictures)]
    requests = [request for mode in generation.modes for request in _requests(reference, mode, artists, 0, generation, rules)]
    if generation.artists:
        held_out = list(reference.held_out_artists)
        requests += _requests(reference, NEW_ARTIST, held_out, generation.pictures, generation, rules)
    _refuse_blocked(requests, sorted(with_kin([*ALWAYS_BLOCKED, *blocked_tags])))
    return requests
