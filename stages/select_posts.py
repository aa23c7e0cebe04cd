"""Select posts: seeded draws from id ranges of the metadata database, with their tags.

    python stages/select_posts.py --database data/sample/metadata.db --output data/posts

Writes id-sorted shards posts-*.parquet (one for each block of select.shard_posts ids: the post's columns
and `tags`, its tag ids in the database's order), tags.parquet and MANIFEST.json. Parameters: seed, select.
"""

import sys
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import run_stage
from repro.hashing import write_manifest
from repro.outputs import whole_folder
from repro.progress import Progress

import numpy as np

from booru.database import BooruDatabase
from booru.selection import select_ids
from booru.shards import ShardWriter


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--database", type=Path, required=True, help="danbooru2023 metadata database (SQLite)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the posts' shards")
    args = parser.parse_args(arguments)
    params = parameters(args)

    with BooruDatabase(args.database) as database:
        if not database.has_relation_index():
            print("select: posttagrelation has no index on post_id; a large database will take long", file=sys.stderr)
        ids = select_ids(database.post_ids, params.select.ranges, params.seed)
        with whole_folder(args.output) as folder:
            shards = ShardWriter(folder, "posts")
            write_posts(database, ids, params.select.shard_posts, shards)
            write_manifest(folder, shards.content_digest())
    print(f"select: {shards.rows} posts in {args.output}")


def write_posts(database: BooruDatabase, ids: np.ndarray, shard_posts: int, shards: ShardWriter) -> None:
    """Read the chosen posts block by block of ids and write a shard for each, then the tag table."""
    tags = database.tags()
    known = tags["id"].to_numpy()
    progress = Progress("select", len(ids), "posts")
    blocks, starts = np.unique(ids // shard_posts, return_index=True)
    for block, block_ids in zip(blocks, np.split(ids, starts[1:]), strict=True):
        shards.write(int(block), database.posts(block_ids, known))
        progress.advance(len(block_ids))
    shards.write_tags(tags)


if __name__ == "__main__":
    run_stage(main)
