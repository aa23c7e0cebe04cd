"""Index the image archives once: where each post's image lies, and its sha256.

    python stages/index_images.py --images data/sample/images --output data/sample/images.parquet

Reads every data-XXXX.tar (and updates/*/*.tar) from beginning to end. The index is what the pipeline
tracks instead of the archives: small enough to commit, and every image read later is checked against it.
"""

from pathlib import Path

from repro.command import stage_parser
from repro.errors import run_stage
from repro.outputs import whole_file
from repro.progress import Progress

from booru.archives import archive_names, index_archives
from booru.shards import write_frame


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of the image archives")
    parser.add_argument("--output", type=Path, required=True, help="parquet for the index")
    args = parser.parse_args(arguments)

    size = sum((args.images / name).stat().st_size for name in archive_names(args.images))
    index, passed_over = index_archives(args.images, Progress("index", size, "bytes").advance)
    with whole_file(args.output) as path:
        write_frame(path, index)
    print(f"index: {index.height} images in {index['archive'].n_unique()} archives, {passed_over} updates passed over")


if __name__ == "__main__":
    run_stage(main)
