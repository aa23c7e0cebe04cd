"""Encode the captioned images with the base model's VAE, in aspect-ratio buckets, into latents shards.

    python stages/cache_latents.py --captions data/captions --posts data/kept --base models/base --output data/latents

Images are read from `runtime.image_root` (the environment variable IMAGE_ROOT wins) and checked
against the index that the posts carry. The same bytes come out of any number of worker processes
(`runtime.processes`), and of a run that was killed and started again.
"""

import json
import os
from argparse import Namespace
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import StageError, run_stage
from repro.hashing import check_manifest, hash_tree, sha256_json, write_manifest
from repro.outputs import whole_folder
from repro.params import Latents, Params
from repro.processes import run_workers
from repro.progress import Progress
from repro.state import code_digest, forget_state, stage_state

import polars as pl
import torch

from booru.shards import shard_files
from latents.buckets import check_buckets, make_buckets, place
from latents.encode import EncodeTask, MeasureTask, Row, encode, load_vae, measure
from latents.shards import (
    NOT_FINITE,
    PORTION,
    PlacedImage,
    index_frame,
    lost_frame,
    not_finite_ids,
    plan_shards,
    portions,
    write_shards,
    write_tables,
)

STAGES = Path(__file__).parent
PLACE_COLUMNS = ["id", "archive", "offset", "size", "sha256"]


def determining_parts(params: Params, captions: Path, posts: Path, base: Path) -> dict:
    """Everything that determines the latents; neither the number of processes nor the place of the images is among it."""
    return {
        "latents": params.latents.model_dump(),
        "captions": check_manifest(captions),
        "posts": check_manifest(posts),
        "vae": hash_tree(base / "vae"),
        "code": code_digest(STAGES / "latents"),
        "torch": torch.__version__.split("+")[0],
    }


def captioned_images(captions: Path, posts: Path) -> list[Row]:
    """The image index's rows of all captioned posts, by ascending id.

    Raises:
        StageError: a captioned post is not among the posts, or there is none at all.
    """
    captioned = pl.concat([pl.read_parquet(file, columns=["id"]) for file in shard_files(captions, "captions")])
    places = pl.concat([pl.read_parquet(file, columns=PLACE_COLUMNS) for file in shard_files(posts, "posts")])
    missing = captioned.join(places, on="id", how="anti")
    if missing.height:
        raise StageError(
            f"{posts}: post {missing['id'].min()} of {captions} is not there; caption again from this folder of kept posts"
        )
    if not captioned.height:
        raise StageError(f"{captions}: no captions in it; loosen the selection or the filters")
    return places.join(captioned, on="id", how="semi").sort("id").to_dicts()


def make_checked_buckets(settings: Latents, base: Path) -> list[tuple[int, int]]:
    """The recipe's buckets, all of which the base model's VAE and UNet can halve often enough."""
    halvings = 0
    for part in ("vae", "unet"):
        path = base / part / "config.json"
        if not path.exists():
            raise StageError(f"{path}: missing; {base} must be a diffusers folder, made by stages/make_base.py")
        halvings += len(json.loads(path.read_text())["block_out_channels"]) - 1
    square = (settings.resolution, settings.resolution)
    buckets = make_buckets(square, settings.min_bucket_reso, settings.max_bucket_reso, settings.bucket_reso_steps)
    check_buckets(buckets, 2**halvings)
    return buckets


def place_images(rows: list[Row], settings: Latents, base: Path, image_root: Path, processes: int) -> tuple[list, dict]:
    """Measure all images and give each its bucket; returns the placed images and {id: reason} of unreadable ones."""
    buckets = make_checked_buckets(settings, base)
    tasks = [MeasureTask(image_root, rows[i : i + PORTION]) for i in range(0, len(rows), PORTION)]
    progress = Progress("measure", len(rows), "images")
    placed, lost = [], {}
    for task, found in zip(tasks, run_workers(measure, tasks, processes), strict=True):
        for row, size in zip(task.rows, found, strict=True):
            if isinstance(size, str):
                lost[row["id"]] = f"unreadable: {size}"
            else:
                placed.append(PlacedImage(row, size, place(size, buckets)))
        progress.advance(len(task.rows))
    return placed, lost


def encode_shards(shards: list[list[PlacedImage]], vae: Path, image_root: Path, state: Path, processes: int) -> list[list[Path]]:
    """Encode what `state` does not hold yet; returns each shard's portion files."""
    files, tasks = [], []
    for number, shard in enumerate(shards):
        files.append([])
        for i, portion in enumerate(portions(shard)):
            output = state / f"shard-{number:05d}-{i:05d}.safetensors"
            files[-1].append(output)
            tasks.append(EncodeTask(image_root, vae, [(image.row, image.placement) for image in portion], output))
    waiting = [task for task in tasks if not task.output.exists()]
    done = sum(len(task.images) for task in tasks) - sum(len(task.images) for task in waiting)
    progress = Progress("latents", sum(map(len, shards)), "images", done=done)
    for count in run_workers(encode, waiting, processes):
        progress.advance(count)
    return files


def refuse_great_loss(lost: dict[int, str], images: int, allowed: float) -> None:
    """Raises:
    StageError: more than `allowed` of the images cannot be used."""
    if len(lost) <= allowed * images:
        return
    shown = "; ".join(f"post {i}: {lost[i]}" for i in sorted(lost)[:3])
    raise StageError(
        f"{len(lost)} of {images} images are lost, more than latents.max_lost_share ({allowed}) allows:\n{shown}"
        f"{'; ...' if len(lost) > 3 else ''}"
    )


def write_output(folder: Path, shards: list[list[PlacedImage]], files: list[list[Path]], lost: dict[int, str]) -> None:
    """Write the shards, index.parquet, lost.parquet and the manifest."""
    with whole_folder(folder) as target:
        written, digests = [], []
        for name, images, digest in write_shards(target, shards, files):
            written.append((name, images))
            digests.append(digest)
        index = index_frame(written)
        rows = write_tables(target, index, lost_frame(lost))
        write_manifest(target, sha256_json({"shards": digests, "rows": rows.decode()}))
    print(f"{folder}: {index.height} images in {len(written)} shards, {len(lost)} lost")


def cache(args: Namespace, params: Params, state: Path) -> None:
    settings, processes = params.latents, params.runtime.processes
    image_root = Path(os.environ.get("IMAGE_ROOT", params.runtime.image_root))
    rows = captioned_images(args.captions, args.posts)
    vae = load_vae(args.base / "vae")
    placed, lost = place_images(rows, settings, args.base, image_root, processes)
    refuse_great_loss(lost, len(rows), settings.max_lost_share)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    bytes_per_pixel = 2 * 4 * vae.config.latent_channels / factor**2  # mean and std, float32
    shards = plan_shards(placed, settings.shard_megabytes << 20, bytes_per_pixel)
    files = encode_shards(shards, args.base / "vae", image_root, state, processes)
    lost |= {i: NOT_FINITE for portion_files in files for file in portion_files for i in not_finite_ids(file)}
    refuse_great_loss(lost, len(rows), settings.max_lost_share)
    write_output(args.output, shards, files, lost)


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--captions", type=Path, required=True, help="folder of the caption stage")
    parser.add_argument("--posts", type=Path, required=True, help="folder of the filter stage")
    parser.add_argument("--base", type=Path, required=True, help="diffusers folder whose VAE encodes")
    parser.add_argument("--output", type=Path, required=True, help="latents folder to write")
    args = parser.parse_args(arguments)
    params = parameters(args)
    with stage_state("cache-latents", determining_parts(params, args.captions, args.posts, args.base)) as state:
        cache(args, params, state)
        forget_state(state)


if __name__ == "__main__":
    run_stage(main)
