"""Inputs of the trainer at test size: synthetic latents, captions, a parameter file and the command line."""

import copy
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import repro  # noqa: F401 - fixes the numeric environment
from repro.hashing import sha256_json, write_manifest
from repro.outputs import whole_folder
from repro.params import read_yaml
from repro.tensorfile import write_tensors

import polars as pl
import torch
import yaml

REPOSITORY = Path(__file__).parent.parent
BUCKETS = {(64, 64): 13, (48, 80): 6}
VAE_FACTOR = 4
SMALL_TRAIN = {
    "virtual_ranks": 4, "accumulation": 1, "micro_batch": 2, "updates": 5, "warmup_updates": 2, "save_every": 1,
}  # fmt: skip


def write_latents(folder: Path, nan_post: int | None = None) -> Path:
    """A latents folder of two buckets with 13 and 6 images; `nan_post` gets a latent that is not a number."""
    draw = torch.Generator().manual_seed(5)
    with whole_folder(folder) as new:
        rows: list[dict[str, Any]] = []
        for number, ((width, height), count) in enumerate(BUCKETS.items()):
            shape = (count, 4, height // VAE_FACTOR, width // VAE_FACTOR)
            ids = [1000 * (number + 1) + 7 * i for i in range(count)]
            mean, std = torch.randn(shape, generator=draw), torch.rand(shape, generator=draw) * 0.1
            if nan_post in ids:
                mean[ids.index(nan_post), 0, 0, 0] = float("nan")
            shard = f"latents-{number:05d}.safetensors"
            write_tensors(new / shard, {"mean": mean, "std": std, "ids": torch.tensor(ids)})
            size = {"bucket_width": width, "bucket_height": height, "original_width": 3 * width, "original_height": 2 * height}
            rows += [
                {"id": post, "shard": shard, "row": row, **size, "crop_left": 2 * row, "crop_top": row}
                for row, post in enumerate(ids)
            ]
        pl.DataFrame(rows).sort("id").write_parquet(new / "index.parquet")
        write_manifest(new, sha256_json(rows))
    return folder


def write_captions(folder: Path, latents: Path, repeats: dict[int, int] | None = None) -> Path:
    """Captions for every image of a latents folder; `repeats` of a post is 1 unless given."""
    ids = pl.read_parquet(latents / "index.parquet")["id"].to_list()
    general = ["blue hair", "twintails", "smile", "open mouth", "simple background", "newest"]
    repeats = repeats or {}
    words = ["1girl", *general, *(f"name {post}" for post in ids)]
    of_general = [1 + i for i in range(len(general))]
    rows = [
        {"id": post, "repeats": repeats.get(post, 1), "keep": [0, words.index(f"name {post}")], "general": of_general}
        for post in ids
    ]
    lists = {"repeats": pl.Int32, "keep": pl.List(pl.UInt32), "general": pl.List(pl.UInt32)}
    with whole_folder(folder) as new:
        pl.DataFrame(rows, schema_overrides=lists).write_parquet(new / "captions-00000.parquet")
        pl.DataFrame({"word": words}).write_parquet(new / "words.parquet")
        write_manifest(new, sha256_json(rows))
    return folder


def sample_values() -> dict[str, Any]:
    """The sample recipe's parameters as plain values, to be changed at will."""
    recipe = REPOSITORY / "recipes" / "sample.yaml"
    recipe = recipe if recipe.exists() else REPOSITORY / "params.yaml"
    return copy.deepcopy(read_yaml(recipe.read_text(), recipe.name))


def write_params(path: Path, processes: int = 1, te_lr: float = 0.0005, **train: Any) -> Path:
    """A parameter file: the sample recipe at five small updates, with keys of `train` replaced."""
    values = sample_values()
    values["te_lr"] = te_lr
    values["train"].update(SMALL_TRAIN | train)
    values["runtime"]["processes"] = processes
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@dataclass(frozen=True)
class Training:
    """One run of stages/train.py in a folder of its own, on inputs that several runs share."""

    inputs: Path
    folder: Path

    @property
    def outputs(self) -> tuple[Path, Path, Path]:
        return self.folder / "lokr.safetensors", self.folder / "train.csv", self.folder / "train.json"

    def command(self, params: Path) -> list[str]:
        lokr, history, metrics = map(str, self.outputs)
        latents, captions, base = (str(self.inputs / name) for name in ("latents", "captions", "base"))
        return [
            sys.executable, str(REPOSITORY / "stages" / "train.py"), "--params", str(params),
            "--latents", latents, "--captions", captions, "--base", base,
            "--output", lokr, "--history", history, "--metrics", metrics,
        ]  # fmt: skip

    def environment(self, **more: str) -> dict[str, str]:
        return os.environ | {"STATE_ROOT": str(self.folder / "state")} | more

    def start(self, params: Path, **environment: str) -> subprocess.Popen[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            self.command(params), env=self.environment(**environment), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, params: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(params, **environment)
        output, errors = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def bytes(self) -> list[bytes]:
        return [path.read_bytes() for path in self.outputs]
