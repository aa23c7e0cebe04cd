"""make_sample_cascade.py refuses what it cannot make, and takes over all trained weights; making it is `make sample-models`."""

from pathlib import Path

from repro.errors import StageError
from repro.numerics import fix_torch
from repro.params import load_params

import pytest
import torch

from make_sample_base import trained_tensors
from make_sample_cascade import main
from sample.cascade_architecture import make_effnet, make_stage_a, make_stage_b, make_stage_c
from sample.cascade_model import write_decoder, write_image_encoder, write_start
from training.weight_file import write_weights

SAMPLE_BASE = Path("models/sample-base")
RECIPE = ("--params", "recipes/sample-cascade-base.yaml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--params", "recipes/sample-base.yaml"), "family sdxl, train.method full"),
        (("--params", "recipes/sample-cascade.yaml"), "train.method lokr; a Stable Cascade from nothing needs cascade and full"),
        ((*RECIPE, "--set", "train.updates=3"), "edit that"),
        ((*RECIPE, "--text-encoder", "tests"), "no text_encoder_2 in it"),
    ],
)
def test_refusals(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(StageError, match=words):
        main([*arguments, "--output", str(tmp_path / "base")])


def test_the_trained_tensors_come_back_from_their_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    """Stage C's attention stands in the single file as ComfyUI has it, queries, keys and values in one."""
    fix_torch()
    start, file = tmp_path / "start", tmp_path / "trained.safetensors"
    write_image_encoder(tmp_path / "effnet", make_effnet(5).eval())
    write_decoder(tmp_path / "decoder", make_stage_b(5), make_stage_a(), SAMPLE_BASE)
    write_start(start, tmp_path / "effnet", tmp_path / "decoder", SAMPLE_BASE, 5)
    trained = {f"prior.{name}": tensor.detach() for name, tensor in make_stage_c(6).named_parameters()}
    write_weights(file, trained, load_params(Path("recipes/sample-cascade-base.yaml")), start)
    found = trained_tensors(file, start)
    assert all(torch.equal(found[name], tensor) for name, tensor in trained.items())
