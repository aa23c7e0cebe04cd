"""lycoris-lora's own LoKr network on an SDXL model, as kohya's trainer makes it: the peer of the training benchmarks."""

import logging

import torch


def attach_lycoris(model, lokr, device: str = "cpu") -> dict[str, list[tuple[str, torch.nn.Parameter]]]:
    """Put a full-matrix LoKr network with the recipe's factors on the UNet and both text encoders.

    Args:
        model: families.sdxl.Sdxl; lokr: repro.params.Lokr, its classes only.

    Returns:
        The trained parameters by group.
    """
    from lycoris.kohya import LycorisNetworkKohya

    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    factors = {
        "Attention": lokr.unet_attention, "FeedForward": lokr.unet_feed_forward, "ResnetBlock2D": lokr.unet_resnet,
        "Downsample2D": lokr.unet_resnet, "Upsample2D": lokr.unet_resnet, "Transformer2DModel": lokr.unet_projection,
        "CLIPAttention": lokr.text_attention, "CLIPMLP": lokr.text_mlp,
    }  # fmt: skip
    LycorisNetworkKohya.apply_preset(
        {
            "enable_conv": True,
            "unet_target_module": ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"],
            "unet_target_name": [],
            "text_encoder_target_module": ["CLIPAttention", "CLIPMLP"],
            "text_encoder_target_name": [],
            "module_algo_map": {name: {"algo": "lokr", "factor": factor} for name, factor in factors.items()},
            "name_algo_map": {},
        }
    )
    encoders = [model.text_encoder, model.text_encoder_2]
    network = LycorisNetworkKohya(encoders, model.unet, network_module="lokr", full_matrix=True, warn_on_unmatched=False)
    network.apply_to(encoders, model.unet, True, True)
    if device != "cpu":
        network.to(device)
    modules = {"text": network.text_encoder_loras, "unet": network.unet_loras}
    return {
        group: [(f"{m.lora_name}.{part}", getattr(m, part)) for m in found for part in ("lokr_w1", "lokr_w2")]
        for group, found in modules.items()
    }
