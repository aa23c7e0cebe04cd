"""Stable Cascade's image encoder: torchvision's names and numbers, folders, and what is refused."""

import hashlib
import json
from pathlib import Path

from repro.errors import StageError

import pytest
import torch
from safetensors.torch import load_file, save_file

from families.effnet import (
    CONFIG,
    WEIGHTS,
    EfficientNetEncoder,
    EffnetConfig,
    EffnetStage,
    load_effnet,
    normalised,
    read_effnet_config,
    write_effnet,
)

# Of "name [shape]" of the 780 tensors of torchvision 0.29's efficientnet_v2_s().features, a line each, in their order.
TORCHVISION_TENSORS = "10bbae85c31ae0789d9ed6d3516a3d9f06b3cc90e54f7bfb68c2a5e67201ac40"
SMALL = EffnetConfig(8, (EffnetStage("fused", 1, 1, 8, 2), EffnetStage("depthwise", 4, 2, 12, 2)), 16, 4)


def random_encoder(config: EffnetConfig, seed: int) -> EfficientNetEncoder:
    encoder = EfficientNetEncoder(config).eval()
    draw = torch.Generator().manual_seed(seed)
    for name, tensor in encoder.state_dict().items():
        if tensor.is_floating_point():
            values = torch.rand(tensor.shape, generator=draw)
            tensor.copy_(values + 0.5 if name.endswith("running_var") else values - 0.4)
    return encoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_effnet(tmp_path / "effnet", random_encoder(SMALL, 1))
    return tmp_path / "effnet"


def test_tensors_have_torchvisions_names_and_shapes() -> None:
    with torch.device("meta"):
        encoder = EfficientNetEncoder(EffnetConfig())
    tensors = encoder.backbone.state_dict()
    listed = "\n".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
    assert hashlib.sha256(listed.encode()).hexdigest() == TORCHVISION_TENSORS
    assert sum(weight.numel() for weight in encoder.backbone.parameters()) == 20_177_488
    statistics = [f"mapper.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
    assert [name for name in encoder.state_dict() if name.startswith("mapper")] == ["mapper.0.weight", *statistics]
    assert EffnetConfig().stride == 32


def test_a_block_is_what_the_paper_says() -> None:
    """Expand, depthwise, squeeze and excite, project and add, step by step from the tensors."""
    encoder = random_encoder(SMALL, 2)
    block, x = encoder.backbone[2][1], torch.randn(1, 12, 5, 6, generator=torch.Generator().manual_seed(3))
    tensors = block.state_dict()

    def norm(y: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance, weight, bias = (tensors[f"{name}.{part}"].view(1, -1, 1, 1) for part in PARTS)
        return (y - mean) / torch.sqrt(variance + 1e-3) * weight + bias

    silu, convolve = torch.nn.functional.silu, torch.nn.functional.conv2d
    y = silu(norm(convolve(x, tensors["block.0.0.weight"]), "block.0.1"))
    y = silu(norm(convolve(y, tensors["block.1.0.weight"], padding=1, groups=48), "block.1.1"))
    squeezed = silu(convolve(y.mean((2, 3), keepdim=True), tensors["block.2.fc1.weight"], tensors["block.2.fc1.bias"]))
    y = y * torch.sigmoid(convolve(squeezed, tensors["block.2.fc2.weight"], tensors["block.2.fc2.bias"]))
    expected = x + norm(convolve(y, tensors["block.3.0.weight"]), "block.3.1")
    assert squeezed.shape[1] == 3
    with torch.no_grad():
        assert torch.allclose(block(x), expected, rtol=1e-4, atol=1e-5)


PARTS = ("running_mean", "running_var", "weight", "bias")


def test_pictures_are_normalised_as_imagenets() -> None:
    pixels = torch.tensor([[[0, 128, 255]]], dtype=torch.uint8).expand(2, 4, 5, 3)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert normalised(pixels).shape == (2, 3, 4, 5)
    assert normalised(pixels)[1, :, 2, 3].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_written_encoder_is_read_again(folder: Path) -> None:
    encoder, before = load_effnet(folder), random_encoder(SMALL, 1)
    picture = normalised(torch.arange(24 * 32 * 3).remainder(256).view(1, 24, 32, 3).to(torch.uint8))
    latents = encoder(picture)
    assert encoder.config == SMALL == read_effnet_config(folder) and SMALL.stride == 4
    assert torch.equal(latents, before(picture).detach()) and latents.shape == (1, 4, 6, 8)
    assert not encoder.training and not latents.requires_grad


def test_weights_of_other_precision_and_without_counts_are_taken(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    halves = {name: tensor.half() for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    save_file(halves, folder / WEIGHTS)
    encoder = load_effnet(folder)
    assert all(weight.dtype == torch.float32 for weight in encoder.parameters())
    assert torch.equal(encoder.mapper[0].weight, tensors["mapper.0.weight"].half().float())


def refused(folder: Path) -> str:
    with pytest.raises(StageError) as error:
        load_effnet(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("backbone.0.0.weight", None, "backbone.0.0.weight: expected [8, 3, 3, 3] by config.json, found no such tensor"),
        (
            "mapper.0.weight",
            torch.ones(4, 16, 1, 3),
            "mapper.0.weight: expected [4, 16, 1, 1] by config.json, found [4, 16, 1, 3]",
        ),
        ("backbone.4.0.weight", torch.ones(2), "backbone.4.0.weight: expected no such tensor by config.json, found [2]"),
        ("backbone.3.1.bias", torch.full((16,), float("nan")), "weight backbone.3.1.bias is not finite"),
    ],
)
def test_wrong_tensors_are_named(folder: Path, name: str, value: torch.Tensor | None, message: str) -> None:
    tensors = load_file(folder / WEIGHTS) | {name: value}
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, folder / WEIGHTS)
    assert message in refused(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem_channels": 0}, "stem_channels is 0, expected a whole number above 0"),
        ({"stem_channels": 8.5}, "stem_channels is 8.5"),
        ({"depth": 3}, "unknown key 'depth'"),
        ({"stages": [{"block": "fused"}]}, "key 'channels' is missing"),
        ({"stages": 3}, "not an EfficientNet encoder's config"),
        ({"stages": [{"block": "dense", "expand": 1, "stride": 1, "channels": 8, "layers": 1}]}, "stages.0.block is 'dense'"),
        ({"stages": [{"block": "fused", "expand": 1, "stride": 3, "channels": 8, "layers": 1}]}, "stages.0.stride is 3"),
    ],
)
def test_wrong_configs_are_explained(folder: Path, change: dict, message: str) -> None:
    (folder / CONFIG).write_text(json.dumps(SMALL.as_json() | change))
    assert message in refused(folder)


def test_missing_and_broken_files(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"nothing")
    assert f"{folder / WEIGHTS}: missing, or not a safetensors file" in refused(folder)
    (folder / WEIGHTS).unlink()
    assert f"{folder / WEIGHTS}: missing, or not a safetensors file" in refused(folder)
    (folder / CONFIG).unlink()
    assert f"{folder / CONFIG}: missing" in refused(folder)
