"""Fixtures shared by all tests; importing `repro` first fixes the numeric environment."""

import os
from collections.abc import Iterator
from pathlib import Path

import repro  # noqa: F401

import pytest
from hypothesis import settings
from tiny_disks import tiny_file_system

# The same examples in every run, and no clock: the machines that run these are shared.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference programs' answers; GOLDEN names another set of the same layout."""
    return Path(os.environ.get("GOLDEN", Path(__file__).parent / "golden"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remembered hashes of inputs and measured costs go to a folder of the session, also those of the processes that tests
    start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("COST_LOG", str(tmp_path_factory.mktemp("cost") / "cost.jsonl"))
        yield


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own with 64 KiB of space."""
    with tiny_file_system(tmp_path / "tiny_disk", kilobytes=64) as folder:
        yield folder


@pytest.fixture(scope="session")
def training_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trainer's inputs at test size: base, an SDXL, latents, captions. Tests must not write into it."""
    from small_sdxl import write_small_sdxl

    folder = tmp_path_factory.mktemp("training")
    write_small_sdxl(folder / "base", seed=1)
    return _with_data(folder)


@pytest.fixture(scope="session")
def cascade_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `training_inputs`, of a Stable Cascade."""
    from small_cascade import write_small_cascade

    folder = tmp_path_factory.mktemp("cascade-training")
    write_small_cascade(folder / "base", seed=1)
    return _with_data(folder)


def _with_data(folder: Path) -> Path:
    from tiny_training import write_captions, write_latents

    write_latents(folder / "latents", folder / "base")
    write_captions(folder / "captions", folder / "latents")
    return folder


@pytest.fixture(scope="session", params=["sdxl", "cascade"])
def family_inputs(request: pytest.FixtureRequest) -> Path:
    """The inputs of each family in turn."""
    return request.getfixturevalue({"sdxl": "training_inputs", "cascade": "cascade_inputs"}[request.param])
