"""VAE training: buckets, keyed batches, learning, exact continuation, two processes."""

import dataclasses
from pathlib import Path

from repro.numerics import fix_torch
from repro.params import load_params

import pytest
import torch
from tiny_dump import write_dump

from sample.vae import Job, Settings, rate, read_pictures, run_updates, scaling_factor, train_vae
from training.ranks import Ranks

SMALL = Settings(updates=6, crop_updates=3, crops=4, batch=2, warmup=2, save_every=2)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    fix_torch()
    folder = tmp_path_factory.mktemp("pictures")
    index, images = write_dump(folder)
    latents = load_params(Path("params.yaml")).latents
    return Job(index, images, latents, 11, folder, SMALL)


def in_folder(job: Job, folder: Path) -> Job:
    folder.mkdir()
    return dataclasses.replace(job, state=folder)


@pytest.fixture(scope="module")
def trained(job: Job) -> dict[str, torch.Tensor]:
    vae, _ = run_updates(in_folder(job, job.state / "whole"), Ranks(0, 1))
    return vae.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_pictures_are_in_their_buckets(job: Job) -> None:
    pictures = read_pictures(job.index, job.images, job.latents, job.seed)
    assert {bucket: tuple(tensor.shape) for bucket, tensor in pictures.by_bucket.items()} == {
        (48, 80): (4, 3, 80, 48),
        (64, 64): (8, 3, 64, 64),
    }


def test_batches_are_a_function_of_their_key(job: Job) -> None:
    pictures = read_pictures(job.index, job.images, job.latents, job.seed)
    assert torch.equal(pictures.batch(4, "a", 1, 0), pictures.batch(4, "a", 1, 0))
    assert not torch.equal(pictures.crops(4, 32, "a", 1, 0), pictures.crops(4, 32, "a", 2, 0))
    assert pictures.crops(4, 32, "a", 1, 0).shape == (4, 3, 32, 32)


def test_rate_rises_then_falls_to_zero() -> None:
    rates = [rate(update, SMALL) for update in range(SMALL.updates)]
    assert rates[:3] == [SMALL.rate / 2, SMALL.rate, SMALL.rate]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < SMALL.rate / 2


def test_cut_run_goes_on_to_the_same_weights(job: Job, trained: dict[str, torch.Tensor]) -> None:
    cut = in_folder(job, job.state / "cut")
    run_updates(cut, Ranks(0, 1))
    (cut.state / "update-00000006.safetensors").unlink()
    vae, history = run_updates(cut, Ranks(0, 1))
    assert [row.update for row in history] == list(range(6))
    assert equal(vae.state_dict(), trained)


def test_two_processes_give_the_same_weights(job: Job, trained: dict[str, torch.Tensor]) -> None:
    vae, _ = train_vae(in_folder(job, job.state / "two"), processes=2)
    assert equal(vae.state_dict(), trained)


def test_it_learns_and_scales_its_latents(job: Job) -> None:
    settings = dataclasses.replace(SMALL, updates=40, crop_updates=40)
    longer = dataclasses.replace(in_folder(job, job.state / "longer"), settings=settings)
    vae, history = run_updates(longer, Ranks(0, 1))
    assert sum(row.loss for row in history[-5:]) < 0.8 * sum(row.loss for row in history[:5])
    pictures = read_pictures(job.index, job.images, job.latents, job.seed)
    assert vae.config.scaling_factor == scaling_factor(vae, pictures)
    with torch.no_grad():
        posterior = vae.encode(pictures.batch(8, "test")).latent_dist
    assert float((posterior.mean * vae.config.scaling_factor).std()) == pytest.approx(1.0, abs=0.4)
