"""Training examples from cached latents and captions, with every draw keyed by (seed, epoch, post id, occurrence)."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from repro.errors import StageError
from repro.params import Params
from repro.randomness import Stream, seed_for

import numpy as np
import polars as pl
import torch
from safetensors import safe_open

from families.family import Batch, Family, Sizes, family
from families.noise import offset_noise
from training.captions import training_caption

INDEX_COLUMNS = (
    "id", "shard", "row", "bucket_width", "bucket_height", "original_width", "original_height", "crop_left", "crop_top"
)  # fmt: skip
CAPTION_COLUMNS = ("id", "keep", "general", "repeats")
WORDS_FILE = "words.parquet"


def _normal(shape: tuple[int, ...], *key: int | str) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed_for(*key)))


def draw_key(epoch: int, post: int, occurrence: int) -> tuple[int, ...]:
    """What, beside seed and purpose, the draws for one showing of a post in an epoch hang on.

    Occurrences are counted from 0; the first one has the key that a post shown once has, so that
    repeating a post adds showings and changes none.
    """
    return (epoch, post, occurrence) if occurrence else (epoch, post)


def draw_timesteps(of: Family, seed: int, keys: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """A timestep of training for each key, [keys], int64 or float64 as the family draws them."""
    drawn = [of.draw_timestep(Stream(seed, "timestep", *key)) for key in keys]
    return torch.tensor(drawn, dtype=torch.float64 if isinstance(drawn[0], float) else torch.int64)


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


class Captions:
    """The captions of the caption stage's folder by place, counted through its shards.

    The lists stay in the shards' own frames: joined to one, the words of millions of captions would be held twice.

    Raises:
        StageError: there are no shards or no words, or a column is missing.
    """

    def __init__(self, folder: Path):
        files = sorted(folder.glob("captions-*.parquet"))
        if not files:
            raise StageError(f"{folder}: no captions-*.parquet; run the caption stage first")
        for file in files:
            _refuse_missing(file, CAPTION_COLUMNS, pl.read_parquet_schema(file), "caption")
        self._words = _words(folder)
        self._lists = [pl.read_parquet(file, columns=["keep", "general"]).select("keep", "general") for file in files]
        self._starts = [0, *accumulate(frame.height for frame in self._lists)]
        rows = pl.concat([pl.read_parquet(file, columns=["id", "repeats"]) for file in files])
        self.ids, self.repeats = rows["id"].to_numpy(), rows["repeats"].fill_null(0).to_numpy()

    def places_of(self, ids: np.ndarray) -> np.ndarray:
        """Places of the captions of posts, -1 where there is none."""
        order = np.argsort(self.ids, kind="stable")
        first, end = (np.searchsorted(self.ids, ids, side=side, sorter=order) for side in ("left", "right"))
        # An id above all others is found behind the last place.
        return np.where(first < end, np.append(order, -1)[first], -1).astype(np.int32)

    def tags(self, place: int) -> tuple[list[str], list[str]]:
        """Kept and general tags of the caption at a place."""
        shard = bisect_right(self._starts, place) - 1
        keep, general = self._lists[shard].row(place - self._starts[shard])
        return [self._words[word] for word in keep], [self._words[word] for word in general]


def _words(folder: Path) -> list[str]:
    """The words that keep and general are indices of."""
    path = folder / WORDS_FILE
    if not path.exists():
        raise StageError(f"{path}: missing; run the caption stage again")
    return pl.read_parquet(path)["word"].to_list()


def _index(path: Path) -> pl.DataFrame:
    """The latents stage's index, one row an image, the names of shards as numbers inside."""
    if not path.exists():
        raise StageError(f"{path}: not found; run the latents stage first")
    _refuse_missing(path, INDEX_COLUMNS, pl.read_parquet_schema(path), "latents")
    index = pl.read_parquet(path, columns=list(INDEX_COLUMNS))
    if index.is_empty():
        raise StageError(f"{path}: no images; the filter or the latents stage dropped everything")
    return index.with_columns(pl.col("shard").cast(pl.Categorical))


class Examples:
    """Random access to the entries of an epoch: the images of a latents folder with their captions, an image
    as often as its caption's `repeats` says, one occurrence after the other, in index order.

    Raises:
        StageError: files or columns are missing, or an image has no caption or is shown less than once.
    """

    def __init__(self, latents: Path, captions: Path, params: Params, scale: float):
        self.folder, self.params, self.scale = Path(latents), params, scale
        self.family = family(params.family)
        self.rows = _index(self.folder / "index.parquet")
        self._captions = Captions(Path(captions))
        ids = self.rows["id"].to_numpy()
        self._caption_of = self._captions.places_of(ids)
        if len(lacking := ids[self._caption_of < 0]):
            raise StageError(f"{captions}: no caption for post {lacking[0]} and {len(lacking) - 1} more that have latents")
        repeats = self._captions.repeats[self._caption_of]
        if len(unshown := ids[repeats < 1]):
            raise StageError(f"{captions}: repeats of post {unshown[0]} is below 1; run the caption stage again")
        self._image_of = np.repeat(np.arange(len(ids), dtype=np.int32), repeats)
        first = np.cumsum(repeats, dtype=np.int64) - repeats
        self._occurrence_of = (np.arange(len(self._image_of)) - np.repeat(first, repeats)).astype(np.int32)

    def buckets(self) -> list[tuple[int, int]]:
        """Bucket (width, height) of each entry; entries of one bucket share the tuple."""
        width, height = (self.rows[f"bucket_{side}"].to_numpy().astype(np.int64) for side in ("width", "height"))
        keys, number_of = np.unique(width << 32 | height, return_inverse=True)
        table = [(key >> 32, key & 0xFFFFFFFF) for key in keys.tolist()]
        return [table[number] for number in number_of[self._image_of]]

    def post_ids(self, entries: list[int]) -> list[int]:
        return self.rows["id"].gather(self._image_of[entries]).to_list()

    @lru_cache(maxsize=64)  # noqa: B019 - one object a process, and shards stay mapped for its life
    def _shard(self, name: str) -> safe_open:
        return safe_open(self.folder / name, framework="pt")

    def _latents(self, row: dict, key: tuple[int, ...]) -> torch.Tensor:
        """Scaled latents: a fresh sample of the encoder's posterior, or what it gave where that has no deviations."""
        shard, place = self._shard(row["shard"]), row["row"]
        latents = shard.get_slice("mean")[place].float()
        if "std" in shard.keys():  # noqa: SIM118 - safe_open is no mapping
            std = shard.get_slice("std")[place].float()
            latents = latents + std * _normal(latents.shape, self.params.seed, "posterior", *key)
        return latents * self.scale

    def _noise(self, latents: torch.Tensor, key: tuple[int, ...]) -> torch.Tensor:
        settings, seed = self.params.train, self.params.seed
        noise = _normal(latents.shape, seed, "noise", *key)
        if not (settings.noise_offset or settings.adaptive_noise_offset):
            return noise
        draw = _normal((len(latents), 1, 1), seed, "noise offset", *key)
        return offset_noise(noise, draw, latents, settings.noise_offset, settings.adaptive_noise_offset)

    def _keys(self, places: list[int], epoch: int) -> list[tuple[int, ...]]:
        occurrences = self._occurrence_of[places].tolist()
        return [draw_key(epoch, post, k) for post, k in zip(self.post_ids(places), occurrences, strict=True)]

    def timesteps(self, entries: tuple[int, ...], epoch: int) -> torch.Tensor:
        """The timesteps of `batch`, for a process that computes other entries."""
        return draw_timesteps(self.family, self.params.seed, self._keys(list(entries), epoch))

    def batch(self, entries: tuple[int, ...], epoch: int) -> Batch:
        """The micro-batch of `entries` (their numbers) in `epoch`."""
        places = list(entries)
        images = self._image_of[places]
        rows, keys = self.rows[images].to_dicts(), self._keys(places, epoch)
        latents = torch.stack([self._latents(row, key) for row, key in zip(rows, keys, strict=True)])
        seed, settings = self.params.seed, self.params.train
        return Batch(
            ids=[row["id"] for row in rows],
            latents=latents,
            noise=torch.stack([self._noise(one, key) for one, key in zip(latents, keys, strict=True)]),
            timesteps=self.timesteps(entries, epoch),
            captions=[
                training_caption(*self._captions.tags(place), settings, Stream(seed, "caption", *key))
                for place, key in zip(self._caption_of[images].tolist(), keys, strict=True)
            ],
            sizes=[_sizes(row) for row in rows],
        )
