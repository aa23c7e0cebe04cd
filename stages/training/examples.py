"""Training examples from cached latents and captions, with every draw keyed by (seed, epoch, post id)."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from repro.errors import StageError
from repro.params import Params
from repro.randomness import Stream, seed_for

import polars as pl
import torch
from safetensors import safe_open

from families.noise import TIMESTEPS
from families.sdxl import Sizes
from training.captions import training_caption

INDEX_COLUMNS = (
    "id", "shard", "row", "bucket_width", "bucket_height", "original_width", "original_height", "crop_left", "crop_top"
)  # fmt: skip


@dataclass
class Batch:
    """One micro-batch: latents and noise [n, 4, h, w], timesteps int64 [n]."""

    ids: list[int]
    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    captions: list[str]
    sizes: list[Sizes]


def _normal(shape: tuple[int, ...], *key: int | str) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed_for(*key)))


def _sizes(row: dict[str, int]) -> Sizes:
    return Sizes(
        original_height=row["original_height"],
        original_width=row["original_width"],
        crop_top=row["crop_top"],
        crop_left=row["crop_left"],
        target_height=row["bucket_height"],
        target_width=row["bucket_width"],
    )


class Examples:
    """Random access to a latents folder and the captions of its images.

    Raises:
        StageError: files or columns are missing, or an image has no caption.
    """

    def __init__(self, latents: Path, captions: Path, params: Params, scaling_factor: float):
        self.folder, self.params, self.scaling_factor = Path(latents), params, scaling_factor
        index_path = self.folder / "index.parquet"
        if not index_path.exists():
            raise StageError(f"{index_path}: not found; run the latents stage first")
        index = pl.read_parquet(index_path)
        if missing := [c for c in INDEX_COLUMNS if c not in index.columns]:
            raise StageError(f"{index_path}: no column {', '.join(missing)}; make it again with the latents stage")
        shards = sorted(Path(captions).glob("captions-*.parquet"))
        if not shards:
            raise StageError(f"{captions}: no captions-*.parquet; run the caption stage first")
        texts = pl.concat([pl.read_parquet(shard, columns=["id", "keep", "general"]) for shard in shards])
        joined = index.join(texts, on="id", how="left", maintain_order="left")
        if lacking := joined.filter(pl.col("keep").is_null())["id"].to_list():
            raise StageError(f"{captions}: no caption for post {lacking[0]} and {len(lacking) - 1} more that have latents")
        if joined.is_empty():
            raise StageError(f"{index_path}: no images; the filter or the latents stage dropped everything")
        self.rows = joined

    def buckets(self) -> list[tuple[int, int]]:
        """Bucket (width, height) of each image, in index order."""
        return list(zip(self.rows["bucket_width"].to_list(), self.rows["bucket_height"].to_list(), strict=True))

    def post_ids(self, images: list[int]) -> list[int]:
        return self.rows["id"].gather(images).to_list()

    @lru_cache(maxsize=64)  # noqa: B019 - one object a process, and shards stay mapped for its life
    def _shard(self, name: str) -> safe_open:
        return safe_open(self.folder / name, framework="pt")

    def _latents(self, row: dict, epoch: int) -> torch.Tensor:
        """A fresh sample of the VAE's posterior, scaled."""
        shard = self._shard(row["shard"])
        mean, std = (shard.get_slice(name)[row["row"]].float() for name in ("mean", "std"))
        return (mean + std * _normal(mean.shape, self.params.seed, "posterior", epoch, row["id"])) * self.scaling_factor

    def _noise(self, shape: torch.Size, epoch: int, post: int) -> torch.Tensor:
        noise = _normal(shape, self.params.seed, "noise", epoch, post)
        if offset := self.params.train.noise_offset:
            noise = noise + offset * _normal((shape[0], 1, 1), self.params.seed, "noise offset", epoch, post)
        return noise

    def batch(self, images: tuple[int, ...], epoch: int) -> Batch:
        """The micro-batch of `images` (positions in the index) in `epoch`."""
        rows = self.rows[list(images)].to_dicts()
        latents = torch.stack([self._latents(row, epoch) for row in rows])
        seed, settings = self.params.seed, self.params.train
        return Batch(
            ids=[row["id"] for row in rows],
            latents=latents,
            noise=torch.stack([self._noise(latents.shape[1:], epoch, row["id"]) for row in rows]),
            timesteps=torch.tensor([Stream(seed, "timestep", epoch, row["id"]).below(TIMESTEPS) for row in rows]),
            captions=[training_caption(r["keep"], r["general"], settings, seed, epoch, r["id"]) for r in rows],
            sizes=[_sizes(row) for row in rows],
        )
