"""The memory estimate: SDXL itself with and without checkpointing, and what a real update of the small model allocates."""

from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from repro.params import Params

import pytest
import torch
from tiny_training import job_of, sample_values

from families.cascade_decoder import load_decoder
from planning.sdxl_architecture import write_real_sdxl_configs
from training.loop import Trainer
from training.memory import Memory, update_memory
from training.plan import GIB
from training.ranks import Ranks
from training.stopping import StopRequest

BARE = {"checkpoints": None, "pictures": None, "virtual_ranks": 1}
FACTOR_4 = dict.fromkeys(
    ("unet_attention", "unet_feed_forward", "unet_resnet", "unet_projection", "text_attention", "text_mlp"), 4
)


@pytest.fixture(scope="module")
def sdxl(training_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_real_sdxl_configs(tmp_path_factory.mktemp("sdxl") / "base", training_inputs / "base")


def params_of(checkpointing: bool = False, **train: Any) -> Params:
    values = sample_values()
    values["train"].update(BARE | train)
    values["runtime"]["gradient_checkpointing"] = checkpointing
    return Params.model_validate(values)


@pytest.mark.slow
def test_checkpointing_brings_sdxl_at_micro_batch_4_below_22_gib(sdxl: Path) -> None:
    """LoKr of factor 4 with both text encoders, bf16, 1024x1024: the goal for cards of 24 GB."""

    def memory(checkpointing: bool) -> Memory:
        settings = {"precision": "bf16", "batch_size": 4, "micro_batch_size": 4, "lokr": FACTOR_4 | {"by_name": {}}}
        return update_memory(params_of(checkpointing, **settings), sdxl, (1024, 1024), 4)

    with_it, without = memory(True), memory(False)
    assert with_it.resident == without.resident
    # 2.6e9 weights of the UNet and 0.8e9 of the text encoders in two bytes each are there whatever is trained.
    assert 6 * GIB < with_it.resident < with_it.of_process(1, 1) < 22 * GIB
    assert without.of_process(1, 1) > 30 * GIB


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_is_what_a_real_update_allocates(family_inputs: Path, tmp_path: Path, checkpointing: bool) -> None:
    """Within a tenth, of what torch's CPU allocator hands out beyond what is there between updates."""
    settings = BARE | {"batch_size": 6, "micro_batch_size": 6, "runtime": {"gradient_checkpointing": checkpointing}}
    trainer = Trainer(job_of(family_inputs, tmp_path / "run", **settings), Ranks(0, 1))
    first = next(update for update in range(9) if len(trainer.order.update(update)[0][0]) == 6)
    (((entry, *_),),) = trainer.order.update(first)
    bucket = trainer.examples.buckets()[entry]
    trainer.gradient(first, 1.0, StopRequest())  # what an update before this one leaves counts too
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        trainer.gradient(first, 1.0, StopRequest())
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    allocated = max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    estimate = update_memory(trainer.params, family_inputs / "base", bucket, 6)
    assert estimate.peak - estimate.resident == pytest.approx(allocated, rel=0.1)


def test_stable_cascades_decoder_counts_where_pictures_are_drawn(cascade_inputs: Path, tmp_path: Path) -> None:
    base = cascade_inputs / "base"
    with_it, without = (
        update_memory(job_of(cascade_inputs, tmp_path / name, **changes).params, base, (64, 64), 2)
        for name, changes in (("with", {}), ("without", {"pictures": None}))
    )
    decoder = load_decoder(base / "decoder")
    assert with_it.drawing == sum(tensor.nbytes for module in decoder.modules() for tensor in module.state_dict().values())
    assert replace(with_it, drawing=0) == without


def test_more_processes_share_the_optimizer_and_hold_fewer_sums() -> None:
    memory = Memory(resident=100, peak=200, gradient=10, optimizer=40, whole_gradient=False, drawing=0)
    assert [memory.of_process(4, processes) for processes in (1, 2, 4)] == [220, 190, 170]


def test_the_exchange_counts_where_it_takes_more_than_a_micro_batch() -> None:
    memory = Memory(resident=100, peak=115, gradient=10, optimizer=40, whole_gradient=False, drawing=0)
    assert [memory.of_process(1, 1), memory.of_process(2, 2)] == [115, 120 - 20]
    replicated = Memory(resident=100, peak=115, gradient=10, optimizer=0, whole_gradient=True, drawing=0)
    assert [replicated.of_process(1, 1), replicated.of_process(2, 2)] == [120, 130]


def test_a_picture_counts_where_it_takes_more_than_an_update() -> None:
    memory = Memory(resident=100, peak=200, gradient=10, optimizer=40, whole_gradient=False, drawing=90)
    assert memory.of_process(1, 1) == 200
    assert replace(memory, drawing=130).of_process(2, 2) == 230 - 20
