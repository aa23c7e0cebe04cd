"""The references stage as a process: both kinds of source, kills, and mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from repro.errors import StageError
from repro.state import fingerprint

import pytest
from tiny_annotations import copy_with_digests, tagger_row, write_annotations
from tiny_booru import folder_bytes, refusal, run_script
from tiny_characters import MIKA, Booru, ids_of, make_booru, picture

import caption_posts
import choose_references
from ccip import features
from ccip.encoder import WIDTH, CcipEncoder
from ccip.features import CHUNK
from ccip.reference_folder import read_reference_folder

ENCODER = Path("models/sample-ccip")
TRAINED = {1000: {}, 2000: {}, 3000: {"tags": ids_of([MIKA, "rin"])}, 4000: {"tags": ids_of(["rin", "aoi_a"])}}
PICTURES = CHUNK + 10
POSTS = TRAINED | {number: {} for number in range(100_000, 100_000 + 1000 * (PICTURES + 5), 1000)}


@pytest.fixture(scope="module")
def booru(tmp_path_factory: pytest.TempPathFactory) -> Booru:
    return make_booru(tmp_path_factory.mktemp("booru"), POSTS, list(TRAINED))


def arguments(booru: Booru, output: Path, source: Path | None = None, pictures: int = 5, **other: Path) -> list[object]:
    paths = {"captions": booru.captions, "characters": booru.characters, "image-index": booru.index, "ccip": ENCODER} | other
    options = [part for name, path in paths.items() for part in (f"--{name}", path)]
    return [
        "--source", source or booru.metadata, *options, "--output", output, "--list", output.with_name("list.json"),
        "--set", "evaluate.references.min_posts=2",
        "--set", f"evaluate.references.pictures={pictures}", "--set", f"runtime.image_root={booru.images}",
    ]  # fmt: skip


def chosen(booru: Booru, output: Path, *more: str, source: Path | None = None, pictures: int = 5) -> str:
    state = output.with_name("state")
    asked = arguments(booru, output, source, pictures)
    result = run_script("choose_references.py", *asked, *more, STATE_ROOT=str(state), IMAGE_ROOT=str(booru.images))
    assert result.returncode == 0, result.stderr
    assert not list(state.glob("references/*/features/*"))
    return result.stdout


def listed(tmp_path: Path, posts: list[int]) -> Path:
    entry = {"series": "lorelei", "gender_tag": "1girl", "artists": ["zoish"], "core_tags": ["tail"]}
    content = {"characters": {MIKA: entry | {"posts": posts}, "extra": entry | {"posts": posts}}, "held_out": [[MIKA, "amon"]]}
    (tmp_path / "references.json").write_text(json.dumps(content))
    return tmp_path / "references.json"


def test_references_from_metadata(booru: Booru, tmp_path: Path):
    stdout = chosen(booru, tmp_path / "references")
    assert stdout == (
        "references: 1 characters with 5 references each (0 of these pictures were trained on), 1 skipped (1 for too few unseen"
        " pictures that show the character alone, evaluate.references.pictures needs 5)\n"
    )
    found = read_reference_folder(tmp_path / "references")
    (mika,) = found.references.characters
    assert [one.character for one in found.references.skipped] == ["rin"]
    assert (mika.character, len(mika.posts), mika.training_pictures, mika.artists) == (MIKA, 5, 3, ("zoish",))
    assert not set(mika.posts) & TRAINED.keys()
    assert found.features.shape == (5, WIDTH)
    assert (tmp_path / "list.json").read_bytes() == (tmp_path / "references/references.json").read_bytes()


def test_references_from_a_list(booru: Booru, tmp_path: Path):
    source = listed(tmp_path, [101_000, 1000, 100_000])
    stdout = chosen(booru, tmp_path / "references", source=source, pictures=2)
    assert "1 characters with 2 references each (0 of these pictures were trained on), 2 skipped (1 for not in the list" in stdout
    found = read_reference_folder(tmp_path / "references")
    (mika,) = found.references.characters
    assert (mika.posts, mika.held_out_artists, mika.training_pictures) == ((101_000, 100_000), ("amon",), 3)
    assert [one.character for one in found.references.skipped] == ["extra", "rin"]
    stdout = chosen(booru, tmp_path / "seen", "--set", "evaluate.references.unseen=false", source=source, pictures=2)
    assert "1 characters with 2 references each (1 of these pictures were trained on)" in stdout


def test_same_bytes_in_any_surroundings(booru: Booru, tmp_path: Path):
    chosen(booru, tmp_path / "a" / "references", "--set", "runtime.processes=1")
    chosen(booru, tmp_path / "b" / "references", "--set", "runtime.processes=3")
    assert folder_bytes(tmp_path / "a" / "references") == folder_bytes(tmp_path / "b" / "references")


def test_a_killed_run_goes_on_and_gives_the_same_bytes(booru: Booru, tmp_path: Path):
    chosen(booru, tmp_path / "whole" / "references", pictures=PICTURES)
    state, output = tmp_path / "killed" / "state", tmp_path / "killed" / "references"
    command = [sys.executable, "stages/choose_references.py", *map(str, arguments(booru, output, pictures=PICTURES))]
    process = subprocess.Popen(
        [*command, "--set", "runtime.processes=1"], env=os.environ | {"STATE_ROOT": str(state)}, stderr=subprocess.DEVNULL
    )
    while not list(state.glob("references/*/features/*.npy")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    chosen(booru, output, pictures=PICTURES)
    assert folder_bytes(output) == folder_bytes(tmp_path / "whole" / "references")


def test_state_of_other_code_that_decodes_or_encodes_is_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = tmp_path / "stages"
    shutil.copytree("stages", code, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(features, "STAGES", code)
    encoder = CcipEncoder(ENCODER)

    def state_after_change(file: str) -> str:
        with open(code / file, "a", encoding="utf-8") as source:
            source.write("# changed\n")
        return fingerprint(**features.determining_parts(encoder, []))

    before = fingerprint(**features.determining_parts(encoder, []))
    assert state_after_change("ccip/plots.py") == before
    found = [state_after_change(file) for file in ("ccip/encoder.py", "ccip/sources.py", "booru/images/archives.py")]
    assert len({before, *found}) == 4


def refused(booru: Booru, output: Path, *more: str, **changes) -> str:
    """The complaint of a run in this process that must fail without writing anything."""
    with pytest.raises(StageError) as caught:
        choose_references.main([*map(str, arguments(booru, output, **changes)), *more])
    assert not output.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_are_told_in_one_line(booru: Booru, tmp_path: Path):
    output = tmp_path / "references"
    assert "no character has 9 training pictures, the most has 3; lower evaluate.references.min_posts" in refused(
        booru, output, "--set", "evaluate.references.min_posts=9"
    )
    text = refused(booru, output, pictures=200)
    assert "no character is left, 2 skipped (2 for too few unseen pictures" in text
    assert "lower evaluate.references.pictures or min_side, or set evaluate.references.unseen to false" in text
    assert "none.json: no such file" in refused(booru, output, characters=tmp_path / "none.json")
    assert "no such file; expected references.json" in refused(booru, output, source=tmp_path / "none")
    named = '{"model_feat.onnx": "' + "0" * 64 + '"}'
    assert "but evaluate.ccip.sha256 names 000" in refused(booru, output, "--set", f"evaluate.ccip.sha256={named}")
    text = refused(booru, output, source=listed(tmp_path, [1000, 999_000, 100_000, 998_000]), pictures=2)
    assert "references.json: no character is left, 3 skipped (" in text
    assert (
        "1 for too few reference pictures in the list, evaluate.references.pictures needs 2"
        " (left out: not in the image index, trained on);"
    ) in text
    assert text.endswith(
        "; list more posts of characters with enough training pictures, or lower evaluate.references.pictures or min_side,"
        " or set evaluate.references.unseen to false"
    )
    text = refused(booru, output, "--set", "evaluate.references.unseen=false", pictures=200)
    assert text.endswith("; lower evaluate.references.pictures or min_side")


TAGGER = '{"path": "wd", "hub": null, "sha256": {}, "preprocess": "kohya-2024-04", "floor": 0.1}'
VOCABULARY = [
    *((name, 9) for name in ("general", "sensitive", "questionable", "explicit")),
    *((name, 0) for name in ("1girl", "solo", "lorelei")), *((name, 4) for name in ("rin", MIKA, "unheard_of")),
]  # fmt: skip
PLACES = {name: place for place, (name, _) in enumerate(VOCABULARY)}


def by_tagger(*names: str) -> dict[str, list]:
    return tagger_row({}) | {"tags": sorted(PLACES[name] for name in names), "probabilities": [0.9] * len(names)}


@pytest.mark.parametrize("profile", ["sotediffusion", "kohaku-xl-epsilon"])
def test_references_of_characters_that_a_tagger_found(tmp_path: Path, profile: str):
    """The metadata names nobody in the trained pictures. 8000 looks like one of them that shows Mika, 9000 like one of Rin."""
    trained = {number: {"tags": ids_of(["solo"])} for number in (1000, 2000, 3000)}
    unseen = {number: {} for number in (8000, 9000, 10_000, 11_000)}
    near = {8000: picture(1000, (104, 104)), 9000: picture(3000, (104, 104))}
    booru = make_booru(tmp_path / "booru", trained | unseen, list(trained), near, shard_posts=100)
    tagged = {1000: by_tagger("1girl", MIKA, "lorelei"), 2000: by_tagger(MIKA, "rin"), 3000: by_tagger("rin", "unheard_of")}
    kept = copy_with_digests(tmp_path / "booru" / "kept", tmp_path / "kept")
    annotations = write_annotations(tmp_path / "annotations", {"tags": tagged}, VOCABULARY, kept)
    captions, characters = tmp_path / "captions", tmp_path / "characters.json"
    settings = [f"annotate.tags={TAGGER}", "caption.tags=annotations", f"caption.profile={profile}"]
    caption_posts.main(
        ["--posts", str(kept), "--annotations", str(annotations), "--output", str(captions),
         "--characters", str(characters), *(word for setting in settings for word in ("--set", setting))]
    )  # fmt: skip
    found = replace(booru, captions=captions, characters=characters)
    chosen(found, tmp_path / "references", pictures=3)
    references = read_reference_folder(tmp_path / "references").references
    (mika,) = references.characters
    assert (mika.posts, mika.training_pictures, mika.artists, mika.series) == ((9000, 10_000, 11_000), 2, (), "lorelei")
    assert [one.character for one in references.skipped] == ["rin"]
    chosen(found, tmp_path / "seen", "--set", "evaluate.references.unseen=false", pictures=4)
    assert read_reference_folder(tmp_path / "seen").references.characters[0].posts == (8000, 9000, 10_000, 11_000)


def test_a_folder_that_no_stage_wrote_is_not_replaced(booru: Booru, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    text = refusal("choose_references.py", *arguments(booru, tmp_path / "mine"))
    assert "it would be replaced" in text
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
