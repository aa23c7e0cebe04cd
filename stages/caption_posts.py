"""Caption posts by a profile of booru/captioning/profiles.yaml, and count their artists and characters.

    python stages/caption_posts.py --posts data/kept --output data/captions --report reports/captions.json \\
        --artists reports/artists.json --characters reports/characters.json
    python stages/caption_posts.py --database danbooru2023.db --profile kohaku-xl-epsilon --out captions --format jsonl

The second form captions every post of a metadata database (SQLite, or a folder with one parquet a table) without
earlier stages. Writes id-sorted shards captions-*.parquet (id, repeats, keep, general; keep and general are indices of
words.parquet) and MANIFEST.json; with `--format jsonl` captions.jsonl as well, one {"id": ..., "caption": ...}
a line. Posts that cannot have a caption (no rating, no number of favourites) stand in not_captioned.parquet with the
reason; the filter stage leaves none. Parameters: caption. The bytes do not depend on runtime.processes.
"""

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from repro.command import parameters, stage_parser
from repro.errors import run_stage
from repro.hashing import refuse_foreign_folder, write_manifest
from repro.outputs import whole_folder, write_json, write_text

import numpy as np
import polars as pl

from booru.captioning.caption_shards import COUNTED, SKIPPED_SCHEMA, Captioned, prepared
from booru.captioning.caption_sources import DatabasePosts, PostShards
from booru.captioning.captions import WORDS_FILE
from booru.captioning.profiles import Profile, profile
from booru.captioning.quality import percentiles_of
from booru.captioning.tag_lists import tag_list
from booru.shards import ShardWriter

FORMATS = ("parquet", "jsonl")
LINES_FILE = "captions.jsonl"
SKIPPED_FILE = "not_captioned.parquet"


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    posts = parser.add_mutually_exclusive_group(required=True)
    posts.add_argument("--posts", type=Path, help="folder of filter_posts, or of ingest_posts")
    posts.add_argument("--database", type=Path, help="SQLite file, or folder with one parquet a table")
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
    rules = profile(name)

    source = PostShards(args.posts) if args.posts else DatabasePosts(args.database)
    if params.caption.percentiles == "selection" and rules.quality:
        rules = rules.model_copy(update={"quality": percentiles_of(source.frames(), rules.quality)})
    lines = args.format == "jsonl"
    with whole_folder(args.output) as folder:
        shards = ShardWriter(folder, "captions")
        job = source.job(folder, rules.model_dump_json(), lines)
        vocabulary = prepared(job).vocabulary
        results = source.captioned(job, params.runtime.processes)
        with open(folder / LINES_FILE if lines else os.devnull, "wb") as file:
            totals = add_up(results, source.tags.height, len(vocabulary.made), shards, file)
        shards.write_table(WORDS_FILE, vocabulary.words.to_frame())
        shards.write_table(SKIPPED_FILE, totals.skipped)
        write_manifest(folder, shards.content_digest(), source.revision)
    for part, path in (("artist", args.artists), ("character", args.characters)):
        if path:
            listed = tag_list(source.tags["name"], totals.counts[part])
            write_text(path, json.dumps(listed, indent=2, ensure_ascii=False) + "\n")
    reasons = dict(Counter(sorted(totals.skipped["reason"].to_list())))
    if args.report:
        made = dict(zip(vocabulary.made, totals.made.tolist(), strict=True))
        about = {"revision": source.revision, "profile": name, "percentiles": params.caption.percentiles}
        counts = {"posts": shards.rows, "not_captioned": reasons, "posts_with_word": made}
        write_json(args.report, about | told_of(rules) | counts)
    for reason, count in reasons.items():
        print(f"caption: {count} posts have no caption ({reason}), they are in {SKIPPED_FILE}")
    print(f"caption: {shards.rows} posts in {args.output}")


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
