"""What encodes a picture to latents: SDXL's VAE and Stable Cascade's EfficientNet, one picture a forward pass.

The batch size chooses convolution kernels and with them the last bits.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from repro.devices import at_precision
from repro.errors import StageError
from repro.params import FamilyName, Precision

import torch

from families.effnet import EfficientNetEncoder, load_effnet, normalised

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class PictureEncoder(Protocol):
    """`tensors`: names of what `encode` gives of a picture; `channels`: of each of them; `stride`: pixels a side of a latent."""

    tensors: tuple[str, ...]
    channels: int
    stride: int

    def encode(self, pixels: torch.Tensor, precision: Precision) -> tuple[torch.Tensor, ...]:
        """uint8 [height, width, 3] -> float32 [channels, height / stride, width / stride] of each name of `tensors`, on the
        CPU. The encoder runs on its own device in `precision`."""


class VaeEncoder:
    """SDXL's: mean and standard deviation of the posterior, unscaled."""

    tensors = ("mean", "std")

    def __init__(self, vae: "AutoencoderKL"):
        self._vae = vae
        self.channels: int = vae.config.latent_channels
        self.stride = 2 ** (len(vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor, precision: Precision = "fp32") -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation are taken from the VAE's output in float32."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        picture = pixels.permute(2, 0, 1).unsqueeze(0).float() / 127.5 - 1.0
        with at_precision(self._vae.device, precision):
            moments = self._vae.encode(picture.to(self._vae.device)).latent_dist.parameters
        distribution = DiagonalGaussianDistribution(moments.float())
        return distribution.mean[0].cpu(), distribution.std[0].cpu()


class EffnetEncoder:
    """Stable Cascade's: the latents, of which there is no distribution."""

    tensors = ("mean",)

    def __init__(self, effnet: EfficientNetEncoder):
        self._effnet = effnet
        self.channels, self.stride = effnet.config.latent_channels, effnet.config.stride

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor, precision: Precision = "fp32") -> tuple[torch.Tensor]:
        with at_precision(self._effnet.device, precision):
            latents = self._effnet(normalised(pixels).unsqueeze(0).to(self._effnet.device))
        return (latents[0].float().cpu(),)


def load_encoder(family: FamilyName, folder: Path, device: str | torch.device = "cpu") -> PictureEncoder:
    """The encoder of a family in its own `folder`, float32, for inference.

    Raises:
        StageError: not such a folder, or a weight is not finite.
    """
    encoder, load = {"sdxl": (VaeEncoder, _load_vae), "cascade": (EffnetEncoder, load_effnet)}[family]
    return encoder(load(folder, device))


def _load_vae(folder: Path, device: str | torch.device) -> "AutoencoderKL":
    from diffusers import AutoencoderKL  # late: it takes seconds, and workers that measure do without

    try:
        vae = AutoencoderKL.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise StageError(f"{folder}: not a diffusers AutoencoderKL ({str(error).splitlines()[0]})") from None
    for name, weight in vae.state_dict().items():
        if not bool(torch.isfinite(weight).all()):
            raise StageError(f"{folder}: weight {name} is not finite (NaN or infinite); use another base model")
    return vae.eval().requires_grad_(False).to(device)
