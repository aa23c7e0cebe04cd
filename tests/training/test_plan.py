"""What a dry run tells: steps, buckets, trained numbers, memory of each width."""

import re
from pathlib import Path

from repro.errors import StageError
from repro.params import load_params

import pytest
from safetensors.torch import load_file
from tiny_training import family_values, write_captions, write_params

from training.order import updates_per_epoch
from training.plan import plan_text


@pytest.fixture(scope="module")
def full_plan(training_inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """All weights of the UNet for two epochs, where post 1007 is shown three times."""
    folder = tmp_path_factory.mktemp("plan")
    captions = write_captions(folder / "captions", training_inputs / "latents", repeats={1007: 3})
    params = load_params(write_params(folder / "p.yaml", te_lr=0.0, method="full", updates=None, epochs=2))
    return plan_text(params, training_inputs / "latents", captions, training_inputs / "base")


def test_a_plan_of_stable_cascade(cascade_inputs: Path, tmp_path: Path) -> None:
    """Its inputs are read and its memory counted as SDXL's; what is trained is stage C and its text encoder."""
    params = load_params(write_params(tmp_path / "p.yaml", family="cascade", method="full"))
    plan = plan_text(params, *(cascade_inputs / part for part in ("latents", "captions", "base")))
    weights = sum(
        tensor.numel()
        for part, file in (("prior", "diffusion_pytorch_model"), ("text_encoder", "model"))
        for name, tensor in load_file(cascade_inputs / "base" / part / f"{file}.safetensors").items()
        if not name.endswith("position_ids")
    )
    assert f"trains      all {weights:,} weights of text_encoder and prior\n" in plan
    assert "images      19, shown 19 times in an epoch, in 2 buckets" in plan
    gibibytes = [float(size) for size in re.findall(r"([\d.]+) GiB in ", plan)]
    assert len(gibibytes) == 3 and min(gibibytes) > 0


def test_a_plan_refuses_pictures_that_the_model_cannot_draw(cascade_inputs: Path, tmp_path: Path) -> None:
    values = family_values("cascade")["train"]["pictures"] | {"width": 80}
    params = load_params(write_params(tmp_path / "p.yaml", family="cascade", pictures=values))
    with pytest.raises(StageError, match=r"^width 80: .* choose 72 or 96$"):
        plan_text(params, *(cascade_inputs / part for part in ("latents", "captions", "base")))


def test_it_counts_what_an_epoch_shows(full_plan: str) -> None:
    assert "images      19, shown 21 times in an epoch, in 2 buckets" in full_plan
    assert re.search(r"48 x 80 +6 images in +3 micro-batches\n", full_plan)
    assert re.search(r"64 x 64 +15 images in +8 micro-batches, the last of 1\n", full_plan)
    assert "update      8 images: 4 virtual ranks x 1 micro-batches x 2 images" in full_plan
    per_epoch = updates_per_epoch([(48, 80)] * 6 + [(64, 64)] * 15, 2, 4)
    assert f"steps       {per_epoch} updates an epoch, {2 * per_epoch} in all (2.00 epochs)" in full_plan


def test_it_counts_all_weights_of_what_is_trained(full_plan: str, training_inputs: Path) -> None:
    unet = load_file(training_inputs / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    assert f"trains      all {sum(tensor.numel() for tensor in unet.values()):,} weights of unet\n" in full_plan


def test_it_tells_the_memory_of_every_width_at_the_largest_bucket(full_plan: str) -> None:
    assert "64 x 64" in full_plan[full_plan.index("memory") :]
    gibibytes = re.findall(r"([\d.]+) GiB in (the process|each of (\d+) processes)", full_plan)
    assert [width for _, _, width in gibibytes] == ["", "2", "4"]
    sizes = [float(size) for size, _, _ in gibibytes]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] > 0
