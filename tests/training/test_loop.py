"""The loop: any number of processes gives the same gradients, optimizer state and weights."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from repro.params import load_params

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tiny_training import write_params

import train
from families.sdxl import denoising_losses, load_sdxl
from training.adapters import trained_parameters
from training.examples import Examples
from training.flat import FlatWeights
from training.loop import Job
from training.order import DataOrder


@pytest.fixture(autouse=True)
def no_process_group() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def state_after(inputs: Path, folder: Path, processes: int, **changed: object) -> dict[str, bytes]:
    """The bytes of every tensor of the last saved state, and the history, of a run in `processes` processes."""
    folder.mkdir()
    params = load_params(write_params(folder / "params.yaml", processes, **changed))
    job = Job(params, inputs / "base", inputs / "latents", inputs / "captions", folder)
    _, history = train.train_on_this_machine(job, processes)
    if dist.is_initialized():
        dist.destroy_process_group()
    last = sorted(folder.glob("update-*.safetensors"))[-1]
    state = {name: tensor.numpy().tobytes() for name, tensor in load_file(last).items()}
    return state | {"history": repr(history).encode()}


def assert_same(state: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert state.keys() == other.keys()
    assert [name for name in state if state[name] != other[name]] == []


def test_two_processes_give_the_gradient_of_one(training_inputs: Path, tmp_path: Path) -> None:
    """After one AdamW update from zero moments, exp_avg is the clipped gradient times a constant."""
    settings = {"optimizer": "adamw", "updates": 1, "warmup_updates": 0}
    one = state_after(training_inputs, tmp_path / "1", 1, **settings)
    assert any(name.startswith("optimizer.exp_avg.") and any(data) for name, data in one.items())
    assert_same(one, state_after(training_inputs, tmp_path / "2", 2, **settings))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "lion8bit", "updates": 4},
        {"optimizer": "adamw", "updates": 4},
        {"optimizer": "adamw", "updates": 2, "te_lr": 0.0},
        {"optimizer": "lion8bit", "updates": 2, "method": "full"},
        {"optimizer": "lion8bit", "updates": 2, "accumulation": 2, "micro_batch": 1, "virtual_ranks": 8},
    ],
    ids=["lion8bit", "adamw", "unet only", "full", "accumulation"],
)
def test_one_two_and_four_processes_give_the_same_state(training_inputs: Path, tmp_path: Path, settings: dict) -> None:
    one = state_after(training_inputs, tmp_path / "1", 1, **settings)
    for processes in (2, 4):
        assert_same(one, state_after(training_inputs, tmp_path / str(processes), processes, **settings))


def test_the_gradient_is_that_of_the_mean_loss(training_inputs: Path, tmp_path: Path) -> None:
    """Micro-batches, virtual ranks and the tree add up to plain backpropagation of all images' mean."""
    settings = {
        "optimizer": "adamw",
        "updates": 1,
        "warmup_updates": 0,
        "max_grad_norm": 1e9,
        "micro_batch": 3,
        "accumulation": 2,
    }
    folder = tmp_path / "run"
    state_after(training_inputs, folder, 1, **settings)
    params = load_params(folder / "params.yaml")
    model = load_sdxl(training_inputs / "base")
    examples = Examples(training_inputs / "latents", training_inputs / "captions", params, model.vae.config.scaling_factor)
    flat = FlatWeights(trained_parameters(model, params))
    gradient = flat.collect_gradients()
    order = DataOrder(examples.buckets(), 3, 2, 4, params.seed)
    losses = []
    for images in (image for rank in order.update(0) for batch in rank for image in batch):
        one = examples.batch((images,), epoch=0)
        losses.append(
            denoising_losses(
                model, one.latents, one.noise, one.timesteps, one.captions, one.sizes, 75, params.train.min_snr_gamma
            )
        )
    torch.cat(losses).mean().backward()
    saved = load_file(next(folder.glob("update-*.safetensors")))
    moments = torch.cat([saved[f"optimizer.exp_avg.{i}"] for i in range(len(flat.segments))]) / (1 - params.train.betas[0])
    assert len(losses) == 19
    assert gradient.abs().max() > 1e-4
    assert torch.allclose(moments, gradient, rtol=1e-3, atol=2e-6 * float(gradient.abs().max()))


def test_a_run_goes_on_from_its_saved_state(training_inputs: Path, tmp_path: Path) -> None:
    whole = state_after(training_inputs, tmp_path / "whole", 1, updates=4)
    stopped = tmp_path / "stopped"
    state_after(training_inputs, stopped, 1, updates=2)
    (tmp_path / "on").mkdir()
    shutil.copy(stopped / "update-00000002.safetensors", tmp_path / "on")
    params = load_params(write_params(tmp_path / "on" / "params.yaml", updates=4))
    job = Job(params, training_inputs / "base", training_inputs / "latents", training_inputs / "captions", tmp_path / "on")
    train.train_on_this_machine(job, 1)
    state = load_file(tmp_path / "on" / "update-00000004.safetensors")
    assert_same(
        {name: data for name, data in whole.items() if name != "history"}, {n: t.numpy().tobytes() for n, t in state.items()}
    )
