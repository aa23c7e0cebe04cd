"""Posts of a population: which picture, which tags, which favourites, which id and day."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from repro.randomness import Stream

from sample.catalogue import catalogue, words
from sample.characters import Character, Drawn, Sprite
from sample.pictures import Background, Picture, SpriteFigure, VectorFigure, Window, style_components

GENERAL, ARTIST, CHARACTER, COPYRIGHT, META = range(5)
RATINGS = ("general", "sensitive", "questionable", "explicit")
# The tars that a dump of the sample consists of: id modulo 1000, as in danbooru2023.
RESIDUES = (17, 108, 250, 333, 421, 596, 777, 904)
SENSITIVE_TAGS = {"lipstick", "tongue_out"}
# Share of posts up to which a tier reaches, and the span of favourite percentiles that goes with it.
TIER_SHARES = (("clean", 0.74), ("soft", 0.86), ("noisy", 0.94), ("miscoloured", 1.0))
TIER_PERCENTILES = {"clean": (0.60, 0.999), "soft": (0.31, 0.60), "noisy": (0.11, 0.30), "miscoloured": (0.0, 0.10)}
# Favourites at a percentile, by rating: rows of HakuBooru's fav_count_percentile_full (revision 3b00e14).
PERCENTILES = (0.0, 0.10, 0.25, 0.30, 0.45, 0.50, 0.60, 0.75, 0.85, 0.90, 0.95)
FAVOURITES = {
    "general": (0, 1, 3, 4, 7, 8, 10, 16, 22, 27, 37),
    "sensitive": (0, 2, 6, 8, 13, 15, 19, 30, 44, 56, 81),
    "questionable": (0, 8, 18, 21, 33, 38, 49, 75, 105, 132, 182),
    "explicit": (0, 9, 22, 27, 45, 52, 69, 106, 151, 190, 262),
}
# Danbooru's ids by day, roughly: between two rows the day grows evenly.
ID_DAYS = (
    (0, datetime(2005, 5, 24)),
    (500_000, datetime(2009, 8, 1)),
    (1_000_000, datetime(2011, 9, 15)),
    (2_000_000, datetime(2015, 5, 10)),
    (3_000_000, datetime(2018, 1, 25)),
    (4_000_000, datetime(2020, 7, 20)),
    (5_000_000, datetime(2022, 1, 1)),
    (8_000_000, datetime(2024, 8, 1)),
    (9_000_000, datetime(2024, 12, 30)),
)
Tag = tuple[str, int]
# (post id, tag); a number instead of a tag is the id of a tag that does not exist.
Relation = tuple[int, Tag | int]


@dataclass(frozen=True)
class Post:
    """One row to be: `picture` is None where there is only metadata; `columns` overrides columns of the post table;
    `damage` (truncated or text) spoils the archived file."""

    id: int
    picture: Picture | None
    tags: tuple[Tag, ...]
    rating: str
    fav_count: int
    columns: dict[str, Any] = field(default_factory=dict)
    damage: str = ""


def _daylight_saving(day: datetime) -> bool:
    """United States rule, by whole days: since 2007 second Sunday of March to first of November, before April to October."""

    def sunday(month: int, first_day: int) -> datetime:
        start = datetime(day.year, month, first_day)
        return start + timedelta(days=(6 - start.weekday()) % 7)

    first, last = (sunday(3, 8), sunday(11, 1)) if day.year >= 2007 else (sunday(4, 1), sunday(10, 25))
    return first <= day < last


def created_at(post_id: int, stream: Stream) -> str:
    """ISO text with the New York offset, as danbooru writes it; growing with the id."""
    rows = itertools.pairwise(ID_DAYS)
    (low, start), (high, end) = next((a, b) for a, b in rows if a[0] <= post_id < b[0])
    seconds = int((end - start).total_seconds() * (post_id - low) / (high - low))
    moment = start + timedelta(seconds=seconds, milliseconds=stream.below(1000))
    offset = timezone(timedelta(hours=-4 if _daylight_saving(moment) else -5))
    return moment.replace(tzinfo=offset).isoformat(timespec="milliseconds")


def favourites(tier: str, rating: str, stream: Stream) -> int:
    """A favourite count inside the tier's span of percentiles: the published table, above its end a log-normal tail."""
    low, high = TIER_PERCENTILES[tier]
    percentile = low + (high - low) * stream.uniform()
    counts = FAVOURITES[rating]
    if percentile > PERCENTILES[-1]:
        return counts[-1] + 1 + int(counts[-1] * (math.exp(0.9 * -math.log((1 - percentile) / 0.05) / 2) - 1))
    row = next(i for i, edge in enumerate(PERCENTILES[1:], 1) if percentile <= edge)
    share = (percentile - PERCENTILES[row - 1]) / (PERCENTILES[row] - PERCENTILES[row - 1])
    return math.ceil(counts[row - 1] + share * (counts[row] - counts[row - 1])) if percentile > PERCENTILES[1] else counts[1] - 1


def _tier(stream: Stream) -> str:
    share = stream.uniform()
    return next(tier for tier, edge in TIER_SHARES if share < edge)


def _size(stream: Stream) -> tuple[int, int]:
    """Width and height in pixels: three in four square, the rest upright or wide."""
    short = stream.choice((96, 112, 128))
    shape = stream.below(8)
    if shape == 0:
        return short, short * 3 // 2
    if shape == 1:
        return short * 3 // 2, short
    return short, short


def _background(stream: Stream, scenes: bool) -> tuple[Background, list[str]]:
    """A background and its tags; `scenes` allows the Ren'Py games' backgrounds."""
    tables = catalogue()
    if scenes and stream.below(2) == 0:
        name = stream.choice(sorted(tables["scenes"]))
        return Background("scene", name, stream.below(5) / 4), words(tables["scenes"][name])
    colour = stream.choice(list(tables["backgrounds"]))
    kind = "flat" if colour == "white" else stream.choice(("flat",) * 9 + ("gradient", "dots", "stripes"))
    extra = {
        "flat": "simple_background",
        "gradient": "gradient_background",
        "dots": "polka_dot_background",
        "stripes": "striped_background",
    }
    return Background(kind, colour), [extra[kind], f"{colour}_background"]


def _window(shot: list[float], turn: float, stream: Stream) -> Window:
    """The shot with a little play: moved by up to 4 % of its side, 0.93 to 1.07 times as wide, turned, perhaps mirrored."""
    x, y, side = shot
    play = [2 * stream.uniform() - 1 for _ in range(4)]
    return Window(
        round(x + play[0] * 0.04 * side, 3), round(y + play[1] * 0.04 * side, 3), round(side * (1 + 0.07 * play[2]), 3),
        round(turn * play[3], 2), stream.below(2) == 1,
    )  # fmt: skip


def _component_options(style_name: str, chosen: dict[str, str]) -> dict[str, Any]:
    """DiceBear options: the chosen variants, every other optional component off."""
    options: dict[str, Any] = {}
    for component in style_components(style_name):
        if component in chosen:
            options[f"{component}Variant"] = chosen[component]
        options[f"{component}Probability"] = 100 if component in chosen else 0
    return options


def _vector_figure(character: Drawn, style_name: str, stream: Stream) -> tuple[VectorFigure, list[str]]:
    """One drawing of the character and the tags of what varies: shot, face, clothes."""
    tables = catalogue()
    style = tables["styles"][style_name]
    shot = stream.choice(list(style["shots"]))
    tags = [shot]
    chosen = {**style.get("fixed", {}), **style["hair"][character.hair]}
    for component, variants in style["drawn"].items():
        fitting = [v for v in variants if character.gender == "1girl" or "lipstick" not in words(variants[v])]
        variant = stream.choice(fitting)
        chosen[component] = variant
        tags += words(variants[variant])
    for component, variants in style.get("sometimes", {}).items():
        if stream.below(5) == 0:
            chosen[component] = stream.choice(list(variants))
            tags += words(variants[chosen[component]])
    glasses = style["glasses"]
    lenses = character.glasses and "lenses" in glasses
    if character.glasses and not lenses:
        component, variants = next(iter(glasses.items()))
        tags = [tag for tag in tags if tag not in words(style["drawn"].get(component, {}).get(chosen.get(component, ""), ""))]
        chosen[component] = stream.choice(variants)
    options: dict[str, Any] = {"seed": "sample", "backgroundColor": "#ffffff00"}
    options[style["hair_colour"]] = tables["hair_colours"][character.hair_colour]
    options[style["skin_colour"]] = tables["skins"][character.skin]["colour"]
    if "clothes" in style:
        variant = stream.choice(list(style["clothes"]))
        colour = stream.choice(list(tables["clothes_colours"]))
        options[style["clothing"]] = tables["clothes_colours"][colour]
        if variant:
            chosen["outfit" if style_name == "voxel-art" else "clothes"] = variant
        if shot != "portrait":
            tags += [style["clothes"][variant], f"{colour}_{style['clothes'][variant].split('_')[-1]}"]
    options |= _component_options(style_name, chosen)
    window = _window(style["shots"][shot], style["turn"], stream)
    return VectorFigure(style_name, tuple(sorted(options.items())), lenses, window), tags


def _sprite_figure(character: Sprite, stream: Stream) -> tuple[SpriteFigure, list[str]]:
    """One sprite of the character and the tags of shot, face and clothes."""
    family = stream.choice(character.family)
    own = catalogue()["sprites"][family]
    shot = stream.choice(list(own["shots"]))
    file = stream.choice(list(own["drawn"]))
    clothes_colour = character.clothes_colour or own["clothes_colour"]
    tags = [shot, *words(own["drawn"][file])]
    if shot != "portrait":
        tags.append(f"{clothes_colour}_{own['clothes']}")
    window = _window(own["shots"][shot], 0.0, stream)
    return SpriteFigure(file, character.family[0], character.hair_colour, character.clothes_colour, window), tags


def _figure(character: Character, style: str | None, stream: Stream) -> tuple[VectorFigure | SpriteFigure, list[str]]:
    if isinstance(character, Drawn):
        assert style is not None
        return _vector_figure(character, style, stream)
    return _sprite_figure(character, stream)


def _unique(tags: list[str]) -> list[str]:
    return list(dict.fromkeys(tags))


def _typed(tags: list[str], artist: str, characters: list[Character], meta: list[str], stream: Stream) -> tuple[Tag, ...]:
    """All tags of a post with their types, in no order, as a dump has them."""
    typed = [(tag, GENERAL) for tag in _unique(tags)]
    typed.append((artist, ARTIST))
    typed += [(character.name, CHARACTER) for character in characters]
    typed += [(series, COPYRIGHT) for series in _unique([character.series for character in characters])]
    typed += [(tag, META) for tag in meta]
    stream.shuffle(typed)
    return tuple(typed)


def _meta(picture: Picture, stream: Stream) -> list[str]:
    """Meta tags: the larger pictures are highres; some carry those that captions leave out."""
    meta = ["highres"] if min(picture.width, picture.height) >= 128 else []
    draw = stream.below(12)
    if draw == 0:
        meta += ["commentary_request"]
    elif draw == 1:
        meta += ["english_commentary", "commentary"]
    elif draw == 2:
        meta += ["translation_request"]
    return meta


def _without_colours(tags: list[str]) -> list[str]:
    """The tags that stay true when a picture's colours are not."""
    tables = catalogue()
    colours = {tag.split("_")[0] for tag in tables["hair_colours"]} | set(tables["clothes_colours"])
    skins = {tag for skin in tables["skins"].values() for tag in words(skin["tags"])}
    return [tag for tag in tags if tag.split("_")[0] not in colours and tag not in skins]


def _finish(picture: Picture, tags: list[str], artist: str, characters: list[Character], stream: Stream) -> Post:
    rating = "sensitive" if SENSITIVE_TAGS.intersection(tags) else "general"
    tags = _without_colours(tags) if picture.tier == "miscoloured" else tags
    typed = _typed(tags, artist, characters, _meta(picture, stream), stream)
    return Post(0, picture, typed, rating, favourites(picture.tier, rating, stream))


def portrait_post(seed: int, purpose: str, character: Character, style: str | None, number: int, tier: str | None = None) -> Post:
    """Post `number` of one character by one style (None for sprites), without an id yet; `tier` None draws one."""
    stream = Stream(seed, f"sample {purpose}", character.name, style or "sprite", number)
    figure, tags = _figure(character, style, stream)
    background, background_tags = _background(stream, isinstance(character, Sprite))
    width, height = _size(stream)
    picture = Picture((figure,), background, width, height, tier or _tier(stream))
    subject = [character.gender, "solo"] + (["male_focus"] if character.gender == "1boy" else [])
    artist = catalogue()["styles"][style]["artist"] if style else character.artists[0]
    return _finish(picture, [*subject, *character.core_tags, *tags, *background_tags], artist, [character], stream)


def pair_post(seed: int, purpose: str, characters: list[Drawn], style: str, number: int) -> Post:
    """Two girls side by side on a wide picture."""
    stream = Stream(seed, f"sample {purpose} pair", *(c.name for c in characters), style, number)
    figures, tags = [], []
    for character, side in zip(characters, (1, -1), strict=True):
        figure, own = _vector_figure(character, style, stream)
        window = figure.window
        moved = replace(window, shift=side * 0.34, side=round(window.side * 1.08, 3))
        figures.append(replace(figure, window=moved))
        tags += [*character.core_tags, *own]
    background, background_tags = _background(stream, False)
    picture = Picture(tuple(figures), background, 144, 96, "clean")
    artist = catalogue()["styles"][style]["artist"]
    return _finish(picture, ["2girls", *tags, *background_tags], artist, list(characters), stream)


def girl_pairs(seed: int, purpose: str, girls: list[Drawn], count: int, styles_of: Callable[[Drawn], list[str]]) -> list[Post]:
    """`count` posts of two girls that one artist draws together; `styles_of` a girl: the styles she may be drawn in."""
    stream = Stream(seed, f"sample {purpose} pairs")
    posts: list[Post] = []
    while len(posts) < count:
        first, second = stream.choice(girls), stream.choice(girls)
        fitting = [style for style in styles_of(first) if catalogue()["styles"][style].get("pairs", True)]
        shared = [style for style in fitting if style in styles_of(second)]
        if first != second and shared:
            posts.append(pair_post(seed, purpose, [first, second], stream.choice(shared), len(posts)))
    return posts


def spread_ids(first: int, last: int, count: int, stream: Stream) -> Iterator[int]:
    """`count` ascending ids in first..last, evenly spread over the tars of RESIDUES."""
    cells = (last + 1 - first) // 1000 * len(RESIDUES)
    for number in range(count):
        start, end = number * cells // count, (number + 1) * cells // count
        cell = start + stream.below(end - start)
        yield first + cell // len(RESIDUES) * 1000 + RESIDUES[cell % len(RESIDUES)]


def with_ids(posts: list[Post], ranges: list[tuple[int, int, int]], seed: int, purpose: str) -> list[Post]:
    """The posts in a seeded order with ids of `ranges` = (first, last, count); as many posts as the counts add up to."""
    posts = list(posts)
    Stream(seed, f"sample {purpose} order").shuffle(posts)
    stream = Stream(seed, f"sample {purpose} ids")
    ids = [post_id for first, last, count in ranges for post_id in spread_ids(first, last, count, stream)]
    return [replace(post, id=post_id) for post, post_id in zip(posts, ids, strict=True)]
