"""Generated pictures: made once, kept, the same whoever makes them; broken weights refused."""

import shutil
from dataclasses import replace
from pathlib import Path

from repro.errors import StageError
from repro.hashing import sha256_file

import pytest
from safetensors.torch import load_file, save_file
from small_sdxl import write_small_sdxl

from ccip.pictures import PictureJob, Sampling, check_model_folders, picture_jobs, picture_sources
from ccip.prompts import PictureRequest

SAMPLING = Sampling("worst quality", steps=2, guidance=4.0, width=32, height=48, original_width=64, original_height=96)
FIRST = PictureRequest("mika", "zoish", False, 0, "1girl, mika, zoish", 7)
SECOND = replace(FIRST, number=1, seed=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sdxl(tmp_path_factory.mktemp("model") / "base", 1)


def make(jobs: list[PictureJob]) -> list[str]:
    """Open every job's picture; the digests of the kept files."""
    for source in picture_sources(jobs, SAMPLING):
        assert source.open().size == (32, 48)
    return [sha256_file(job.file) for job in jobs]


def test_a_picture_depends_on_its_request_alone(model, tmp_path):
    first, second = make(picture_jobs({"base": model}, [FIRST, SECOND], tmp_path / "both"))
    assert first != second
    assert make(picture_jobs({"base": model}, [SECOND], tmp_path / "alone")) == [second]


def test_a_kept_picture_is_not_made_again(model, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    jobs = picture_jobs({"base": moved}, [FIRST], tmp_path / "state")
    digests = make(jobs)
    shutil.rmtree(moved)
    assert make(jobs) == digests


def test_jobs_go_model_by_model():
    jobs = picture_jobs({"base": Path("a"), "merged": Path("b")}, [FIRST, SECOND], Path("state"))
    assert [(job.model, job.request.number) for job in jobs] == [("base", 0), ("base", 1), ("merged", 0), ("merged", 1)]
    assert len({job.file for job in jobs}) == 4


def test_broken_weights_are_named(model, tmp_path):
    shutil.copytree(model, tmp_path / "broken")
    file = tmp_path / "broken/unet/diffusion_pytorch_model.safetensors"
    save_file({name: tensor.fill_(float("nan")) for name, tensor in load_file(file).items()}, file)
    with pytest.raises(StageError, match=r"broken: sampling '1girl, mika, zoish' gave values that are not finite"):
        make(picture_jobs({"base": tmp_path / "broken"}, [FIRST], tmp_path / "state"))


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(StageError, match=r"nowhere: no model_index.json; the merged model must be"):
        check_model_folders({"merged": tmp_path / "nowhere"})
