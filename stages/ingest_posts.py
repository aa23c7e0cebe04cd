"""Take in a metadata database, once for each revision of it: posts with their tags, in shards by id.

    python stages/ingest_posts.py --database data/sample/metadata.db --image-index data/sample/image_index \\
        --output data/metadata --report reports/ingest.json

The database is danbooru2023's SQLite file, with or without indexes, or a folder with one parquet a table. Pictures of
plain image folders come from the image index, which holds their sidecars. Writes posts-*.parquet (columns: see
booru/metadata/reader.py), tags.parquet and MANIFEST.json, whose content digest is the revision that all reports name.
Parameters: ingest. The bytes do not depend on runtime.processes.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import StageError, run_stage
from repro.hashing import refuse_foreign_folder, write_manifest
from repro.outputs import whole_folder, write_json
from repro.params import Ingest
from repro.processes import run_here_or_there
from repro.progress import Progress

import polars as pl

from booru.images.archives import FOLDER_SHARD, ImageIndex
from booru.images.folders import ROW_SCHEMA, folder_posts, told_types
from booru.metadata.reader import MetadataReader, open_metadata, size_of, to_posts
from booru.metadata.relations import Block, RelationBlocks, blocks_of
from booru.shards import Shard, ShardWriter, write_shard

# A process takes half a second to start: as long as it needs for this much of a database.
BYTES_FOR_A_PROCESS = 512 << 20
# What the filter asks of every post of the database.
NEEDED = ("rating", "fav_count", "image_width", "image_height", "is_deleted", "is_banned")


@dataclass(frozen=True)
class Task:
    """A block of posts to write as one shard."""

    database: Path
    relations: RelationBlocks
    block: Block
    output: Path


@dataclass(frozen=True)
class Ingested:
    """A block's shard (None where it has no posts), its relations, orphans among them, and counts of missing values."""

    shard: Shard | None
    relations: int
    orphans: int
    missing: Counter


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--database", type=Path, required=True, help="SQLite file, or folder with one parquet a table")
    parser.add_argument("--image-index", type=Path, help="folder of index_images, for the pictures of plain folders")
    parser.add_argument("--output", type=Path, required=True, help="folder for the posts' shards")
    parser.add_argument("--report", type=Path, help="JSON for what was found")
    args = parser.parse_args(arguments)
    params = parameters(args)
    refuse_foreign_folder(args.output)
    if params.ingest.folders and not args.image_index:
        raise StageError("ingest.folders names image folders; --image-index must say which index holds their pictures")

    with whole_folder(args.output) as folder:
        shards = ShardWriter(folder, "posts")
        tags, report = ingest_database(args.database, params.runtime.processes, folder, shards)
        if args.image_index:
            tags, report["folders"] = ingest_folders(args.image_index, params.ingest, tags, folder, shards)
        shards.write_tags(tags)
        revision = shards.content_digest()
        check_revision(params.ingest.revision, revision, args.database)
        write_manifest(folder, revision, revision)
    report |= {"revision": revision, "posts": shards.rows, "tags": tags.height}
    if args.report:
        write_json(args.report, report)
    print(f"ingest: {report['orphan_relations']} relations to posts or tags that are not there were left out")
    print(f"ingest: {shards.rows} posts in {args.output}, revision {revision}")


def ingest_database(path: Path, processes: int, folder: Path, shards: ShardWriter) -> tuple[pl.DataFrame, dict]:
    """Write the database's posts; returns its tag table and what was found."""
    with open_metadata(path) as source:
        tags, blocks = source.tags(), blocks_of(source.id_bounds(), source.post_count())
        relations = RelationBlocks(folder / "relations")
        outside = relations.fill(source, blocks)
    tasks = [Task(path, relations, block, folder) for block in blocks]
    progress = Progress("ingest", len(tasks), "blocks")
    found = {"relations": outside, "orphan_relations": outside, "without": Counter()}
    for result in run_here_or_there(ingest_block, tasks, min(processes, size_of(path) // BYTES_FOR_A_PROCESS)):
        if result.shard:
            shards.add(result.shard)
        found["relations"] += result.relations
        found["orphan_relations"] += result.orphans
        found["without"] += result.missing
        progress.advance()
    relations.remove()
    return tags, found


@cache
def reader_of(database: Path, relations: RelationBlocks) -> MetadataReader:
    """The reader of this process."""
    source = open_metadata(database)
    return MetadataReader(source, source.tags(), relations)


def ingest_block(task: Task) -> Ingested:
    """Write one block's shard."""
    tagged = reader_of(task.database, task.relations).read(task.block)
    posts = to_posts(tagged.posts, str(task.database))
    missing = Counter({name: posts[name].null_count() for name in NEEDED})
    shard = write_shard(task.output, "posts", task.block.number, posts) if posts.height else None
    return Ingested(shard, int(posts["tags"].list.len().sum()) + tagged.orphans, tagged.orphans, missing)


def ingest_folders(
    index: Path, settings: Ingest, tags: pl.DataFrame, folder: Path, shards: ShardWriter
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Write the pictures of plain image folders; returns the tag table with their new tags and the counts by folder.

    Raises:
        StageError: a folder has settings but no picture.
    """
    counts: Counter[str] = Counter()
    images = ImageIndex(index)
    types = told_types(images.folder_frames(list(ROW_SCHEMA)))
    for number, rows in enumerate(images.folder_frames(list(ROW_SCHEMA)), start=FOLDER_SHARD):
        posts, tags = folder_posts(rows, tags, settings.folders, types)
        shards.add(write_shard(folder, "posts", number, posts))
        counts.update(posts["source"].to_list())
    unknown = sorted(set(settings.folders) - set(counts))
    if unknown:
        found = ", ".join(sorted(counts)) or "none"
        raise StageError(f"ingest.folders: the image index has no picture of folder {unknown[0]}; it has {found}")
    return tags, dict(counts)


def check_revision(expected: str | None, found: str, database: Path) -> None:
    """Refuse another revision of the database than the recipe's.

    Raises:
        StageError: names both.
    """
    if expected is not None and found != expected:
        raise StageError(
            f"{database}: its revision is {found}, but ingest.revision is {expected}: another state of the database gives"
            " other draws and captions; fetch the recipe's, or set ingest.revision to null to take this one"
        )


if __name__ == "__main__":
    run_stage(main)
