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
from repro.params import FamilyName, load_params, read_yaml
from repro.tensorfile import write_tensors

import polars as pl
import torch
import yaml

from latents.vae_identity import VAE_KEY, vae_digest
from training.loop import Job

REPOSITORY = Path(__file__).parent.parent
BUCKETS = {(64, 64): 13, (48, 80): 6}
# Pixels a side of one of the latents of small_sdxl.py and small_cascade.py.
STRIDES: dict[FamilyName, int] = {"sdxl": 4, "cascade": 8}
SMALL_TRAIN = {
    "virtual_ranks": 4, "batch_size": 8, "micro_batch_size": 2, "updates": 5, "warmup_updates": 2, "save_every": 1,
    "checkpoints": {"every": 1, "keep_last": 1, "keep_every": 2},
    "pictures": {
        "every": 3, "prompts": ["1girl, smile", "twintails"], "negative_prompt": "", "sampler": "euler", "steps": 2,
        "guidance": 4.0, "width": 32, "height": 48, "original_width": 96, "original_height": 144, "decoder": None,
    },
}  # fmt: skip
# What of the sample recipe and of SMALL_TRAIN has another value in a recipe of Stable Cascade.
CASCADE_TRAIN = {"min_snr_gamma": None, "noise_offset": 0.0, "adaptive_loss_weight": True}
CASCADE_PICTURES = {
    "sampler": "ddpm", "width": 64, "height": 64, "original_width": None, "original_height": None,
    "decoder": {"steps": 2, "guidance": 1.0},
}  # fmt: skip


def family_of(base: Path) -> FamilyName:
    return "cascade" if (base / "prior").is_dir() else "sdxl"


def write_latents(folder: Path, base: Path, nan_post: int | None = None) -> Path:
    """A latents folder of two buckets with 13 and 6 images that says it was encoded by the image encoder of `base`; `nan_post`
    gets a latent that is not a number. Stable Cascade's encoder gives no deviations."""
    draw, family = torch.Generator().manual_seed(5), family_of(base)
    metadata = {VAE_KEY: vae_digest(base, family)}
    with whole_folder(folder) as new:
        rows: list[dict[str, Any]] = []
        for number, ((width, height), count) in enumerate(BUCKETS.items()):
            shape = (count, 4, height // STRIDES[family], width // STRIDES[family])
            ids = [1000 * (number + 1) + 7 * i for i in range(count)]
            mean, std = torch.randn(shape, generator=draw), torch.rand(shape, generator=draw) * 0.1
            if nan_post in ids:
                mean[ids.index(nan_post), 0, 0, 0] = float("nan")
            shard = f"latents-{number:05d}.safetensors"
            deviations = {"std": std} if family == "sdxl" else {}
            write_tensors(new / shard, {"mean": mean, **deviations, "ids": torch.tensor(ids)}, metadata)
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


def family_values(family: FamilyName) -> dict[str, Any]:
    """The sample recipe's parameters as plain values, for another family as far as it must be."""
    values = sample_values() | {"family": family}
    values["train"] |= SMALL_TRAIN
    if family == "cascade":
        values["train"] |= CASCADE_TRAIN | {"pictures": SMALL_TRAIN["pictures"] | CASCADE_PICTURES}
        values["evaluate"]["generation"] |= CASCADE_PICTURES
    return values


def write_params(
    path: Path,
    processes: int = 1,
    te_lr: float = 0.0005,
    runtime: dict[str, Any] | None = None,
    family: FamilyName = "sdxl",
    **train: Any,
) -> Path:
    """A parameter file: the sample recipe at five small updates, with keys of `train` and of `runtime` replaced."""
    values = family_values(family)
    values["te_lr"] = te_lr
    values["train"].update(train)
    values["runtime"].update({"processes": processes, "tensorboard": None} | (runtime or {}))
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def job_of(inputs: Path, folder: Path, processes: int = 1, **changes: Any) -> Job:
    """A run of the loop in this process, with its state in `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    params = load_params(write_params(folder / "params.yaml", processes, family=family_of(inputs / "base"), **changes))
    return Job(params, inputs / "base", inputs / "latents", inputs / "captions", folder)


@dataclass(frozen=True)
class Training:
    """One run of stages/train.py in a folder of its own, on inputs that several runs share."""

    inputs: Path
    folder: Path

    @property
    def lokr(self) -> Path:
        return self.folder / "lokr.safetensors"

    @property
    def history(self) -> Path:
        return self.folder / "train.csv"

    @property
    def metrics(self) -> Path:
        return self.folder / "train.json"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    @property
    def outputs(self) -> tuple[Path, ...]:
        return self.lokr, self.checkpoints, self.pictures, self.history, self.metrics

    def params(self, path: Path, processes: int = 1, **changes: Any) -> Path:
        """`write_params` for the inputs' family."""
        return write_params(path, processes, family=family_of(self.inputs / "base"), **changes)

    def arguments(self, params: Path, *more: str) -> list[str]:
        named = {
            "params": params, "latents": self.inputs / "latents", "captions": self.inputs / "captions",
            "base": self.inputs / "base", "output": self.lokr, "checkpoints": self.checkpoints, "pictures": self.pictures,
            "history": self.history, "metrics": self.metrics,
        }  # fmt: skip
        return [*(word for name, value in named.items() for word in (f"--{name}", str(value))), *more]

    def command(self, params: Path, *more: str) -> list[str]:
        return [sys.executable, str(REPOSITORY / "stages" / "train.py"), *self.arguments(params, *more)]

    def environment(self, **more: str) -> dict[str, str]:
        return os.environ | {"STATE_ROOT": str(self.folder / "state")} | more

    def start(self, params: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
        """Start it as the leader of a process group of its own, as a shell does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            self.command(params, *more),
            env=self.environment(**environment), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            process_group=0,
        )  # fmt: skip

    def run(self, params: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(params, *more, **environment)
        output, errors = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def finish(self, params: Path, *more: str, **environment: str) -> "Training":
        """Run it to its end, which must be a good one."""
        result = self.run(params, *more, **environment)
        assert result.returncode == 0, result.stderr
        return self

    def bytes(self) -> dict[str, bytes]:
        """Every file of the outputs by its name below the run's folder."""
        files = [file for output in self.outputs for file in ([output] if output.is_file() else output.rglob("*"))]
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in sorted(files)}

    def saved_updates(self) -> int:
        """How many updates the newest saved state in the default folder has."""
        saved = sorted((self.folder / "state" / "train").glob("*/update-*.safetensors"))
        return int(saved[-1].stem.removeprefix("update-")) if saved else 0
