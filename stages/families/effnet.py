"""The image encoder of Stable Cascade: EfficientNet-V2-S's features and a mapper to the latents of stage C.

The network is that of Tan and Le 2021 (arXiv:2104.00298, table 4) as torchvision builds it (`efficientnet_v2_s().features`,
batch norm eps 1e-3), and Stable Cascade's 1x1 convolution and batch norm without weights on it. Modules stand where
torchvision's do, so that tensors have the names of Stability AI's effnet_encoder.safetensors: backbone.<stage>... and mapper...
It is made for encoding: torchvision's stochastic depth, which acts in training alone, is not there.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, Self

from repro.errors import StageError
from repro.outputs import write_json
from repro.tensorfile import write_tensors

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

CONFIG, WEIGHTS = "config.json", "model.safetensors"
BACKBONE_EPS = 1e-3
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# How many batches a norm has seen: no use when encoding, and some files leave it out.
BATCH_COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class EffnetStage:
    """`layers` blocks of `channels`, the first of which strides.

    `fused`: a 3x3 convolution in place of the 1x1 and the depthwise one; without it the block squeezes and excites.
    `expand`: inner channels as a multiple of the block's input.
    """

    block: Literal["fused", "depthwise"]
    expand: int
    stride: int
    channels: int
    layers: int


@dataclass(frozen=True)
class EffnetConfig:
    """Widths and depths; the default is EfficientNet-V2-S with Stable Cascade's 16 latent channels."""

    stem_channels: int = 24
    stages: tuple[EffnetStage, ...] = (
        EffnetStage("fused", 1, 1, 24, 2),
        EffnetStage("fused", 4, 2, 48, 4),
        EffnetStage("fused", 4, 2, 64, 4),
        EffnetStage("depthwise", 4, 2, 128, 6),
        EffnetStage("depthwise", 6, 1, 160, 9),
        EffnetStage("depthwise", 6, 2, 256, 15),
    )
    head_channels: int = 1280
    latent_channels: int = 16

    @property
    def stride(self) -> int:
        """Pixels a side of one latent cell."""
        stride = 2
        for stage in self.stages:
            stride *= stage.stride
        return stride

    def as_json(self) -> dict:
        return {"_class_name": "EfficientNetEncoder"} | asdict(self)

    @classmethod
    def from_json(cls, values: dict) -> Self:
        """Raises:
        ValueError: a key is missing or unknown, or a value is none that a network can have."""
        values = {key: value for key, value in values.items() if key != "_class_name"}
        _refuse_other_keys(values, cls)
        for stage in values["stages"]:
            _refuse_other_keys(stage, EffnetStage)
        config = cls(**values | {"stages": tuple(EffnetStage(**stage) for stage in values["stages"])})
        numbers = {"stem_channels": config.stem_channels, "head_channels": config.head_channels}
        numbers |= {"latent_channels": config.latent_channels}
        for place, stage in enumerate(config.stages):
            if stage.block not in ("fused", "depthwise"):
                raise ValueError(f"stages.{place}.block is {stage.block!r}, expected fused or depthwise")
            if stage.stride not in (1, 2):
                raise ValueError(f"stages.{place}.stride is {stage.stride!r}, expected 1 or 2")
            numbers |= {f"stages.{place}.{key}": getattr(stage, key) for key in ("expand", "channels", "layers")}
        for key, number in numbers.items():
            if not isinstance(number, int) or number < 1:
                raise ValueError(f"{key} is {number!r}, expected a whole number above 0")
        return config


def _refuse_other_keys(values: dict, kind: type) -> None:
    expected, found = {field.name for field in fields(kind)}, set(values)
    if lacking := sorted(expected - found):
        raise ValueError(f"key '{lacking[0]}' is missing")
    if unknown := sorted(found - expected):
        raise ValueError(f"unknown key '{unknown[0]}'")


def _convolution(before: int, after: int, kernel: int, *, stride: int = 1, groups: int = 1, active: bool = True) -> nn.Sequential:
    parts = [
        nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(after, eps=BACKBONE_EPS),
    ]
    return nn.Sequential(*parts, nn.SiLU()) if active else nn.Sequential(*parts)


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in 0..1 made of all channels' means (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.fc2(nn.functional.silu(self.fc1(x.mean(dim=(2, 3), keepdim=True))))
        return x * gate.sigmoid()


class Block(nn.Module):
    """One block of a stage: expand, convolve, (squeeze and excite,) project; added to its input where shapes allow."""

    def __init__(self, stage: EffnetStage, before: int, stride: int):
        super().__init__()
        after, inner = stage.channels, before * stage.expand
        self.adds_input = stride == 1 and before == after
        if stage.block == "depthwise":
            expansion = [_convolution(before, inner, 1)] if inner != before else []
            depthwise = _convolution(inner, inner, 3, stride=stride, groups=inner)
            gate = SqueezeExcitation(inner, max(1, before // 4))
            parts = [*expansion, depthwise, gate, _convolution(inner, after, 1, active=False)]
        elif inner != before:
            parts = [_convolution(before, inner, 3, stride=stride), _convolution(inner, after, 1, active=False)]
        else:
            parts = [_convolution(before, after, 3, stride=stride)]
        self.block = nn.Sequential(*parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x) if self.adds_input else self.block(x)


def _blocks(stage: EffnetStage, before: int) -> nn.Sequential:
    first = Block(stage, before, stage.stride)
    return nn.Sequential(first, *(Block(stage, stage.channels, 1) for _ in range(stage.layers - 1)))


class EfficientNetEncoder(nn.Module):
    """Normalised pictures [n, 3, h, w] to latents [n, latent_channels, h / stride, w / stride], which are about standard
    normal and of no scale of their own."""

    def __init__(self, config: EffnetConfig):
        super().__init__()
        self.config = config
        parts, channels = [_convolution(3, config.stem_channels, 3, stride=2)], config.stem_channels
        for stage in config.stages:
            parts.append(_blocks(stage, channels))
            channels = stage.channels
        self.backbone = nn.Sequential(*parts, _convolution(channels, config.head_channels, 1))
        self.mapper = nn.Sequential(
            nn.Conv2d(config.head_channels, config.latent_channels, 1, bias=False),
            nn.BatchNorm2d(config.latent_channels, affine=False),
        )

    @property
    def device(self) -> torch.device:
        return self.mapper[0].weight.device

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.mapper(self.backbone(pictures))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [..., h, w, 3] -> float32 [..., 3, h, w]: values in 0..1, less ImageNet's mean, over its deviation."""
    mean, deviation = (torch.tensor(values, device=pixels.device) for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return ((pixels.float() / 255.0 - mean) / deviation).movedim(-1, -3)


def read_effnet_config(folder: Path) -> EffnetConfig:
    """Raises:
    StageError: the folder's config.json is missing or describes no such encoder."""
    path = Path(folder) / CONFIG
    try:
        return EffnetConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError:
        raise StageError(f"{path}: missing; expected the image encoder of a Stable Cascade folder") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise StageError(f"{path}: not an EfficientNet encoder's config: {error}") from None


def load_effnet(folder: Path, device: str | torch.device = "cpu") -> EfficientNetEncoder:
    """The encoder in `folder` (config.json, model.safetensors), float32, for encoding.

    Raises:
        StageError: a file is missing or broken, a tensor is missing, unknown or of another shape, or a weight is not finite.
    """
    path, encoder = Path(folder) / WEIGHTS, EfficientNetEncoder(read_effnet_config(folder))
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise StageError(f"{path}: missing, or not a safetensors file ({error})") from None
    expected = encoder.state_dict()
    for name in [*(n for n in expected if not n.endswith(BATCH_COUNT)), *sorted(found)]:
        shapes = [list(tensors[name].shape) if name in tensors else "no such tensor" for tensors in (expected, found)]
        if shapes[0] != shapes[1]:
            raise StageError(f"{path}: tensor {name}: expected {shapes[0]} by {CONFIG}, found {shapes[1]}")
        if not bool(torch.isfinite(found[name]).all()):
            raise StageError(f"{path}: weight {name} is not finite (NaN or infinite); use another image encoder")
    encoder.load_state_dict(found, strict=False)
    return encoder.eval().requires_grad_(False).to(device)


def write_effnet(folder: Path, encoder: EfficientNetEncoder) -> None:
    """Write the folder that `load_effnet` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, encoder.config.as_json())
    write_tensors(folder / WEIGHTS, encoder.state_dict())
