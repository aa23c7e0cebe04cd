"""Pictures that the model makes in the middle of its training, from the recipe's prompts and fixed seeds."""

from pathlib import Path

from repro.errors import StageError
from repro.params import Pictures
from repro.pictures import save_png
from repro.randomness import seed_for

from PIL import Image

from families.family import Family, Model
from training.milestones import picture_name

SHEET = "sheet.png"
GAP = 4


def draw_pictures(of: Family, model: Model, settings: Pictures, seed: int, update: int, folder: Path) -> None:
    """Draw the pictures of this update that are not there yet; a prompt has the same noise at every update.

    Raises:
        StageError: the model gives values that are not finite.
    """
    for number, prompt in enumerate(settings.prompts):
        file = folder / picture_name(update, number)
        if file.exists():
            continue
        try:
            picture = of.draw_picture(model, prompt, seed_for(seed, "training picture", number), settings)
        except StageError as error:
            raise StageError(f"picture after update {update}: {error}") from None
        save_png(picture, file)
    of.put_drawing_away(model)


def draw_sheet(settings: Pictures, updates: list[int], folder: Path) -> None:
    """All pictures as one: a row for each prompt, a column for each update, in order."""
    width, height = settings.width + GAP, settings.height + GAP
    sheet = Image.new("RGB", (len(updates) * width - GAP, len(settings.prompts) * height - GAP), "white")
    for column, update in enumerate(updates):
        for row in range(len(settings.prompts)):
            with Image.open(folder / picture_name(update, row)) as picture:
                sheet.paste(picture, (column * width, row * height))
    save_png(sheet, folder / SHEET)
