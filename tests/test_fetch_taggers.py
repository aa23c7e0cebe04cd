"""fetch_taggers.py as a process, against a hub on this machine that holds tiny models."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_booru import folder_bytes
from tiny_hub import COMMIT, TinyHub, serving
from tiny_taggers import annotate_overrides, annotate_settings, write_taggers
from transformers import ViTForImageClassification

# Section of the parameters: (repository, path in it, files that are fetched). The head and CLIP come from two repositories.
CLIP_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")
SOURCES = {
    "tags": ("SmilingWolf/tagger", "", ("model.onnx", "selected_tags.csv")),
    "aesthetic": ("someone/shadow", "", CLIP_FILES),
    "quality": ("hakurei/waifu", "models", ("aes-B32-v0.safetensors",)),
    "clip": ("openai/clip", "", CLIP_FILES),
    "text": ("llava-hf/llava", "", (*CLIP_FILES[:2], "tokenizer.json", "tokenizer_config.json", "model.safetensors")),
}
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taggers") / "models"
    write_taggers(folder)
    return folder


@pytest.fixture
def hub(made: Path) -> Iterator[TinyHub]:
    files = {}
    for name, (repo, path, _) in SOURCES.items():
        content = folder_bytes(made / name) | {"README.md": b"not wanted"}
        files[repo] = {os.path.join(path, file): data for file, data in content.items()}
    large = {path for content in files.values() for path in content if path.endswith(".safetensors")}
    with serving(TinyHub(files, large=large)) as hub:
        yield hub


class Fetch:
    """Runs the script for a folder, with a cache of its own.

    Attributes:
        folder: annotate.folder, still missing. home: the cache's folder. settings: the section annotate, every model from the
            hub with all sha256.
    """

    def __init__(self, hub: TinyHub, folder: Path, made: Path, home: Path):
        self.folder, self.home, self.settings = folder, home, annotate_settings(folder)
        for name, (repo, path, files) in SOURCES.items():
            section = self.section(name)
            section["hub"] = {"repo": repo, "revision": COMMIT, "path": path}
            section["sha256"] = {file: hashlib.sha256((made / name / file).read_bytes()).hexdigest() for file in files}
        # The tests' own process has the hub off, since it imports `repro`.
        self._environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}

    def section(self, name: str) -> dict[str, Any]:
        return self.settings["quality"]["clip"] if name == "clip" else self.settings[name]

    def only(self, *names: str) -> None:
        """Ask for these models alone."""
        self.settings |= {name: None for name in ("tags", "aesthetic", "quality", "text") if name not in names}

    def __call__(self) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            "stages/fetch_taggers.py",
            "--params",
            "recipes/sample.yaml",
            *annotate_overrides(self.settings),
        ]
        return subprocess.run(command, capture_output=True, text=True, env=self._environment)

    def complaint(self) -> str:
        """What the script refuses with."""
        result = self()
        assert result.returncode == 2, (result.returncode, result.stdout, result.stderr)
        assert "Traceback" not in result.stderr
        return result.stderr[result.stderr.index("fetch_taggers.py: ") :].removeprefix("fetch_taggers.py: ").strip()


@pytest.fixture
def fetch(hub: TinyHub, made: Path, tmp_path: Path) -> Fetch:
    return Fetch(hub, tmp_path / "models", made, tmp_path / "home")


def test_all_models_come_whole_and_are_not_asked_for_again(fetch: Fetch, hub: TinyHub, made: Path) -> None:
    result = fetch()
    assert result.returncode == 0, result.stderr
    wanted = {f"{name}/{file}" for name, (_, _, files) in SOURCES.items() for file in files}
    assert folder_bytes(fetch.folder) == {path: data for path, data in folder_bytes(made).items() if path in wanted}
    assert not any(file.is_symlink() for file in fetch.folder.rglob("*"))
    hub.requests.clear()
    again = fetch()
    keys = ["tags", "aesthetic", "quality", "quality.clip", "text"]
    folders = [fetch.folder / name for name in SOURCES]
    lines = [
        f"{path}: already there, with the sha256 of annotate.{key}.sha256\n" for path, key in zip(folders, keys, strict=True)
    ]
    assert (again.returncode, again.stdout) == (0, "".join(lines))
    assert hub.requests == []


def test_an_interrupted_fetch_goes_on_with_the_models_that_are_missing(fetch: Fetch, hub: TinyHub) -> None:
    whole = dict(hub.files)
    del hub.files["openai/clip"]
    assert "openai/clip" in fetch.complaint()
    assert sorted(path.name for path in fetch.folder.iterdir()) == ["aesthetic", "quality", "tags"]
    hub.files = whole
    hub.requests.clear()
    assert fetch().returncode == 0
    assert sorted(path.name for path in fetch.folder.iterdir()) == sorted(SOURCES)
    assert not any("shadow" in path for _, path, _, _ in hub.requests)


@pytest.mark.parametrize(
    ("name", "file"), [("tags", "selected_tags.csv"), ("quality", "aes-B32-v0.safetensors"), ("clip", "config.json")]
)
def test_a_sha256_that_is_not_in_the_parameters_is_told_and_nothing_written(fetch: Fetch, name: str, file: str) -> None:
    digest = fetch.section(name)["sha256"].pop(file)
    key = "annotate.quality.clip" if name == "clip" else f"annotate.{name}"
    text = fetch.complaint()
    assert text.startswith(f"{key}.sha256 lacks {file}, so nothing was written.")
    assert f"  {file}: {digest}" in text
    assert not (fetch.folder / name).exists()


def test_another_sha256_is_refused_and_nothing_written(fetch: Fetch) -> None:
    fetch.only("text")
    fetch.section("text")["sha256"]["tokenizer.json"] = "0" * 64
    text = fetch.complaint()
    assert text.startswith(f"llava-hf/llava at {COMMIT}: tokenizer.json: sha256 ")
    assert "annotate.text.sha256 expects 0000" in text
    assert not fetch.folder.exists()


def test_a_folder_that_is_not_right_is_told_and_not_replaced(fetch: Fetch, hub: TinyHub) -> None:
    fetch.only("quality")
    (fetch.folder / "quality").mkdir(parents=True)
    (fetch.folder / "quality" / "mine.txt").write_bytes(b"my own")
    text = fetch.complaint()
    assert text.startswith(f"{fetch.folder}/quality/aes-B32-v0.safetensors: missing, but annotate.quality.sha256 has ")
    assert "name another as annotate.quality.path, or remove this one" in text
    assert folder_bytes(fetch.folder) == {"quality/mine.txt": b"my own"}
    assert hub.requests == []


@pytest.fixture
def in_shards(fetch: Fetch, hub: TinyHub, made: Path, tmp_path: Path) -> dict[str, bytes]:
    """The aesthetic model's weights as the hub now holds them, alone asked for: two shards and an index, whose sha256 are
    known; {name: bytes}."""
    fetch.only("aesthetic")
    model = ViTForImageClassification.from_pretrained(shutil.copytree(made / "aesthetic", tmp_path / "shards"))
    (tmp_path / "shards" / "model.safetensors").unlink()
    model.to(torch.float32).save_pretrained(tmp_path / "shards", max_shard_size="80KB")
    hub.files["someone/shadow"] = folder_bytes(tmp_path / "shards")
    sha256 = fetch.section("aesthetic")["sha256"]
    del sha256["model.safetensors"]
    weights = {name: data for name, data in hub.files["someone/shadow"].items() if name.startswith("model")}
    sha256 |= {name: hashlib.sha256(data).hexdigest() for name, data in weights.items()}
    assert len(weights) > 2
    return weights


def test_shards_come_with_the_index_that_names_them(fetch: Fetch, hub: TinyHub, in_shards: dict[str, bytes]) -> None:
    assert fetch().returncode == 0
    assert folder_bytes(fetch.folder / "aesthetic") == hub.files["someone/shadow"]
    shutil.rmtree(fetch.home)
    hub.requests.clear()
    assert "already there" in fetch().stdout
    assert hub.requests == []


def test_shards_whose_sha256_are_not_in_the_parameters_are_told(fetch: Fetch, in_shards: dict[str, bytes]) -> None:
    sha256 = fetch.section("aesthetic")["sha256"]
    shards = sorted(in_shards.keys() - {INDEX})
    digests = [sha256.pop(shard) for shard in shards]
    text = fetch.complaint()
    assert text.startswith(f"annotate.aesthetic.sha256 lacks {', '.join(shards)}, so nothing was written.")
    assert text.endswith("\n".join(f"  {shard}: {digest}" for shard, digest in zip(shards, digests, strict=True)))
    assert not fetch.folder.exists()


def test_local_folders_are_looked_at_without_the_network(fetch: Fetch, hub: TinyHub, made: Path) -> None:
    fetch.settings = annotate_settings(made)
    result = fetch()
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == len(SOURCES)
    assert f"{made}/clip: a local folder, since annotate.quality.clip.hub is null; " in result.stdout
    fetch.settings = annotate_settings(made / "missing")
    assert fetch.complaint().startswith(f"{made}/missing/tags/model.onnx: no such file; put it there, or name ")
    assert hub.requests == []


def test_a_recipe_that_asks_for_no_model_is_told_so(fetch: Fetch) -> None:
    fetch.only()
    assert fetch().stdout == "annotate asks for no model, so there is nothing to fetch\n"


def test_a_name_that_leads_out_of_the_folder_is_refused(fetch: Fetch, hub: TinyHub) -> None:
    fetch.section("tags")["sha256"]["../model.onnx"] = "0" * 64
    assert "annotate.tags.sha256: '../model.onnx' is no file's name" in fetch.complaint()
    assert hub.requests == []
