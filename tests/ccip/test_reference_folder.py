"""The folder of the references stage: written, read, refused when it is not what it should be."""

import csv
import json
from pathlib import Path

from repro.errors import StageError
from repro.hashing import MANIFEST_NAME, write_manifest
from repro.outputs import json_text

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny_booru import folder_bytes

from ccip.encoder import WIDTH
from ccip.reference_folder import read_reference_folder, write_reference_folder
from ccip.sources import PictureSource
from characters.references import Reference, ReferenceList, Skipped

ENCODER = "e" * 64
MIKA = Reference("mika", "lorelei", "1girl", ("tail",), ("zoish",), (9, 3), ("amon",), 41)
RIN = Reference("rin", "", "", (), (), (5, 6), (), 40)
REFERENCES = ReferenceList((MIKA, RIN), (Skipped("aoi", "7 pictures"),))
SOURCES = [PictureSource(f"post {post}", f"{post:064x}", lambda: Image.new("RGB", (1, 1))) for post in (9, 3, 5, 6)]
FEATURES = np.arange(4 * WIDTH, dtype=np.float32).reshape(4, WIDTH)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_reference_folder(tmp_path / "references", REFERENCES, SOURCES, FEATURES, ENCODER, [False, True, False, False])
    return tmp_path / "references"


def test_what_is_written_is_read_again(folder: Path):
    found = read_reference_folder(folder)
    assert (found.references, found.encoder_sha256) == (REFERENCES, ENCODER)
    assert found.pictures == tuple(source.sha256 for source in SOURCES)
    assert found.trained == 1
    assert found.features.dtype == np.float32
    assert np.array_equal(found.features, FEATURES)


def test_what_the_files_hold(folder: Path):
    assert sorted(folder_bytes(folder)) == [MANIFEST_NAME, "features.safetensors", "pictures.csv", "references.json"]
    with open(folder / "pictures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = [("mika", 9, 0), ("mika", 3, 1), ("rin", 5, 0), ("rin", 6, 0)]
    assert [tuple(row.values()) for row in rows] == [(name, str(n), f"{n:064x}", str(seen)) for name, n, seen in pictures]
    assert list(rows[0]) == ["character", "post", "sha256", "trained"]
    text = (folder / "references.json").read_text()
    assert text == json_text(json.loads(text))
    with safe_open(folder / "features.safetensors", framework="numpy") as file:
        assert (list(file.keys()), file.metadata()) == (["features"], {"encoder": ENCODER})


def test_same_bytes_however_the_features_lie_in_memory(folder: Path, tmp_path: Path):
    features = np.asfortranarray(FEATURES)
    write_reference_folder(tmp_path / "again", REFERENCES, SOURCES, features, ENCODER, [False, True, False, False])
    assert folder_bytes(tmp_path / "again") == folder_bytes(folder)


def test_the_content_digest_tells_other_features(folder: Path, tmp_path: Path):
    other = FEATURES.copy()
    other[3, 5] += 1
    write_reference_folder(tmp_path / "other", REFERENCES, SOURCES, other, ENCODER, [False, True, False, False])
    digests = [json.loads((path / MANIFEST_NAME).read_text())["content"] for path in (folder, tmp_path / "other")]
    assert digests[0] != digests[1]


def refused(folder: Path) -> str:
    """The one line with which reading fails after a test changed files and sealed the folder anew."""
    (folder / MANIFEST_NAME).unlink()
    write_manifest(folder, "0" * 64)
    with pytest.raises(StageError) as caught:
        read_reference_folder(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_changed_or_missing_folder_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(StageError, match=r"no such folder; stages/choose_references.py makes it"):
        read_reference_folder(tmp_path / "none")
    with open(folder / "pictures.csv", "a") as file:
        file.write("\n")
    with pytest.raises(StageError, match=r"pictures.csv: missing, unexpected or changed"):
        read_reference_folder(folder)


def test_pictures_in_another_order_are_refused(folder: Path):
    lines = (folder / "pictures.csv").read_text().splitlines(keepends=True)
    (folder / "pictures.csv").write_text("".join([lines[0], lines[2], lines[1], *lines[3:]]))
    assert "pictures.csv: its pictures are not the posts of references.json in their order" in refused(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trained", "learned", "its columns are character, post, sha256, learned, expected character, post, sha256, trained"),
        (",1\n", ",yes\n", "'trained' must be 0 or 1 in every row"),
        (",1\n", "\n", "'trained' must be 0 or 1 in every row"),
    ],
)
def test_a_list_of_pictures_that_is_none_is_refused(folder: Path, old: str, new: str, message: str):
    text = (folder / "pictures.csv").read_text()
    assert text.count(old) == 1
    (folder / "pictures.csv").write_text(text.replace(old, new))
    assert f"pictures.csv: {message}" in refused(folder)


def test_characters_with_other_numbers_of_posts_are_refused(folder: Path):
    content = json.loads((folder / "references.json").read_text())
    content["characters"]["rin"]["posts"].append(7)
    (folder / "references.json").write_text(json.dumps(content))
    assert "references.json: its characters have not all the same number of posts" in refused(folder)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"features": FEATURES[:3]}, {"encoder": ENCODER}, r"features are float32 [3, 768], but"),
        ({"features": FEATURES[:, :5].copy()}, {"encoder": ENCODER}, r"features are float32 [4, 5], but"),
        ({"features": FEATURES.astype(np.float64)}, {"encoder": ENCODER}, r"features are float64 [4, 768], but"),
        ({"other": FEATURES}, {"encoder": ENCODER}, "expected a safetensors file with the tensor 'features'"),
        ({"features": FEATURES}, None, "and the metadata 'encoder'"),
    ],
)
def test_other_features_are_refused(folder: Path, tensors: dict, metadata: dict | None, message: str):
    save_file(tensors, folder / "features.safetensors", metadata)
    assert message in refused(folder)


def test_a_file_that_is_no_safetensors_is_refused(folder: Path):
    (folder / "features.safetensors").write_bytes(b"nothing of the kind")
    assert "expected a safetensors file" in refused(folder)
