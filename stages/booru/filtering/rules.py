"""The filter's rules: why a post is not trained on.

HakuBooru has no filter; the cards of Kohaku XL name deleted and gold-only posts and posts without a picture, that of
SoteDiffusion a smallest size and near-duplicates. Here each reason is a rule of its own, asked in one fixed order,
blocked tags first. Every post gets the first reason that holds, so the counts of a funnel add up.
"""

from collections.abc import Iterable, Iterator

from repro.errors import StageError
from repro.params import Filter

import numpy as np
import polars as pl

from booru.filtering.blocked import blocked_ids
from booru.images.archives import ImageIndex
from booru.images.near_duplicates import near_duplicates
from booru.metadata.reader import DATABASE_SOURCE
from booru.ratings import RATINGS

KEPT = "kept"
NOT_ARCHIVED = "not in the archives"
UNREADABLE = "unreadable"
SAME_FILE = "same md5 as another post"
NEAR_DUPLICATE = "near-duplicate"
# The order in which the rules are asked: of the post, of its picture, of all posts that are left.
POST_REASONS = (
    "blocked tag",
    "deleted",
    "banned",
    "no md5 or file_url",
    "incomplete metadata",
    "extension not allowed",
    "rating not allowed",
)
PICTURE_REASONS = (NOT_ARCHIVED, UNREADABLE, "too small", "too few pixels", "aspect ratio")
REASONS = (*POST_REASONS, *PICTURE_REASONS, SAME_FILE, NEAR_DUPLICATE, KEPT)
COLUMNS = [
    "id", "source", "is_deleted", "is_banned", "md5", "has_file", "file_ext", "rating", "fav_count", "tags",
]  # fmt: skip
PICTURE_COLUMNS = ["width", "height", "unreadable", "dhash", "phash"]


def rules_of_one_post(params: Filter, tags: pl.DataFrame) -> dict[str, pl.Expr]:
    """{reason: whether it holds} for the rules of POST_REASONS, over the columns of COLUMNS.

    A folder's picture needs neither favourites nor a rating: its sidecar seldom has them, and models tell them later.
    """
    blocked = pl.Series(blocked_ids(tags, params.blocked_tags), dtype=pl.Int32)
    of_database = pl.col("source") == DATABASE_SOURCE
    lacking = pl.any_horizontal(pl.col("rating", "fav_count", "is_deleted", "is_banned").is_null())
    ratings = [RATINGS.index(name) for name in params.ratings]
    rules = (
        pl.col("tags").list.eval(pl.element().is_in(blocked.implode())).list.any(),
        pl.col("is_deleted") & params.drop_deleted,
        pl.col("is_banned") & params.drop_banned,
        ~pl.col("has_file"),
        of_database & lacking,
        ~pl.col("file_ext").str.to_lowercase().is_in([name.lower() for name in params.extensions]).fill_null(False),
        ~pl.col("rating").is_in(ratings),
    )
    return dict(zip(POST_REASONS, rules, strict=True))


def rules_of_one_picture(params: Filter) -> dict[str, pl.Expr]:
    """{reason: whether it holds} for the rules of PICTURE_REASONS, over the image index's columns, null where it has no
    such image. The sizes are those of the picture itself: dumps hold resized copies, whose sizes the database does not know."""
    short, long = pl.min_horizontal("width", "height"), pl.max_horizontal("width", "height")
    rules = (
        pl.col("width").is_null(),
        pl.col("unreadable").is_not_null(),
        short < params.min_side,
        pl.col("width").cast(pl.Int64) * pl.col("height") < params.min_pixels,
        long > short * params.max_aspect_ratio,
    )
    return dict(zip(PICTURE_REASONS, rules, strict=True))


def first_reasons(posts: pl.DataFrame, rules: dict[str, pl.Expr]) -> pl.Series:
    """For each post the place in `REASONS` of the first rule that holds, null where none does."""
    expression = pl.coalesce(pl.when(holds).then(REASONS.index(reason)) for reason, holds in rules.items())
    return posts.select(expression.cast(pl.Int8).alias("reason"))["reason"]


def ledger_of(frames: Iterable[pl.DataFrame], params: Filter, tags: pl.DataFrame, index: ImageIndex) -> pl.DataFrame:
    """The ledger: id, reason, and of duplicates the id of the post that stays instead, for every post in id order.

    Memory: what the rules over all posts need of each that reaches them, some 110 bytes (with near-duplicates 200).

    Args:
        frames: the selected posts' shards in id order, with the columns of `COLUMNS`.
        tags: the tag table.
    """
    single, left = [], []
    post_rules, picture_rules = rules_of_one_post(params, tags), rules_of_one_picture(params)
    for posts in frames:
        posts = posts.with_columns(first_reasons(posts, post_rules))
        asked = posts.filter(pl.col("reason").is_null()).select("id", "md5")
        pictures = asked.join(index.join_to(asked.select("id"), PICTURE_COLUMNS), on="id", how="left", maintain_order="left")
        pictures = pictures.with_columns(first_reasons(pictures, picture_rules))
        single.append(_filled(posts.select("id", "reason"), pictures.select("id", "reason")))
        left.append(pictures.filter(pl.col("reason").is_null()).drop("reason", "unreadable"))
    seen = pl.concat(single).with_columns(instead=pl.lit(None, pl.Int64))
    pictures = pl.concat(left)
    seen = _with_duplicates(seen, SAME_FILE, same_files(pictures.select("id", "md5")))
    if params.near_duplicates:
        bounds = params.near_duplicates
        pictures = pictures.drop("md5").filter(~pl.col("id").is_in(seen.filter(pl.col("instead").is_not_null())["id"].implode()))
        near = near_duplicates(pictures, bounds.max_dhash, bounds.max_phash, bounds.max_aspect)
        seen = _with_duplicates(seen, NEAR_DUPLICATE, near)
    reason = pl.lit(pl.Series(REASONS)).gather(pl.col("reason").fill_null(REASONS.index(KEPT)))
    return seen.select("id", reason.alias("reason"), "instead")


def _filled(posts: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """The posts' reasons (id, reason), those of `found` where there is none; both sorted by id."""
    joined = posts.join(found, on="id", how="left", maintain_order="left", suffix="_found")
    return joined.select("id", pl.coalesce("reason", "reason_found").alias("reason"))


def _with_duplicates(seen: pl.DataFrame, reason: str, duplicates: pl.DataFrame) -> pl.DataFrame:
    """Give the posts of `duplicates` (id, kept) this reason and the post that stays instead."""
    joined = seen.join(duplicates, on="id", how="left", maintain_order="left")
    code = pl.when(pl.col("kept").is_not_null()).then(pl.lit(REASONS.index(reason), pl.Int8)).otherwise("reason")
    return joined.select("id", code.alias("reason"), pl.coalesce("instead", "kept").alias("instead"))


def same_files(posts: pl.DataFrame) -> pl.DataFrame:
    """Columns id and kept of the posts (id, md5; ids ascending) whose md5 a post of lower id has too, sorted by id.

    Only posts whose first 60 bits of md5 another has as well, or whose md5 is no such number, are compared as text:
    there are hardly any. Those without md5 are not.
    """
    head = posts["md5"].str.slice(0, 15).str.to_integer(base=16, strict=False).fill_null(-1).to_numpy()
    order = np.argsort(head, kind="stable")
    equal = (head[order[1:]] == head[order[:-1]]) & (head[order[1:]] >= 0)
    odd = np.flatnonzero(head < 0)
    odd = odd[(posts["md5"].gather(odd).fill_null("") != "").to_numpy()]
    shared = np.unique(np.concatenate([order[1:][equal], order[:-1][equal], odd]))
    candidates = posts[shared].sort("md5", "id")
    first = pl.col("id").first().over("md5")
    return candidates.select("id", kept=first).filter(pl.col("id") != pl.col("kept")).sort("id")


def funnel_of(ledger: pl.DataFrame) -> dict:
    """{"selected", "kept", "steps": [{"reason", "dropped", "left"}]}: the ledger counted rule by rule."""
    left = ledger.height
    steps = []
    for reason in REASONS[:-1]:
        dropped = int((ledger["reason"] == reason).sum())
        left -= dropped
        steps.append({"reason": reason, "dropped": dropped, "left": left})
    return {"selected": ledger.height, "kept": left, "steps": steps}


def refuse_empty(funnel: dict) -> None:
    """Stop when nothing is kept.

    Raises:
        StageError: names the rule that dropped the most.
    """
    if not funnel["kept"]:
        worst = max(funnel["steps"], key=lambda step: step["dropped"])
        raise StageError(
            f"filter: none of {funnel['selected']} posts is kept; '{worst['reason']}' dropped the most ({worst['dropped']});"
            " look at the filter section of the parameters"
        )


def refuse_losses(funnel: dict, max_lost_share: float) -> None:
    """Stop when more of the posts that are wanted have no readable picture than the recipe allows.

    Raises:
        StageError: names the counts; so that wrong archives are not taken for missing pictures.
    """
    steps = {step["reason"]: step for step in funnel["steps"]}
    lost = {reason: steps[reason]["dropped"] for reason in (NOT_ARCHIVED, UNREADABLE)}
    wanted = steps[NOT_ARCHIVED]["left"] + lost[NOT_ARCHIVED]
    if sum(lost.values()) > max_lost_share * wanted:
        told = " and ".join(f"{count} {reason}" for reason, count in lost.items() if count)
        raise StageError(
            f"filter: of {wanted} posts {told}: more than filter.max_lost_share ({max_lost_share}); are these all the archives,"
            " and was the image index made from them?"
        )


def explained(params: Filter, tags: pl.DataFrame, post: dict, picture: dict | None) -> Iterator[str]:
    """What the rules look at of one post (columns of COLUMNS) and of its picture (PICTURE_COLUMNS), a line each."""
    blocked = set(blocked_ids(tags, params.blocked_tags)) & set(post["tags"])
    names = tags.filter(pl.col("id").is_in(sorted(blocked)))["name"].to_list()
    yield f"blocked tags: {', '.join(names) or 'none'}"
    yield f"deleted: {post['is_deleted']}, banned: {post['is_banned']}, md5 and file_url: {post['has_file']}"
    rating = "none" if post["rating"] is None else RATINGS[post["rating"]]
    yield f"rating: {rating} (allowed: {', '.join(params.ratings)})"
    yield f"extension: {post['file_ext']} (allowed: {', '.join(params.extensions)})"
    if picture is None:
        yield "picture: not in the image index"
    elif picture["unreadable"]:
        yield f"picture: {picture['unreadable']}"
    else:
        bounds = f"min_side {params.min_side}, min_pixels {params.min_pixels}, max_aspect_ratio {params.max_aspect_ratio}"
        yield f"picture: {picture['width']}x{picture['height']} (bounds: {bounds})"
