"""Sheets and grids: where pictures stand, stable bytes."""

from dataclasses import replace

from repro.hashing import sha256_file
from repro.pictures import save_png

import pytest
from PIL import Image

from ccip.sheets import (
    GROUND,
    CharacterPictures,
    ScoredPictures,
    cell_side,
    cell_size,
    character_sheet,
    fit,
    overview_grid,
    rows_grid,
)

RED, LIME, BLUE, WHITE, LIGHT = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0xF3, 0xF3, 0xF3)
SIZE = (48, 64)
CELL = SIZE[0] * SIZE[1]


def plain(colour: tuple[int, int, int], size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.new("RGB", size, colour)


def counts(image: Image.Image) -> dict[tuple[int, int, int], int]:
    return {colour: count for count, colour in image.getcolors(1 << 24)}


def character(
    name: str = "mika", pictures: int = 2, references: int = 3, modes: tuple[str, ...] = ("name",),
    models: tuple[tuple[str, tuple[int, int, int]], ...] = (("base", LIME), ("merged", BLUE)),
) -> CharacterPictures:  # fmt: skip
    """Red references; lime pictures by base, blue ones by merged."""
    return CharacterPictures(
        name,
        [plain(RED)] * references,
        {mode: {m: ScoredPictures(0.5, [0.5] * pictures, [plain(c)] * pictures) for m, c in models} for mode in modes},
        "details",
    )


def rows_of(image: Image.Image, colour: tuple[int, int, int], x: int = 20) -> list[int]:
    """Where cells of this colour begin in the column x."""
    column = [image.getpixel((x, y)) == colour for y in range(image.height)]
    return [y for y, here in enumerate(column) if here and not column[y - 1]]


def columns_of(image: Image.Image, colour: tuple[int, int, int], y: int) -> list[int]:
    row = [image.getpixel((x, y)) == colour for x in range(image.width)]
    return [x for x, here in enumerate(row) if here and not row[x - 1]]


def test_small_pictures_are_enlarged_and_large_ones_reduced():
    assert cell_side(64, 64) == 128
    assert cell_side(832, 1216) == 256


@pytest.mark.parametrize(
    ("picture", "cell"), [((64, 64), (128, 128)), ((832, 1216), (88, 128)), ((1216, 832), (128, 88)), ((10, 900), (64, 128))]
)
def test_cells_have_the_shape_of_the_pictures(picture, cell):
    assert cell_size(plain(RED, picture), 128) == cell


def test_a_picture_keeps_its_shape_in_its_cell():
    cell = fit(plain(RED, (64, 32)), (128, 128))
    assert cell.size == (128, 128)
    assert cell.getpixel((64, 64)) == RED
    assert cell.getpixel((64, 10)) == cell.getpixel((64, 118)) == LIGHT
    assert Image.new("RGB", (1, 1), GROUND).getpixel((0, 0)) == LIGHT


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_paper(mode):
    assert set(counts(fit(Image.new(mode, (64, 64)), (32, 32)))) == {WHITE}


def test_transparent_colours_of_a_palette_are_paper():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0])
    image.info["transparency"] = 0
    assert set(counts(fit(image, (8, 8)))) == {WHITE}


def test_sheet_shows_every_picture_once_model_below_model():
    sheet = character_sheet(character(pictures=4, references=23))
    assert [counts(sheet)[colour] for colour in (RED, LIME, BLUE)] == [23 * CELL, 4 * CELL, 4 * CELL]
    references, base, merged = (rows_of(sheet, colour) for colour in (RED, LIME, BLUE))
    assert len(references) == 3, "ten in a row"
    assert references[-1] < base[0] < merged[0]
    assert columns_of(sheet, LIME, base[0] + 5) == columns_of(sheet, BLUE, merged[0] + 5)


def test_modes_stand_side_by_side_as_far_as_there_is_room():
    modes = ("name", "core_tags", "new_artist")
    beside = character_sheet(character(pictures=4, modes=modes[:2]))
    below = character_sheet(character(pictures=4, modes=modes))
    assert counts(below)[LIME] == 12 * CELL
    assert len(rows_of(beside, LIME)) == 1
    assert len(rows_of(below, LIME)) == 2
    assert len(columns_of(beside, LIME, rows_of(beside, LIME)[0])) == 8


def test_many_pictures_of_one_model_are_broken_into_rows():
    sheet = character_sheet(character(pictures=25))
    assert counts(sheet)[BLUE] == 25 * CELL
    assert len(rows_of(sheet, LIME)) == len(rows_of(sheet, BLUE)) == 3


@pytest.mark.parametrize(("models", "each"), [(1, 2), (2, 3), (3, 3)])
def test_overview_shows_one_reference_and_a_picture_of_the_first_and_the_last_model(models, each):
    names = (("base", LIME), ("between", (9, 9, 9)), ("merged", BLUE))
    some = {1: names[2:], 2: (names[0], names[2]), 3: names}[models]
    grid = overview_grid([character(models=some)] * 7, "caption")
    found = counts(grid)
    assert found[RED] == found[BLUE] == 7 * CELL
    assert found.get(LIME, 0) == (7 * CELL if each == 3 else 0)
    assert (9, 9, 9) not in found
    assert len(rows_of(grid, RED)) == 3 and len(columns_of(grid, RED, rows_of(grid, RED)[0] + 5)) == 3


def test_rows_show_three_references_and_four_pictures_a_model():
    grid = rows_grid([character(pictures=6, references=8), character(pictures=1, references=1)], "caption")
    assert [counts(grid)[colour] for colour in (RED, LIME, BLUE)] == [4 * CELL, 5 * CELL, 5 * CELL]
    first, second = rows_of(grid, RED)
    assert columns_of(grid, BLUE, first + 5)[0] == columns_of(grid, BLUE, second + 5)[0]


def test_rows_of_one_model_have_no_second_column():
    grid = rows_grid([character(models=(("mine", BLUE),))], "caption")
    assert counts(grid)[BLUE] == 2 * CELL
    assert grid.width < rows_grid([character()], "caption").width


@pytest.mark.parametrize(
    "layout", [character_sheet, lambda c: overview_grid([c], "x" * 300), lambda c: rows_grid([c], "word " * 90)]
)
@pytest.mark.parametrize("name", ["x" * 300, "初音ミク" * 30, ""])
def test_long_text_stays_inside_and_off_the_pictures(layout, name):
    models = tuple((f"{model}{'_long' * 40}", colour) for model, colour in (("base", LIME), ("merged", BLUE)))
    image = layout(replace(character(name, pictures=1, references=1, models=models), details="d" * 500))
    edge = {image.getpixel((x, y)) for x in range(image.width - 10, image.width) for y in range(image.height)}
    assert edge == {WHITE}
    assert [counts(image)[colour] for colour in (RED, LIME, BLUE)] == [CELL] * 3, "nothing written over a picture"


def test_png_bytes_are_stable_and_bare(tmp_path):
    for name in "ab":
        save_png(rows_grid([character()] * 2, "caption"), tmp_path / f"{name}.png")
    assert sha256_file(tmp_path / "a.png") == sha256_file(tmp_path / "b.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.info == {}
