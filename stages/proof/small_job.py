"""A job of a minute that touches every kind of arithmetic of the pipeline, as digests.

    python stages/proof/small_job.py --base models/sample-base --ccip models/sample-ccip

run with PYTHONPATH=stages, natively or under an emulated CPU (`stages/verify_cpu.py`): the fingerprint's
operations, two updates of the trainer on four synthetic latents, one picture in few steps, its CCIP
features and its difference from another picture. Prints one JSON object, {what: digest}.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from repro.command import parameters, stage_parser
from repro.errors import run_stage
from repro.hashing import sha256_json
from repro.params import Params
from repro.randomness import seed_for
from repro.tensorfile import data_sha256, write_tensors

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file

from ccip.encoder import CcipEncoder
from ccip.score import differences
from families.family import Family, Model, family
from proof.fingerprint import measure
from training.loop import Job, run_updates
from training.ranks import Ranks
from training.stopping import StopRequest

# An emulated CPU takes a hundred times as long, so training has small pictures, and sampling few steps.
TRAINED_SIDE, MADE_SIDE, VAE_FACTOR, IMAGES = 32, 64, 4, 4
SHORT = {
    "updates": 2, "warmup_updates": 1, "virtual_ranks": 2, "batch_size": 4, "micro_batch_size": 2, "save_every": 1,
    "checkpoints": None, "pictures": None,
}  # fmt: skip
SAMPLING = {
    "negative_prompt": "", "steps": 2,
    **dict.fromkeys(("width", "height", "original_width", "original_height"), MADE_SIDE),
}  # fmt: skip


def write_inputs(folder: Path, seed: int) -> None:
    """Latents of `IMAGES` pictures that never were, and a caption for each."""
    shape = (IMAGES, 4, TRAINED_SIDE // VAE_FACTOR, TRAINED_SIDE // VAE_FACTOR)
    draw = torch.Generator().manual_seed(seed_for(seed, "small job"))
    (folder / "latents").mkdir()
    (folder / "captions").mkdir()
    tensors = {"mean": torch.randn(shape, generator=draw), "std": torch.rand(shape, generator=draw), "ids": torch.arange(IMAGES)}
    write_tensors(folder / "latents" / "latents-00000.safetensors", tensors)
    sides = dict.fromkeys(("bucket_width", "bucket_height", "original_width", "original_height"), TRAINED_SIDE)
    places = [
        {"id": i, "shard": "latents-00000.safetensors", "row": i, **sides, "crop_left": 0, "crop_top": 0} for i in range(IMAGES)
    ]
    pl.DataFrame(places).write_parquet(folder / "latents" / "index.parquet")
    words = ["1girl", "smile", "blue hair", "hat", *(f"name {i}" for i in range(IMAGES))]
    rows = [{"id": i, "repeats": 1, "keep": [0, 4 + i], "general": [1, 2, 3]} for i in range(IMAGES)]
    pl.DataFrame(rows).write_parquet(folder / "captions" / "captions-00000.parquet")
    pl.DataFrame({"word": words}).write_parquet(folder / "captions" / "words.parquet")


def training_digests(params: Params, base: Path) -> Iterator[tuple[str, str]]:
    """Digests of the saved state (weights and optimizer) and of the history after two updates."""
    train = params.train.model_copy(update=SHORT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, params.seed)
        (folder / "state").mkdir()
        job = Job(params.model_copy(update={"train": train}), base, folder / "latents", folder / "captions", folder / "state")
        trained, history = run_updates(job, Ranks(0, 1), StopRequest())
        state = load_file(sorted((folder / "state").glob("update-*"))[-1])
    yield "trained weights", data_sha256(trained)
    yield "optimizer state", data_sha256({key: tensor for key, tensor in state.items() if key.startswith("optimizer.")})
    yield "losses and gradient norms", sha256_json([[row.loss, row.grad_norm] for row in history])


def picture_digests(of: Family, model: Model, params: Params, ccip: Path) -> Iterator[tuple[str, str]]:
    """Digests of two pictures, of their CCIP features, and of their difference."""
    encoder = CcipEncoder(ccip)
    sampling = params.evaluate.generation.model_copy(update=SAMPLING)
    pictures = [of.draw_picture(model, prompt, params.seed, sampling) for prompt in ("1girl, solo, smile", "1boy, solo, hat")]
    features = np.stack([encoder.features(picture) for picture in pictures])
    yield "pictures", hashlib.sha256(b"".join(picture.tobytes() for picture in pictures)).hexdigest()
    yield "CCIP features", hashlib.sha256(features.tobytes()).hexdigest()
    yield "CCIP difference", hashlib.sha256(differences(features[:1], features[1:]).tobytes()).hexdigest()


def run_job(params: Params, base: Path, ccip: Path) -> dict[str, str]:
    digests = {f"operation: {name}": digest for name, digest in measure(ccip / "model_feat.onnx").items()}
    digests |= {f"training: {name}": digest for name, digest in training_digests(params, base)}
    of = family(params.family)
    digests |= {f"evaluation: {name}": digest for name, digest in picture_digests(of, of.load(base), params, ccip)}
    return digests


def main(arguments: list[str]) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--base", type=Path, required=True, help="diffusers folder of a small SDXL model")
    parser.add_argument("--ccip", type=Path, required=True, help="folder of a CCIP encoder")
    args = parser.parse_args(arguments)
    print(json.dumps(run_job(parameters(args), args.base, args.ccip)))


if __name__ == "__main__":
    run_stage(main)
