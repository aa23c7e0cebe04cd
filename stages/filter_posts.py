"""Filter the selected posts: explicit rules in a fixed order, a funnel of counts and a ledger of reasons.

    python stages/filter_posts.py --posts data/posts --image-index data/sample/image_index \\
        --output data/kept --funnel reports/filter.json --ledger data/ledger.parquet
    python stages/filter_posts.py --explain 1234567

Writes the kept posts' shards with where their image lies (archive, member, offset, size, sha256), tags.parquet
and MANIFEST.json; the funnel; and the ledger, one row for every selected post with its one reason, and of
duplicates the post that stays instead. With --explain it writes nothing and prints what happened to one post in
every stage so far. Parameters: filter.
"""

from argparse import ArgumentParser
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import run_stage
from repro.hashing import manifest_revision, refuse_foreign_folder, write_manifest
from repro.outputs import whole_file, whole_folder, write_json

import polars as pl

from booru.filtering.explain import Stages, explain
from booru.filtering.rules import COLUMNS, KEPT, funnel_of, ledger_of, refuse_empty, refuse_losses
from booru.images.archives import ImageIndex
from booru.shards import ShardWriter, numbered_frames, read_tags, shard_files, write_frame


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--posts", type=Path, default=Path("data/posts"), help="folder of select_posts")
    parser.add_argument("--image-index", type=Path, help="folder of index_images (default: filter.image_index)")
    parser.add_argument("--output", type=Path, default=Path("data/kept"), help="folder for the kept posts' shards")
    parser.add_argument("--funnel", type=Path, default=Path("reports/filter.json"), help="JSON for the counts of each rule")
    parser.add_argument("--ledger", type=Path, default=Path("data/ledger.parquet"), help="parquet for every post's reason")
    add_explain_options(parser)
    args = parser.parse_args(arguments)
    params = parameters(args)
    image_index = args.image_index or Path(params.filter.image_index)
    if args.explain is not None:
        stages = Stages(args.metadata, image_index, args.selection, args.ledger, args.annotations, args.captions, args.latents)
        for line in explain(args.explain, stages, params):
            print(line)
        return
    refuse_foreign_folder(args.output)

    files = shard_files(args.posts, "posts")
    tags = read_tags(args.posts)
    index = ImageIndex(image_index)
    ledger = ledger_of((frame for _, frame in numbered_frames(files, COLUMNS)), params.filter, tags, index)
    revision = manifest_revision(args.posts)
    funnel = {"revision": revision} | funnel_of(ledger)
    refuse_empty(funnel)
    refuse_losses(funnel, params.filter.max_lost_share)

    with whole_folder(args.output) as folder:
        shards = ShardWriter(folder, "posts")
        write_kept(files, ledger, index, shards)
        shards.write_tags(tags)
        write_manifest(folder, shards.content_digest(), revision)
    with whole_file(args.ledger) as path:
        write_frame(path, ledger)
    write_json(args.funnel, funnel)
    for step in funnel["steps"]:
        print(f"filter: {step['dropped']:>9} dropped, {step['left']:>9} left: {step['reason']}")
    print(f"filter: kept {funnel['kept']} of {funnel['selected']} posts in {args.output}")


def add_explain_options(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("telling of one post")
    group.add_argument("--explain", type=int, metavar="ID", help="print what happened to this post, and why")
    for name, place in (
        ("metadata", "data/metadata"), ("selection", "data/selection.parquet"),
        ("annotations", "data/annotations"), ("captions", "data/captions"), ("latents", "data/latents"),
    ):  # fmt: skip
        group.add_argument(f"--{name}", type=Path, default=Path(place), help="where its stage wrote it (default: %(default)s)")


def write_kept(files: list[Path], ledger: pl.DataFrame, index: ImageIndex, shards: ShardWriter) -> None:
    """Write each shard's kept posts with their places in the archives; a shard without any is left out."""
    kept = ledger.filter(pl.col("reason") == KEPT)["id"]
    for number, posts in numbered_frames(files):
        posts = posts.filter(pl.col("id").is_in(kept.implode()))
        if posts.height:
            shards.write(number, index.join_to(posts))


if __name__ == "__main__":
    run_stage(main)
