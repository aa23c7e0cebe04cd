"""What the models are asked for: prompts and seeds, fixed by character, template and picture number.

The prompt follows the training captions of Kohaku XL: subject, character, series, artist, then
tags, underscores removed except in short names.
"""

import hashlib
from dataclasses import dataclass

from ccip.references import Reference

# HakuBooru keeps the underscores of names up to this length: emoticons such as `>_<`.
SHORT_NAME = 3
# Posts of one boy alone carry both tags, and captions keep both in front.
SUBJECTS = {"1boy": "1boy, male focus"}


@dataclass(frozen=True)
class PictureRequest:
    """One picture to make with every model compared: same prompt, same seed.

    held_out: the artist never drew this character in training.
    """

    character: str
    artist: str
    held_out: bool
    number: int
    prompt: str
    seed: int


def spoken(tag: str) -> str:
    """A tag as captions write it."""
    return tag.replace("_", " ") if len(tag) > SHORT_NAME else tag


def picture_seed(character: str, template: int, number: int) -> int:
    """32-bit seed of a picture: from the request alone, so that all models start from the same noise."""
    digest = hashlib.sha256(f"{character}|{template}|{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 2**32


def fill_template(template: str, reference: Reference, artist: str) -> str:
    """The prompt text; a part that is empty for this character (no series, no artist) leaves no comma behind."""
    text = template.format(
        gender=SUBJECTS.get(reference.gender_tag, reference.gender_tag),
        character=spoken(reference.character),
        series=spoken(reference.series),
        artist=spoken(artist),
    )
    return ", ".join(part.strip() for part in text.split(",") if part.strip())


def _request(reference: Reference, artist: str, held_out: bool, templates: list[str], number: int) -> PictureRequest:
    template = number % len(templates)
    return PictureRequest(
        character=reference.character,
        artist=artist,
        held_out=held_out,
        number=number,
        prompt=fill_template(templates[template], reference, artist),
        seed=picture_seed(reference.character, template, number),
    )


def requests_for(reference: Reference, templates: list[str], pictures: int) -> list[PictureRequest]:
    """Pictures 0..pictures-1 of a character, its own artists and the templates in turn; then one picture
    with each of its held-out artists, numbered on."""
    artists = reference.artists or ("",)
    taught = [_request(reference, artists[k % len(artists)], False, templates, k) for k in range(pictures)]
    held_out = [
        _request(reference, artist, True, templates, number)
        for number, artist in enumerate(reference.held_out_artists, start=pictures)
    ]
    return taught + held_out
