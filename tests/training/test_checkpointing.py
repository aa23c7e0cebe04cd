"""Gradient checkpointing: every block is computed again in the backward pass, and gives the same bits."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_training import job_of

from training.checkpointing import checkpoint_gradients
from training.loop import Trainer
from training.ranks import Ranks
from training.stopping import StopRequest

BLOCKS = ("BasicTransformerBlock", "CLIPEncoderLayer", "ResnetBlock2D")
SHORT = {"batch_size": 4, "micro_batch_size": 1, "checkpoints": None, "pictures": None}


def counted(trainer: Trainer) -> Counter[str]:
    """Counts from now on how often blocks of each class are begun: computed again, one ends with what is still needed of it."""
    calls: Counter[str] = Counter()
    for part in (trainer.model.unet, trainer.model.text_encoder, trainer.model.text_encoder_2):
        for block in part.modules():
            if (name := type(block).__name__) in BLOCKS:
                block.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    return calls


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_blocks_are_computed_twice_and_the_gradient_is_the_same(training_inputs: Path, tmp_path: Path, precision: str) -> None:
    trainer = Trainer(job_of(training_inputs, tmp_path / "run", precision=precision, **SHORT), Ranks(0, 1))
    calls = counted(trainer)
    kept, kept_losses, _ = trainer.gradient(0, 1.0, StopRequest())
    once = dict(calls)
    checkpoint_gradients(trainer.model)
    calls.clear()
    computed_again, losses, _ = trainer.gradient(0, 1.0, StopRequest())
    assert set(once) == set(BLOCKS)
    # For each of the four images one layer's result is not used, and one block's input needs no gradient.
    assert all(2 * count - 4 <= calls[name] <= 2 * count for name, count in once.items())
    assert kept.abs().max() > 0
    assert torch.equal(computed_again, kept) and torch.equal(losses, kept_losses)
