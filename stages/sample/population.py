"""The three populations, disjoint in characters: taught (the committed set), base and ccip (to train the sample's own models).

`write_dump("base", Path("base"))` draws one into a folder; `random_posts` and `taught.taught_posts` are the plans.
"""

from pathlib import Path

from repro.outputs import whole_folder, write_json, write_text

from sample.attribution import attribution
from sample.characters import Character, Drawn, random_characters, recoloured_sprites, taught_characters
from sample.dump import write_posts
from sample.pictures import ART
from sample.posts import Post, girl_pairs, portrait_post, with_ids
from sample.taught import reference_table, taught_posts

SEED = 20240119
DRAWN_COUNTS = {"base": 64, "ccip": 300}
SPRITE_COUNTS = {"base": 24, "ccip": 40}
# Posts a character; a drawn one's are shared out over the artists that can draw it.
DRAWN_POSTS = {"base": 96, "ccip": 16}
SPRITE_POSTS = {"base": 60, "ccip": 16}
PAIR_POSTS = {"base": 120, "ccip": 0}


def characters(population: str) -> list[Character]:
    """The characters of a population; no two populations share a name or an attribute sheet."""
    if population == "taught":
        return taught_characters()
    drawn = random_characters(SEED, DRAWN_COUNTS)
    names = {c.name for group in drawn.values() for c in group}
    return [*drawn[population], *recoloured_sprites(SEED, SPRITE_COUNTS, names)[population]]


def random_posts(population: str) -> list[Post]:
    """All posts of `base` or `ccip`, by ascending id."""
    posts = []
    for character in characters(population):
        if isinstance(character, Drawn):
            styles = character.styles
            numbers = range(DRAWN_POSTS[population])
            posts += [portrait_post(SEED, population, character, styles[n % len(styles)], n) for n in numbers]
        else:
            posts += [portrait_post(SEED, population, character, None, n) for n in range(SPRITE_POSTS[population])]
    girls = [c for c in characters(population) if isinstance(c, Drawn) and c.gender == "1girl"]
    posts += girl_pairs(SEED, population, girls, PAIR_POSTS[population], lambda girl: girl.styles)
    return with_ids(posts, [(0, 6_999_999, len(posts))], SEED, population)


def write_dump(population: str, folder: Path, art: Path = ART) -> None:
    """Draw a population into `folder`: metadata.db, images/data-XXXX.tar, image_index/, for `taught` references.json
    and ATTRIBUTION.md."""
    with whole_folder(folder) as target:
        if population == "taught":
            posts, references, relations = taught_posts(SEED)
            write_posts(target, posts, relations, SEED, art)
            write_json(target / "references.json", reference_table(references))
            write_text(target / "ATTRIBUTION.md", attribution())
        else:
            write_posts(target, random_posts(population), [], SEED, art)
