"""Who the sample shows: fixed attribute sheets, drawn by several artists, and the Ren'Py characters with their recolourings."""

import itertools
from dataclasses import dataclass

from repro.randomness import Stream

from sample.catalogue import catalogue, words

SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
SERIES_ADJECTIVES = words("amber broken crystal distant eastern frozen golden hidden iron little northern quiet silver")
SERIES_NOUNS = words("academy bridge chronicle diary garden island journey kingdom letter melody station voyage")
SERIES_SIZE = 4
# Hue in PIL's 0..255 circle, saturation and value as factors of the sprite's own.
SPRITE_HAIR_COLOURS = {
    "red_hair": (0, 1.25, 0.85),
    "orange_hair": (17, 1.1, 1.0),
    "blonde_hair": (32, 0.9, 1.05),
    "green_hair": (82, 0.9, 0.9),
    "aqua_hair": (127, 0.9, 1.0),
    "blue_hair": (155, 1.0, 0.95),
    "purple_hair": (196, 0.9, 0.85),
    "pink_hair": (235, 0.75, 1.0),
    "brown_hair": (16, 0.9, 0.55),
    "grey_hair": (150, 0.08, 0.85),
    "black_hair": (160, 0.2, 0.3),
}
SPRITE_CLOTHES_COLOURS = {"red": 0, "yellow": 36, "green": 82, "blue": 155, "purple": 196, "pink": 232}


@dataclass(frozen=True)
class Drawn:
    """A character of the DiceBear styles: hair, hair colour, skin and glasses never change."""

    name: str
    series: str
    gender: str
    hair: str
    hair_colour: str
    skin: str
    glasses: bool

    @property
    def sheet(self) -> tuple[str, str, str, bool]:
        return self.hair, self.hair_colour, self.skin, self.glasses

    @property
    def styles(self) -> list[str]:
        """The styles that can draw this hair shape, in the catalogue's order."""
        return [name for name, style in catalogue()["styles"].items() if self.hair in style["hair"]]

    @property
    def artists(self) -> list[str]:
        return [catalogue()["styles"][style]["artist"] for style in self.styles]

    @property
    def core_tags(self) -> list[str]:
        """The general tags of the attribute sheet: what every picture of this character shows."""
        tables = catalogue()
        tags = [*words(tables["hair_shapes"][self.hair]["tags"]), self.hair_colour, *words(tables["skins"][self.skin]["tags"])]
        return [*tags, "glasses"] if self.glasses else tags


@dataclass(frozen=True)
class Sprite:
    """A Ren'Py character; `hair_colour` and `clothes_colour` are None where the sprite is shown as it is."""

    name: str
    series: str
    family: tuple[str, ...]
    hair_colour: str | None = None
    clothes_colour: str | None = None

    gender = "1girl"

    @property
    def sheet(self) -> tuple[tuple[str, ...], str | None, str | None]:
        return self.family, self.hair_colour, self.clothes_colour

    @property
    def artists(self) -> list[str]:
        return [catalogue()["sprites"][self.family[0]]["artist"]]

    @property
    def core_tags(self) -> list[str]:
        own = catalogue()["sprites"][self.family[0]]
        return [*words(own["tags"]), self.hair_colour or own["hair_colour"]]


Character = Drawn | Sprite
SPRITE_FAMILIES = (("eileen",), ("lucy",), ("sylvie", "sylvie-green"))


def taught_characters() -> list[Character]:
    """The characters of the sample run: those of the catalogue, then Eileen, Lucy and Sylvie as they are."""
    tables = catalogue()
    drawn = [Drawn(**row) for row in tables["characters"]]
    sprites = [Sprite(tables["sprites"][f[0]]["name"], tables["sprites"][f[0]]["series"], f) for f in SPRITE_FAMILIES]
    return [*drawn, *sprites]


def _invented_name(stream: Stream, taken: set[str]) -> str:
    while True:
        name = "".join(stream.choice(SYLLABLES) for _ in range(3)) + stream.choice(["", "", "n", "s", "l"])
        if name not in taken:
            taken.add(name)
            return name


def _weighted_hair_shapes() -> list[str]:
    """Each shape as often as there are styles that draw it, so that every artist has enough characters."""
    return [shape for style in catalogue()["styles"].values() for shape in style["hair"]]


def random_characters(seed: int, populations: dict[str, int]) -> dict[str, list[Drawn]]:
    """`populations` = {name: how many}; all have names and attribute sheets of their own, none of them a taught one."""
    tables = catalogue()
    taught = [c for c in taught_characters() if isinstance(c, Drawn)]
    names, sheets = {c.name for c in taught}, {c.sheet for c in taught}
    every_series = [f"{a}_{b}" for a, b in itertools.product(SERIES_ADJECTIVES, SERIES_NOUNS)]
    stream = Stream(seed, "sample random characters")
    stream.shuffle(every_series)
    shapes, colours, skins = _weighted_hair_shapes(), list(tables["hair_colours"]), list(tables["skins"])
    result: dict[str, list[Drawn]] = {}
    for population, count in populations.items():
        result[population] = []
        while len(result[population]) < count:
            hair = stream.choice(shapes)
            sheet = (hair, stream.choice(colours), stream.choice(skins), stream.below(4) == 0)
            if sheet in sheets:
                continue
            sheets.add(sheet)
            number = sum(map(len, result.values()))
            gender = stream.choice(tables["hair_shapes"][hair]["genders"])
            series = every_series[number // SERIES_SIZE]
            result[population].append(Drawn(_invented_name(stream, names), series, gender, *sheet))
    return result


def recoloured_sprites(seed: int, populations: dict[str, int], names: set[str]) -> dict[str, list[Sprite]]:
    """Ren'Py sprites in other colours of hair and clothes, with invented names not in `names`; each family in turn.

    A family's own hair colour is never used, so that no recolouring looks like a taught character.
    """
    tables = catalogue()
    stream = Stream(seed, "sample recoloured sprites")
    pools = []
    for family in SPRITE_FAMILIES:
        own = tables["sprites"][family[0]]["hair_colour"]
        pool = list(itertools.product([c for c in SPRITE_HAIR_COLOURS if c != own], SPRITE_CLOTHES_COLOURS))
        stream.shuffle(pool)
        pools.append(pool)
    taken = set(names)
    result: dict[str, list[Sprite]] = {}
    for population, count in populations.items():
        result[population] = []
        for number in range(count):
            family = number % len(SPRITE_FAMILIES)
            series = tables["sprites"][SPRITE_FAMILIES[family][0]]["series"]
            name = _invented_name(stream, taken)
            result[population].append(Sprite(name, series, SPRITE_FAMILIES[family], *pools[family].pop()))
    return result
