"""Sheets: where pictures stand, file names, stable bytes."""

from repro.hashing import sha256_file

import pytest
from PIL import Image

from ccip.sheets import CharacterPictures, cell_side, character_sheet, fit, grid_sheet, save_png, sheet_name


def plain(colour: str, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, colour)


def colours(image: Image.Image) -> set[tuple[int, int, int]]:
    return {colour for _, colour in image.getcolors(1 << 24)}


PICTURES = CharacterPictures("mika", [plain("red")] * 3, [plain("lime")] * 2, [plain("blue")] * 2, 0.125, 0.75)
RED, LIME, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


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


def test_held_out_pictures_get_rows_of_their_own():
    held_out = CharacterPictures("mika", [plain("red")], [plain("lime")], [plain("blue")], 0, 1, [("new", [plain("yellow")])])
    sheet = character_sheet(held_out, 128)
    assert sheet.height > character_sheet(PICTURES, 128).height
    assert (255, 255, 0) in colours(sheet)


def test_grid_shows_each_character_once():
    four = [PICTURES] * 4
    grid = grid_sheet(four, 64)
    counts = {colour: count for count, colour in grid.getcolors(1 << 24)}
    assert [counts[colour] for colour in (RED, LIME, BLUE)] == [4 * 64 * 64] * 3


def test_a_long_name_stays_inside():
    sheet = character_sheet(CharacterPictures("x" * 300, [plain("red")], [plain("lime")], [plain("blue")], 0, 1), 64)
    assert sheet.getpixel((sheet.width - 5, 20)) == (255, 255, 255)


def test_png_bytes_are_stable_and_bare(tmp_path):
    grid = grid_sheet([PICTURES] * 2, 64)
    save_png(grid, tmp_path / "a.png")
    save_png(grid, tmp_path / "b.png")
    assert sha256_file(tmp_path / "a.png") == sha256_file(tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.info == {}
