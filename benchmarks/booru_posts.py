"""Made-up posts with the columns, value ranges and text lengths of danbooru2023's table post."""

from datetime import UTC, datetime

import numpy as np
import polars as pl

LAST_ID = 7_560_000
LAST_ID_OF_MANY = 7_866_491
"""Highest id, and the published database's own for more posts than fit below the first with realistic gaps."""
MANY = 7_000_000
MOST = 7_800_000
# Uploads by id; between these Danbooru grew about linearly.
UPLOADS = {
    1: (2005, 5, 24), 500_000: (2009, 8, 12), 1_000_000: (2011, 9, 2), 2_000_000: (2015, 5, 20), 3_000_000: (2018, 1, 29),
    4_000_000: (2020, 7, 15), 5_000_000: (2021, 12, 31), 6_000_000: (2023, 1, 14), 7_000_000: (2023, 12, 29),
    7_560_000: (2024, 5, 19), 7_866_491: (2024, 8, 1),
}  # fmt: skip
SECONDS_A_DAY = 86_400
EXTENSIONS = {
    "jpg": 0.72, "png": 0.235, "webp": 0.01, "avif": 0.003, "gif": 0.012, "mp4": 0.009, "zip": 0.007, "webm": 0.003, "swf": 0.001,
}  # fmt: skip
"""Shares; the last five, 3.2 %, are no still images."""
RATING_SHARES = [0.2, 0.47, 0.14, 0.19]
FAVOURITES_MEDIAN = np.array([8, 15, 38, 52])
"""By rating: the percentiles of danbooru2023, p95 being about five times the median."""
FAVOURITES_SPREAD = 0.98
DELETED, BANNED, GOLD, SMALL = 0.065, 0.009, 0.017, 0.03
IMAGES = "https://cdn.donmai.us"


def draw_ids(rng: np.random.Generator, posts: int) -> np.ndarray:
    """Distinct ids (i64), ascending, spread over all of the booru's."""
    return np.sort(rng.permutation(LAST_ID if posts <= MANY else LAST_ID_OF_MANY)[:posts]) + 1


def make_posts(rng: np.random.Generator, ids: np.ndarray) -> pl.DataFrame:
    """The posts of these ids: table post's columns in its order, integers as i64."""
    numbers = pl.DataFrame(_dates(rng, ids) | _relatives(rng, ids) | _states(rng, ids) | _sizes(rng, ids) | _popularity(rng, ids))
    texts = numbers.with_columns(id=ids, md5=_hashes(rng, ids), file_ext=_extensions(rng, ids), **_source_parts(rng, ids))
    gold = pl.Series(rng.random(len(ids)) < GOLD)
    return _with_source(texts).with_columns(_with_urls(gold)).select(
        "id", _new_york("created_at"), "uploader_id", "source", pl.when(~gold).then("md5").alias("md5"), "parent_id",
        "has_children", "is_deleted", "is_banned", "pixiv_id", "has_active_children", "bit_flags", "has_large",
        "has_visible_children", "image_width", "image_height", "file_size", "file_ext", "rating", "score", "up_score",
        "down_score", "fav_count", "file_url", "large_file_url", "preview_file_url", _new_york("updated_at"),
    )  # fmt: skip


def _dates(rng: np.random.Generator, ids: np.ndarray) -> dict[str, np.ndarray]:
    """created_at rises with the id; updated_at is up to years later. Milliseconds since 1970, UTC."""
    seconds = [datetime(*day, tzinfo=UTC).timestamp() for day in UPLOADS.values()]
    created = np.interp(ids, list(UPLOADS), seconds)
    updated = np.minimum(created + rng.exponential(300 * SECONDS_A_DAY, len(ids)), seconds[-1])
    return {"created_at": (created * 1000).astype(np.int64), "updated_at": (updated * 1000).astype(np.int64)}


def _new_york(column: str) -> pl.Expr:
    """Milliseconds as Danbooru writes them: 2024-05-19T01:30:25.096-04:00."""
    moment = pl.col(column).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone("America/New_York")
    return moment.dt.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").alias(column)


def _relatives(rng: np.random.Generator, ids: np.ndarray) -> dict[str, pl.Series]:
    parent = np.maximum(ids - rng.integers(1, 2000, len(ids)), 1)
    children = rng.random(len(ids)) < 0.09
    return {
        "uploader_id": pl.Series((1_200_000 * rng.random(len(ids)) ** 3).astype(np.int64) + 1),
        "parent_id": pl.Series(parent).set(pl.Series(rng.random(len(ids)) >= 0.12), None),
        "has_children": pl.Series(children).cast(pl.Int64),
        "has_active_children": pl.Series(children & (rng.random(len(ids)) < 0.8)).cast(pl.Int64),
        "has_visible_children": pl.Series(children).cast(pl.Int64),
    }


def _states(rng: np.random.Generator, ids: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "is_deleted": (rng.random(len(ids)) < DELETED).astype(np.int64),
        "is_banned": (rng.random(len(ids)) < BANNED).astype(np.int64),
        "bit_flags": 2 * (rng.random(len(ids)) < 0.02).astype(np.int64),
    }


def _sizes(rng: np.random.Generator, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Widths and heights in pixels around 1.8 megapixels, some thumbnails; file sizes in bytes."""
    side = np.where(rng.random(len(ids)) < SMALL, rng.uniform(60, 256, len(ids)), np.exp(rng.normal(7.2, 0.5, len(ids))))
    shape = np.exp(rng.normal(-0.18, 0.28, len(ids)))
    width = np.clip(side * np.sqrt(shape), 20, 20_000).astype(np.int64)
    height = np.clip(side / np.sqrt(shape), 20, 20_000).astype(np.int64)
    bytes_a_pixel = np.exp(rng.normal(-0.8, 0.6, len(ids)))
    return {
        "image_width": width,
        "image_height": height,
        "file_size": (width * height * bytes_a_pixel).astype(np.int64),
        "has_large": (width > 850).astype(np.int64),
    }


def _popularity(rng: np.random.Generator, ids: np.ndarray) -> dict[str, np.ndarray]:
    rating = rng.choice(4, size=len(ids), p=RATING_SHARES)
    favourites = (FAVOURITES_MEDIAN[rating] * np.exp(rng.normal(0, FAVOURITES_SPREAD, len(ids)))).astype(np.int64)
    up = (favourites * rng.uniform(0.5, 1.1, len(ids))).astype(np.int64)
    down = -rng.poisson(0.3, len(ids))
    return {"rating": rating, "fav_count": favourites, "up_score": up, "down_score": down, "score": up + down}


def _hashes(rng: np.random.Generator, ids: np.ndarray) -> pl.Series:
    digits = rng.bytes(16 * len(ids)).hex()
    return pl.Series([digits[i : i + 32] for i in range(0, len(digits), 32)])


def _extensions(rng: np.random.Generator, ids: np.ndarray) -> pl.Series:
    return pl.Series(rng.choice(list(EXTENSIONS), size=len(ids), p=list(EXTENSIONS.values())))


def _source_parts(rng: np.random.Generator, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers from which a source is written: which site, and the work's number there."""
    return {
        "site": rng.choice(4, size=len(ids), p=[0.62, 0.24, 0.06, 0.08]),
        "work": rng.integers(1_000_000, 120_000_000, len(ids)),
        "status": rng.integers(10**17, 18 * 10**17, len(ids)),
        "account": rng.integers(0, 10**7, len(ids)),
    }


def _with_source(posts: pl.DataFrame) -> pl.DataFrame:
    """Pixiv, Twitter, some other page, or none."""
    day = pl.col("created_at").cast(pl.Datetime("ms")).dt.strftime("%Y/%m/%d/%H/%M/%S")
    pixiv = pl.format("https://i.pximg.net/img-original/img/{}/{}_p0.{}", day, "work", "file_ext")
    twitter = pl.format("https://twitter.com/user_{}/status/{}", "account", "status")
    other = pl.format("https://www.example.com/gallery/{}/{}", "account", "work")
    site = pl.col("site")
    return posts.with_columns(
        source=pl.when(site == 0).then(pixiv).when(site == 1).then(twitter).when(site == 2).then(other).otherwise(pl.lit("")),
        pixiv_id=pl.when(site == 0).then("work"),
    )


def _with_urls(gold: pl.Series) -> list[pl.Expr]:
    """The three addresses; none for `gold` posts, which only paying members see."""
    md5 = pl.col("md5")
    folder = pl.concat_str(md5.str.slice(0, 2), pl.lit("/"), md5.str.slice(2, 2))
    original = pl.format(f"{IMAGES}/original/{{}}/{{}}.{{}}", folder, md5, "file_ext")
    sample = pl.format(f"{IMAGES}/sample/{{}}/sample-{{}}.jpg", folder, md5)
    preview = pl.format(f"{IMAGES}/180x180/{{}}/{{}}.jpg", folder, md5)
    return [
        pl.when(~gold).then(original).alias("file_url"),
        pl.when(~gold).then(pl.when(pl.col("has_large") == 1).then(sample).otherwise(original)).alias("large_file_url"),
        pl.when(~gold).then(preview).alias("preview_file_url"),
    ]
