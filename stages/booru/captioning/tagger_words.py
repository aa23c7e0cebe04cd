"""How captions spell the names of a WD tagger's vocabulary.

The rules are those of sd-scripts' `finetune/tag_images_by_wd14_tagger.py` (revision fdbb03c3, with which SoteDiffusion was
captioned; later ones have the same), with their quirks: `a.b_(c_(d))` becomes `a.b (c, d`, and `||_||` becomes `|| ||`.
"""

from booru.tags import SHORT_NAME

SEPARATOR = ", "


def spelled(name: str, remove_underscore: bool = True) -> str:
    """The name as captions have it: with spaces for underscores, unless that is not asked for or the name is an emoticon."""
    return name.replace("_", " ") if remove_underscore and len(name) > SHORT_NAME else name


def expanded(name: str, separator: str = SEPARATOR) -> str:
    """A character's name whose last bracket becomes an element of its own: `skadi_(arknights)` is `skadi, arknights`, and
    `saber_(swimsuit)_(fate)` is `saber_(swimsuit), fate`. Names that end otherwise stay."""
    if not name.endswith(")"):
        return name
    character, _, series = name.rpartition("(")
    return f"{character.removesuffix('_')}{separator}{series.replace(')', '')}"


def character_words(name: str) -> list[str]:
    """The caption's elements that a character's name gives: `skadi_(arknights)` is skadi and arknights."""
    return [word for word in spelled(expanded(name)).split(SEPARATOR) if word]
