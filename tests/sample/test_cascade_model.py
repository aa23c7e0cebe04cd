"""The small Stable Cascade as a folder: what loads and draws, and what does not belong into it."""

import json
from pathlib import Path

from repro.hashing import check_manifest
from repro.numerics import fix_torch
from repro.params import load_params

import pytest
import torch
from safetensors.torch import load_file
from tiny_booru import folder_bytes

from families.cascade import draw_picture, load
from sample.cascade_architecture import STAGE_C, make_effnet, make_stage_a, make_stage_b
from sample.cascade_model import write_decoder, write_image_encoder, write_start, write_trained

SAMPLE_BASE = Path("models/sample-base")


def write_parts(folder: Path) -> Path:
    write_image_encoder(folder / "effnet", make_effnet(5).eval())
    write_decoder(folder / "decoder", make_stage_b(5), make_stage_a(), SAMPLE_BASE)
    write_start(folder / "start", folder / "effnet", folder / "decoder", SAMPLE_BASE, 5)
    return folder / "start"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fix_torch()
    return write_parts(tmp_path_factory.mktemp("parts"))


def test_it_loads_and_draws_pictures_of_the_asked_size(start: Path) -> None:
    settings = load_params(Path("recipes/sample-cascade-base.yaml")).evaluate.generation
    model = load(start)
    assert not model.prior.training
    picture = draw_picture(model, "1girl, solo", 3, settings.model_copy(update={"steps": 2, "height": 80, "width": 48}))
    assert picture.size == (48, 80)


def test_trained_weights_are_put_in_their_places(start: Path, tmp_path: Path) -> None:
    weight = torch.full((STAGE_C["block_out_channels"][0],), 1 / 3)
    write_trained(tmp_path / "base", start, {"prior.embedding.1.bias": weight})
    check_manifest(tmp_path / "base")
    prior = load_file(tmp_path / "base" / "prior" / "diffusion_pytorch_model.safetensors")
    begun = load_file(start / "prior" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(prior.pop("embedding.1.bias"), weight.half())
    assert all(torch.equal(tensor, begun[name].half()) for name, tensor in prior.items())
    for part in ("decoder", "tokenizer"):
        assert folder_bytes(tmp_path / "base" / part) == folder_bytes(start / part)
    for part in ("effnet", "text_encoder"):
        old, new = (load_file(folder / part / "model.safetensors") for folder in (start, tmp_path / "base"))
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)
    load(tmp_path / "base")


def test_sizes_fit_together(start: Path) -> None:
    prior, decoder = (json.loads((start / part / "model_index.json").read_text()) for part in ("", "decoder"))
    assert prior["resolution_multiple"] == 8.0
    assert decoder["latent_dim_scale"] == 4.0


def test_same_seed_same_bytes(start: Path, tmp_path: Path) -> None:
    assert folder_bytes(write_parts(tmp_path)) == folder_bytes(start)


def test_no_versions_paths_or_unordered_sets(start: Path) -> None:
    for path in start.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert "_version" not in text
        assert "_use_default_values" not in text
        assert str(start.parent) not in text
