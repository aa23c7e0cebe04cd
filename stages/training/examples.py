"""Training examples from cached latents and captions, with every draw keyed by (seed, epoch, post id, occurrence)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from repro.errors import StageError
from repro.params import Params
from repro.randomness import Stream, seed_for

import numpy as np
import polars as pl
import torch
from safetensors import safe_open

from families.noise import TIMESTEPS
from families.sdxl import Sizes
from training.captions import training_caption

INDEX_COLUMNS = (
    "id", "shard", "row", "bucket_width", "bucket_height", "original_width", "original_height", "crop_left", "crop_top"
)  # fmt: skip
CAPTION_COLUMNS = ("id", "keep", "general", "repeats")
WORDS_FILE = "words.parquet"


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


def draw_key(epoch: int, post: int, occurrence: int) -> tuple[int, ...]:
    """What, beside seed and purpose, the draws for one showing of a post in an epoch hang on.

    Occurrences are counted from 0; the first one has the key that a post shown once has, so that
    repeating a post adds showings and changes none.
    """
    return (epoch, post, occurrence) if occurrence else (epoch, post)


def _sizes(row: dict[str, int]) -> Sizes:
    return Sizes(
        original_height=row["original_height"],
        original_width=row["original_width"],
        crop_top=row["crop_top"],
        crop_left=row["crop_left"],
        target_height=row["bucket_height"],
        target_width=row["bucket_width"],
    )


def _refuse_missing(path: Path, expected: tuple[str, ...], found: Iterable[str], stage: str) -> None:
    if missing := sorted(set(expected) - set(found)):
        raise StageError(f"{path}: no column {', '.join(missing)}; make it again with the {stage} stage")


def _captions(folder: Path) -> pl.DataFrame:
    """The columns of `CAPTION_COLUMNS` of all captions of the caption stage's folder."""
    shards = sorted(folder.glob("captions-*.parquet"))
    if not shards:
        raise StageError(f"{folder}: no captions-*.parquet; run the caption stage first")
    for shard in shards:
        _refuse_missing(shard, CAPTION_COLUMNS, pl.read_parquet_schema(shard), "caption")
    return pl.concat([pl.read_parquet(shard, columns=list(CAPTION_COLUMNS)) for shard in shards])


def _words(folder: Path) -> list[str]:
    """The words that keep and general are indices of."""
    path = folder / WORDS_FILE
    if not path.exists():
        raise StageError(f"{path}: missing; run the caption stage again")
    return pl.read_parquet(path)["word"].to_list()


class Examples:
    """Random access to the entries of an epoch: the images of a latents folder with their captions, an image
    as often as its caption's `repeats` says, one occurrence after the other, in index order.

    Raises:
        StageError: files or columns are missing, or an image has no caption or is shown less than once.
    """

    def __init__(self, latents: Path, captions: Path, params: Params, scaling_factor: float):
        self.folder, self.params, self.scaling_factor = Path(latents), params, scaling_factor
        index_path = self.folder / "index.parquet"
        if not index_path.exists():
            raise StageError(f"{index_path}: not found; run the latents stage first")
        index = pl.read_parquet(index_path)
        _refuse_missing(index_path, INDEX_COLUMNS, index.columns, "latents")
        joined = index.join(_captions(Path(captions)), on="id", how="left", maintain_order="left")
        if lacking := joined.filter(pl.col("keep").is_null())["id"].to_list():
            raise StageError(f"{captions}: no caption for post {lacking[0]} and {len(lacking) - 1} more that have latents")
        if joined.is_empty():
            raise StageError(f"{index_path}: no images; the filter or the latents stage dropped everything")
        if unshown := joined.filter(~(pl.col("repeats") >= 1).fill_null(False))["id"].to_list():
            raise StageError(f"{captions}: repeats of post {unshown[0]} is below 1; run the caption stage again")
        self.rows, self._words = joined, _words(Path(captions))
        repeats = joined["repeats"].to_numpy()
        self._row_of = np.repeat(np.arange(joined.height), repeats)
        self._occurrence_of = np.arange(len(self._row_of)) - np.repeat(np.cumsum(repeats) - repeats, repeats)

    def buckets(self) -> list[tuple[int, int]]:
        """Bucket (width, height) of each entry."""
        of_images = list(zip(self.rows["bucket_width"].to_list(), self.rows["bucket_height"].to_list(), strict=True))
        return [of_images[row] for row in self._row_of]

    def post_ids(self, entries: list[int]) -> list[int]:
        return self.rows["id"].gather(self._row_of[entries]).to_list()

    @lru_cache(maxsize=64)  # noqa: B019 - one object a process, and shards stay mapped for its life
    def _shard(self, name: str) -> safe_open:
        return safe_open(self.folder / name, framework="pt")

    def _latents(self, row: dict, key: tuple[int, ...]) -> torch.Tensor:
        """A fresh sample of the VAE's posterior, scaled."""
        shard = self._shard(row["shard"])
        mean, std = (shard.get_slice(name)[row["row"]].float() for name in ("mean", "std"))
        return (mean + std * _normal(mean.shape, self.params.seed, "posterior", *key)) * self.scaling_factor

    def _noise(self, shape: torch.Size, key: tuple[int, ...]) -> torch.Tensor:
        noise = _normal(shape, self.params.seed, "noise", *key)
        if offset := self.params.train.noise_offset:
            noise = noise + offset * _normal((shape[0], 1, 1), self.params.seed, "noise offset", *key)
        return noise

    def batch(self, entries: tuple[int, ...], epoch: int) -> Batch:
        """The micro-batch of `entries` (their numbers) in `epoch`."""
        places = list(entries)
        rows = self.rows[self._row_of[places]].to_dicts()
        occurrences = self._occurrence_of[places].tolist()
        keys = [draw_key(epoch, row["id"], k) for row, k in zip(rows, occurrences, strict=True)]
        latents = torch.stack([self._latents(row, key) for row, key in zip(rows, keys, strict=True)])
        seed, settings = self.params.seed, self.params.train
        return Batch(
            ids=[row["id"] for row in rows],
            latents=latents,
            noise=torch.stack([self._noise(latents.shape[1:], key) for key in keys]),
            timesteps=torch.tensor([Stream(seed, "timestep", *key).below(TIMESTEPS) for key in keys]),
            captions=[
                training_caption(self._texts(row["keep"]), self._texts(row["general"]), settings, seed, *key)
                for row, key in zip(rows, keys, strict=True)
            ],
            sizes=[_sizes(row) for row in rows],
        )

    def _texts(self, words: list[int]) -> list[str]:
        return [self._words[word] for word in words]
