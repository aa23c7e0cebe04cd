"""Caption posts by a profile of booru/captioning/profiles.yaml, and count their artists and characters.

    python stages/caption_posts.py --posts data/kept --annotations data/annotations --output data/captions \\
        --report reports/captions.json --artists reports/artists.json --characters reports/characters.json
    python stages/caption_posts.py --database danbooru2023.db --profile kohaku-xl-epsilon --out captions --format jsonl

The second form captions every post of a metadata database (SQLite, or a folder with one parquet a table) without
earlier stages. Writes id-sorted shards captions-*.parquet (id, repeats, keep, general; keep and general are indices of
words.parquet; where these words do not tell which characters are named, the column characters does, whose numbers are rows of
characters.parquet) and MANIFEST.json; with `--format jsonl` captions.jsonl as well, one {"id": ..., "caption": ...}
a line. With `--annotations` captions have what models say of the pictures: scores and texts where the profile has parts for
them and, with caption.tags: annotations, tags and ratings instead of the metadata's, to which filter.ratings is applied anew.
filter.blocked_tags is applied to all that the tagger and the reader say, whoever's tags captions have, and of --posts to the
pieces into which the profile expands characters' names. Posts without a caption stand in not_captioned.parquet with the
reason: no rating or no number of favourites (the filter stage leaves none), what the models say of them, or scores not above
caption.above.
Parameters: caption, filter.blocked_tags, filter.ratings. The bytes do not depend on runtime.processes.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from repro.command import parameters, stage_parser
from repro.errors import StageError, run_stage
from repro.hashing import refuse_foreign_folder, write_manifest
from repro.outputs import whole_folder, write_json, write_text
from repro.params import Params

import numpy as np
import polars as pl

from booru.captioning.annotated_posts import Asked, refuse_missing_annotations
from booru.captioning.annotations import annotated_kinds
from booru.captioning.caption_shards import COUNTED, SKIPPED_SCHEMA, Captioned, prepared
from booru.captioning.caption_sources import DatabasePosts, PostShards
from booru.captioning.captions import NOT_CAPTIONED_FILE, WORDS_FILE
from booru.captioning.named_characters import CHARACTERS_FILE
from booru.captioning.profiles import Profile, profile, worded
from booru.captioning.quality import percentiles_of
from booru.captioning.tag_lists import tag_list
from booru.shards import ShardWriter

FORMATS = ("parquet", "jsonl")
LINES_FILE = "captions.jsonl"


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    posts = parser.add_mutually_exclusive_group(required=True)
    posts.add_argument("--posts", type=Path, help="folder of filter_posts, or of ingest_posts")
    posts.add_argument("--database", type=Path, help="SQLite file, or folder with one parquet a table")
    parser.add_argument("--annotations", type=Path, help="folder of annotate_images about these posts")
    parser.add_argument("--profile", help="caption profile, instead of caption.profile")
    parser.add_argument("--output", "--out", type=Path, required=True, help="folder for the captions' shards")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="jsonl: write captions.jsonl as well")
    parser.add_argument("--artists", type=Path, help="JSON for the artists' post counts")
    parser.add_argument("--characters", type=Path, help="JSON for the characters' post counts")
    parser.add_argument("--report", type=Path, help="JSON for the profile, its thresholds and the counts of its words")
    args = parser.parse_args(arguments)
    params = parameters(args)
    refuse_foreign_folder(args.output)
    name = args.profile or params.caption.profile
    rules = worded(profile(name), params.caption)

    if args.database and args.annotations:
        raise StageError("--annotations: they are of posts that the filter kept; name these with --posts instead of --database")
    asked = asked_of(args.annotations, params)
    source = PostShards(args.posts, asked, tuple(params.filter.blocked_tags)) if args.posts else DatabasePosts(args.database)
    if params.caption.percentiles == "selection" and rules.quality:
        rules = rules.model_copy(update={"quality": percentiles_of(source.frames(), rules.quality)})
    lines = args.format == "jsonl"
    with whole_folder(args.output) as folder:
        shards = ShardWriter(folder, "captions")
        job = source.job(folder, rules.model_dump_json(), lines)
        vocabulary, tags, characters = prepared(job).vocabulary, prepared(job).tags, prepared(job).characters
        results = source.captioned(job, params.runtime.processes)
        with open(folder / LINES_FILE if lines else os.devnull, "wb") as file:
            totals = add_up(results, tags.height, len(vocabulary.made), shards, file)
        shards.write_table(WORDS_FILE, vocabulary.words.to_frame())
        if characters:
            shards.write_table(CHARACTERS_FILE, characters.names.to_frame())
        shards.write_table(NOT_CAPTIONED_FILE, totals.skipped)
        write_manifest(folder, shards.content_digest(), source.revision)
    for part, path in (("artist", args.artists), ("character", args.characters)):
        if path:
            listed = tag_list(tags["name"], totals.counts[part])
            write_text(path, json.dumps(listed, indent=2, ensure_ascii=False) + "\n")
    reasons = dict(Counter(sorted(totals.skipped["reason"].to_list())))
    if args.report:
        made = dict(zip(vocabulary.made, totals.made.tolist(), strict=True))
        about = {"revision": source.revision, "profile": name, "percentiles": params.caption.percentiles}
        about |= {"tags": params.caption.tags}
        counts = {"posts": shards.rows, "not_captioned": reasons, "posts_with_word": made}
        write_json(args.report, about | told_of(rules) | counts)
    for reason, count in reasons.items():
        print(f"caption: {count} posts have no caption ({reason}), they are in {NOT_CAPTIONED_FILE}")
    print(f"caption: {shards.rows} posts in {args.output}")


def asked_of(annotations: Path | None, params: Params) -> Asked | None:
    """What the captions take from the annotations; None where there are none.

    Raises:
        StageError: the recipe's captions need some that are not there.
    """
    kinds = annotated_kinds(annotations) if annotations else []
    refuse_missing_annotations(params.caption, kinds, str(annotations) if annotations else "--annotations")
    if not kinds:
        return None
    wanted = params.filter
    caption = params.caption.model_dump_json()
    return Asked(annotations, tuple(kinds), caption, tuple(wanted.blocked_tags), tuple(wanted.ratings))


@dataclass(frozen=True)
class Totals:
    """By part the number of posts of each row of the tag table, the posts of each made word, and those without a caption."""

    counts: dict[str, np.ndarray]
    made: np.ndarray
    skipped: pl.DataFrame


def add_up(results: Iterable[Captioned], tags: int, made_words: int, shards: ShardWriter, lines: IO[bytes]) -> Totals:
    """Count the shards in as they come, and write their JSON lines one after another."""
    counts = {part: np.zeros(tags, dtype=np.int64) for part in COUNTED}
    made, skipped = np.zeros(made_words, dtype=np.int64), []
    for result in results:
        for part, (rows, posts) in result.counts.items():
            counts[part][rows] += posts
        made += result.made
        skipped.append(result.skipped)
        lines.write(result.lines)
        if result.shard:
            shards.add(result.shard)
    return Totals(counts, made, pl.concat(skipped) if skipped else pl.DataFrame(schema=SKIPPED_SCHEMA))


def told_of(rules: Profile) -> dict:
    """What the report says of a profile: where its rules come from, and the favourites that its percentiles stand for."""
    tables = rules.quality.percentiles if rules.quality else {}
    thresholds = {rating: {str(p): count for p, count in table.items()} for rating, table in tables.items()}
    return {"source": rules.source, "favourites_at_percentile": thresholds}


if __name__ == "__main__":
    run_stage(main)
