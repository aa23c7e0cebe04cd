"""The loop: any number of processes gives the same gradients, optimizer state, weights and losses; numbers that are not
finite; settings that must not reach a byte."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from repro.cost import measured
from repro.errors import StageError
from repro.tensorfile import write_tensors

import pytest
import torch
from safetensors.torch import load_file
from small_updates import OPTIMIZERS
from tiny_training import family_of, job_of, write_captions, write_latents
from width_runs import differing, record_at_width, recorded

from families.family import family
from training.loop import Job, Trainer, run_updates
from training.loss_scale import LossScale
from training.ranks import Ranks
from training.resume import RunState
from training.stopping import StopRequest

ALONE = Ranks(0, 1)
# Nothing but the updates themselves.
BARE = {"checkpoints": None, "pictures": None, "warmup_updates": 0}


def at_width(inputs: Path, folder: Path, processes: int, settings: dict[str, Any], orderless: bool = False) -> dict[str, bytes]:
    job = job_of(inputs, folder, processes, **BARE | settings)
    record_at_width([job], processes, folder / "meeting", orderless)
    return recorded(folder, processes)


def trainer_of(inputs: Path, folder: Path, **changes: Any) -> Trainer:
    return Trainer(job_of(inputs, folder, **BARE | changes), ALONE)


def test_two_processes_give_the_gradient_and_state_of_one(family_inputs: Path, tmp_path: Path) -> None:
    settings = {"optimizer": "lion8bit", "updates": 2, "batch_size": 4, "micro_batch_size": 1}
    one = at_width(family_inputs, tmp_path / "1", 1, settings)
    assert {"gradient.0", "gradient.1", "losses.0", "losses.1", "weights", "saved weights", "saved counts"} < one.keys()
    assert any(one["gradient.0"]) and one["gradient.0"] != one["gradient.1"]
    assert ("saved loss weights" in one) == (family_of(family_inputs / "base") == "cascade")
    assert differing(one, at_width(family_inputs, tmp_path / "2", 2, settings)) == []


# Two of them with accumulation, and with an epoch's short last update, where virtual ranks have nothing to do.
EIGHT = {"virtual_ranks": 8, "batch_size": 8, "micro_batch_size": 1, "updates": 2}
TWICE = EIGHT | {"batch_size": 16}
RUNS: dict[str, dict[str, Any]] = {
    **{name: (TWICE if name in ("lion8bit", "adafactor") else EIGHT) | {"optimizer": name} for name in OPTIMIZERS},
    "frozen text": EIGHT | {"te_lr": 0.0, "optimizer": "adamw"},
    "full": EIGHT | {"method": "full", "optimizer": "adamw8bit"},
}


@pytest.fixture(scope="module")
def widths(family_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, dict[str, bytes]]]:
    """Records of all runs at widths 1, 2, 4 and 8, by width and name."""
    records = {}
    for processes in (1, 2, 4, 8):
        folder = tmp_path_factory.mktemp(f"width-{processes}")
        jobs = [job_of(family_inputs, folder / name, processes, **BARE | settings) for name, settings in RUNS.items()]
        record_at_width(jobs, processes, folder / "meeting")
        records[processes] = {name: recorded(folder / name, processes) for name in RUNS}
    return records


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_width_gives_the_same_bytes(widths: dict[int, dict[str, dict[str, bytes]]], name: str) -> None:
    one = widths[1][name]
    assert any(one["gradient.1"]) and any(any(data) for key, data in one.items() if key.startswith("saved optimizer."))
    for processes in (2, 4, 8):
        assert differing(one, widths[processes][name]) == [], f"{processes} processes"


@pytest.mark.slow
def test_another_number_of_virtual_ranks_gives_another_gradient(
    widths: dict[int, dict[str, dict[str, bytes]]], family_inputs: Path, tmp_path: Path
) -> None:
    """The comparison can fail: the same images in the same order, added up in two sums for each rank instead of one."""
    four = at_width(family_inputs, tmp_path / "4", 1, RUNS["adamw"] | {"virtual_ranks": 4})
    eight = widths[1]["adamw"]
    assert four["losses.0"] == eight["losses.0"]
    numbers = min(len(four["gradient.0"]), len(eight["gradient.0"]))
    assert four["gradient.0"][:numbers] != eight["gradient.0"][:numbers]


@pytest.mark.slow
def test_an_all_reduce_gives_another_gradient(
    widths: dict[int, dict[str, dict[str, bytes]]], family_inputs: Path, tmp_path: Path
) -> None:
    """The comparison can fail: gloo's own order of the sum at four processes."""
    differ = differing(widths[1]["adamw"], at_width(family_inputs, tmp_path / "4", 4, RUNS["adamw"], orderless=True))
    assert {"gradient.0", "weights", "saved counts"} <= set(differ)
    assert "losses.0" not in differ


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_at_two_widths_with_and_without_checkpointing(family_inputs: Path, tmp_path: Path, precision: str) -> None:
    settings = {"precision": precision, "updates": 3, "optimizer": "adamw"}
    one = at_width(family_inputs, tmp_path / "1", 1, settings)
    two = at_width(family_inputs, tmp_path / "2", 2, settings | {"runtime": {"gradient_checkpointing": True}})
    assert any(one["gradient.2"])
    assert differing(one, two) == []


def test_the_gradient_is_that_of_the_mean_loss_times_the_scale(family_inputs: Path, tmp_path: Path) -> None:
    """Micro-batches, virtual ranks and the tree add up to plain backpropagation of all images' mean."""
    trainer = trainer_of(family_inputs, tmp_path / "run", batch_size=24, micro_batch_size=3)
    gradient, losses, stopping = trainer.gradient(0, 1.0, StopRequest())
    assert not stopping
    scaled, _, _ = trainer.gradient(0, 2.0**10, StopRequest())
    assert torch.equal(scaled, gradient * 2.0**10)
    expected = trainer.flat.collect_gradients()
    entries = [entry for rank in trainer.order.update(0) for batch in rank for entry in batch]
    batches = [trainer.examples.batch((entry,), epoch=0) for entry in entries]
    plain = torch.cat([trainer.family.losses(trainer.model, batch, trainer.settings) for batch in batches])
    weights = torch.cat([trainer.loss_weights.of(batch.timesteps) for batch in batches])
    (plain * weights).mean().backward()
    trainer.trained.finish_gradients()
    assert len(entries) == 19
    assert torch.allclose(losses.float(), torch.stack([plain * weights, plain]).detach(), rtol=1e-5)
    assert gradient.abs().max() > 1e-4
    assert torch.allclose(gradient, expected, rtol=1e-3, atol=2e-6 * float(gradient.abs().max()))


def result(job: Job) -> tuple[dict[str, bytes], list]:
    trained, history = run_updates(job, ALONE, StopRequest())
    return {name: tensor.numpy().tobytes() for name, tensor in trained.items()}, history


def test_a_run_goes_on_from_its_saved_state(family_inputs: Path, tmp_path: Path) -> None:
    whole = job_of(family_inputs, tmp_path / "whole", updates=4, optimizer="adamw8bit", **{**BARE, "save_every": 2})
    expected = result(whole)
    (whole.state / "update-00000004.safetensors").unlink()
    assert result(whole) == expected
    assert [row.update for row in expected[1]] == [0, 1, 2, 3]


ADAPTIVE = {"updates": 3, "batch_size": 8, "micro_batch_size": 2, "virtual_ranks": 2, **BARE}


def test_adaptive_weights_follow_the_losses_of_applied_updates_in_order(cascade_inputs: Path, tmp_path: Path) -> None:
    """The first update has weights of 1; the next has those of a table that took in every micro-batch, one after the other."""
    trainer = trainer_of(cascade_inputs, tmp_path / "run", **ADAPTIVE)
    state, expected = trainer.first_state(), family("cascade").loss_weights(trainer.model, trainer.settings, torch.device("cpu"))
    for update in (0, 1):
        batches = [trainer.examples.batch(entries, 0) for rank in trainer.order.update(update) for entries in rank]
        assert len(batches) == 4
        losses = [trainer.family.losses(trainer.model, batch, trainer.settings).detach() for batch in batches]
        weights = [expected.of(batch.timesteps) for batch in batches]
        assert all(torch.equal(weight, torch.ones(len(weight))) for weight in weights) == (update == 0)
        trainer.update(state, StopRequest())
        mean = sum(float((weight * loss).sum()) for weight, loss in zip(weights, losses, strict=True)) / 8
        assert state.history[-1].loss == pytest.approx(mean, rel=1e-6), "the weighted one"
        for batch, loss in zip(batches, losses, strict=True):
            expected.follow(batch.timesteps, loss)
        assert torch.equal(trainer.loss_weights.state, expected.state)


def test_a_run_with_adaptive_weights_goes_on_from_its_saved_table(cascade_inputs: Path, tmp_path: Path) -> None:
    whole = job_of(cascade_inputs, tmp_path / "whole", **ADAPTIVE | {"save_every": 1})
    expected = result(whole)
    (whole.state / "update-00000003.safetensors").unlink()
    saved = load_file(whole.state / "update-00000002.safetensors")
    assert result(whole) == expected
    # The comparison can fail: with another table the last update has another loss.
    (whole.state / "update-00000003.safetensors").unlink()
    write_tensors(whole.state / "update-00000002.safetensors", saved | {"loss weights": saved["loss weights"] * 2})
    assert result(whole)[1][2].loss == pytest.approx(expected[1][2].loss / 2)


def test_an_update_that_is_given_up_leaves_the_table_as_it_was(cascade_inputs: Path, tmp_path: Path) -> None:
    """Asked to stop, or after a gradient that is not finite."""
    trainer = trainer_of(cascade_inputs, tmp_path / "run", **ADAPTIVE)
    before, stop = trainer.loss_weights.state.clone(), StopRequest()
    stop.signal = 15
    assert trainer.update(trainer.first_state(), stop)
    break_gradients(trainer)
    with pytest.raises(StageError, match="the gradient's norm is"):
        trainer.update(trainer.first_state(), StopRequest())
    assert torch.equal(trainer.loss_weights.state, before)


def test_each_saved_state_is_noted_with_the_updates_of_this_process(
    family_inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line, of the end, repeats the last state's."""
    job = job_of(family_inputs, tmp_path / "run", updates=3, **{**BARE, "save_every": 2})

    def noted(name: str) -> list[int]:
        monkeypatch.setenv("COST_LOG", str(tmp_path / name))
        with measured("train", "small", "0", "updates", 1) as cost:
            run_updates(job, ALONE, StopRequest(), cost)
        return [json.loads(line)["done"] for line in (tmp_path / name).read_text().splitlines()]

    assert noted("whole") == [2, 3, 3]
    (job.state / "update-00000003.safetensors").unlink()
    assert noted("continued") == [1, 1]
    assert noted("nothing left to do") == [0]


@pytest.mark.parametrize("te_lr", [0.0, pytest.param(0.0005, marks=pytest.mark.slow)])
def test_what_must_not_reach_a_byte_does_not(family_inputs: Path, tmp_path: Path, te_lr: float) -> None:
    settings = {"te_lr": te_lr, "updates": 3, "batch_size": 4, "micro_batch_size": 1, "warmup_updates": 0}
    plain = {"gradient_checkpointing": False, "text_cache_megabytes": 0}
    bare = job_of(family_inputs, tmp_path / "bare", runtime=plain, **BARE | settings)
    other = {"gradient_checkpointing": True, "text_cache_megabytes": 100}
    busy = job_of(family_inputs, tmp_path / "busy", runtime=other, **settings)
    busy = dataclasses.replace(busy, curves=tmp_path / "curves")
    assert result(bare) == result(busy)
    assert list((tmp_path / "curves").iterdir())


def test_rank_0_alone_holds_what_only_draws(cascade_inputs: Path, tmp_path: Path) -> None:
    job = job_of(cascade_inputs, tmp_path / "run", virtual_ranks=2, batch_size=2, micro_batch_size=1)
    assert job.params.train.pictures
    assert [Trainer(job, Ranks(rank, 2)).model.decoder is not None for rank in (0, 1)] == [True, False]
    assert trainer_of(cascade_inputs, tmp_path / "without").model.decoder is None


def test_epochs_are_counted_in_their_updates(family_inputs: Path, tmp_path: Path) -> None:
    """19 images, 10 micro-batches: two updates of the four virtual ranks and a short one."""
    trainer = trainer_of(family_inputs, tmp_path / "run", updates=None, epochs=2)
    assert trainer.updates == 6
    shown = [entry for update in range(3) for rank in trainer.order.update(update) for batch in rank for entry in batch]
    assert sorted(shown) == list(range(19))


def test_frozen_text_encoders_are_not_trained(family_inputs: Path, tmp_path: Path) -> None:
    trainer = trainer_of(family_inputs, tmp_path / "run", te_lr=0.0)
    assert trainer.weights() and not [name for name in trainer.weights() if "_te" in name]


SHORT = {"batch_size": 4, "micro_batch_size": 1}


@pytest.fixture(scope="module")
def spoilt(training_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Inputs of which one image's latents are not numbers, and its post: one of the first update."""
    folder = tmp_path_factory.mktemp("spoilt")
    clean = trainer_of(training_inputs, folder / "clean", **SHORT)
    post = clean.examples.post_ids([entry for rank in clean.order.update(0) for batch in rank for entry in batch])[2]
    (folder / "base").symlink_to(training_inputs / "base")
    write_latents(folder / "latents", training_inputs / "base", nan_post=post)
    write_captions(folder / "captions", folder / "latents")
    return folder, post


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_loss_that_is_not_finite_stops_before_anything_changes(
    spoilt: tuple[Path, int], tmp_path: Path, precision: str
) -> None:
    """Under fp16 too: the loss is the same at every scale."""
    inputs, post = spoilt
    trainer = trainer_of(inputs, tmp_path / "run", precision=precision, **SHORT)
    before, state = trainer.flat.weights.clone(), trainer.first_state()
    with pytest.raises(StageError, match=rf"^update 0: the loss of post {post} is not finite; lower lr or te_lr"):
        trainer.update(state, StopRequest())
    assert torch.equal(trainer.flat.weights, before)
    assert state == trainer.first_state()


def break_gradients(trainer: Trainer) -> None:
    """Every backward pass overflows in one layer."""
    unet = trainer.family.modules_of(trainer.model)[list(trainer.family.GROUPS)[-1]]
    layer = next(module for module in unet.modules() if getattr(module, "w2", None) is not None)
    (layer.w2 if layer.folded is None else layer.folded).register_hook(lambda gradient: gradient * math.inf)


def test_a_gradient_that_is_not_finite_stops_with_its_loss_and_posts(training_inputs: Path, tmp_path: Path) -> None:
    trainer = trainer_of(training_inputs, tmp_path / "run", **SHORT)
    before, state = trainer.flat.weights.clone(), trainer.first_state()
    loss = float(trainer.gradient(0, 1.0, StopRequest())[1][0].mean())
    break_gradients(trainer)
    posts = trainer.examples.post_ids([e for rank in trainer.order.update(0) for batch in rank for e in batch])
    with pytest.raises(StageError, match=r"^update 0: the gradient's norm is (nan|inf) though the loss is ") as caught:
        trainer.update(state, StopRequest())
    assert f"the loss is {loss:.6g} (posts {', '.join(map(str, posts))})" in str(caught.value)
    assert torch.equal(trainer.flat.weights, before)
    assert state == RunState()


# One image an update: CPUs are slow in fp16. Noise of this offset makes gradients that fp16 holds at small loss scales only.
SINGLE = {"precision": "fp16", "virtual_ranks": 1, "batch_size": 1, "micro_batch_size": 1}
OVERFLOWING = {**BARE, **SINGLE, "noise_offset": 150.0, "updates": 6}


def test_an_fp16_overflow_skips_the_update_and_halves_the_scale(
    training_inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = job_of(training_inputs, tmp_path / "run", **OVERFLOWING | {"warmup_updates": 6, "optimizer": "adamw"})
    trainer = Trainer(job, ALONE)
    before = trainer.flat.weights.clone()
    state = trainer.first_state()
    trainer.update(state, StopRequest())
    (row,) = state.history
    assert (row.update, row.grad_norm, state.applied, state.scale.value) == (0, None, 0, 2.0**15)
    assert math.isfinite(row.loss)
    assert torch.equal(trainer.flat.weights, before) and not any(t.any() for t in trainer.optimizer.state.values())
    _, history = run_updates(job, ALONE, StopRequest())
    skipped = [row for row in history if row.grad_norm is None]
    applied = [row for row in history if row.grad_norm is not None]
    assert skipped and len(applied) > 1 and len(history) == 6
    rate = job.params.lr
    assert [row.lr for row in applied] == [pytest.approx(rate * i / 6) for i in range(len(applied))]
    said = [line for line in capfd.readouterr().err.splitlines() if "skipped" in line]
    assert said[0] == "train: update 0 skipped: its fp16 gradient overflowed; the loss scale is now 32768"
    assert len(said) == len(skipped)


def test_a_skipped_update_does_not_count_for_the_optimizer(training_inputs: Path, tmp_path: Path) -> None:
    """AdamW's first step from zero moments is the rate itself for every number, its second one would be 0.74 of it."""
    trainer = trainer_of(training_inputs, tmp_path / "run", **OVERFLOWING | {"optimizer": "adamw"})
    state = trainer.first_state()
    while not state.applied:
        trainer.update(state, StopRequest())
    assert len(state.history) > 1
    moved = [tensor for name, tensor in trainer.weights().items() if name.startswith("lora_unet") and name.endswith("lokr_w2")]
    assert max(float(tensor.abs().max()) for tensor in moved) == pytest.approx(trainer.params.lr, rel=1e-3)


def test_the_loss_scale_is_part_of_the_state(training_inputs: Path, tmp_path: Path) -> None:
    job = job_of(training_inputs, tmp_path / "run", **OVERFLOWING)
    expected = result(job)
    assert expected[1][0].grad_norm is None and expected[1][5].grad_norm is not None
    (job.state / "update-00000006.safetensors").unlink()
    assert result(job) == expected


def test_a_gradient_that_overflows_at_every_scale_stops(training_inputs: Path, tmp_path: Path) -> None:
    trainer = trainer_of(training_inputs, tmp_path / "run", **SINGLE)
    break_gradients(trainer)
    state = RunState(scale=LossScale(2.0))
    assert not trainer.update(state, StopRequest())
    assert (len(state.history), state.applied, state.scale.value) == (1, 0, 1.0)
    with pytest.raises(StageError, match=r"^update 1: the fp16 gradient is not finite at any loss scale down to 1;"):
        trainer.update(state, StopRequest())
    assert (len(state.history), state.applied) == (1, 0)
