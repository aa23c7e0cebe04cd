"""Gradient checkpointing: the backward pass computes each block's activations again instead of keeping them.

The same operations on the same numbers give the same bits, so that memory is all it changes.
"""

from families.sdxl import Sdxl


def checkpoint_gradients(model: Sdxl) -> None:
    model.unet.enable_gradient_checkpointing()
    for encoder in (model.text_encoder, model.text_encoder_2):
        encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # transformers checkpoints in training mode only; CLIP's dropout rates are 0, so that nothing else changes with it.
        encoder.train()
