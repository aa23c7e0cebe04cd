"""What happened to one post in every data stage, and why, told from the stages' own outputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repro.errors import StageError
from repro.params import IdRange, Params

import polars as pl

from booru.captioning.annotated_posts import SCORE_COLUMNS, blocked_places
from booru.captioning.annotations import CHARACTER_CATEGORY, TAGS, TEXT, read_vocabulary
from booru.captioning.captions import KEEP_MARK, NOT_CAPTIONED_FILE, SEPARATOR, WORDS_FILE
from booru.captioning.profiles import Profile, profile
from booru.captioning.thresholds import reaches, reaches_as_blocked
from booru.filtering.rules import COLUMNS, KEPT, PICTURE_COLUMNS, explained
from booru.images.archives import ImageIndex
from booru.ratings import RATINGS
from booru.selection.selection import SELECTED
from booru.shards import read_tags
from booru.tags import TAG_TYPES


@dataclass(frozen=True)
class Stages:
    """Where the stages' outputs lie; those that do not exist yet are told to be missing."""

    metadata: Path
    image_index: Path
    selection: Path
    ledger: Path
    annotations: Path
    captions: Path
    latents: Path


def explain(post: int, stages: Stages, params: Params) -> Iterator[str]:
    """Lines of text, stage by stage, until the post is left out or is trained on.

    Raises:
        StageError: there is no metadata yet, or it has no such post.
    """
    if not stages.metadata.is_dir():
        raise StageError(f"{stages.metadata}: not there yet; run the ingest stage first")
    row = _row(stages.metadata, "posts", post)
    if row is None:
        raise StageError(f"post {post}: the metadata in {stages.metadata} has no post of this id")
    tags = read_tags(stages.metadata)
    yield f"metadata: post {post} of {row['source']}, uploaded {row['created_at'] or 'at an unknown time'},"
    score, favourites = ("unknown" if row[key] is None else row[key] for key in ("score", "fav_count"))
    yield f"  score {score}, favourites {favourites}, tags: {_tag_names(row['tags'], tags)}"
    place = _range_of(post, row["source"], params.select.ranges)
    reason = yield from _told(post, "select", stages.selection)
    yield f"  {place}"
    if reason != SELECTED:
        return
    index = ImageIndex(stages.image_index)
    reason = yield from _told(post, "filter", stages.ledger)
    picture = index.join_to(pl.DataFrame({"id": [post]}), PICTURE_COLUMNS).rows(named=True)
    for line in explained(params.filter, tags, {name: row[name] for name in COLUMNS}, picture[0] if picture else None):
        yield f"  {line}"
    if reason != KEPT:
        return
    yield from _annotations(post, stages.annotations, params)
    left_out = yield from _caption(post, stages.captions, profile(params.caption.profile))
    if not left_out:
        yield from _latents(post, stages.latents)


def _told(post: int, stage: str, ledger: Path) -> Iterator[str]:
    """The ledger's line about the post; returns its reason."""
    if not ledger.exists():
        yield f"{stage}: not run yet ({ledger} is missing)"
        return None
    rows = pl.scan_parquet(ledger).filter(pl.col("id") == post).collect(engine="in-memory").rows(named=True)
    if not rows:
        yield f"{stage}: {ledger} does not know this post; it was made from other metadata"
        return None
    instead = rows[0].get("instead")
    yield f"{stage}: {rows[0]['reason']}" + (f" (post {instead} stays instead)" if instead is not None else "")
    return rows[0]["reason"]


def _range_of(post: int, source: str, ranges: list[IdRange]) -> str:
    for r in ranges:
        if r.folder == source or (r.folder is None and r.first <= post <= r.last):
            span = f"folder {r.folder}" if r.folder else f"ids {r.first} to {r.last}"
            return f"range: {span}, {'all' if r.take is None else r.take} taken"
    return "range: none of select.ranges"


def _annotations(post: int, annotations: Path, params: Params) -> Iterator[str]:
    """What the models said of the post's picture."""
    if tagged := _row(annotations / TAGS, TAGS, post):
        yield from _tags_told(tagged, read_vocabulary(annotations), params)
    for kind in SCORE_COLUMNS:
        if scored := _row(annotations / kind, kind, post):
            yield f"annotate: {kind} score {scored['score']:.4f}"
    if read := _row(annotations / TEXT, TEXT, post):
        yield f"annotate: text {read['answer']!r}"


def _tags_told(row: dict, vocabulary: pl.DataFrame, params: Params) -> Iterator[str]:
    """The ratings, the tags that captions have, and those for which the post is not captioned."""
    ratings = ", ".join(f"{name} {value:.4f}" for name, value in zip(RATINGS, row["ratings"], strict=True))
    yield f"annotate: rating {ratings} (allowed: {', '.join(params.filter.ratings)})"
    names, is_character = vocabulary["name"], (vocabulary["category"] == CHARACTER_CATEGORY).to_list()
    is_blocked = blocked_places(vocabulary, params.filter.blocked_tags)
    above, blocked = [], []
    for place, probability in zip(row["tags"], row["probabilities"], strict=True):
        threshold = params.caption.character_threshold if is_character[place] else params.caption.general_threshold
        told = f"{names[place]} {probability:.4f}"
        if reaches(probability, threshold):
            above.append(told)
        if is_blocked[place] and reaches_as_blocked(probability, threshold):
            blocked.append(told)
    yield f"  tags above caption's thresholds: {', '.join(above) or 'none'}"
    yield f"  blocked tags: {', '.join(blocked) or 'none'}"


def _caption(post: int, captions: Path, rules: Profile) -> Iterator[str]:
    """The caption, or why there is none; returns whether the post was left out."""
    row = _row(captions, "captions", post)
    if row is None:
        reason = _why_not_captioned(post, captions / NOT_CAPTIONED_FILE)
        yield f"caption: none, {reason}" if reason else "caption: none yet"
        return reason is not None
    words = pl.read_parquet(captions / WORDS_FILE)["word"]
    keep, general = (words.gather(row[part]).to_list() for part in ("keep", "general"))
    if rules.keep_mark:
        yield f"caption: {SEPARATOR.join(keep)} {KEEP_MARK} {SEPARATOR.join(general)}"
    else:
        yield f"caption: {SEPARATOR.join(keep + general)}"
    yield f"  shown {row['repeats']} time{'s' if row['repeats'] > 1 else ''} an epoch"
    return False


def _why_not_captioned(post: int, listed: Path) -> str | None:
    if not listed.exists():
        return None
    reasons = pl.read_parquet(listed).filter(pl.col("id") == post)["reason"]
    return reasons[0] if len(reasons) else None


def _latents(post: int, latents: Path) -> Iterator[str]:
    if not (latents / "index.parquet").exists():
        yield "latents: none yet"
        return
    for name in ("lost.parquet", "index.parquet"):
        found = pl.read_parquet(latents / name).filter(pl.col("id") == post).rows(named=True)
        if found and name == "lost.parquet":
            yield f"latents: lost: {found[0]['reason']}"
        elif found:
            bucket = f"{found[0]['bucket_width']}x{found[0]['bucket_height']}"
            yield f"latents: {found[0]['shard']} row {found[0]['row']}, bucket {bucket}: trained on"


def _row(folder: Path, prefix: str, post: int) -> dict | None:
    """The post's row in a folder of shards, None where there is none, or no such folder."""
    for file in sorted(folder.glob(f"{prefix}-*.parquet")):
        rows = pl.scan_parquet(file).filter(pl.col("id") == post).collect(engine="in-memory").rows(named=True)
        if rows:
            return rows[0]
    return None


def _tag_names(ids: list[int], tags: pl.DataFrame) -> str:
    names = {row["id"]: row for row in tags.filter(pl.col("id").is_in(ids)).rows(named=True)}
    return ", ".join(f"{names[i]['name']} ({TAG_TYPES[names[i]['type']]})" for i in ids) or "none"
