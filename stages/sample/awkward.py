"""The posts that a real dump has and a pipeline must cope with: harmless pictures or metadata without a picture."""

from collections.abc import Iterable
from dataclasses import replace

from repro.randomness import Stream

from sample.catalogue import catalogue, words
from sample.pictures import Background, Picture
from sample.posts import ARTIST, CHARACTER, COPYRIGHT, GENERAL, META, Post, Relation, Tag, favourites

NO_FILE = {"md5": None, "file_url": None, "large_file_url": None, "preview_file_url": None}
# Tags that mark what no recipe trains on. Only the names stand here, on rows that have no picture anywhere.
BLOCKED = ("loli", "loli", "shota", "shota", "toddlercon")
ODD_META = ("bad_pixiv_id", "bad_id", "third-party_edit", "scan", "absurdres", "official_art", "partially_translated", "audio")


def _without_picture(post: Post, rating: str | None = None, **columns: object) -> Post:
    """The post's metadata as if its picture had never been archived."""
    assert post.picture is not None
    size = {"image_width": post.picture.width * 8, "image_height": post.picture.height * 8}
    return replace(post, picture=None, rating=rating or post.rating, columns={**size, **columns})


def scenery(number: int, rating: str, seed: int) -> Post:
    """A place without anyone in it: no special, character, series or artist tag, so the kept part of its caption is empty."""
    stream = Stream(seed, "sample scenery", number)
    name = sorted(catalogue()["scenes"])[number % len(catalogue()["scenes"])]
    tags = [(tag, GENERAL) for tag in ["no_humans", "scenery", *words(catalogue()["scenes"][name])]]
    picture = Picture((), Background("scene", name, stream.below(9) / 8), 144, 96)
    return Post(0, picture, tuple(tags), rating, favourites("clean", rating, stream))


def _sized(post: Post, width: int, height: int) -> Post:
    assert post.picture is not None
    return replace(post, picture=replace(post.picture, width=width, height=height))


def _tagged(post: Post, *tags: Tag) -> Post:
    return replace(post, tags=(*post.tags, *tags))


def _of_nobody(tag: str) -> Post:
    """A row with a blocked tag and nothing else: no character, no artist, no file, no picture."""
    return Post(0, None, ((tag, GENERAL), ("tagme", META)), "general", 0, {"image_width": 600, "image_height": 800})


def filtered_posts(spare: Iterable[Post], seed: int) -> list[Post]:
    """Posts that no training sees: deleted, banned, without file, moving, missing, too small, too long, by rating, blocked.

    `spare` yields ordinary posts that are shown nowhere else; as many are taken as are needed.
    """
    take = iter(spare)
    posts = [replace(next(take), columns={"is_deleted": 1}) for _ in range(6)]
    posts += [replace(next(take), columns={"is_banned": 1}) for _ in range(4)]
    posts += [_without_picture(next(take), **NO_FILE) for _ in range(5)]
    posts += [_without_picture(next(take), file_url=None) for _ in range(2)]
    for extension, meta in (
        ("gif", "animated_gif"),
        ("gif", "animated_gif"),
        ("gif", "animated_gif"),
        ("mp4", "video"),
        ("mp4", "sound"),
    ):
        posts.append(_tagged(_without_picture(next(take), file_ext=extension), ("animated", META), (meta, META)))
    posts += [_without_picture(next(take)) for _ in range(5)]
    posts += [_sized(next(take), 40, 40) for _ in range(4)]
    posts += [_sized(next(take), 256, 64) for _ in range(2)]
    posts += [_without_picture(next(take), rating) for rating in ("questionable", "questionable", "explicit", "explicit")]
    posts += [scenery(number, rating, seed) for number, rating in enumerate(("questionable", "questionable", "explicit"))]
    posts += [_of_nobody(tag) for tag in BLOCKED]
    return posts


def broken_posts(spare: Iterable[Post]) -> list[Post]:
    """Pictures that turn out to be broken only when they are decoded."""
    take = iter(spare)
    return [replace(next(take), damage="truncated"), replace(next(take), damage="text")]


def with_oddities(posts: list[Post], seed: int) -> list[Post]:
    """Ordinary posts; some get what captions have rules for: emoticon tags, a banned artist, odd meta tags, bad dates."""
    posts = list(posts)
    for number, post in enumerate(posts):
        names = {name for name, _ in post.tags}
        draw = Stream(seed, "sample oddities", post.id).below(12)
        if {"closed_eyes", "smile"} <= names and draw < 4:
            posts[number] = _tagged(post, ("^_^", GENERAL))
        elif "wide-eyed" in names and draw < 4:
            posts[number] = _tagged(post, ("o_o", GENERAL))
        elif {"glasses", "expressionless"} <= names and draw < 6:
            posts[number] = _tagged(post, ("||_||", GENERAL))
    for step, number in enumerate(range(11, len(posts), len(posts) // 14)):
        posts[number] = _tagged(posts[number], (ODD_META[step % len(ODD_META)], META))
    for number in range(23, len(posts), len(posts) // 4):
        posts[number] = _tagged(posts[number], ("banned_artist", ARTIST))
    dates = ("", "unknown", "2004-11-30T21:09:00.000-05:00", "2003-02-01T08:00:00.000-05:00")
    for date, number in zip(dates, range(31, len(posts), len(posts) // 4), strict=False):
        posts[number] = replace(posts[number], columns={**posts[number].columns, "created_at": date})
    return posts


def near_duplicates(posts: list[Post], count: int) -> list[Post]:
    """The same pictures again at another size, as children of the first upload; ids are still those of the originals."""
    originals = [p for p in posts if p.picture and p.picture.tier == "clean" and len(p.picture.figures) == 1][
        :: len(posts) // (2 * count)
    ]
    result = []
    for post in originals[:count]:
        assert post.picture is not None
        smaller = _sized(post, post.picture.width * 7 // 8, post.picture.height * 7 // 8)
        result.append(replace(smaller, columns={**post.columns, "parent_id": post.id}, fav_count=post.fav_count // 3))
    return result


def awkward_relations(posts: list[Post], seed: int) -> list[Relation]:
    """Relations added at the end of the table: doubled ones of six posts, and orphans without their post or their tag."""
    stream = Stream(seed, "sample awkward relations")
    doubled = [posts[number] for number in range(7, len(posts), len(posts) // 6)][:6]
    relations: list[Relation] = [(post.id, stream.choice(post.tags)) for post in doubled]
    some_tag = next(tag for tag in posts[0].tags if tag[1] not in (CHARACTER, COPYRIGHT))
    relations += [(post_id, some_tag) for post_id in (3_500_001, 6_100_001, 7_700_001)]
    relations += [(posts[number].id, 9_000_000 + number) for number in (3, 40, 90)]
    return relations
