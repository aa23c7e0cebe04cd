"""Every artist whose work is in the sample is named with licence."""

from sample.attribution import attribution
from sample.catalogue import catalogue


def test_every_artist_tag_has_a_line():
    text = attribution()
    for style in catalogue()["styles"].values():
        assert f"| {style['artist']} |" in text
    for sprite in catalogue()["sprites"].values():
        assert f"| {sprite['artist']} |" in text


def test_licences_and_changes_are_stated():
    text = attribution()
    for phrase in ("CC BY 4.0", "CC0 1.0", "Permission is hereby granted", "Changed here"):
        assert phrase in text


def test_no_style_with_a_closed_licence_is_used():
    assert not {"avataaars", "avataaars-neutral", "bottts", "bottts-neutral"} & set(catalogue()["styles"])
