"""Populations never share a character; taught characters can be told apart."""

import itertools

from sample.catalogue import catalogue
from sample.characters import Drawn, taught_characters
from sample.population import characters

POPULATIONS = ("taught", "base", "ccip")


def test_populations_share_neither_names_nor_attribute_sheets():
    by_population = {name: characters(name) for name in POPULATIONS}
    for first, second in itertools.combinations(POPULATIONS, 2):
        assert not {c.name for c in by_population[first]} & {c.name for c in by_population[second]}
        assert not {c.sheet for c in by_population[first]} & {c.sheet for c in by_population[second]}
    assert len(by_population["base"]) == 64 + 24
    assert len(by_population["ccip"]) == 300 + 40


def test_names_and_sheets_are_unique_within_a_population():
    for population in POPULATIONS:
        members = characters(population)
        assert len({c.name for c in members}) == len(members)
        assert len({c.sheet for c in members}) == len(members)


def test_no_recoloured_sprite_has_its_own_hair_colour():
    for population in ("base", "ccip"):
        for character in characters(population):
            if not isinstance(character, Drawn):
                assert character.hair_colour != catalogue()["sprites"][character.family[0]]["hair_colour"]


def test_taught_characters_differ_in_two_attributes_except_two_pairs_of_one_colour():
    drawn = [c for c in taught_characters() if isinstance(c, Drawn)]
    assert len(drawn) == 12
    close = []
    for first, second in itertools.combinations(drawn, 2):
        differences = sum(a != b for a, b in zip(first.sheet, second.sheet, strict=True))
        assert differences >= 1
        if differences == 1:
            close.append((first.name, second.name))
            assert first.hair != second.hair
    assert close == [("mika", "shin"), ("hana", "momo")]


def test_eight_artists_draw_each_several_taught_characters():
    artists = [artist for c in taught_characters() if isinstance(c, Drawn) for artist in c.artists]
    assert len(set(artists)) == 8
    assert all(artists.count(artist) >= 5 for artist in artists)
    assert all(len(c.artists) >= 4 for c in taught_characters() if isinstance(c, Drawn))


def test_series_belong_to_three_or_four_characters():
    drawn = [c for c in taught_characters() if isinstance(c, Drawn)]
    sizes = [len(list(group)) for _, group in itertools.groupby(sorted(c.series for c in drawn))]
    assert set(sizes) <= {3, 4}
