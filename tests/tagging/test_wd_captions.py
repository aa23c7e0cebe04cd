"""Captions against sd-scripts' own, for each of its revisions and many options."""

import argparse
import json
from dataclasses import dataclass, fields
from pathlib import Path

from repro.errors import StageError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru.captioning.tagger_words import expanded, spelled
from tagging.wd_captions import TagCaptions, TagOptions
from tagging.wd_tagger import CHARACTER, Vocabulary, read_vocabulary

# Revisions' names among the captions, and among the probabilities: `headfix` is `head` without what makes it stop.
REVISIONS = {"2024": "2024", "2025": "2025", "headfix": "head"}


def options_of(words: list[str]) -> TagOptions:
    """The options of an sd-scripts command line, those aside that captions do not depend on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--thresh", type=float, default=0.35)
    for field in fields(TagOptions):
        if isinstance(field.default, bool):
            parser.add_argument(f"--{field.name}", action="store_true")
        else:
            parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    args = vars(parser.parse_known_args(words)[0])
    thresh = args.pop("thresh")
    given_thresholds = {name for name in ("general_threshold", "character_threshold") if f"--{name}" in words}
    return TagOptions(**args | {n: thresh for n in ("general_threshold", "character_threshold") if n not in given_thresholds})


@dataclass
class Reference:
    """The golden answers: option sets, captions, and probabilities by caption file."""

    sets: dict
    captions: dict
    vocabulary: Vocabulary
    probabilities: dict[str, dict[str, np.ndarray]]

    def ours(self, revision: str, name: str, runs: int = 1) -> dict[str, str]:
        """Our caption files of an option set after so many runs."""
        options, existing = options_of(self.sets[name]["args"]), self.sets[name]["existing"] or {}
        captions, found = TagCaptions(self.vocabulary, options), {}
        for file, own in self.probabilities[REVISIONS[revision]].items():
            if "/" in file and "--recursive" not in self.sets[name]["args"]:
                continue
            text = existing.get(file)
            for _ in range(runs):
                text = captions.caption(captions.tags(own), text) + "\n"
            found[file] = text
        return found


@pytest.fixture(scope="module")
def reference(golden: Path) -> Reference:
    folder = golden / "evaluate/tagger"
    answers = json.loads((folder / "set/expected.json").read_text())
    files = [str(Path(name).with_suffix(".txt")) for name in json.loads((folder / "set/preprocess.json").read_text())["files"]]
    rows = np.load(folder / "set/probs.npz")
    (model,) = (folder / "model_dir").iterdir()
    return Reference(
        answers["option_sets"],
        answers["results"],
        read_vocabulary(model / "selected_tags.csv"),
        {name: dict(zip(files, rows[name], strict=True)) for name in rows.files},
    )


def without_repeats(caption: str, existing: str, names: tuple[str, ...]) -> str:
    """The reference's caption without the expanded characters that it appends although the existing one has them."""
    there = ", ".join(part.strip() for part in existing.strip("\n").split(",") if part.strip())
    kept, new = caption[: len(there)], caption[len(there) :]
    assert kept == there
    for element in (spelled(expanded(name)) for name in names):
        if ", " in element and f", {element}, " in f", {there}, ":
            new = new.replace(f", {element}", "", 1)
    return kept + new


@pytest.mark.golden
@pytest.mark.parametrize("revision", REVISIONS)
def test_captions_are_the_references(reference: Reference, revision: str):
    for name, options in reference.sets.items():
        if options["runs"] > 1 or (revision, name) == ("headfix", "replacement"):
            continue  # the two below
        expected, existing = reference.captions[revision][name]["captions"], options["existing"]
        if existing and "--character_tag_expand" in options["args"]:
            names = reference.vocabulary.of(CHARACTER)
            expected = {file: without_repeats(text, existing.get(file, ""), names) for file, text in expected.items()}
        assert reference.ours(revision, name) == expected, name


@pytest.mark.golden
@pytest.mark.parametrize("revision", REVISIONS)
def test_a_second_run_appends_nothing(reference: Reference, revision: str):
    """The reference appends all elements with a separator in them again."""
    assert reference.ours(revision, "sote_twice", runs=2) == reference.captions[revision]["sote"]["captions"]
    assert reference.captions[revision]["sote_twice"] != reference.captions[revision]["sote"]


@pytest.mark.golden
def test_the_newest_revisions_replacement_does_what_it_did_before(reference: Reference):
    """There the option does nothing; where a picture has the probabilities of 2025 it must have that revision's caption."""
    without = [word for word in reference.sets["replacement"]["args"] if not word.startswith("1girl,woman")]
    captions = TagCaptions(reference.vocabulary, options_of([word for word in without if word != "--tag_replacement"]))
    ours, probabilities = reference.ours("headfix", "replacement"), reference.probabilities
    for file, text in reference.captions["headfix"]["replacement"]["captions"].items():
        assert captions.caption(captions.tags(probabilities["head"][file])) + "\n" == text
        if (probabilities["head"][file] == probabilities["2025"][file]).all():
            assert ours[file] == reference.captions["2025"]["replacement"]["captions"][file]


@pytest.mark.golden
def test_the_newest_revision_stops_where_ours_does_not(reference: Reference):
    """Wherever it got through, its captions are those of its mended self."""
    for name, result in reference.captions["head"].items():
        if result["captions"] is not None:
            assert result["captions"] == reference.captions["headfix"][name]["captions"] == reference.ours("headfix", name)


VOCABULARY = Vocabulary(
    ("general", "sensitive", "questionable", "explicit", "1girl", "long_hair", "comma,_tag", "saber_(fate)", "mash_(fate)"),
    (9, 9, 9, 9, 0, 0, 0, 4, 4),
)
ALL = np.array([0.1, 0.7, 0.7, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9], dtype=np.float32)


def caption(probabilities: np.ndarray = ALL, existing: str | None = None, **options) -> str:
    captions = TagCaptions(VOCABULARY, TagOptions(**options))
    return captions.caption(captions.tags(probabilities), existing)


def test_the_first_of_the_likeliest_ratings_is_taken():
    assert caption(use_rating_tags=True).startswith("sensitive, 1girl")
    assert caption(use_rating_tags_as_last_tag=True).endswith(", sensitive")


@pytest.mark.parametrize("general", [True, False])
def test_a_probability_at_the_threshold_is_enough(general: bool):
    threshold = {"general_threshold": 0.5, "character_threshold": 2.0} if general else {"general_threshold": 2.0}
    place = 4 if general else 7
    row = np.zeros(len(ALL), dtype=np.float32)
    for value, found in ((0.5, VOCABULARY.names[place]), (np.nextafter(np.float32(0.5), np.float32(0)), "")):
        row[place] = value
        assert caption(row, **{"character_threshold": 0.5} | threshold) == found


def test_what_is_appended_is_what_is_missing():
    options = {"append_tags": True, "character_tag_expand": True, "remove_underscore": True}
    first = caption(existing="newest, long hair ,,\n", **options)
    assert first == "newest, long hair, 1girl, comma, tag, saber, fate, mash, fate"
    assert caption(existing=first + "\n", **options) == first


def test_parts_that_do_not_stand_together_are_no_character():
    found = caption(existing="saber, 1girl, fate", append_tags=True, character_tag_expand=True, general_threshold=2.0)
    assert found == "saber, 1girl, fate, saber, fate, mash, fate"


def test_a_caption_that_lacks_nothing_stays_as_it_is_written():
    existing = "mash_(fate) ,1girl,"
    assert caption(existing=existing, append_tags=True, general_threshold=2.0, undesired_tags="saber_(fate)") == existing


def test_without_append_the_existing_caption_counts_for_nothing():
    assert caption(existing="newest") == caption()


def test_replacements_take_escaped_marks():
    assert caption(tag_replacement="comma\\,_tag,a\\;b;mash_(fate),x") == "1girl, long_hair, a;b, saber_(fate), x"


@pytest.mark.parametrize("text", ["1girl", "a,b,c", "a,b;", "a\\,b"])
def test_half_a_replacement_is_refused(text: str):
    with pytest.raises(StageError, match=r"--tag_replacement.*expected pairs"):
        caption(tag_replacement=text)


@pytest.mark.parametrize("separator", ["", " ", "\n"])
def test_a_blank_separator_is_refused(separator: str):
    with pytest.raises(StageError, match="--caption_separator"):
        caption(caption_separator=separator)


@given(
    st.lists(st.floats(0, 1, width=32), min_size=len(ALL), max_size=len(ALL)),
    st.lists(st.floats(0, 1, width=32), min_size=len(ALL), max_size=len(ALL)),
    st.text("ab, ,;\n_()1girl", max_size=30),
    st.sampled_from([", ", ",", "; "]),
    st.booleans(),
    st.booleans(),
)
def test_appending_is_done_once(first, second, existing, separator, expand, underscore):
    """A run after another changes nothing, and one with other probabilities adds nothing that is there."""
    options = {
        "append_tags": True, "use_rating_tags": True, "caption_separator": separator, "character_tag_expand": expand,
        "remove_underscore": underscore,
    }  # fmt: skip
    rows = [np.array(row, dtype=np.float32) for row in (first, second)]
    once = caption(rows[0], existing, **options)
    assert caption(rows[0], once + "\n", **options) == once
    both = caption(rows[1], once + "\n", **options)
    assert caption(rows[0], both, **options) == caption(rows[1], both, **options) == both
