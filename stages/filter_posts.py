"""Filter the selected posts: explicit rules in a fixed order, a funnel of counts and a ledger of reasons.

    python stages/filter_posts.py --posts data/posts --image-index data/sample/images.parquet \\
        --output data/kept --funnel reports/filter.json --ledger data/ledger.parquet

Writes the kept posts' shards with where their image lies (archive, member, offset, size, sha256), tags.parquet
and MANIFEST.json; the funnel; and the ledger, one row for every selected post. Parameters: filter.
"""

from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import run_stage
from repro.hashing import write_manifest
from repro.outputs import whole_file, whole_folder, write_json

import polars as pl

from booru.archives import ImageIndex
from booru.rules import COLUMNS, KEPT, funnel_of, ledger_of, refuse_empty
from booru.shards import ShardWriter, numbered_frames, read_tags, shard_files, write_frame


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--posts", type=Path, required=True, help="folder of select_posts")
    parser.add_argument("--image-index", type=Path, required=True, help="parquet of index_images")
    parser.add_argument("--output", type=Path, required=True, help="folder for the kept posts' shards")
    parser.add_argument("--funnel", type=Path, required=True, help="JSON for the counts of each rule")
    parser.add_argument("--ledger", type=Path, required=True, help="parquet for the reason of every post")
    args = parser.parse_args(arguments)
    params = parameters(args).filter

    files = shard_files(args.posts, "posts")
    tags = read_tags(args.posts)
    index = ImageIndex(args.image_index)
    ledger = ledger_of((frame for _, frame in numbered_frames(files, COLUMNS)), params, tags, index.ids())
    funnel = funnel_of(ledger)
    refuse_empty(funnel)

    with whole_folder(args.output) as folder:
        shards = ShardWriter(folder, "posts")
        write_kept(files, ledger, index, shards)
        shards.write_tags(tags)
        write_manifest(folder, shards.content_digest())
    with whole_file(args.ledger) as path:
        write_frame(path, ledger)
    write_json(args.funnel, funnel)
    for step in funnel["steps"]:
        print(f"filter: {step['dropped']:>9} dropped, {step['left']:>9} left: {step['reason']}")
    print(f"filter: kept {funnel['kept']} of {funnel['selected']} posts in {args.output}")


def write_kept(files: list[Path], ledger: pl.DataFrame, index: ImageIndex, shards: ShardWriter) -> None:
    """Write each shard's kept posts with their places in the archives; a shard without any is left out."""
    kept = ledger.filter(pl.col("reason") == KEPT)["id"]
    for number, posts in numbered_frames(files):
        posts = posts.filter(pl.col("id").is_in(kept.implode()))
        if posts.height:
            shards.write(number, index.join_to(posts))


if __name__ == "__main__":
    run_stage(main)
