"""What every family's module answers to the stages, on small models of each."""

from collections import Counter
from pathlib import Path
from typing import get_args

from repro.errors import StageError
from repro.params import FamilyName, Lokr

import pytest
import torch
from tiny_training import BUCKETS, STRIDES, family_of, job_of

from families.family import Family, family, refuse_not_finite
from latents.vae_identity import ENCODER_FOLDERS
from training.loop import Trainer
from training.ranks import Ranks
from training.stopping import StopRequest

SHORT = {"batch_size": 4, "micro_batch_size": 1, "checkpoints": None, "pictures": None}
# Blocks of the trained components that the backward pass computes again.
BLOCKS = {
    "sdxl": {"BasicTransformerBlock", "CLIPEncoderLayer", "ResnetBlock2D"},
    "cascade": {"CLIPEncoderLayer", "SDCascadeAttnBlock", "SDCascadeResBlock", "SDCascadeTimestepBlock"},
}


@pytest.mark.parametrize("name", get_args(FamilyName))
def test_a_family_answers_everything(name: FamilyName) -> None:
    of = family(name)
    asked = [member for member in (*Family.__annotations__, *vars(Family)) if not member.startswith("_")]
    assert len(asked) > 10 and [member for member in asked if not hasattr(of, member)] == []
    assert set(of.LOKR_CLASSES.values()) <= set(Lokr.model_fields)
    groups = list(of.GROUPS.values())
    assert groups == sorted(groups, key=("text", "unet").index) and groups.count("unet") == 1


def test_empty_modules_have_the_shapes_of_the_loaded_ones(family_inputs: Path) -> None:
    of, base = family(family_of(family_inputs / "base")), family_inputs / "base"
    with torch.device("meta"):
        empty = of.empty_modules(base)
    loaded = of.modules_of(of.load(base))
    assert set(empty) == set(loaded) == {*of.GROUPS, ENCODER_FOLDERS[family_of(base)]}
    for part, module in loaded.items():
        shapes = {name: tensor.shape for name, tensor in empty[part].state_dict().items()}
        assert shapes == {name: tensor.shape for name, tensor in module.state_dict().items()}
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert of.latent_scale(empty) == of.latent_scale(loaded)
    stride = STRIDES[family_of(base)]
    for width, height in BUCKETS:
        assert of.latent_shape(loaded, (width, height)) == (4, height // stride, width // stride)


def counted(trainer: Trainer, blocks: set[str]) -> Counter[str]:
    """Counts from now on how often blocks of each class are begun: computed again, one ends with what is still needed of it."""
    calls: Counter[str] = Counter()
    modules = trainer.family.modules_of(trainer.model)
    for part in trainer.family.GROUPS:
        for block in modules[part].modules():
            if (name := type(block).__name__) in blocks:
                block.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    return calls


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_blocks_are_computed_twice_and_the_gradient_is_the_same(family_inputs: Path, tmp_path: Path, precision: str) -> None:
    trainer = Trainer(job_of(family_inputs, tmp_path / "run", precision=precision, **SHORT), Ranks(0, 1))
    blocks = BLOCKS[family_of(family_inputs / "base")]
    calls = counted(trainer, blocks)
    kept, kept_losses, _ = trainer.gradient(0, 1.0, StopRequest())
    once = dict(calls)
    trainer.family.checkpoint_gradients(trainer.model)
    calls.clear()
    computed_again, losses, _ = trainer.gradient(0, 1.0, StopRequest())
    assert set(once) == blocks
    # For each of the four images one layer's result is not used, and one block's input needs no gradient.
    assert all(2 * count - 4 <= calls[name] <= 2 * count for name, count in once.items())
    assert kept.abs().max() > 0
    assert torch.equal(computed_again, kept) and torch.equal(losses, kept_losses)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    refuse_not_finite(torch.ones(2), "sampling 'a'", "fp32")
    with pytest.raises(StageError, match=r"^sampling 'a' gave values that are not finite; the model's weights are broken$"):
        refuse_not_finite(torch.tensor([1.0, value]), "sampling 'a'", "fp32")
    with pytest.raises(StageError, match=r"broken, or beyond the range of fp16$"):
        refuse_not_finite(torch.tensor([1.0, value]), "sampling 'a'", "fp16")
