"""The three populations, disjoint in characters: taught (the committed set), base and ccip (to train the sample's own models).

from sample.population import write_dump
write_dump("base", Path("data/sample-base"))
"""

from pathlib import Path

from repro.outputs import whole_folder

from sample.characters import Character, Drawn, random_characters, recoloured_sprites, taught_characters
from sample.dump import post_rows, write_archives, write_database, write_index
from sample.pictures import ART, draw, encode
from sample.posts import Post, girl_pairs, portrait_post, with_ids

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


def _random_posts(population: str) -> list[Post]:
    posts = []
    for character in characters(population):
        if isinstance(character, Drawn):
            styles = character.styles
            numbers = range(DRAWN_POSTS[population])
            posts += [portrait_post(SEED, population, character, styles[n % len(styles)], n) for n in numbers]
        else:
            posts += [portrait_post(SEED, population, character, None, n) for n in range(SPRITE_POSTS[population])]
    girls = [c for c in characters(population) if isinstance(c, Drawn) and c.gender == "1girl"]
    posts += girl_pairs(SEED, population, girls, PAIR_POSTS[population])
    return with_ids(posts, [(0, 6_999_999, len(posts))], SEED, population)


def posts(population: str) -> list[Post]:
    """All posts of a population, by ascending id."""
    return _random_posts(population)


def write_dump(population: str, folder: Path, art: Path = ART) -> None:
    """Draw a population into `folder`: metadata.db, images/data-XXXX.tar, images.parquet, for `taught` references.json."""
    chosen = posts(population)
    images = {post.id: encode(post.picture, draw(post.picture, art)) for post in chosen if post.picture is not None}
    with whole_folder(folder) as target:
        write_index(target / "images.parquet", write_archives(target / "images", images.items()))
        write_database(target / "metadata.db", post_rows(chosen, images, SEED), {post.id: list(post.tags) for post in chosen}, [])
