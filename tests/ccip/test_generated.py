"""The generate stage's folder as what is scored."""

from dataclasses import replace
from pathlib import Path

from repro.errors import StageError

import pytest
from tiny_pictures import tiny_picture

from ccip.generated import check_reference_pictures, pictured_characters, read_generated_pictures
from ccip.pictured import all_pictures, all_references
from ccip.sources import PictureSource
from characters.references import Reference
from generation.picture_folder import PictureFolder, write_picture_folder
from generation.requests import PictureRequest

SAMPLING = {"sampler": "euler", "steps": 2}
AOI = Reference("aoi", "harbour", "1girl", (), (), (5, 4), (), 70)
REFERENCES = [AOI, replace(AOI, character="mika")]
POSTS = [PictureSource(f"post {n}", f"{n:064d}", Path) for n in range(4)]


def requests() -> list[PictureRequest]:
    """Two pictures by name, one with core tags; the first character has one with a new artist, numbered on."""
    found = []
    for reference in REFERENCES:
        for number, mode in enumerate(("name", "name", "core_tags")):
            found.append(
                PictureRequest(reference.character, mode, "plain", "", number % 2, f"{reference.character}, solo", number)
            )
        if reference is AOI:
            found.append(PictureRequest("aoi", "new_artist", "plain", "deji", 2, "aoi, deji", 9))
    return found


def folder_of(folder: Path, by_model: dict[str, list[PictureRequest]], sampling: dict = SAMPLING) -> Path:
    """A folder of the generate stage, below `folder`."""
    folder.mkdir()
    rows = []
    for model, asked in by_model.items():
        for k, request in enumerate(asked):
            file = folder / f"{model}-{k}.png"
            file.write_bytes(tiny_picture(model, k))
            rows.append((model, request, file))
    write_picture_folder(folder / "pictures", rows, sampling)
    return folder / "pictures"


@pytest.mark.parametrize("folders", [[("base", "merged")], [("base",), ("merged",)]])
def test_pictures_by_character_model_and_mode(tmp_path, folders):
    paths = [folder_of(tmp_path / "-".join(models), dict.fromkeys(models, requests())) for models in folders]
    generated = read_generated_pictures(paths)
    aoi, mika = pictured_characters(REFERENCES, POSTS, generated)
    assert (aoi.labels, aoi.references) == (("5", "4"), tuple(POSTS[:2]))
    assert all_references([aoi, mika]) == POSTS
    assert list(aoi.pictures) == [(model, mode) for model in ("base", "merged") for mode in ("name", "core_tags", "new_artist")]
    assert list(mika.pictures) == [(model, mode) for model in ("base", "merged") for mode in ("name", "core_tags")]
    assert aoi.pictures["merged", "new_artist"].numbers == (2,)
    assert aoi.pictures["base", "name"].numbers == (0, 1)
    assert len(all_pictures([aoi, mika])) == 2 * len(requests())
    drawn = mika.pictures["merged", "name"].sources[1]
    pictures = PictureFolder(paths[-1])
    row = next(p for p in pictures.pictures if (p.model, p.request) == ("merged", requests()[5]))
    assert drawn.sha256 == row.sha256
    assert drawn.name == f"{paths[-1] / row.archive}: {row.member}"
    assert drawn.open().tobytes() == pictures.open(row).tobytes()
    assert generated.modes == ["name", "core_tags", "new_artist"]


def test_models_stand_in_the_order_of_the_folders(tmp_path):
    three = [folder_of(tmp_path / "-".join(names), dict.fromkeys(names, requests())) for names in (("z", "b"), ("a",))]
    assert list(read_generated_pictures(three).by_model) == ["z", "b", "a"]
    assert list(read_generated_pictures(three[::-1]).by_model) == ["a", "z", "b"]


def test_requests_digest_is_of_what_was_asked_for(tmp_path):
    def digest(name: str, by_model: dict[str, list[PictureRequest]]) -> str:
        return read_generated_pictures([folder_of(tmp_path / name, by_model)]).requests_sha256

    one = digest("one", {"base": requests()})
    assert digest("renamed", {"a": requests(), "b": requests()}) == one
    assert digest("changed", {"base": [replace(request, prompt=request.prompt + ".") for request in requests()]}) != one


@pytest.mark.parametrize("change", ["fewer", "another seed"])
@pytest.mark.parametrize("together", [True, False])
def test_models_that_were_asked_for_other_pictures_are_refused(tmp_path, change, together):
    other = requests()[:-1] if change == "fewer" else [*requests()[:-1], replace(requests()[-1], seed=1)]
    parts = [{"base": requests(), "merged": other}] if together else [{"base": requests()}, {"merged": other}]
    folders = [folder_of(tmp_path / f"part{k}", part) for k, part in enumerate(parts)]
    words = f"{folders[-1]}: merged was asked for other pictures than base in {folders[0]}; make them again"
    with pytest.raises(StageError, match=words):
        read_generated_pictures(folders)


def test_models_whose_pictures_were_sampled_otherwise_are_refused(tmp_path):
    folders = [
        folder_of(tmp_path / "a", {"base": requests()}),
        folder_of(tmp_path / "b", {"merged": requests()}, SAMPLING | {"steps": 3}),
    ]
    with pytest.raises(StageError, match=r"b/pictures: its pictures were sampled with another steps than those of .*a/pictures"):
        read_generated_pictures(folders)
    alone = [read_generated_pictures([folder]).requests_sha256 for folder in folders]
    assert alone[0] != alone[1]


def test_a_model_that_stands_in_two_folders_is_refused(tmp_path):
    folders = [folder_of(tmp_path / name, dict.fromkeys(models, requests())) for name, models in (("a", "xy"), ("b", "zy"))]
    with pytest.raises(StageError, match=r"b/pictures: a model named 'y' stands in .*a/pictures already"):
        read_generated_pictures(folders)


def test_a_folder_without_pictures_is_refused(tmp_path):
    folders = [folder_of(tmp_path / "one", {"base": requests()}), folder_of(tmp_path / "none", {})]
    with pytest.raises(StageError, match=r"none/pictures: there are no pictures in it"):
        read_generated_pictures(folders)


@pytest.mark.parametrize(("listed", "words"), [(REFERENCES[:1], "'mika' has pictures, but no"), (
    [*REFERENCES, replace(AOI, character="rin")], "'rin' has no pictures")])  # fmt: skip
def test_pictures_of_another_list_are_refused(tmp_path, listed, words):
    generated = read_generated_pictures([folder_of(tmp_path / "one", {"base": requests()})])
    with pytest.raises(StageError, match=rf"one/pictures: {words}"):
        pictured_characters(listed, POSTS, generated)


def test_reference_pictures_that_changed_are_named():
    kept = [source.sha256 for source in POSTS]
    check_reference_pictures(Path("references"), kept, POSTS)
    changed = [*POSTS[:2], replace(POSTS[2], sha256="f" * 64), POSTS[3]]
    with pytest.raises(StageError, match="references: post 2 has changed since it was encoded; make it again"):
        check_reference_pictures(Path("references"), kept, changed)
