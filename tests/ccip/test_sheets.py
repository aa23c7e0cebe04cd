"""Sheets: where pictures stand, file names, stable bytes."""

from repro.hashing import sha256_file
from repro.pictures import save_png

import pytest
from PIL import Image

from ccip.sheets import CharacterPictures, ModelPictures, cell_side, character_sheet, fit, grid_sheet, sheet_name


def plain(colour: str, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def colours(image: Image.Image) -> set[tuple[int, int, int]]:
    return {colour for _, colour in image.getcolors(1 << 24)}


def character(name: str, pictures: int, held_out: int = 0) -> CharacterPictures:
    """Red references, lime and blue pictures, yellow held-out ones."""
    apart = [plain("yellow")] * held_out
    models = {
        model: ModelPictures(score, [plain(colour)] * pictures, 0.5 if apart else None, apart)
        for model, score, colour in (("base", 0.125, "lime"), ("merged", 0.75, "blue"))
    }
    return CharacterPictures(name, [plain("red")] * (pictures + 1), models)


PICTURES = character("mika", 2)
RED, LIME, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)


@pytest.mark.parametrize(
    ("tag", "file"),
    [
        ("mika", "mika.png"),
        ("eileen_(ren'py)", "eileen_(ren'py).png"),
        ("saber_(fate/stay_night)", "saber_(fate%2Fstay_night).png"),
        ("a%2Fb", "a%252Fb.png"),
        (".hack", "%2Ehack.png"),
        ("grid", "%67rid.png"),
    ],
)
def test_file_names_are_safe_and_distinct(tag, file):
    assert sheet_name(tag) == file


def test_small_pictures_are_enlarged_and_large_ones_reduced():
    assert cell_side(64, 64) == 128
    assert cell_side(832, 1216) == 256


def test_a_picture_keeps_its_shape_in_its_cell():
    cell = fit(plain("red", (64, 32)), 128)
    assert cell.size == (128, 128)
    assert cell.getpixel((64, 64)) == RED
    assert cell.getpixel((64, 10)) == cell.getpixel((64, 118)) == (255, 255, 255)


def test_transparent_ground_is_paper():
    assert colours(fit(Image.new("RGBA", (64, 64), (0, 0, 0, 0)), 128)) == {(255, 255, 255)}


def test_sheet_has_a_row_for_each_kind():
    sheet = character_sheet(PICTURES, 128)
    column = [sheet.getpixel((60, y)) for y in range(sheet.height)]
    assert [column.count(colour) for colour in (RED, LIME, BLUE)] == [128, 128, 128]
    assert column.index(RED) < column.index(LIME) < column.index(BLUE)


def test_held_out_pictures_stand_on_the_right_of_their_row():
    sheet = character_sheet(character("mika", 2, held_out=1), 128)
    row = [sheet.getpixel((x, 250)) for x in range(sheet.width)]
    assert (row.count(LIME), row.count(YELLOW)) == (256, 128)
    assert row.index(YELLOW) > row.index(LIME) + 256 + 4
    assert sheet.width > character_sheet(PICTURES, 128).width


def test_grid_shows_each_character_once():
    four = [PICTURES] * 4
    grid = grid_sheet(four, 64)
    counts = {colour: count for count, colour in grid.getcolors(1 << 24)}
    assert [counts[colour] for colour in (RED, LIME, BLUE)] == [4 * 64 * 64] * 3


def test_a_long_name_stays_inside():
    sheet = character_sheet(character("x" * 300, 1), 64)
    assert sheet.getpixel((sheet.width - 5, 20)) == (255, 255, 255)


def test_png_bytes_are_stable_and_bare(tmp_path):
    grid = grid_sheet([PICTURES] * 2, 64)
    save_png(grid, tmp_path / "a.png")
    save_png(grid, tmp_path / "b.png")
    assert sha256_file(tmp_path / "a.png") == sha256_file(tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.info == {}
