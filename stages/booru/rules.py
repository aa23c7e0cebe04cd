"""The filter's rules: why a post is not trained on.

HakuBooru has no filter; the cards of Kohaku XL name deleted and gold-only posts and posts without
a picture. Here each reason is a rule of its own, asked in one fixed order, blocked tags first.
Every post gets the first reason that holds, so the counts of a funnel add up.
"""

from collections.abc import Iterable

from repro.errors import StageError
from repro.params import Filter

import polars as pl

from booru.blocked import blocked_ids
from booru.ratings import RATINGS

KEPT = "kept"
DUPLICATE = "same md5 as an earlier post"
NOT_ARCHIVED = "not in the archives"
# The order in which the rules are asked.
REASONS = (
    "blocked tag",
    "deleted",
    "banned",
    "no md5 or file_url",
    "extension not allowed",
    "rating not allowed",
    "too small",
    "aspect ratio",
    DUPLICATE,
    NOT_ARCHIVED,
)
COLUMNS = [
    "id", "is_deleted", "is_banned", "md5", "file_url", "file_ext", "rating", "image_width", "image_height", "tags",
]  # fmt: skip


def rules_of_one_post(params: Filter, tags: pl.DataFrame) -> dict[str, pl.Expr]:
    """{reason: whether it holds} for the rules that look at one post alone, in their order.

    Args:
        tags: the tag table; the expressions expect the columns of `COLUMNS`.
    """
    short, long = pl.min_horizontal("image_width", "image_height"), pl.max_horizontal("image_width", "image_height")
    blocked = pl.Series(blocked_ids(tags, params.blocked_tags), dtype=pl.Int32)
    return {
        "blocked tag": pl.col("tags").list.eval(pl.element().is_in(blocked.implode())).list.any(),
        "deleted": (pl.col("is_deleted") != 0) & params.drop_deleted,
        "banned": (pl.col("is_banned") != 0) & params.drop_banned,
        "no md5 or file_url": pl.col("md5").fill_null("").eq("") | pl.col("file_url").fill_null("").eq(""),
        "extension not allowed": ~pl.col("file_ext").is_in(params.extensions),
        "rating not allowed": ~pl.col("rating").is_in([RATINGS.index(name) for name in params.ratings]),
        "too small": short < params.min_side,
        "aspect ratio": long > short * params.max_aspect_ratio,
    }


def first_reasons(posts: pl.DataFrame, rules: dict[str, pl.Expr]) -> pl.Series:
    """For each post the place in `REASONS` of the first rule that holds, null where none does."""
    expression = pl.coalesce(pl.when(holds).then(REASONS.index(reason)) for reason, holds in rules.items())
    return posts.select(expression.cast(pl.Int8).alias("reason"))["reason"]


def ledger_of(frames: Iterable[pl.DataFrame], params: Filter, tags: pl.DataFrame, archived: pl.Series) -> pl.DataFrame:
    """The ledger: id and reason of every post, in id order.

    Args:
        frames: the selected posts' shards in id order, with the columns of `COLUMNS`.
        tags: the tag table.
        archived: ids that the image index has.
    """
    rules = rules_of_one_post(params, tags)
    seen = pl.concat(f.select("id", "md5", first_reasons(f, rules)) for f in frames)
    seen = _mark(seen, DUPLICATE, _later_of_same_md5(seen.filter(pl.col("reason").is_null())))
    seen = _mark(seen, NOT_ARCHIVED, seen.filter(~pl.col("id").is_in(archived.implode()))["id"])
    names = pl.Series(REASONS)
    return seen.select("id", pl.lit(names).gather(pl.col("reason")).fill_null(KEPT).alias("reason"))


def _mark(seen: pl.DataFrame, reason: str, ids: pl.Series) -> pl.DataFrame:
    """Give the posts of `ids` this reason where they have none yet."""
    holds = pl.col("reason").is_null() & pl.col("id").is_in(ids.implode())
    return seen.with_columns(pl.when(holds).then(pl.lit(REASONS.index(reason), pl.Int8)).otherwise("reason").alias("reason"))


def _later_of_same_md5(posts: pl.DataFrame) -> pl.Series:
    """Ids of the posts whose md5 a post of lower id has too."""
    posts = posts.sort("md5", "id")
    return posts.filter((pl.col("md5") == pl.col("md5").shift(1)).fill_null(False))["id"]


def funnel_of(ledger: pl.DataFrame) -> dict:
    """{"selected", "kept", "steps": [{"reason", "dropped", "left"}]}: the ledger counted rule by rule."""
    left = ledger.height
    steps = []
    for reason in REASONS:
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
