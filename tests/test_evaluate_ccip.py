"""Evaluate-CCIP as a user runs it: the folders of the stages before it, folders of pictures, two earlier results."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from repro.errors import StageError
from repro.hashing import hash_tree, sha256_file, sha256_json

import pytest
from tiny_pictures import MODEL, tiny_picture, write_character_folders

from booru.images.indexing import index_here
from ccip.encoder import CcipEncoder
from ccip.features import encode_pictures
from ccip.reference_folder import write_reference_folder
from ccip.sources import reference_sources
from characters.references import Reference, ReferenceList, Skipped
from evaluate_ccip import evaluate_parser, named_folders
from generation.picture_folder import write_picture_folder
from generation.requests import PictureRequest

pytestmark = pytest.mark.golden
SAMPLING = {"sampler": "euler", "steps": 2}
AOI = Reference("aoi", "lorelei", "1girl", (), (), (8_000_000, 8_001_000, 8_002_000), ("johan_melin",), 70)
MIKA = replace(AOI, character="mika_(lorelei)", posts=(8_003_000, 8_004_000, 8_005_000), held_out_artists=(), training_pictures=9)
RURI = Skipped("ruri", "1 reference pictures, evaluate.references.pictures needs 3")
TRAINED = {8_001_000, 8_003_000}
MODELS = ("base", "merged")
PICTURES = 16
OUTPUTS = {"ccip", "ccip.json", "ccip_borderline.csv", "ccip_characters.csv", "ccip_run.json", "pictures"}
SETTINGS = ["--set", "evaluate.bootstrap_samples=50", "--set", "evaluate.grid_characters=1"]
# Stops a program that opens a socket, and tells at its end whether it took a training library.
GUARD = """
import atexit, socket, sys
def refuse(*_, **__):
    raise AssertionError("a socket was opened")
socket.socket = socket.create_connection = refuse
def tell():
    print("IMPORTED", sorted({"torch", "diffusers", "transformers", "families"} & set(sys.modules)), file=sys.stderr)
atexit.register(tell)
"""


def write_images(root: Path) -> None:
    root.mkdir()
    with tarfile.open(root / "data-0000.tar", "w") as tar:
        for post in (*AOI.posts, *MIKA.posts):
            data = tiny_picture(post)
            member = tarfile.TarInfo(f"{post}.png")
            member.size = len(data)
            tar.addfile(member, BytesIO(data))


def requests() -> list[PictureRequest]:
    found = []
    for one in (AOI, MIKA):
        for mode in ("name", "core_tags"):
            found += [PictureRequest(one.character, mode, "plain", "", n, one.character, n) for n in range(PICTURES)]
        found += [
            PictureRequest(one.character, "new_artist", "plain", artist, PICTURES, "x", 7) for artist in one.held_out_artists
        ]
    return found


def write_generated(folder: Path, asked: list[PictureRequest], models: Sequence[str]) -> None:
    """The merged model draws the first reference by name, else all is noise."""
    scratch = folder.with_name(f"{folder.name}-made")
    scratch.mkdir(parents=True)
    rows = []
    for model in models:
        for k, request in enumerate(asked):
            first = AOI.posts[0] if request.character == "aoi" else MIKA.posts[0]
            knows = (model, request.mode) == ("merged", "name")
            (scratch / f"{model}-{k}.png").write_bytes(tiny_picture(first) if knows else tiny_picture(model, k))
            rows.append((model, request, scratch / f"{model}-{k}.png"))
    write_picture_folder(folder, rows, SAMPLING)


def write_references(folder: Path, inputs: Path, encoder_sha256: str | None = None) -> None:
    posts = reference_sources([AOI, MIKA], inputs / "image_index", inputs / "images")
    (inputs / "kept").mkdir(exist_ok=True)
    features = encode_pictures(inputs / "ccip", posts, 1, "references", inputs / "kept")
    digest = encoder_sha256 or CcipEncoder(inputs / "ccip").digests["model_feat.onnx"]
    trained = [post in TRAINED for one in (AOI, MIKA) for post in one.posts]
    write_reference_folder(folder, ReferenceList((AOI, MIKA), (RURI,)), posts, features, digest, trained)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, golden: Path) -> Path:
    """Folder with everything that `pictures` reads."""
    folder = tmp_path_factory.mktemp("evaluate")
    shutil.copytree(golden / MODEL, folder / "ccip")
    write_images(folder / "images")
    index_here(folder / "images", folder / "image_index")
    write_references(folder / "references", folder)
    for model in MODELS:
        write_generated(folder / "pictures" / model, requests(), [model])
    return folder


def started(state: Path, command: list[str], **environment: str) -> subprocess.Popen[str]:
    env = os.environ | {"STATE_ROOT": str(state)} | environment
    arguments = [sys.executable, "stages/evaluate_ccip.py", *command]
    return subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(output: Path, command: list[str], **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = started(output.parent / f"state-{output.name}", command, **environment)
    out, err = process.communicate()
    return process.returncode, out, err


def pictures_command(inputs: Path, output: Path, *more: str) -> list[str]:
    folders = [
        ("references", "references"), ("pictures", "pictures/base"), ("pictures", "pictures/merged"), ("ccip", "ccip"),
        ("image-index", "image_index"),
    ]  # fmt: skip
    given = [part for option, name in folders for part in (f"--{option}", str(inputs / name))]
    root = ["--set", f"runtime.image_root={inputs / 'images'}"]
    return ["pictures", *given, "--out", str(output), *root, *SETTINGS, *more]


def score_command(output: Path, ccip: Path, references: Path, *generated: str) -> list[str]:
    folders = [part for one in generated for part in ("--generated", one)]
    return ["score", "--ccip", str(ccip), "--references", str(references), *folders, "--out", str(output), *SETTINGS]


def refused(output: Path, command: list[str], *written: str) -> str:
    """The one line that the stage stops with; nothing but `written` may be in its folder."""
    code, _, err = run(output, command)
    assert code == 2, err
    assert "Traceback" not in err
    assert sorted(path.name for path in (output.iterdir() if output.exists() else [])) == sorted(written)
    lines = [line for line in err.splitlines() if line.startswith("evaluate_ccip.py:")]
    assert len(lines) == 1, err
    return lines[0]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of `pictures` by two processes, in a folder that held another report."""
    output = tmp_path_factory.mktemp("finished") / "reports"
    output.mkdir()
    (output / "filter.json").write_text("another stage's")
    code, out, err = run(output, pictures_command(inputs, output, "--set", "runtime.processes=2"))
    assert code == 0, err
    assert "2 characters, 1 skipped; CCIP score: base 0." in out
    return output


def test_report_agrees_with_the_tables(inputs, finished):
    report = json.loads((finished / "ccip.json").read_text())
    assert (report["characters"], report["headline"]) == (2, "name")
    assert report["threshold"] == json.loads((inputs / "ccip/metrics.json").read_text())["threshold"]
    assert report["skipped"] == [{"character": "ruri", "reason": RURI.reason}]
    assert list(report["modes"]) == ["core_tags", "new_artist"]
    assert (report["references"]["pictures"], report["references"]["trained"]) == (6, 2)
    assert (report["modes"]["new_artist"]["characters"], report["modes"]["new_artist"]["pictures"]) == (1, 1)
    assert report["models"]["merged"]["score"] >= 0.333, "one of the three references itself"
    assert report["models"]["merged"]["diversity"] == pytest.approx(0, abs=1e-6)
    rows = rows_of(finished / "ccip_characters.csv")
    assert len(rows) == 2 * 5
    assert {row["training_pictures"] for row in rows if row["character"] == "aoi"} == {"70"}
    for mode, figures in (("name", report), ("core_tags", report["modes"]["core_tags"])):
        for model in MODELS:
            scores = [float(row["score"]) for row in rows if (row["model"], row["mode"]) == (model, mode)]
            assert figures["models"][model]["score"] == pytest.approx(sum(scores) / 2, abs=2e-6)
    assert sum(int(row["references"]) * int(row["pictures"]) for row in rows) == report["pairs"]
    assert sum(int(row["borderline_pairs"]) for row in rows) == report["borderline_pairs"]
    assert len(rows_of(finished / "ccip_borderline.csv")) == report["borderline_pairs"]


def test_the_record_names_what_was_scored(inputs, finished):
    record = json.loads((finished / "ccip_run.json").read_text())
    assert record["ccip_json"] == sha256_file(finished / "ccip.json")
    assert record["characters_csv"] == sha256_file(finished / "ccip_characters.csv")
    shown = {row["post"]: row["sha256"] for row in rows_of(inputs / "references/pictures.csv")}
    assert record["references"] == {
        one.character: sha256_json(sorted(shown[str(post)] for post in one.posts)) for one in (AOI, MIKA)
    }
    assert record["models"] == ["base", "merged"]


def test_the_models_of_one_folder_score_as_those_of_two(inputs, finished, tmp_path):
    write_generated(tmp_path / "both", requests(), MODELS)
    command = pictures_command(inputs, tmp_path / "out")
    first = command.index("--pictures")
    code, _, err = run(tmp_path / "out", [*command[:first], "--pictures", str(tmp_path / "both"), *command[first + 4 :]])
    assert code == 0, err
    for name in ("ccip.json", "ccip_characters.csv", "ccip_borderline.csv", "ccip_run.json"):
        assert (tmp_path / "out" / name).read_bytes() == (finished / name).read_bytes()


def test_folders_of_other_requests_and_of_one_model_twice_are_refused(inputs, tmp_path):
    write_generated(tmp_path / "fewer", requests()[:-1], ["more"])
    line = refused(tmp_path / "out", pictures_command(inputs, tmp_path / "out", "--pictures", str(tmp_path / "fewer")))
    assert "fewer: more was asked for other pictures than base" in line
    twice = str(inputs / "pictures/base")
    line = refused(tmp_path / "out", pictures_command(inputs, tmp_path / "out", "--pictures", twice))
    assert "a model named 'base' stands in" in line


def test_inputs_are_not_replaced_by_outputs(inputs, tmp_path):
    shutil.copytree(inputs, tmp_path / "data")
    before = hash_tree(tmp_path / "data")
    code, _, err = run(tmp_path / "data", pictures_command(tmp_path / "data", tmp_path / "data"))
    assert code == 2
    assert "would be written over or into the input" in err
    assert hash_tree(tmp_path / "data") == before


def test_outputs_stand_beside_what_was_there(finished):
    assert {path.name for path in finished.iterdir()} == OUTPUTS | {"filter.json"}
    assert (finished / "filter.json").read_text() == "another stage's"
    assert {"grid.png", "best.png", "worst.png", "changed.png"} <= {path.name for path in (finished / "pictures").iterdir()}
    assert (finished / "ccip/rank.csv").read_text().startswith("rank,base,merged\n")


def test_a_run_killed_and_continued_in_another_setting_gives_the_same_bytes(inputs, finished, tmp_path):
    output, state = tmp_path / "killed", tmp_path / "state-killed"
    process = started(state, pictures_command(inputs, output, "--set", "runtime.processes=1"))
    while process.poll() is None and not list(state.rglob("*.npy")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (output / "ccip.json").exists()
    assert list(state.rglob("*.npy"))
    settings = {"PYTHONHASHSEED": "5", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    code, _, err = run(output, pictures_command(inputs, output, "--set", "runtime.processes=1"), **settings)
    assert code == 0, err
    assert hash_tree(output) == {name: digest for name, digest in hash_tree(finished).items() if name != "filter.json"}
    assert not list(state.rglob("*.npy")), "state of a finished run is removed"


def test_features_of_another_encoder_are_refused(inputs, tmp_path):
    write_references(tmp_path / "references", inputs, "0" * 64)
    line = refused(tmp_path / "out", pictures_command(inputs, tmp_path / "out", "--references", str(tmp_path / "references")))
    assert "its features are of another encoder" in line


def test_the_recipe_names_the_encoder(inputs, tmp_path):
    setting = f"evaluate.ccip.sha256={{model_feat.onnx: {'a' * 64}}}"
    line = refused(tmp_path / "out", pictures_command(inputs, tmp_path / "out", "--set", setting))
    assert (
        f"model_feat.onnx: has sha256 {sha256_file(inputs / 'ccip/model_feat.onnx')}, but evaluate.ccip.sha256 names aaa" in line
    )


@pytest.mark.parametrize("name", ["pictures", "ccip"])
def test_a_folder_of_somebodys_files_is_not_replaced(inputs, tmp_path, name):
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / name / "mine.png").write_bytes(b"mine")
    assert f"out/{name}: it is there" in refused(tmp_path / "out", pictures_command(inputs, tmp_path / "out"), name)
    assert (tmp_path / "out" / name / "mine.png").read_bytes() == b"mine"


@pytest.fixture(scope="module")
def images(golden: Path) -> Path:
    return golden / "evaluate/ccip/set/images"


@pytest.fixture(scope="module")
def scored(images: Path, golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of `score` over the reference program's pictures, without a network and without torch."""
    folder = tmp_path_factory.mktemp("scored")
    (folder / "sitecustomize.py").write_text(GUARD)
    command = score_command(folder / "out", golden / MODEL, images / "ref", str(images / "gen"), f"copies={images / 'ref'}")
    code, out, err = run(folder / "out", [*command, "--set", "runtime.processes=1"], PYTHONPATH=str(folder))
    assert code == 0, err
    assert "IMPORTED []" in err
    assert "3 characters, 0 skipped; CCIP score: gen 0.3000, copies 0.6000; copies against gen: +0.3000" in out
    return folder / "out"


def test_scores_of_folders_are_the_reference_programs(scored, golden):
    expected = json.loads((golden / "evaluate/ccip/set/expected.json").read_text())["characters"]
    rows = [row for row in rows_of(scored / "ccip_characters.csv") if row["model"] == "gen"]
    assert {row["character"] for row in rows} == expected.keys()
    for row in rows:
        answer = expected[row["character"]]
        assert float(row["score"]) == round(answer["sdeval_same_mean"], 6)
        assert float(row["upbound"]) == round(answer["cyberharem_upbound"], 6)
        assert float(row["best_of_m"]) == max(answer["sdeval_same_seq"])
        assert float(row["ccip_diff"]) == pytest.approx(answer["sdeval_diff_mean"], abs=2e-6)
        assert (row["references"], row["pictures"], row["mode"]) == ("5", "4", "given")
    assert {path.name for path in scored.iterdir()} == OUTPUTS


def test_names_and_order_of_files_do_not_matter(scored, images, golden, tmp_path):
    for kind in ("ref", "gen"):
        for character in ("char0", "char1", "char2"):
            files = sorted((images / kind / character).iterdir())
            folder = tmp_path / kind / character
            folder.mkdir(parents=True)
            for number, file in enumerate(reversed(files)):
                shutil.copy(file, folder / f"picture {number}.png")
    command = score_command(
        tmp_path / "out", golden / MODEL, tmp_path / "ref", str(tmp_path / "gen"), f"copies={tmp_path / 'ref'}"
    )
    code, _, err = run(tmp_path / "out", [*command, "--set", "runtime.processes=2"])
    assert code == 0, err
    for name in ("ccip.json", "ccip_characters.csv", "ccip_run.json"):
        assert (tmp_path / "out" / name).read_bytes() == (scored / name).read_bytes()


def test_uneven_folders_and_what_is_skipped(golden, tmp_path):
    """One picture against itself scores 1; characters that are not everywhere are told."""
    own = {"aoi": [tiny_picture("aoi")], "mika": [tiny_picture("m", n) for n in range(3)], "rin": [tiny_picture("r")]}
    references = write_character_folders(tmp_path / "references", own)
    model = write_character_folders(tmp_path / "model", {"aoi": own["aoi"] * 2, "mika": [], "nia": [tiny_picture("n")]})
    code, out, err = run(tmp_path / "out", score_command(tmp_path / "out", golden / MODEL, references, str(model)))
    assert code == 0, err
    assert "1 characters, 3 skipped; CCIP score: model 1.0000\n" in out
    report = json.loads((tmp_path / "out/ccip.json").read_text())
    assert (report["characters"], report["difference"]) == (1, None)
    assert {key: report["references"][key] for key in ("ref_self", "pictures", "trained")} == {
        "ref_self": None, "pictures": 1, "trained": None,
    }  # fmt: skip
    assert [one["character"] for one in report["skipped"]] == ["mika", "nia", "rin"]
    assert not (tmp_path / "out/pictures/changed.png").exists()


def test_a_name_that_is_not_utf8_stops_before_anything_is_encoded(golden, tmp_path):
    references = write_character_folders(tmp_path / "references", {"aoi": [tiny_picture("aoi")]})
    os.mkdir(os.fsencode(references) + b"/caf\xe9")
    line = refused(tmp_path / "out", score_command(tmp_path / "out", golden / MODEL, references, f"m={references}"))
    assert r"references: the name 'caf\udce9' in it is not UTF-8" in line
    assert not (tmp_path / "state-out").exists()


def test_a_broken_picture_stops_and_is_named(golden, tmp_path):
    references = write_character_folders(tmp_path / "references", {"aoi": [tiny_picture(1), b"\x89PNG not quite"]})
    line = refused(tmp_path / "out", score_command(tmp_path / "out", golden / MODEL, references, f"m={references}"))
    assert "references/aoi/01.png: cannot be decoded as a picture" in line


@pytest.mark.parametrize(
    ("generated", "words"),
    [
        (["a=x", "a=y"], "a model named 'a' stands there already; write OTHER_NAME=y"),
        (["x/a", "y/a/"], "a model named 'a'"),
        (["a="], "expected NAME=FOLDER"),
        (["=x"], "expected NAME=FOLDER"),
        (["caf\udce9"], r"the name 'caf\\udce9' is not UTF-8"),
    ],
)
def test_names_of_models_are_there_and_unique(generated, words):
    with pytest.raises(StageError, match=words):
        named_folders(generated)


def test_models_keep_their_order_and_are_named_as_their_folders():
    folders = named_folders(["later=x/a", "x/b/", "x/a"])
    assert list(folders.items()) == [("later", Path("x/a")), ("b", Path("x/b")), ("a", Path("x/a"))]


def test_two_models_of_one_result_compare_as_they_did(finished, tmp_path):
    result = str(finished / "ccip.json")
    command = [
        "compare",
        "--before",
        result,
        "--before-model",
        "base",
        "--after",
        result,
        "--out",
        str(tmp_path / "out"),
        *SETTINGS,
    ]
    code, out, err = run(tmp_path / "out", command)
    assert code == 0, err
    comparison = json.loads((tmp_path / "out/comparison.json").read_text())
    assert comparison["difference"] == json.loads((finished / "ccip.json").read_text())["difference"]
    assert comparison["same_requests"] is True
    assert len(out.splitlines()) == 1
    assert [row["character"] for row in rows_of(tmp_path / "out/comparison.csv")] == ["aoi", "mika_(lorelei)"]


def test_scores_of_folders_and_of_asked_pictures_are_not_compared(finished, scored, tmp_path):
    command = [
        "compare",
        "--before",
        str(scored / "ccip.json"),
        "--after",
        str(finished / "ccip.json"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert "differ in the mode of their scores (given, name)" in refused(tmp_path / "out", command)


def test_what_a_comparison_leaves_out_is_told(scored, images, golden, tmp_path):
    """One character less, and one with a reference picture less."""
    for kind in ("ref", "gen"):
        shutil.copytree(images / kind, tmp_path / kind)
    shutil.rmtree(tmp_path / "gen/char1")
    next((tmp_path / "ref/char2").iterdir()).unlink()
    command = score_command(tmp_path / "less", golden / MODEL, tmp_path / "ref", str(tmp_path / "gen"))
    code, _, err = run(tmp_path / "less", command)
    assert code == 0, err
    command = [
        "compare",
        "--before",
        str(scored / "ccip.json"),
        "--before-model",
        "gen",
        "--after",
        str(tmp_path / "less/ccip.json"),
    ]
    code, out, err = run(tmp_path / "out", [*command, "--out", str(tmp_path / "out"), *SETTINGS])
    assert code == 0, err
    assert "only before: 1 characters (char1)" in out
    assert "is not known" in out
    assert "left out, by other reference pictures: 1 characters (char2)" in out
    comparison = json.loads((tmp_path / "out/comparison.json").read_text())
    assert (comparison["characters"], comparison["only_before"], comparison["other_references"]) == (1, ["char1"], ["char2"])


@pytest.mark.parametrize("command", ["pictures", "score", "compare"])
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        evaluate_parser().parse_args([command, "--help"])
    text = capsys.readouterr().out
    for option in (f" {command} ", "--params", "--set", "--debug", "--out"):
        assert option in text
