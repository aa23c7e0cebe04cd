"""Index the image archives and picture folders once: where each image lies, its sha256, size in pixels and hashes.

    python stages/index_images.py --images data/sample/images --output data/sample/image_index

Reads every data-XXXX.tar, updates/*/*.tar and all pictures of the other folders, each image once. The index is what the
pipeline tracks instead of them: a folder of shards, images-*.parquet by ascending id, with passed_over.parquet (images of
posts that are there already, with the reason) and MANIFEST.json. The same bytes come out of any number of processes
(`runtime.processes`).

What was read stays in state/index-images until `make clean`: the same command goes on after an interruption, and after
archives were added it reads only those that are new or have another size or time of change (mtime).
"""

from argparse import Namespace
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import run_stage
from repro.hashing import refuse_foreign_folder
from repro.outputs import whole_folder
from repro.processes import run_workers
from repro.progress import Progress
from repro.state import code_digest, stage_state

import PIL

from booru.images.archives import INDEX_SCHEMA
from booru.images.indexing import ArchiveTask, Counts, Plan, plan_index, read_piece, write_index

IMAGES = Path(__file__).parent / "booru" / "images"
# The code that decides what stands in a piece; a change elsewhere is no reason to read terabytes again.
PIECE_CODE = ("decoding.py", "folder_scan.py", "image_hashes.py", "image_rows.py", "tars.py")


def determining_parts(images: Path) -> dict:
    """What determines a piece besides the files that it is named by."""
    return {
        "images": str(images.resolve()),
        "code": code_digest(*(IMAGES / name for name in PIECE_CODE)),
        "columns": {name: str(kind) for name, kind in INDEX_SCHEMA.items()},
        "pillow": PIL.__version__,
    }


def read_pieces(plan: Plan, processes: int) -> int:
    """Read what has no piece yet; returns how many archives those are."""
    waiting = [task for task in plan.tasks if not task.piece.exists()]
    total, left = (sum(task.size for task in tasks) for tasks in (plan.tasks, waiting))
    progress = Progress("index", total, "bytes", done=total - left)
    for size in run_workers(read_piece, waiting, processes):
        progress.advance(size)
    return sum(isinstance(task, ArchiveTask) for task in waiting)


def report(output: Path, plan: Plan, counts: Counts, read: int) -> None:
    print(f"index: {counts.images} images in {len(plan.archives)} archives, {read} of them read now")
    if plan.portions:
        print(f"index: {counts.pictures} pictures in folders, {counts.without_sidecar} of them without a sidecar")
    if plan.strays.count:
        print(f"index: {plan.strays.count} other files left alone: {plan.strays.first}{' ...' if plan.strays.count > 1 else ''}")
    print(f"index: {counts.unreadable} unreadable, {counts.passed_over} passed over, in {output}")


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of the image archives and picture folders")
    parser.add_argument("--output", type=Path, required=True, help="folder for the index")
    args = parser.parse_args(arguments)
    refuse_foreign_folder(args.output)
    index(args, parameters(args).runtime.processes)


def index(args: Namespace, processes: int) -> None:
    with stage_state("index-images", determining_parts(args.images)) as pieces:
        plan = plan_index(args.images, pieces)
        read = read_pieces(plan, processes)
        with whole_folder(args.output) as folder:
            counts = write_index(folder, plan)
    report(args.output, plan, counts, read)


if __name__ == "__main__":
    run_stage(main)
