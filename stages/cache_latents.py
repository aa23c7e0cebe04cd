"""Encode the captioned images with the base model's encoder, in aspect-ratio buckets, into latents shards.

    python stages/cache_latents.py --captions data/captions --posts data/kept --base models/base --output data/latents

The encoder is SDXL's VAE or Stable Cascade's EfficientNet, by the recipe's family. Images are read from
`runtime.image_root` (the environment variable IMAGE_ROOT wins) and checked against the index that the posts
carry. The same bytes come out of any number of worker processes (`runtime.processes`; with `device: cuda` they
share out the GPUs that torch sees), and of a run that was killed and started again. Of such a run nothing is done
twice whose images are the same, also when the selection, the captions or the buckets have changed meanwhile.
Several machines encode a share each (`--share 1/2`, `--share 2/2`); one that has the state of all of them writes the output.
"""

import json
import os
from argparse import Namespace
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.devices import TORCH_TYPES, device_identity
from repro.errors import StageError, run_stage
from repro.hashing import refuse_foreign_folder, sha256_json, write_manifest
from repro.outputs import whole_folder
from repro.params import FamilyName, Latents, Params
from repro.processes import run_here_or_there
from repro.progress import Progress
from repro.shares import Share, add_share_option, told_share
from repro.state import code_digest, forget_state, stage_state

import numpy as np
import polars as pl

from booru.images.portions import Portion, make_portions, unfinished
from booru.shards import shard_files, values_digest
from families.effnet import read_effnet_config
from latents.buckets import Placement, Size, check_buckets, place, place_without_enlarging, recipe_buckets
from latents.encode import EncodeTask, MeasureTask, encode, lost_in, measure, measured
from latents.encoders import load_encoder
from latents.shards import (
    BUCKET,
    assign_shards,
    encoded_images,
    index_frame,
    lost_frame,
    write_shards,
    write_tables,
)
from latents.vae_identity import ENCODER_FOLDERS, VAE_KEY, vae_digest

STAGES = Path(__file__).parent
# Code of ours that a family's encoder runs, beside stages/latents.
ENCODER_CODE: dict[FamilyName, tuple[Path, ...]] = {"sdxl": (), "cascade": (STAGES / "families" / "effnet.py",)}
PLACE_COLUMNS = ["id", "archive", "offset", "size", "sha256"]
PLACEMENT_SCHEMA = {
    "bucket_width": pl.Int32, "bucket_height": pl.Int32, "resized_width": pl.Int32, "resized_height": pl.Int32,
    "crop_left": pl.Int32, "crop_top": pl.Int32,
}  # fmt: skip
PlacingRule = Callable[[Size], Placement | None]


def determining_parts(params: Params, vae: str) -> dict:
    """Everything that determines an image's latents beside its content and its place in a bucket, which name the portions."""
    return {
        "vae": vae,
        "precision": params.latents.precision,
        "dtype": params.latents.dtype,
        "device": device_identity(params.device),
        "code": code_digest(
            STAGES / "latents", STAGES / "booru" / "images", STAGES / "repro" / "devices.py", *ENCODER_CODE[params.family]
        ),
        "packages": {name: version(name) for name in ("diffusers", "numpy", "pillow")},
    }


def captioned_images(captions: Path, posts: Path) -> pl.DataFrame:
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
    return places.join(captioned, on="id", how="semi").select(PLACE_COLUMNS).sort("id")


def _config(base: Path, part: str) -> dict:
    path = base / part / "config.json"
    if not path.exists():
        raise StageError(f"{path}: missing; {base} must be a diffusers folder, made by stages/make_base.py")
    return json.loads(path.read_text())


def coarsest_cell(base: Path, family: FamilyName) -> int:
    """Pixels of the coarsest cell, of which the sides of buckets are multiples."""
    return {"sdxl": _cell_of_sdxl, "cascade": _cell_of_cascade}[family](base)


def _cell_of_sdxl(base: Path) -> int:
    """Of the UNet: its VAE and UNet halve a side so often."""
    return 2 ** sum(len(_config(base, part)["block_out_channels"]) - 1 for part in ("vae", "unet"))


def _cell_of_cascade(base: Path) -> int:
    """Of the latents, or of stage C's patches of them."""
    return read_effnet_config(base / ENCODER_FOLDERS["cascade"]).stride * _config(base, "prior").get("patch_size", 1)


def placing_rule(settings: Latents, cell: int) -> PlacingRule:
    """How the recipe gives an image (width, height) its bucket; sides of all of them must be multiples of `cell`."""
    step = settings.bucket_reso_steps
    if settings.bucket_no_upscale:
        check_buckets([(step, step)], cell)
        return lambda size: place_without_enlarging(size, settings.resolution**2, step)
    buckets = recipe_buckets(settings)
    check_buckets(buckets, cell)
    return lambda size: place(size, buckets)


def measure_images(images: pl.DataFrame, image_root: Path, state: Path, processes: int) -> tuple[pl.DataFrame, dict[int, str]]:
    """Add `width` and `height`; returns the images that can be read, and {id: reason} of the others."""
    portions = make_portions(images, state / "measured", ".json", ["sha256"])
    tasks = [MeasureTask(image_root, portion) for portion in unfinished(portions)]
    progress = Progress("measure", images.height, "images", done=images.height - sum(len(task.portion) for task in tasks))
    for count in run_here_or_there(measure, tasks, processes):
        progress.advance(count)
    sizes, lost = np.zeros((images.height, 2), dtype=np.int32), {}
    for portion in portions:
        for row, found in enumerate(measured(portion), start=portion.start):
            if isinstance(found, str):
                lost[images["id"][row]] = f"unreadable: {found}"
            else:
                sizes[row] = found
    measured_images = images.with_columns(width=pl.Series(sizes[:, 0]), height=pl.Series(sizes[:, 1]))
    return measured_images.filter(pl.col("width") > 0), lost


def place_images(images: pl.DataFrame, rule: PlacingRule, step: int) -> tuple[pl.DataFrame, dict[int, str]]:
    """Add the placement's columns, and sort by bucket and id; returns also {id: reason} of those that fit no bucket."""
    sizes = images.select("width", "height").unique(maintain_order=True)
    placements = map(rule, sizes.rows())
    rows = [(None,) * len(PLACEMENT_SCHEMA) if p is None else (*p.bucket, *p.resized, p.left, p.top) for p in placements]
    placed = images.join(sizes.hstack(pl.DataFrame(rows, schema=PLACEMENT_SCHEMA, orient="row")), on=["width", "height"])
    small = placed.filter(pl.col("bucket_width").is_null()).select("id", "width", "height").rows()
    lost = {i: f"too small: {width}x{height} has not {step} pixels a side for a bucket" for i, width, height in small}
    return placed.drop_nulls("bucket_width").sort(*BUCKET, "id"), lost


def encode_images(
    images: pl.DataFrame, params: Params, encoder: Path, image_root: Path, state: Path, share: Share | None
) -> Sequence[Portion]:
    """Encode what `state` does not hold yet, of all portions or of a machine's share; returns these."""
    portions = make_portions(images, state / "encoded", ".safetensors", ["sha256", *PLACEMENT_SCHEMA], groups=BUCKET)
    portions = share.of(portions) if share else portions
    images_of_share = sum(map(len, portions))
    settings = params.latents
    tasks = [
        EncodeTask(image_root, params.family, encoder, params.device, settings.precision, settings.dtype, portion)
        for portion in unfinished(portions)
    ]
    progress = Progress("latents", images_of_share, "images", done=images_of_share - sum(len(task.portion) for task in tasks))
    for count in run_here_or_there(encode, tasks, params.runtime.processes):
        progress.advance(count)
    return portions


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


def write_output(folder: Path, images: pl.DataFrame, portions: Sequence[Portion], lost: dict[int, str], vae: str) -> None:
    """Write the shards of `assign_shards`, index.parquet, lost.parquet and the manifest."""
    with whole_folder(folder) as target:
        digests, progress = [], Progress("shards", images.height, "images")
        for count, digest in write_shards(target, images, portions, {VAE_KEY: vae}):
            digests.append(digest)
            progress.advance(count)
        index, lost_images = index_frame(images), lost_frame(lost)
        write_tables(target, index, lost_images)
        tables = {"index": values_digest(index), "lost": values_digest(lost_images)}
        write_manifest(target, sha256_json({"shards": digests, "vae": vae} | tables))
    print(f"{folder}: {index.height} images in {len(digests)} shards, {len(lost)} lost")


def cache(args: Namespace, params: Params, encoder_digest: str, state: Path) -> None:
    settings, processes = params.latents, params.runtime.processes
    image_root = Path(os.environ.get("IMAGE_ROOT", params.runtime.image_root))
    rule = placing_rule(settings, coarsest_cell(args.base, params.family))
    images = captioned_images(args.captions, args.posts)
    total = images.height
    folder = args.base / ENCODER_FOLDERS[params.family]
    encoder = load_encoder(params.family, folder)
    images, lost = measure_images(images, image_root, state, processes)
    images, small = place_images(images, rule, settings.bucket_reso_steps)
    lost |= small
    refuse_great_loss(lost, total, settings.max_lost_share)
    portions = encode_images(images, params, folder, image_root, state, args.share)
    if args.share:
        print(told_share("cache-latents", args.share, len(portions), str(state)))
        return
    lost_rows = {row: reason for portion in portions for row, reason in lost_in(portion).items()}
    lost |= {images["id"][row]: reason for row, reason in lost_rows.items()}
    refuse_great_loss(lost, total, settings.max_lost_share)
    numbers = len(encoder.tensors) * encoder.channels
    bytes_per_pixel = numbers * TORCH_TYPES[settings.dtype].itemsize / encoder.stride**2
    encoded = assign_shards(encoded_images(images, portions, lost_rows), settings.shard_megabytes << 20, bytes_per_pixel)
    write_output(args.output, encoded, portions, lost, encoder_digest)


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--captions", type=Path, required=True, help="folder of the caption stage")
    parser.add_argument("--posts", type=Path, required=True, help="folder of the filter stage")
    parser.add_argument(
        "--base", type=Path, required=True, help="diffusers folder whose encoder (SDXL: vae, Stable Cascade: effnet) encodes"
    )
    parser.add_argument("--output", type=Path, required=True, help="latents folder to write")
    add_share_option(parser, "images")
    args = parser.parse_args(arguments)
    params = parameters(args)
    refuse_foreign_folder(args.output)
    vae = vae_digest(args.base, params.family)
    with stage_state("cache-latents", determining_parts(params, vae)) as state:
        cache(args, params, vae, state)
        if not args.share:
            forget_state(state)


if __name__ == "__main__":
    run_stage(main)
