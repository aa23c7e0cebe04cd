"""Training examples: posterior samples, keyed noise, sizes, and what is refused."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

from repro.errors import StageError
from repro.params import Params, load_params
from repro.randomness import Stream, seed_for

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_training import REPOSITORY, write_captions, write_params

from families.family import Batch, family
from families.noise import TIMESTEPS
from training.captions import training_caption
from training.examples import Examples, draw_key

SCALE = 0.5
REPEATS = {1007: 3, 1028: 2, 2000: 2}


@pytest.fixture
def params(tmp_path: Path) -> Params:
    return load_params(write_params(tmp_path / "p.yaml"))


@pytest.fixture
def examples(training_inputs: Path, params: Params) -> Examples:
    return Examples(training_inputs / "latents", training_inputs / "captions", params, SCALE)


def with_offset(params: Params, offset: float, adaptive: float = 0.0) -> Params:
    offsets = {"noise_offset": offset, "adaptive_noise_offset": adaptive}
    return params.model_copy(update={"train": params.train.model_copy(update=offsets)})


def test_rows_follow_the_index(examples: Examples) -> None:
    assert examples.buckets() == [(64, 64)] * 13 + [(48, 80)] * 6
    batch = examples.batch((0, 5), epoch=0)
    assert batch.ids == [1000, 1035]
    assert batch.latents.shape == batch.noise.shape == (2, 4, 16, 16)
    assert examples.batch((14,), epoch=0).latents.shape == (1, 4, 20, 12)
    assert astuple(batch.sizes[1]) == (128, 192, 5, 10, 64, 64), "original and crop and bucket, height before width"


def test_latents_are_scaled_samples_of_the_posterior(examples: Examples, training_inputs: Path) -> None:
    shard = load_file(training_inputs / "latents" / "latents-00000.safetensors")
    standard = [(examples.batch((3,), epoch).latents[0] / SCALE - shard["mean"][3]) / shard["std"][3] for epoch in range(8)]
    drawn = torch.stack(standard)
    assert abs(drawn.mean().item()) < 0.05
    assert abs(drawn.std().item() - 1) < 0.05
    assert not torch.equal(drawn[0], drawn[1])


def test_an_example_does_not_depend_on_its_batch_or_on_history(examples: Examples, training_inputs: Path, params: Params) -> None:
    together = examples.batch((2, 7, 4), epoch=3)
    again = Examples(training_inputs / "latents", training_inputs / "captions", params, SCALE)
    for place, image in enumerate((2, 7, 4)):
        alone = again.batch((image,), epoch=3)
        assert torch.equal(alone.latents[0], together.latents[place])
        assert torch.equal(alone.noise[0], together.noise[place])
        assert alone.timesteps[0] == together.timesteps[place]
        assert alone.captions[0] == together.captions[place]


def with_repeats(training_inputs: Path, folder: Path, params: Params, repeats: dict[int, int]) -> Examples:
    return Examples(training_inputs / "latents", write_captions(folder, training_inputs / "latents", repeats), params, SCALE)


def test_an_image_is_an_entry_as_often_as_it_is_repeated(training_inputs: Path, tmp_path: Path, params: Params) -> None:
    several = with_repeats(training_inputs, tmp_path / "captions", params, {1007: 3, 2000: 2})
    assert several.post_ids(list(range(6))) == [1000, 1007, 1007, 1007, 1014, 1021]
    assert several.buckets() == [(64, 64)] * 15 + [(48, 80)] * 7
    assert several.batch((3, 4), epoch=0).ids == [1007, 1014]
    assert several.batch((15, 16), epoch=0).ids == [2000, 2000]


def test_occurrences_differ_and_the_first_is_the_image_shown_once(training_inputs: Path, tmp_path: Path, params: Params) -> None:
    params = with_offset(params, 0.1)
    once = Examples(training_inputs / "latents", training_inputs / "captions", params, SCALE).batch((1,), epoch=2)
    batch = with_repeats(training_inputs, tmp_path / "captions", params, {1007: 3}).batch((1, 2, 3), epoch=2)
    for name in ("latents", "noise", "timesteps"):
        values = getattr(batch, name)
        assert torch.equal(values[0], getattr(once, name)[0])
        assert len({value.numpy().tobytes() for value in values}) == 3, name
    assert batch.captions[0] == once.captions[0]
    assert len(set(batch.captions)) == 3


def test_latents_without_deviations_are_taken_as_they_are(cascade_inputs: Path, tmp_path: Path) -> None:
    """And times are the family's own draws, not whole numbers."""
    params = load_params(write_params(tmp_path / "p.yaml", family="cascade"))
    examples = Examples(cascade_inputs / "latents", cascade_inputs / "captions", params, SCALE)
    shard = load_file(cascade_inputs / "latents" / "latents-00000.safetensors")
    assert set(shard) == {"mean", "ids"}
    for epoch in (0, 1):
        batch = examples.batch((0, 5), epoch)
        assert torch.equal(batch.latents, SCALE * shard["mean"][[0, 5]])
        draws = [Stream(params.seed, "timestep", epoch, post) for post in (1000, 1035)]
        assert batch.timesteps.dtype == torch.float64
        assert batch.timesteps.tolist() == [family("cascade").draw_timestep(draw) for draw in draws]
        assert torch.equal(examples.timesteps((0, 5), epoch), batch.timesteps)


def test_draws_are_those_of_their_keys(training_inputs: Path, params: Params) -> None:
    """The keys as they have always been: the bytes of what is shown once must not change."""
    assert draw_key(2, 1007, 0) == (2, 1007)
    assert draw_key(2, 1007, 1) == (2, 1007, 1)
    params = with_offset(params, 0.0)
    examples = Examples(training_inputs / "latents", training_inputs / "captions", params, SCALE)
    batch, seed = examples.batch((1,), epoch=2), params.seed
    noise = torch.randn((4, 16, 16), generator=torch.Generator().manual_seed(seed_for(seed, "noise", 2, 1007)))
    assert torch.equal(batch.noise[0], noise)
    assert batch.timesteps.tolist() == [Stream(seed, "timestep", 2, 1007).below(TIMESTEPS)]
    keep = ["1girl", "name 1007"]
    general = ["blue hair", "twintails", "smile", "open mouth", "simple background", "newest"]
    assert batch.captions == [training_caption(keep, general, params.train, Stream(seed, "caption", 2, 1007))]


def test_timesteps_cover_the_schedule(examples: Examples) -> None:
    steps = torch.cat([examples.batch(tuple(range(13)), epoch).timesteps for epoch in range(60)])
    assert 0 <= int(steps.min()) < 20
    assert 980 <= int(steps.max()) < 1000
    assert 460 < steps.float().mean().item() < 540


def offset_of(with_it: torch.Tensor, without: torch.Tensor) -> torch.Tensor:
    """The part that noise offset added, one number a channel; fails if it varies inside a channel."""
    difference = with_it - without
    assert torch.allclose(difference, difference.mean(dim=(-2, -1), keepdim=True).expand_as(difference), atol=1e-6)
    return difference.mean(dim=(-2, -1))


@pytest.mark.golden
def test_noise_offset_is_sd_scripts_with_keyed_draws(golden: Path, training_inputs: Path, params: Params) -> None:
    reference = json.loads((golden / "train" / "noise_offset.json").read_text())
    strength = reference["noise_offset"]
    theirs = offset_of(
        torch.tensor(reference["noise_with_offset"]).view(2, 4, 4, 4), torch.tensor(reference["noise"]).view(2, 4, 4, 4)
    )
    assert torch.allclose(theirs.flatten(), strength * torch.tensor(reference["offset_draw"]), atol=1e-6)

    def noise(offset: float) -> torch.Tensor:
        inputs = training_inputs / "latents", training_inputs / "captions"
        return Examples(*inputs, with_offset(params, offset), SCALE).batch((0, 1), epoch=2).noise

    draws = [
        torch.randn((4, 1, 1), generator=torch.Generator().manual_seed(seed_for(params.seed, "noise offset", 2, post)))
        for post in (1000, 1007)
    ]
    assert torch.allclose(offset_of(noise(strength), noise(0.0)), strength * torch.stack(draws)[:, :, 0, 0], atol=1e-6)


def test_an_adaptive_offset_follows_the_mean_of_each_channel(training_inputs: Path, params: Params) -> None:
    def batch(offset: float, adaptive: float) -> Batch:
        inputs = training_inputs / "latents", training_inputs / "captions"
        return Examples(*inputs, with_offset(params, offset, adaptive), SCALE).batch((0, 1), epoch=2)

    plain = batch(0.0, 0.0)
    draws = [
        torch.randn((4, 1, 1), generator=torch.Generator().manual_seed(seed_for(params.seed, "noise offset", 2, post)))
        for post in (1000, 1007)
    ]
    means = plain.latents.mean(dim=(2, 3)).abs()
    for offset, adaptive in ((0.05, 0.5), (0.0, 0.5), (0.01, -0.5)):
        expected = (offset + adaptive * means).clamp(min=0) * torch.stack(draws)[:, :, 0, 0]
        assert torch.allclose(offset_of(batch(offset, adaptive).noise, plain.noise), expected, atol=1e-6)


def digest_of(batch: Batch, place: int) -> str:
    """All of one example of a batch."""
    whole = hashlib.sha256(repr((batch.ids[place], batch.captions[place], batch.sizes[place])).encode())
    for tensor in (batch.latents, batch.noise, batch.timesteps):
        whole.update(repr((tensor.dtype, tensor.shape[1:])).encode() + tensor[place].numpy().tobytes())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def repeated(training_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Latents and captions folder of 23 entries: 16 of the first bucket and 7 of the second."""
    captions = tmp_path_factory.mktemp("repeated") / "captions"
    return training_inputs / "latents", write_captions(captions, training_inputs / "latents", REPEATS)


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parameter file in which every kind of draw is used."""
    path = tmp_path_factory.mktemp("varied") / "p.yaml"
    draws = {"noise_offset": 0.05, "adaptive_noise_offset": 0.1, "caption_dropout": 0.2, "tag_dropout": 0.3}
    return write_params(path, shuffle_tags=True, **draws)


@pytest.fixture(scope="module")
def alone(repeated: tuple[Path, Path], varied: Path) -> dict[tuple[int, int], str]:
    """Digest of each (epoch, entry), each made by itself."""
    examples = Examples(*repeated, load_params(varied), SCALE)
    return {(epoch, entry): digest_of(examples.batch((entry,), epoch), 0) for epoch in (0, 1, 7) for entry in range(23)}


def test_every_showing_is_another_example(alone: dict[tuple[int, int], str]) -> None:
    assert len(set(alone.values())) == len(alone)


@settings(max_examples=40)
@given(data=st.data())
def test_an_example_is_the_same_in_any_order_and_grouping(
    repeated: tuple[Path, Path], varied: Path, alone: dict[tuple[int, int], str], data: st.DataObject
) -> None:
    examples = Examples(*repeated, load_params(varied), SCALE)
    for _ in range(data.draw(st.integers(1, 4), "batches")):
        epoch = data.draw(st.sampled_from([0, 1, 7]), "epoch")
        bucket = data.draw(st.sampled_from([range(16), range(16, 23)]), "bucket")
        entries = data.draw(st.lists(st.sampled_from(bucket), min_size=1, max_size=6), "entries")
        batch = examples.batch(tuple(entries), epoch)
        assert [digest_of(batch, place) for place in range(len(entries))] == [alone[epoch, entry] for entry in entries]


OTHER_PROCESS = """
import json, sys
from pathlib import Path
from repro.params import load_params
from test_examples import SCALE, digest_of
from training.examples import Examples

latents, captions, params = map(Path, sys.argv[1:])
examples = Examples(latents, captions, load_params(params), SCALE)
batches = [examples.batch(tuple(range(first, first + 4)), 7) for first in (12, 8, 4, 0)]
print(json.dumps([digest_of(batch, place) for batch in batches for place in range(4)]))
"""


def test_an_example_is_the_same_in_another_process(
    repeated: tuple[Path, Path], varied: Path, alone: dict[tuple[int, int], str]
) -> None:
    paths = os.pathsep.join(str(REPOSITORY / folder) for folder in ("stages", "tests", "tests/training"))
    result = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, *repeated, varied],
        env=os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": "5"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [alone[7, first + i] for first in (12, 8, 4, 0) for i in range(4)]


def test_latents_in_half_precision_are_widened(training_inputs: Path, tmp_path: Path, params: Params) -> None:
    folder = copy_inputs(training_inputs, tmp_path)
    for shard in (folder / "latents").glob("*.safetensors"):
        tensors = load_file(shard)
        save_file({name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}, shard)
    half = Examples(folder / "latents", folder / "captions", params, SCALE).batch((0, 5), epoch=1)
    whole = Examples(training_inputs / "latents", training_inputs / "captions", params, SCALE).batch((0, 5), epoch=1)
    assert half.latents.dtype == half.noise.dtype == torch.float32
    assert torch.allclose(half.latents, whole.latents, rtol=0, atol=2e-3)
    assert not torch.equal(half.latents, whole.latents)
    assert torch.equal(half.noise, whole.noise)


def test_captions_of_several_shards_in_any_order_are_found(training_inputs: Path, tmp_path: Path, params: Params) -> None:
    folder = copy_inputs(training_inputs, tmp_path)
    whole = pl.read_parquet(folder / "captions" / "captions-00000.parquet")
    others = pl.concat([whole.head(3).with_columns(pl.col("id") + 500), whole])
    for number, rows in enumerate((others[15:], others[:7].reverse(), others[7:15])):
        rows.write_parquet(folder / "captions" / f"captions-{number:05d}.parquet")
    inputs = training_inputs / "latents", training_inputs / "captions"
    expected = Examples(*inputs, params, SCALE).batch(tuple(range(13)), epoch=1)
    batch = Examples(folder / "latents", folder / "captions", params, SCALE).batch(tuple(range(13)), epoch=1)
    assert batch.captions == expected.captions


def copy_inputs(training_inputs: Path, tmp_path: Path) -> Path:
    for name in ("latents", "captions"):
        shutil.copytree(training_inputs / name, tmp_path / name)
    return tmp_path


def test_missing_files_columns_and_captions_are_named(training_inputs: Path, tmp_path: Path, params: Params) -> None:
    folder = copy_inputs(training_inputs, tmp_path)

    def refusal() -> str:
        with pytest.raises(StageError) as caught:
            Examples(folder / "latents", folder / "captions", params, SCALE)
        return str(caught.value)

    captions, index = folder / "captions" / "captions-00000.parquet", folder / "latents" / "index.parquet"
    whole = pl.read_parquet(captions)
    whole.filter(pl.col("id") != 1007).write_parquet(captions)
    assert "no caption for post 1007" in refusal()
    captions.unlink()
    assert "run the caption stage first" in refusal()
    whole.drop("repeats").write_parquet(captions)
    assert "captions-00000.parquet: no column repeats; make it again with the caption stage" in refusal()
    whole.with_columns(repeats=pl.when(pl.col("id") == 1014).then(0).otherwise("repeats")).write_parquet(captions)
    assert "repeats of post 1014 is below 1" in refusal()
    whole.with_columns(repeats=pl.when(pl.col("id") == 1021).then(None).otherwise("repeats")).write_parquet(captions)
    assert "repeats of post 1021 is below 1" in refusal()
    whole.clear().write_parquet(captions)
    assert "no caption for post 1000 and 18 more" in refusal()
    whole.write_parquet(captions)
    rows = pl.read_parquet(index)
    rows.drop("crop_top").write_parquet(index)
    assert "no column crop_top" in refusal()
    rows.clear().write_parquet(index)
    assert "no images" in refusal()
    index.unlink()
    assert "run the latents stage first" in refusal()
