"""The sample's base model as a folder: what diffusers opens, and what does not belong into it."""

from pathlib import Path

from repro.hashing import check_manifest
from repro.numerics import fix_torch

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from tiny_booru import folder_bytes

from sample.architecture import make_vae
from sample.base_model import TOKENS, write_start, write_trained

MERGES = Path("data/art/bpe_simple_vocab_16e6.txt.gz")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fix_torch()
    folder = tmp_path_factory.mktemp("start") / "start"
    write_start(folder, make_vae(5), MERGES, 5)
    return folder


def test_trained_weights_are_put_in_their_places(start: Path, tmp_path: Path) -> None:
    weight = torch.full((64,), 1 / 3)
    write_trained(tmp_path / "base", start, {"unet.conv_in.bias": weight})
    check_manifest(tmp_path / "base")
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "base", local_files_only=True, torch_dtype=torch.float16)
    assert torch.equal(pipeline.unet.conv_in.bias, weight.half())
    begun = StableDiffusionXLPipeline.from_pretrained(start, local_files_only=True, torch_dtype=torch.float16)
    assert torch.equal(pipeline.unet.conv_out.weight, begun.unet.conv_out.weight)
    assert torch.equal(pipeline.text_encoder_2.text_projection.weight, begun.text_encoder_2.text_projection.weight)
    assert pipeline.tokenizer("1girl").input_ids[0] == 49406


def test_tokens_that_training_left_alone_are_scaled(start: Path, tmp_path: Path) -> None:
    drawn = load_file(start / "text_encoder" / "model.safetensors")[TOKENS]
    learnt = drawn.clone()
    learnt[7] += 1.0
    write_trained(tmp_path / "base", start, {f"text_encoder.{TOKENS}": learnt}, unseen_token_scale=2.5)
    written = load_file(tmp_path / "base" / "text_encoder" / "model.safetensors")[TOKENS]
    assert torch.equal(written[7], learnt[7].half())
    assert torch.equal(written[8:], (drawn[8:].half().float() * 2.5).half())


def test_same_seed_same_bytes(start: Path, tmp_path: Path) -> None:
    write_start(tmp_path / "again", make_vae(5), MERGES, 5)
    assert folder_bytes(tmp_path / "again") == folder_bytes(start)


def test_no_versions_paths_or_unordered_sets(start: Path) -> None:
    for path in start.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert "_version" not in text
        assert "_use_default_values" not in text
        assert str(start.parent) not in text
