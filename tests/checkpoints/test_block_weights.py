"""Every tensor of SDXL takes the number that the card's tool gave it."""

import json
from pathlib import Path

import pytest

from checkpoints.block_weights import BLOCKS, TABLES, block_of

UNET = "model.diffusion_model."
# The numbers of SDXL's blocks on the way in and out: three levels of two layers and a step, and three of three.
SDXL_BLOCKS = 9


@pytest.mark.golden
def test_every_stated_tensor_is_in_its_block(golden: Path) -> None:
    stated = json.loads((golden / "merge" / "index.json").read_text())["mbw_blocks"]
    assert len(stated) > 70
    assert {name: block_of(name, "card") for name in stated} == stated


@pytest.mark.golden
def test_the_order_of_the_numbers_is_the_stated_one(golden: Path) -> None:
    assert list(BLOCKS) == list(json.loads((golden / "merge" / "index.json").read_text())["mbw_weights"])


@pytest.mark.golden
def test_the_newer_table_moves_two_modules_alone(golden: Path) -> None:
    stated = json.loads((golden / "merge" / "index.json").read_text())["mbw_blocks"]
    moved = {name for name in stated if block_of(name, "supermerger_2025") != stated[name]}
    assert moved == {name for name in stated if name.startswith((f"{UNET}time_embed.", f"{UNET}label_emb."))} != set()
    assert {block_of(name, "supermerger_2025") for name in moved} == {"IN00"}


@pytest.mark.parametrize("table", TABLES)
def test_each_block_of_the_unet_has_one_number(table: str) -> None:
    ways = {"input_blocks": "IN", "output_blocks": "OUT"}
    found = [block_of(f"{UNET}{way}.{n}.0.in_layers.0.weight", table) for way in ways for n in range(SDXL_BLOCKS)]
    found.append(block_of(f"{UNET}middle_block.1.norm.weight", table))
    assert found == [f"{short}{n:02d}" for short in ways.values() for n in range(SDXL_BLOCKS)] + ["M00"]
    assert {"BASE", *found} == set(BLOCKS) and len(BLOCKS) == 20


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("module", ["0.op.weight", "1.transformer_blocks.9.attn2.to_k.weight", "2.conv.bias"])
def test_all_modules_of_a_block_share_its_number(module: str, table: str) -> None:
    assert block_of(f"{UNET}input_blocks.6.{module}", table) == "IN06"
    assert block_of(f"{UNET}output_blocks.2.{module}", table) == "OUT02"


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "name",
    [
        "input_blocks.9.0.in_layers.0.weight",
        "input_blocks.10.0.in_layers.0.weight",
        "input_blocks.11.0.in_layers.0.weight",
        "input_blocks.100.0.in_layers.0.weight",
        "output_blocks.9.0.in_layers.0.weight",
        "output_blocks.12.0.in_layers.0.weight",
    ],
)
def test_a_block_that_sdxl_does_not_have_has_no_number(name: str, table: str) -> None:
    assert block_of(UNET + name, table) is None


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "name, block",
    [
        (f"{UNET}out.0.weight", "OUT08"),
        (f"{UNET}out.2.bias", "OUT08"),
        ("first_stage_model.decoder.up.3.block.0.conv1.weight", "BASE"),
        ("first_stage_model.model.diffusion_model.input_blocks.3.weight", "BASE"),
        ("conditioner.embedders.1.model.logit_scale", "BASE"),
        ("conditioner.embedders.0.transformer.text_model.embeddings.position_ids", "BASE"),
    ],
)
def test_the_ends_of_the_unet_and_what_is_not_the_unet(name: str, block: str, table: str) -> None:
    assert block_of(name, table) == block
