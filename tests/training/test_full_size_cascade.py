"""The published recipes of Stable Cascade at full size: what the dry run tells of stage C's 3.6 billion weights without them."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from repro.params import Params, load_params

import polars as pl
import pytest
import torch

from families.cascade import latent_shape
from latents.buckets import Size, make_buckets
from planning.cascade_architecture import meta_modules, real_decoder_configs, real_prior_configs, write_real_cascade_configs
from training.adapters import lokr_size
from training.order import updates_per_epoch

RECIPES = Path(__file__).parents[2] / "recipes"
STAGE_C, TEXT_ENCODER = 3_589_103_632, 694_659_840
# One in a hundred of the card's pictures; its best are shown six times, which "duplicated 5 times" makes of 6.2 million.
IMAGES, BEST, SHOWN_BEST = 56_285, 1_200, 6
GIB = 1 << 30


def params_of(run: str, *overrides: str) -> Params:
    return load_params(RECIPES / f"sotediffusion-{run}.yaml", list(overrides))


def buckets_of(params: Params) -> list[Size]:
    latents = params.latents
    smallest, largest, step = latents.min_bucket_reso, latents.max_bucket_reso, latents.bucket_reso_steps
    return make_buckets((latents.resolution, latents.resolution), smallest, largest, step)


@pytest.fixture(scope="module")
def full_size(cascade_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base: the real configs; latents, captions: only what a plan reads, pictures dealt to all buckets in turn."""
    folder = tmp_path_factory.mktemp("full-size")
    write_real_cascade_configs(folder / "base", cascade_inputs / "base")
    buckets = buckets_of(params_of("base"))
    turn = pl.int_range(IMAGES, dtype=pl.Int64, eager=True)
    width, height = (pl.Series([bucket[side] for bucket in buckets]).gather(turn % len(buckets)) for side in (0, 1))
    index = {"id": turn, "row": turn, "bucket_width": width, "bucket_height": height}
    index |= {"original_width": width, "original_height": height, "crop_left": turn * 0, "crop_top": turn * 0}
    (folder / "latents").mkdir()
    pl.DataFrame(index).with_columns(shard=pl.lit("latents-00000.safetensors")).write_parquet(folder / "latents/index.parquet")
    best = pl.when(pl.col("id") < BEST).then(SHOWN_BEST).otherwise(1).cast(pl.Int32)
    empty = pl.lit([], dtype=pl.List(pl.UInt32))
    (folder / "captions").mkdir()
    captions = pl.DataFrame({"id": turn}).with_columns(repeats=best, keep=empty, general=empty)
    captions.write_parquet(folder / "captions/captions-00000.parquet")
    pl.DataFrame({"word": ["1girl"]}).write_parquet(folder / "captions/words.parquet")
    return folder


@pytest.fixture(scope="module")
def plan(full_size: Path) -> Callable[..., str]:
    """What `train.py --dry-run` says of a run, and never from more than 3 GB of memory; asked once each."""

    @cache
    def told(run: str, *overrides: str) -> str:
        recipe = RECIPES / f"sotediffusion-{run}.yaml"
        command = [sys.executable, RECIPES.parent / "stages" / "train.py", "--dry-run", "--params", recipe]
        command += [word for part in ("latents", "captions", "base") for word in (f"--{part}", full_size / part)]
        command += [word for override in overrides for word in ("--set", override)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
            text = child.stdout.read()
            _, status, usage = os.wait4(child.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, text
        assert usage.ru_maxrss * 1024 < 3 * 10**9
        return text

    return told


def gibibytes(text: str) -> dict[int, float]:
    """Memory of each process by the number of processes."""
    found = re.findall(r"([\d.]+) GiB in (?:the process|each of (\d+) processes)", text)
    return {int(processes or 1): float(size) for size, processes in found}


def test_the_configs_are_of_the_published_size() -> None:
    counts = {
        part: sum(weight.numel() for weight in module.parameters())
        for part, module in meta_modules(real_prior_configs() | real_decoder_configs()).items()
    }
    assert (counts["prior"], counts["text_encoder"]) == (STAGE_C, TEXT_ENCODER)
    # Stage B has 1.5 billion; EfficientNet-V2-S 20 million without its classifier, and the mapper.
    assert 1.5e9 < counts["decoder"] < 1.6e9
    assert 20.1e6 < counts["effnet"] < 20.4e6


@pytest.mark.parametrize("run", ["base", "final"])
def test_buckets_are_multiples_of_128_and_their_latents_whole(run: str) -> None:
    buckets, modules = buckets_of(params_of(run)), meta_modules({"effnet": real_prior_configs()["effnet"]})
    assert {(1024, 1024), (768, 1280), (512, 2048)} <= set(buckets)
    assert not any(side % 128 for bucket in buckets for side in bucket)
    assert modules["effnet"](torch.empty(1, 3, 1024, 1024, device="meta")).shape == (1, 16, 32, 32)
    for width, height in buckets:
        assert latent_shape(modules, (width, height)) == (16, height // 32, width // 32)


def test_an_epoch_of_all_the_cards_pictures_in_all_buckets_has_no_update_more() -> None:
    """Each bucket ends in a short micro-batch; of 6.2 million pictures that makes no further update."""
    settings, buckets, shown = params_of("base").train, buckets_of(params_of("base")), 5_628_499 + 5 * 120_000
    entries = [
        bucket for number, bucket in enumerate(buckets) for _ in range(shown // len(buckets) + (number < shown % len(buckets)))
    ]
    per_epoch = updates_per_epoch(entries, settings.micro_batch_size, settings.accumulation * settings.virtual_ranks)
    assert (per_epoch, settings.epochs * per_epoch) == (48_661, 145_983)


def test_a_lokr_on_stage_c_is_a_64th_of_its_layers() -> None:
    params, modules = params_of("base"), meta_modules(real_prior_configs())
    size = lokr_size("cascade", modules, params.train.lokr, True, "fp16")
    assert size.numbers == pytest.approx((STAGE_C + TEXT_ENCODER) / 64, rel=0.05)


@pytest.mark.slow
def test_the_base_run(plan: Callable[..., str]) -> None:
    text = plan("base")
    shown, buckets = IMAGES + (SHOWN_BEST - 1) * BEST, buckets_of(params_of("base"))
    assert f"images      {IMAGES:,}, shown {shown:,} times in an epoch, in {len(buckets)} buckets\n" in text
    assert re.search(r"1024 x 1024 +[\d,]+ images in +[\d,]+ micro-batches", text)
    assert "update      128 images: 8 virtual ranks x 4 micro-batches x 4 images\n" in text
    per_epoch = -(-shown // 128)
    assert f"steps       {per_epoch} updates an epoch, {3 * per_epoch:,} in all (3.00 epochs); constant" in text
    assert f"trains      all {STAGE_C + TEXT_ENCODER:,} weights of text_encoder and prior\n" in text
    assert "computes    in bf16 on cuda, adafactor\n" in text
    # As many pixels as 1024 x 1024, and the last of such buckets.
    assert "pictures of 2048 x 512\n            with gradient checkpointing" in text
    # Weights, and three gradients at the exchange of Adafactor, of four bytes each: a card of 80 GB has 79 GiB.
    weights = 4 * (STAGE_C + TEXT_ENCODER) / GIB
    assert gibibytes(text)[8] == pytest.approx(4 * weights, rel=0.01)
    assert gibibytes(text)[8] < 74 < gibibytes(text)[1]


@pytest.mark.slow
def test_the_final_run_leaves_the_text_encoder_alone(plan: Callable[..., str]) -> None:
    text = plan("final")
    assert f"trains      all {STAGE_C:,} weights of prior\n" in text
    assert "(16.00 epochs)" in text
    assert gibibytes(text)[8] < gibibytes(plan("base"))[8]


@pytest.mark.slow
def test_a_lokr_takes_far_less(plan: Callable[..., str]) -> None:
    text = plan("base", "train.method=lokr", "train.optimizer=lion8bit")
    assert re.search(r"trains      [\d,]+ numbers of a LoKr on text_encoder and prior; its file has 13\d\.\d MB \(fp16\)\n", text)
    # Frozen weights are held in two bytes: 8 GiB, a quarter of the full run's weights and gradient.
    assert 8 < gibibytes(text)[8] < gibibytes(plan("base"))[8] / 2
