"""Select posts: conditions, caps and seeded draws over the metadata's id ranges and image folders.

    python stages/select_posts.py --metadata data/metadata --output data/posts \\
        --ledger data/selection.parquet --report reports/select.json

Writes the chosen posts' shards (numbers and columns as the metadata's, and `repeats`: how often a post
occurs in an epoch), tags.parquet and MANIFEST.json; the ledger, one row with a reason for every post of
the metadata; and the report of counts by range and by reason. Parameters: seed, select.
"""

from pathlib import Path
from typing import Any

from repro.command import parameters, stage_parser
from repro.errors import StageError, run_stage
from repro.hashing import MANIFEST_NAME, manifest_revision, refuse_foreign_folder, write_manifest
from repro.outputs import whole_file, whole_folder, write_json
from repro.progress import Progress

import polars as pl

from booru.selection.repeats import RepeatRule, repeat_rules, repeats_of
from booru.selection.selection import SELECTED, Selection, select
from booru.shards import ShardWriter, numbered_frames, read_tags, shard_files, write_frame


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--metadata", type=Path, required=True, help="folder of ingest_posts")
    parser.add_argument("--output", type=Path, required=True, help="folder for the chosen posts' shards")
    parser.add_argument("--ledger", type=Path, required=True, help="parquet for the reason of every post")
    parser.add_argument("--report", type=Path, required=True, help="JSON for the counts by range and by reason")
    args = parser.parse_args(arguments)
    params = parameters(args)
    refuse_foreign_folder(args.output)

    files = shard_files(args.metadata, "posts")
    revision = revision_of(args.metadata)
    tags = read_tags(args.metadata)
    rules = repeat_rules(params.select.repeats, tags)
    selection = select(files, params.select, tags, params.seed)
    with whole_folder(args.output) as folder:
        shards = ShardWriter(folder, "posts")
        showings = write_chosen(files, selection, rules, shards)
        shards.write_tags(tags)
        write_manifest(folder, shards.content_digest(), revision=revision)
    with whole_file(args.ledger) as path:
        write_frame(path, selection.ledger())
    report = report_of(selection, revision, params.seed, showings)
    write_json(args.report, report)
    for line in funnel_lines(report):
        print(f"select: {line}")


def revision_of(metadata: Path) -> str:
    """The content digest of the database and folders that the metadata was made from.

    Raises:
        StageError: the manifest names none; the folder is another stage's.
    """
    revision = manifest_revision(metadata)
    if not revision:
        raise StageError(f"{metadata / MANIFEST_NAME}: no revision in it; expected a folder that ingest_posts.py wrote")
    return revision


def write_chosen(files: list[Path], selection: Selection, rules: list[RepeatRule], shards: ShardWriter) -> int:
    """Write each shard's chosen posts with their repeats, returning the sum; a shard without any is left out."""
    chosen = [(file, mask) for file, mask in zip(files, selection.chosen_by_shard(), strict=True) if mask.any()]
    progress = Progress("select", len(chosen), "shards")
    showings = 0
    for (number, posts), (_, mask) in zip(numbered_frames([file for file, _ in chosen]), chosen, strict=True):
        posts = posts.filter(pl.Series(mask))
        repeats = pl.Series("repeats", repeats_of(posts, rules))
        shards.write(number, posts.with_columns(repeats))
        showings += int(repeats.sum())
        progress.advance()
    return showings


def report_of(selection: Selection, revision: str, seed: int, showings: int) -> dict[str, Any]:
    """What was selected from what; `repeats` is the number of images that an epoch shows."""
    counts = selection.counts()
    return {
        "revision": revision,
        "seed": seed,
        "metadata": len(selection.ids),
        "ranges": selection.figures,
        "reasons": counts,
        "selected": counts[SELECTED],
        "repeats": showings,
    }


def funnel_lines(report: dict[str, Any]) -> list[str]:
    """How many posts each reason left out, and what is left."""
    left = report["metadata"]
    lines = []
    for reason, count in report["reasons"].items():
        if count and reason != SELECTED:
            left -= count
            lines.append(f"{count:>9} left out, {left:>9} left: {reason}")
    lines.append(f"{report['selected']} of {report['metadata']} posts, shown {report['repeats']} times in an epoch")
    return lines


if __name__ == "__main__":
    run_stage(main)
