"""Pictures of characters laid out for people: one sheet a character, overview grids, rows of a few characters.

All lay out cells: pictures scaled into boxes of one size (`fit`), so that a layout does not depend on
the sizes of the pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ccip.lettering import font, lines_of, shortened, text_width
from generation.modes import MODE_WORDS

ENLARGED, LARGEST_CELL = 2, 256
# Pictures wider or taller than this are shown whole in a box of this shape.
MOST_STRETCHED = 2.0
GAP, MARGIN, LINE, SMALL_LINE = 4, 14, 22, 17
BLOCK_GAP, MODEL_GAP = 2 * MARGIN, 8
NAME_SIZE, TEXT_SIZE, SMALL_SIZE = 15, 12, 11
GRID_COLUMNS = 3
# Cells side by side in a sheet; of a reference's and of a model's pictures in a row.
MOST_COLUMNS, ROW_REFERENCES, ROW_PICTURES = 10, 3, 4
INK, NOTE, PAPER, GROUND = "#222222", "#666666", "#ffffff", "#f3f3f3"


@dataclass(frozen=True)
class ScoredPictures:
    """One model's pictures of a character in one mode, in request order; picture_scores: the score of each."""

    score: float
    picture_scores: Sequence[float]
    pictures: Sequence[Image.Image]


@dataclass(frozen=True)
class CharacterPictures:
    """A character's references and what each model made, as cells of one size.

    modes: by mode (the headline first), then by model (in the given order); details: a line about the character.
    """

    name: str
    references: Sequence[Image.Image]
    modes: Mapping[str, Mapping[str, ScoredPictures]]
    details: str = ""

    @property
    def headline(self) -> Mapping[str, ScoredPictures]:
        return next(iter(self.modes.values()))


def cell_side(width: int, height: int) -> int:
    """Longer side of the cell that a picture of width x height pixels is shown in."""
    return min(ENLARGED * max(width, height), LARGEST_CELL)


def cell_size(picture: Image.Image, side: int) -> tuple[int, int]:
    """(width, height) of a cell with the picture's shape, its longer side `side` pixels."""
    shape = min(max(picture.width / picture.height, 1 / MOST_STRETCHED), MOST_STRETCHED)
    return (side, round(side / shape)) if shape >= 1 else (round(side * shape), side)


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture scaled to touch the cell's edges, in the middle of a light ground; what is transparent is paper."""
    scale = min(size[0] / image.width, size[1] / image.height)
    width, height = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    transparent = image.has_transparency_data
    picture = image.convert("RGBA" if transparent else "RGB").resize((width, height), Image.Resampling.LANCZOS)
    if transparent:
        paper = Image.new("RGBA", (width, height), PAPER)
        picture = Image.alpha_composite(paper, picture)
    cell = Image.new("RGB", size, GROUND)
    cell.paste(picture, ((size[0] - width) // 2, (size[1] - height) // 2))
    return cell


class Canvas:
    """A picture to lay cells and lines of text on."""

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(self, x: int, y: int, text: str, size: int, width: int, colour: str = INK, bold: bool = False) -> int:
        """One line, with an ellipsis where it is wider than `width` pixels; returns where it ends."""
        shown = shortened(text, size, width, bold)
        self._draw.text((x, y), shown, fill=colour, font=font(size, bold))
        return x + round(text_width(shown, size, bold))

    def caption(self, lines: Sequence[str], width: int) -> None:
        """What the whole picture shows, above everything else."""
        for i, line in enumerate(lines):
            self.text(MARGIN, MARGIN - 4 + LINE * i, line, TEXT_SIZE, width, NOTE)

    def heading(self, x: int, y: int, name: str, rest: str, width: int) -> None:
        """A name and, after it, what is known of it; where there is no room for both the name gives way."""
        room = max(width - round(text_width(rest, TEXT_SIZE)) - 2 * GAP, width // 3)
        end = self.text(x, y, name, NAME_SIZE, room, bold=True) + 2 * GAP
        self.text(end, y + NAME_SIZE - TEXT_SIZE, rest, TEXT_SIZE, x + width - end)

    def cells(self, x: int, y: int, cells: Sequence[Image.Image]) -> None:
        for i, cell in enumerate(cells):
            self.image.paste(cell, (x + i * (cell.width + GAP), y))

    def scored_cells(self, x: int, y: int, cells: Sequence[Image.Image], scores: Sequence[float]) -> None:
        """Cells with each one's score below its middle."""
        self.cells(x, y, cells)
        for i, (cell, score) in enumerate(zip(cells, scores, strict=True)):
            text = f"{score:.2f}"
            middle = x + i * (cell.width + GAP) + (cell.width - round(text_width(text, SMALL_SIZE))) // 2
            self.text(middle, y + cell.height + 2, text, SMALL_SIZE, cell.width, NOTE)


def _row_width(columns: int, cell: Image.Image) -> int:
    return columns * (cell.width + GAP) - GAP


def character_sheet(character: CharacterPictures) -> Image.Image:
    """All references, then a block for each mode with a row for each model: in a block, pictures of one column were asked
    for alike. Blocks stand side by side as far as `MOST_COLUMNS` go."""
    cell = character.references[0]
    most = _row_width(MOST_COLUMNS, cell) + 2 * BLOCK_GAP
    blocks = [_Block(mode, models, cell, most) for mode, models in character.modes.items()]
    lines: list[list[_Block]] = []
    for block in blocks:
        if lines and sum(b.width + BLOCK_GAP for b in lines[-1]) + block.width <= most:
            lines[-1].append(block)
        else:
            lines.append([block])
    reference_rows = _in_rows(character.references)
    width = max(
        _row_width(len(reference_rows[0]), cell),
        *(sum(b.width + BLOCK_GAP for b in line) - BLOCK_GAP for line in lines),
        min(round(text_width(character.name, NAME_SIZE, bold=True)), most // 2),
    )
    top = MARGIN + LINE + (LINE if character.details else 0)
    references_height = LINE + len(reference_rows) * (cell.height + GAP)
    height = top + references_height + sum(BLOCK_GAP + max(b.height for b in line) for line in lines) + MARGIN
    canvas = Canvas(width + 2 * MARGIN, height)
    canvas.text(MARGIN, MARGIN - 4, character.name, NAME_SIZE, width, bold=True)
    canvas.text(MARGIN, MARGIN - 4 + LINE, character.details, TEXT_SIZE, width, NOTE)
    canvas.text(MARGIN, top, "references", TEXT_SIZE, width)
    y = top + LINE
    for row in reference_rows:
        canvas.cells(MARGIN, y, row)
        y += cell.height + GAP
    for line in lines:
        x = MARGIN
        y += BLOCK_GAP
        for block in line:
            block.draw(canvas, x, y)
            x += block.width + BLOCK_GAP
        y += max(block.height for block in line)
    return canvas.image


class _Block:
    """One mode's pictures in a sheet: a heading, then for each model a label and its pictures."""

    def __init__(self, mode: str, models: Mapping[str, ScoredPictures], cell: Image.Image, most: int):
        self._heading, self._models = MODE_WORDS[mode], models
        self._labels = {model: f"{model}: score {scored.score:.3f}" for model, scored in models.items()}
        columns = max(min(len(scored.pictures), MOST_COLUMNS) for scored in models.values())
        texts = [text_width(self._heading, TEXT_SIZE, bold=True), *(text_width(t, TEXT_SIZE) for t in self._labels.values())]
        self.width = max(_row_width(columns, cell), min(round(max(texts)) + 1, most // 2))
        self._row_height = cell.height + SMALL_LINE
        rows = sum(len(_in_rows(scored.pictures)) for scored in models.values())
        self.height = LINE + rows * self._row_height + len(models) * (LINE + MODEL_GAP)

    def draw(self, canvas: Canvas, x: int, y: int) -> None:
        canvas.text(x, y, self._heading, TEXT_SIZE, self.width, bold=True)
        y += LINE
        for model, scored in self._models.items():
            canvas.text(x, y, self._labels[model], TEXT_SIZE, self.width)
            y += LINE
            for cells, scores in zip(_in_rows(scored.pictures), _in_rows(scored.picture_scores), strict=True):
                canvas.scored_cells(x, y, cells, scores)
                y += self._row_height
            y += MODEL_GAP


def _in_rows(items: Sequence) -> list[Sequence]:
    return [items[i : i + MOST_COLUMNS] for i in range(0, len(items), MOST_COLUMNS)]


def overview_grid(characters: Sequence[CharacterPictures], caption: str) -> Image.Image:
    """Each character once, its name and headline score above: a reference, then the first picture of the first and of the
    last model (of the one model). Rows are read from left to right."""
    shown = ends(characters[0].headline)
    cell = characters[0].references[0]
    columns = min(GRID_COLUMNS, len(characters))
    block_width = _row_width(1 + len(shown), cell)
    step, block_height = block_width + BLOCK_GAP, LINE + cell.height + MARGIN
    width = columns * step - BLOCK_GAP
    caption_lines = lines_of(caption, TEXT_SIZE, width)
    top = MARGIN + LINE * len(caption_lines) + LINE
    canvas = Canvas(width + 2 * MARGIN, top + -(-len(characters) // columns) * block_height)
    canvas.caption(caption_lines, width)
    for column in range(columns):
        for i, words in enumerate(("reference", *shown)):
            canvas.text(MARGIN + column * step + i * (cell.width + GAP), top - LINE, words, TEXT_SIZE, cell.width, NOTE)
    for i, character in enumerate(characters):
        x, y = MARGIN + i % columns * step, top + i // columns * block_height
        models = [character.headline[model] for model in shown]
        canvas.heading(x, y, character.name, " → ".join(f"{model.score:.2f}" for model in models), block_width)
        canvas.cells(x, y + LINE, [character.references[0], *(model.pictures[0] for model in models)])
    return canvas.image


def rows_grid(characters: Sequence[CharacterPictures], caption: str) -> Image.Image:
    """A row a character: its first references, then the first pictures of the first and of the last model (of the one
    model) with each picture's score below; above the row name, scores and change."""
    shown = ends(characters[0].headline)
    cell = characters[0].references[0]
    references = min(ROW_REFERENCES, max(len(c.references) for c in characters))
    pictures = min(ROW_PICTURES, max(len(c.headline[model].pictures) for c in characters for model in shown))
    starts = [MARGIN + _row_width(references, cell) + BLOCK_GAP + i * (_row_width(pictures, cell) + BLOCK_GAP)
              for i in range(len(shown))]  # fmt: skip
    width = starts[-1] + _row_width(pictures, cell) - MARGIN
    caption_lines = lines_of(caption, TEXT_SIZE, width)
    top = MARGIN + LINE * len(caption_lines) + LINE
    row_height = LINE + cell.height + SMALL_LINE + MARGIN
    canvas = Canvas(width + 2 * MARGIN, top + len(characters) * row_height)
    canvas.caption(caption_lines, width)
    canvas.text(MARGIN, top - LINE, "references", TEXT_SIZE, _row_width(references, cell), NOTE)
    for x, model in zip(starts, shown, strict=True):
        canvas.text(x, top - LINE, model, TEXT_SIZE, _row_width(pictures, cell), NOTE)
    for i, character in enumerate(characters):
        y = top + i * row_height
        canvas.heading(MARGIN, y, character.name, _scores_in_words(character, shown), width)
        canvas.cells(MARGIN, y + LINE, character.references[:references])
        for x, model in zip(starts, shown, strict=True):
            scored = character.headline[model]
            canvas.scored_cells(x, y + LINE, scored.pictures[:pictures], scored.picture_scores[:pictures])
    return canvas.image


def ends(models: Mapping[str, ScoredPictures]) -> list[str]:
    """The first and the last model, which the grids compare; the one model where there is one."""
    names = list(models)
    return [names[0], names[-1]] if len(names) > 1 else names


def _scores_in_words(character: CharacterPictures, shown: Sequence[str]) -> str:
    scores = [character.headline[model].score for model in shown]
    words = " → ".join(f"{shortened(model, TEXT_SIZE, 160)} {score:.2f}" for model, score in zip(shown, scores, strict=True))
    return f"{words}  ({scores[1] - scores[0]:+.2f})" if len(scores) > 1 else words
