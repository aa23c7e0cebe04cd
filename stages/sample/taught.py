"""The committed set: fifteen characters to teach, reference pictures of them, and the awkward posts of a real dump."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from repro.randomness import Stream

from sample.awkward import awkward_relations, broken_posts, filtered_posts, near_duplicates, scenery, with_oddities
from sample.catalogue import catalogue
from sample.characters import Character, Drawn, taught_characters
from sample.posts import CHARACTER, Post, Relation, girl_pairs, portrait_post, spread_ids, with_ids

DRAWN_POSTS, SPRITE_POSTS, PAIR_POSTS, SCENERY_POSTS = 56, 66, 24, 3
REFERENCE_POSTS = 9
# Nobody ever sees these artists draw these characters: whether a model can is left to find out.
HELD_OUT = (("yuki", "toon-head"), ("rin", "open-peeps"), ("sora", "dylan"), ("nia", "big-smile"))
# The recipe takes 220 of the first range, 440 of the second, all of the last; references stand above what it selects.
OLDEST, MIDDLE = 260, 520
RANGES = ((0, 1_999_999), (2_000_000, 4_999_999), (5_000_000, 7_999_999))
REFERENCE_RANGE = (8_000_000, 8_499_999)


def shown_styles(character: Character) -> list[str | None]:
    """The styles that this character is shown in: all that can draw it but the held-out ones; [None] for a sprite."""
    if not isinstance(character, Drawn):
        return [None]
    return [style for style in character.styles if (character.name, style) not in HELD_OUT]


def _numbered(purpose: str, character: Character, seed: int, tier: str | None = None) -> Iterator[Post]:
    """Endless posts of a character, its styles in turn."""
    styles = shown_styles(character)
    for number in itertools.count():
        yield portrait_post(seed, purpose, character, styles[number % len(styles)], number, tier)


def _look(post: Post) -> tuple[Any, ...]:
    """What makes two pictures look alike: the drawing and the background, not the exact window."""
    assert post.picture is not None
    (figure,) = post.picture.figures
    drawing = figure.file if hasattr(figure, "file") else (figure.style, figure.options)
    return drawing, post.picture.background.kind, post.picture.background.name


def _taught_portraits(characters: list[Character], seed: int) -> list[Post]:
    posts: list[Post] = []
    for character in characters:
        count = DRAWN_POSTS if isinstance(character, Drawn) else SPRITE_POSTS
        posts += itertools.islice(_numbered("taught", character, seed), count)
    return posts


def _references(characters: list[Character], shown: list[Post], seed: int) -> list[Post]:
    """REFERENCE_POSTS clean pictures a character, none with the drawing and background of another reference or taught post."""
    looks = {_look(post) for post in shown}
    posts: list[Post] = []
    for character in characters:
        fresh = []
        for post in _numbered("reference", character, seed, "clean"):
            if _look(post) not in looks:
                looks.add(_look(post))
                fresh.append(post)
            if len(fresh) == REFERENCE_POSTS:
                break
        posts += fresh
    return posts


def _spare_posts(characters: list[Character], seed: int) -> Iterator[Post]:
    """Ordinary posts for the awkward ones to be made from, a character after the other."""
    streams = [_numbered("spare", character, seed) for character in characters]
    for stream in itertools.cycle(streams):
        yield next(stream)


def _into_ranges(ordinary: list[Post], rest: list[Post], seed: int) -> tuple[list[Post], list[Post]]:
    """Ids for the ordinary posts over the three ranges, and for `rest` over the last range only, where all are selected."""
    ordinary = list(ordinary)
    Stream(seed, "sample taught order").shuffle(ordinary)
    last = [(post, True) for post in ordinary[OLDEST + MIDDLE :]] + [(post, False) for post in rest]
    Stream(seed, "sample taught last range").shuffle(last)
    groups = ([(post, True) for post in ordinary[:OLDEST]], [(post, True) for post in ordinary[OLDEST : OLDEST + MIDDLE]], last)
    stream = Stream(seed, "sample taught ids")
    placed: dict[bool, list[Post]] = {True: [], False: []}
    for group, (first, end) in zip(groups, RANGES, strict=True):
        for (post, is_ordinary), post_id in zip(group, spread_ids(first, end, len(group), stream), strict=True):
            placed[is_ordinary].append(replace(post, id=post_id))
    return placed[True], placed[False]


def _place_near(duplicates: list[Post], taken: set[int]) -> list[Post]:
    """Ids a little after the originals', in the same tar."""
    placed = []
    for post in duplicates:
        new = next(i for i in itertools.count(post.id + 1000, 1000) if i not in taken)
        taken.add(new)
        placed.append(replace(post, id=new))
    return placed


def taught_posts(seed: int) -> tuple[list[Post], list[Post], list[Relation]]:
    """(all posts by ascending id, the references among them, relations to add at the end of the relation table)."""
    characters = taught_characters()
    portraits = _taught_portraits(characters, seed)
    girls = [c for c in characters if isinstance(c, Drawn) and c.gender == "1girl"]
    ordinary = portraits + girl_pairs(seed, "taught", girls, PAIR_POSTS, shown_styles)
    ordinary += [scenery(number, "general", seed) for number in range(SCENERY_POSTS)]
    spare = _spare_posts(characters, seed)
    filtered, broken = filtered_posts(spare, seed), broken_posts(spare)
    normal, special = _into_ranges(ordinary, filtered + broken, seed)
    odd = with_oddities(normal, seed)
    duplicates = _place_near(near_duplicates(odd, 6), {post.id for post in normal + special})
    shown = _references(characters, portraits, seed)
    references = with_ids(shown, [(*REFERENCE_RANGE, len(shown))], seed, "references")
    posts = sorted([*odd, *special, *duplicates, *references], key=lambda post: post.id)
    return posts, references, awkward_relations(odd, seed)


def reference_table(references: list[Post]) -> dict[str, Any]:
    """references.json: for each character what to ask for, who draws it, which posts show it, and the held-out pairs."""
    artist_of = {name: style["artist"] for name, style in catalogue()["styles"].items()}
    table = {}
    for character in taught_characters():
        styles = shown_styles(character)
        table[character.name] = {
            "series": character.series,
            "gender_tag": character.gender,
            "artists": character.artists if styles == [None] else [artist_of[style] for style in styles if style],
            "core_tags": character.core_tags,
            "posts": [post.id for post in references if (character.name, CHARACTER) in post.tags],
        }
    return {"characters": table, "held_out": [[name, artist_of[style]] for name, style in HELD_OUT]}
