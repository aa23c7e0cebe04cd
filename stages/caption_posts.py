"""Caption the kept posts by a profile of booru/profiles.yaml, and count their artists and characters.

    python stages/caption_posts.py --posts data/kept --output data/captions \\
        --artists reports/artists.json --characters reports/characters.json

Writes id-sorted shards captions-*.parquet (id, keep, general, caption) and MANIFEST.json, and two lists
{tag name: number of posts captioned with it}, the most frequent first. Parameters: caption.
"""

import json
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import run_stage
from repro.hashing import write_manifest
from repro.outputs import whole_folder, write_text
from repro.progress import Progress

import numpy as np
import polars as pl

from booru.captions import captions_of, count_posts, vocabulary_of, words_of
from booru.profiles import Profile, profile
from booru.shards import ShardWriter, numbered_frames, read_tags, shard_files
from booru.tags import check_tags

COLUMNS = ["id", "created_at", "rating", "fav_count", "tags"]


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--posts", type=Path, required=True, help="folder of filter_posts")
    parser.add_argument("--output", type=Path, required=True, help="folder for the captions' shards")
    parser.add_argument("--artists", type=Path, required=True, help="JSON for the artists' post counts")
    parser.add_argument("--characters", type=Path, required=True, help="JSON for the characters' post counts")
    args = parser.parse_args(arguments)
    rules = profile(parameters(args).caption.profile)

    files = shard_files(args.posts, "posts")
    tags = check_tags(read_tags(args.posts), str(args.posts / "tags.parquet"))
    with whole_folder(args.output) as folder:
        shards = ShardWriter(folder, "captions")
        counts = write_captions(files, tags, rules, shards)
        write_manifest(folder, shards.content_digest())
    for part, path in (("artist", args.artists), ("character", args.characters)):
        write_text(path, json.dumps(ranked(tags["name"], counts[part]), indent=2, ensure_ascii=False) + "\n")
    print(f"caption: {shards.rows} posts in {args.output}")


def write_captions(files: list[Path], tags: pl.DataFrame, rules: Profile, shards: ShardWriter) -> dict[str, np.ndarray]:
    """Caption shard by shard; returns by part the number of posts of each row of the tag table."""
    vocabulary = vocabulary_of(tags, rules)
    counts = {part: np.zeros(tags.height, dtype=np.int64) for part in ("artist", "character")}
    places = {part: [i for i, name in enumerate(rules.keep + rules.general) if name == part] for part in counts}
    progress = Progress("caption", len(files), "shards")
    for number, posts in numbered_frames(files, COLUMNS):
        words = words_of(posts, vocabulary, rules)
        shards.write(number, captions_of(posts, words, vocabulary, rules))
        for part in counts:
            counts[part] += count_posts(words, places[part], len(vocabulary.texts))[: tags.height]
        progress.advance()
    return counts


def ranked(names: pl.Series, counts: np.ndarray) -> dict[str, int]:
    """{name: count} of the names that occur, by count descending, then by name."""
    occurring = np.flatnonzero(counts)
    pairs = [(names[int(i)], int(counts[i])) for i in occurring]
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


if __name__ == "__main__":
    run_stage(main)
