"""Pictures of a run's middle: fixed noise, drawn once, and the sheet of all of them."""

from pathlib import Path

from repro.params import Pictures

import pytest
import torch
from PIL import Image

from families import sdxl
from families.sdxl import Sdxl
from training.milestones import picture_name
from training.pictures import GAP, SHEET, draw_pictures, draw_sheet

SETTINGS = Pictures(
    every=2, prompts=["1girl", "2boys"], negative_prompt="", sampler="euler", steps=1, guidance=2.0, width=32, height=48,
    original_width=96, original_height=144, decoder=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(training_inputs: Path) -> Sdxl:
    return sdxl.load(training_inputs / "base")


def test_a_model_draws_the_same_pictures_at_every_update(model: Sdxl, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    for update in (0, 2):
        draw_pictures(sdxl, model, SETTINGS, 7, update, tmp_path)
    assert torch.equal(torch.get_rng_state(), state), "and takes no draw of anybody else"
    for prompt in (0, 1):
        first, later = (tmp_path / picture_name(update, prompt) for update in (0, 2))
        assert first.read_bytes() == later.read_bytes()
    assert (tmp_path / picture_name(0, 0)).read_bytes() != (tmp_path / picture_name(0, 1)).read_bytes()
    draw_pictures(sdxl, model, SETTINGS, 8, 4, tmp_path)
    assert (tmp_path / picture_name(4, 0)).read_bytes() != (tmp_path / picture_name(0, 0)).read_bytes(), "another seed"


def test_what_is_there_is_not_drawn_again(model: Sdxl, tmp_path: Path) -> None:
    """A continued run passes updates again whose pictures it has."""
    (tmp_path / picture_name(0, 0)).write_bytes(b"there")
    draw_pictures(sdxl, model, SETTINGS, 7, 0, tmp_path)
    assert (tmp_path / picture_name(0, 0)).read_bytes() == b"there"
    with Image.open(tmp_path / picture_name(0, 1)) as picture:
        assert picture.size == (32, 48)


def test_the_sheet_has_a_row_a_prompt_and_a_column_an_update(tmp_path: Path) -> None:
    colours = {(0, 0): "red", (0, 1): "lime", (2, 0): "blue", (2, 1): "black", (4, 0): "yellow", (4, 1): "gray"}
    for (update, prompt), colour in colours.items():
        Image.new("RGB", (32, 48), colour).save(tmp_path / picture_name(update, prompt))
    draw_sheet(SETTINGS, [0, 2, 4], tmp_path)
    with Image.open(tmp_path / SHEET) as sheet:
        assert sheet.size == (3 * 32 + 2 * GAP, 2 * 48 + GAP)
        for (update, prompt), colour in colours.items():
            left, top = update // 2 * (32 + GAP), prompt * (48 + GAP)
            cell = sheet.crop((left, top, left + 32, top + 48))
            assert cell.tobytes() == Image.new("RGB", (32, 48), colour).tobytes()
        assert sheet.getpixel((32, 0)) == sheet.getpixel((0, 48)) == (255, 255, 255)
