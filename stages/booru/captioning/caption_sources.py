"""Where the posts to caption come from: shards of an earlier stage, or a metadata database itself.

Both have the tag table (`tags`), the metadata's `revision` where it is known, the posts' rating and favourites for
percentiles (`frames`), and yield what `booru.captioning.caption_shards` made of each piece (`captioned`).
"""

from collections.abc import Iterator
from pathlib import Path

from repro.hashing import manifest_revision
from repro.processes import run_here_or_there
from repro.progress import Progress

import polars as pl

from booru.captioning.annotated_posts import Asked, told_ratings
from booru.captioning.annotations import refuse_other_pictures
from booru.captioning.caption_shards import Captioned, CaptionJob, caption_block, caption_file, database_tags
from booru.metadata.reader import open_metadata, size_of
from booru.metadata.relations import RelationBlocks, blocks_of
from booru.metadata.schema import CAPTION_COLUMNS
from booru.shards import numbered_frames, read_tags, shard_files, shard_number

# A process takes half a second to start: as long as one needs for this much of a database, or of shards.
DATABASE_BYTES_FOR_A_PROCESS = 512 << 20
SHARD_BYTES_FOR_A_PROCESS = 64 << 20
PERCENTILE_COLUMNS = ["id", "rating", "fav_count"]


class PostShards:
    """The posts of ingest_posts, select_posts or filter_posts; `asked` tells what captions take from models' annotations,
    `blocked_tags` are the filter's.

    Raises:
        StageError: no such folder, a file is missing or changed, or the annotations are of other pictures.
    """

    def __init__(self, folder: Path, asked: Asked | None = None, blocked_tags: tuple[str, ...] = ()):
        self.folder, self.asked, self.files = folder, asked, shard_files(folder, "posts")
        self._blocked_tags = blocked_tags
        if asked:
            refuse_other_pictures(asked.folder, self.files)
        self.tags, self.revision = read_tags(folder), manifest_revision(folder)

    def frames(self) -> Iterator[pl.DataFrame]:
        """Columns id, rating and fav_count of the posts, shard by shard."""
        for number, frame in numbered_frames(self.files, PERCENTILE_COLUMNS):
            tagged = self.asked is not None and self.asked.tagged
            yield frame.with_columns(told_ratings(self.asked, number, frame["id"])) if tagged else frame

    def job(self, output: Path, profile: str, lines: bool) -> CaptionJob:
        return CaptionJob(output, profile, lines, posts=self.folder, asked=self.asked, blocked_tags=self._blocked_tags)

    def captioned(self, job: CaptionJob, processes: int) -> Iterator[Captioned]:
        """Caption shard by shard; shards keep their numbers."""
        tasks = [(job, shard_number(file), file) for file in self.files]
        worth = sum(file.stat().st_size for file in self.files) // SHARD_BYTES_FOR_A_PROCESS
        progress = Progress("caption", len(tasks), "shards")
        for result in run_here_or_there(caption_file, tasks, min(processes, worth)):
            progress.advance()
            yield result


class DatabasePosts:
    """All posts of a metadata database, in blocks of ids.

    Raises:
        StageError: no such database, or another schema.
    """

    revision = None

    def __init__(self, path: Path):
        self.path = path
        with open_metadata(path, CAPTION_COLUMNS) as source:
            bounds, posts = source.id_bounds(), source.post_count()
        self.tags = database_tags(path)
        self.blocks = blocks_of(bounds, posts)

    def frames(self) -> Iterator[pl.DataFrame]:
        """Columns id, rating and fav_count of the posts, block by block."""
        with open_metadata(self.path, CAPTION_COLUMNS) as source:
            yield from (source.posts(block.first, block.last).select(PERCENTILE_COLUMNS) for block in self.blocks)

    def job(self, output: Path, profile: str, lines: bool) -> CaptionJob:
        return CaptionJob(output, profile, lines, database=self.path, relations=RelationBlocks(output / "relations"))

    def captioned(self, job: CaptionJob, processes: int) -> Iterator[Captioned]:
        """Caption block by block; the relations are sorted into files in the output first."""
        if not self.blocks:
            return
        with open_metadata(self.path, CAPTION_COLUMNS) as source:
            job.relations.fill(source, self.blocks)
        tasks = [(job, block) for block in self.blocks]
        progress = Progress("caption", len(tasks), "blocks")
        for result in run_here_or_there(caption_block, tasks, min(processes, size_of(self.path) // DATABASE_BYTES_FOR_A_PROCESS)):
            progress.advance()
            yield result
        job.relations.remove()
