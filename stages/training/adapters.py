"""What is trained: LoKr modules of lycoris-lora on a frozen model, or the model's own weights.

Groups are `unet` (rate lr) and `text` (rate te_lr). A text rate of 0 leaves both text encoders as
they are.
"""

import logging
from collections.abc import Mapping

from repro.errors import StageError
from repro.numerics import fix_torch
from repro.params import Lokr, Params
from repro.randomness import seed_for

import torch

from families.sdxl import Sdxl

NamedParameters = list[tuple[str, torch.nn.Parameter]]


def _class_factors(lokr: Lokr) -> Mapping[str, dict[str, object]]:
    """LyCORIS' map from module class to settings; classes as they are called in diffusers and transformers."""
    factors = {
        "Attention": lokr.unet_attention,
        "FeedForward": lokr.unet_feed_forward,
        "ResnetBlock2D": lokr.unet_resnet,
        "Downsample2D": lokr.unet_resnet,
        "Upsample2D": lokr.unet_resnet,
        "Transformer2DModel": lokr.unet_projection,
        "CLIPAttention": lokr.text_attention,
        "CLIPMLP": lokr.text_mlp,
    }
    return {name: {"algo": "lokr", "factor": factor} for name, factor in factors.items()}


def attach_lokr(model: Sdxl, lokr: Lokr, seed: int, train_text: bool) -> torch.nn.Module:
    """A full-matrix LoKr network on the model's attention, feed-forward, convolution and projection
    layers, as lycoris-lora 4.1.3 makes it for kohya's trainer.

    The delta kron(w1, w2) starts at zero (w2 = 0). w1 is drawn anew from a generator keyed by the
    module's name, because LyCORIS draws from torch's global stream.
    """
    from lycoris.kohya import LycorisNetworkKohya

    logging.getLogger("LyCORIS").setLevel(logging.ERROR)

    LycorisNetworkKohya.apply_preset(
        {
            "enable_conv": True,
            "unet_target_module": ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"],
            "unet_target_name": [],
            "text_encoder_target_module": ["CLIPAttention", "CLIPMLP"],
            "text_encoder_target_name": [],
            "module_algo_map": _class_factors(lokr),
            "name_algo_map": {},
        }
    )
    text_encoders = [model.text_encoder, model.text_encoder_2] if train_text else []
    with torch.random.fork_rng(devices=[]):
        network = LycorisNetworkKohya(
            text_encoders, model.unet, network_module="lokr", full_matrix=True, bypass_mode=True, warn_on_unmatched=False
        )
    network.apply_to(text_encoders, model.unet, apply_text_encoder=train_text, apply_unet=True)
    for module in network.text_encoder_loras + network.unet_loras:
        draw = torch.Generator().manual_seed(seed_for(seed, "lokr w1", module.lora_name))
        with torch.no_grad():
            torch.nn.init.kaiming_uniform_(module.lokr_w1, a=5**0.5, generator=draw)
            module.lokr_w2.zero_()
    return network


def lokr_parameters(network: torch.nn.Module) -> dict[str, NamedParameters]:
    """The LoKr weights by group, under the names they have in the file."""

    def named(modules: list[torch.nn.Module]) -> NamedParameters:
        return [(f"{m.lora_name}.{part}", getattr(m, part)) for m in modules for part in ("lokr_w1", "lokr_w2")]

    return {"text": named(network.text_encoder_loras), "unet": named(network.unet_loras)}


def model_parameters(model: Sdxl, train_text: bool) -> dict[str, NamedParameters]:
    """All weights of the UNet and, if asked, of both text encoders, by group."""

    def named(part: str) -> NamedParameters:
        return [(f"{part}.{name}", parameter) for name, parameter in getattr(model, part).named_parameters()]

    text = named("text_encoder") + named("text_encoder_2") if train_text else []
    return {"text": text, "unet": named("unet")}


def trained_parameters(model: Sdxl, params: Params) -> dict[str, NamedParameters]:
    """What `train.method` trains, by group; a group that is not trained is absent."""
    fix_torch()
    train_text = params.te_lr > 0
    if params.train.method == "full":
        groups = model_parameters(model, train_text)
    else:
        groups = lokr_parameters(attach_lokr(model, params.train.lokr, params.seed, train_text))
    groups = {group: parameters for group, parameters in groups.items() if parameters}
    if "unet" not in groups:
        raise StageError(f"train.method {params.train.method}: found nothing to train in this UNet")
    return groups


def lokr_tensors(trained: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a LoKr file from the trained ones: with an alpha each, which readers must ignore
    where both matrices are full (it is 1, so that no precision turns it into infinity)."""
    alphas = {name.removesuffix("lokr_w1") + "alpha": torch.tensor(1.0) for name in trained if name.endswith("lokr_w1")}
    return {**{name: tensor.clone() for name, tensor in trained.items()}, **alphas}
