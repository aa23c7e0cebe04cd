"""lycoris-lora's own LoKr network on an SDXL model, as kohya's trainer makes it: the peer of the training benchmarks."""

import logging

import torch

Groups = dict[str, list[tuple[str, torch.nn.Parameter]]]


def attach_lycoris(model, lokr, device: str = "cpu", bypass: bool | None = None):
    """Put a full-matrix LoKr network with the recipe's factors on the UNet and both text encoders; returns the network.

    Args:
        model: families.sdxl.Sdxl; lokr: repro.params.Lokr, its classes only.
        bypass: lycoris-lora's `bypass_mode`; None is how it is shipped.
    """
    from lycoris.kohya import LycorisNetworkKohya

    from families.sdxl import LOKR_CLASSES

    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    factors = {name: {"algo": "lokr", "factor": getattr(lokr, setting)} for name, setting in LOKR_CLASSES.items()}
    LycorisNetworkKohya.apply_preset(
        {
            "enable_conv": True,
            "unet_target_module": ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"],
            "unet_target_name": [],
            "text_encoder_target_module": ["CLIPAttention", "CLIPMLP"],
            "text_encoder_target_name": [],
            "module_algo_map": factors,
            "name_algo_map": {},
        }
    )
    encoders = [model.text_encoder, model.text_encoder_2]
    options = {"network_module": "lokr", "full_matrix": True, "bypass_mode": bypass, "warn_on_unmatched": False}
    network = LycorisNetworkKohya(encoders, model.unet, **options)
    network.apply_to(encoders, model.unet, apply_text_encoder=True, apply_unet=True)
    if device != "cpu":
        network.to(device)
    return network


def trained_groups(network) -> Groups:
    """The network's trained parameters by group."""
    modules = {"text": network.text_encoder_loras, "unet": network.unet_loras}
    return {
        group: [(f"{m.lora_name}.{part}", getattr(m, part)) for m in found for part in ("lokr_w1", "lokr_w2")]
        for group, found in modules.items()
    }
