"""Drawing: each picture once, the same whoever draws it; broken weights refused."""

import shutil
import weakref
from dataclasses import replace
from pathlib import Path

from repro.cost import measured
from repro.errors import StageError
from repro.hashing import hash_tree, sha256_file, sha256_json
from repro.params import Generation, load_params

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from small_cascade import write_small_cascade
from small_sdxl import write_small_sdxl
from torch.nn.modules.module import register_module_module_registration_hook

from generation.drawing import Model, PictureJob, check_model_folders, draw_pictures, missing_jobs, picture_jobs
from generation.requests import PictureRequest

SIZE = {"steps": 2, "width": 32, "height": 48, "original_width": 64, "original_height": 96}
RECIPE = load_params(Path(__file__).parents[2] / "recipes" / "sample.yaml").evaluate.generation.model_copy(update=SIZE)
FIRST = PictureRequest("mika", "name", "plain", "zoish", 0, "1girl, mika, zoish", 7)
SECOND = replace(FIRST, number=1, seed=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return model_of(write_small_sdxl(tmp_path_factory.mktemp("model") / "base", 1))


def model_of(folder: Path, name: str = "base") -> Model:
    return Model(name, "sdxl", folder, sha256_json(hash_tree(folder)))


def draw(jobs: list[PictureJob], recipe: Generation = RECIPE, processes: int = 1) -> list[str]:
    """Draw what is missing; the digests of the kept files."""
    with measured("generate", "test", "0", "pictures", processes) as cost:
        draw_pictures(jobs, recipe, "cpu", processes, cost)
    for job in jobs:
        with Image.open(job.file) as image:
            assert (image.size, image.mode) == ((32, 48), "RGB")
    return [sha256_file(job.file) for job in jobs]


def test_a_picture_depends_on_its_request_alone(model: Model, tmp_path: Path) -> None:
    first, second = draw(picture_jobs([model], [FIRST, SECOND], tmp_path / "both"))
    assert first != second
    assert draw(picture_jobs([model], [SECOND], tmp_path / "alone")) == [second]
    assert draw(picture_jobs([model], [SECOND, FIRST], tmp_path / "two"), processes=2) == [second, first]


def test_how_it_is_sampled_reaches_a_picture(model: Model, tmp_path: Path) -> None:
    changes = [{}, {"sampler": "dpmpp_2m_karras"}, {"precision": "bf16"}, {"guidance": 5.0}, {"original_width": 65}]
    digests = [
        draw(picture_jobs([model], [FIRST], tmp_path / str(number)), RECIPE.model_copy(update=change))[0]
        for number, change in enumerate(changes)
    ]
    assert len(set(digests)) == len(changes)


def test_a_kept_picture_is_not_drawn_again(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = Model("base", "sdxl", tmp_path / "moved", model.digest)
    shutil.copytree(model.folder, moved.folder)
    jobs = picture_jobs([moved], [FIRST, SECOND], tmp_path / "state")
    (digest,) = draw(jobs[:1])
    assert "generate: 1/1 pictures" in capsys.readouterr().err
    draw(jobs)
    assert "generate: 2/2 pictures" in capsys.readouterr().err
    shutil.rmtree(moved.folder)
    assert draw(jobs)[0] == digest


def test_jobs_go_model_by_model() -> None:
    jobs = picture_jobs(
        [Model("merged", "sdxl", Path("a"), "1"), Model("base", "sdxl", Path("b"), "2")], [FIRST, SECOND], Path("state")
    )
    assert [(job.model.name, job.request.number) for job in jobs] == [("merged", 0), ("merged", 1), ("base", 0), ("base", 1)]
    assert len({job.file for job in jobs}) == 4


def test_a_picture_is_kept_under_its_model_prompt_and_seed_alone() -> None:
    def file(digest: str = "1", **changes: object) -> Path:
        (job,) = picture_jobs([Model("base", "sdxl", Path("a"), digest)], [replace(FIRST, **changes)], Path("state"))
        return job.file

    assert file() == file(mode="core_tags", number=9, template="smile", character="aoi", artist="")
    assert len({file(), file(seed=8), file(prompt="1girl"), file("2")}) == 4


def test_a_picture_that_two_requests_share_is_drawn_once(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = picture_jobs([model, replace(model, name="again")], [FIRST, SECOND, replace(FIRST, mode="core_tags")], tmp_path)
    assert len(jobs) == 6 and len(missing_jobs(jobs)) == 2
    first, second, *others = draw(jobs)
    assert others == [first, first, second, first] and missing_jobs(jobs) == []
    assert "generate: 2/2 pictures" in capsys.readouterr().err


def test_a_process_lets_go_of_a_model_before_it_loads_the_next(model: Model, tmp_path: Path) -> None:
    unets: list[weakref.ref[UNet2DConditionModel]] = []
    alive: list[int] = []

    def count(module: torch.nn.Module, name: str, part: torch.nn.Module) -> None:
        if isinstance(module, UNet2DConditionModel) and name == "conv_in":
            unets.append(weakref.ref(module))
        alive.append(sum(unet() is not None for unet in unets))

    other = model_of(write_small_sdxl(tmp_path / "merged", 2), "merged")
    counting = register_module_module_registration_hook(count)
    try:
        draw(picture_jobs([model, other], [replace(FIRST, seed=3)], tmp_path / "state"))
    finally:
        counting.remove()
    assert len(unets) >= 2 and max(alive) == 1


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("unet", r"broken: sampling '1girl, mika, zoish' gave values that are not finite; the model's weights are broken$"),
        ("vae", r"broken: the VAE's decoder at '1girl, mika, zoish' gave values that are not finite"),
    ],
)
def test_broken_weights_are_named(model: Model, tmp_path: Path, part: str, words: str) -> None:
    shutil.copytree(model.folder, tmp_path / "broken")
    file = tmp_path / "broken" / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = next(name for name in sorted(weights, reverse=True) if not name.startswith(("quant_conv", "encoder")))
    save_file(weights | {name: torch.full_like(weights[name], float("nan"))}, file)
    with pytest.raises(StageError, match=words):
        draw(picture_jobs([model_of(tmp_path / "broken")], [FIRST], tmp_path / "state"))
    assert not list((tmp_path / "state").rglob("*.png"))


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"^the merged model: .*nowhere: no model_index.json; expected a diffusers folder$"):
        check_model_folders({"merged": tmp_path / "nowhere"}, "sdxl", RECIPE)


def test_a_model_of_another_family_is_refused(model: Model) -> None:
    check_model_folders({"base": model.folder}, "sdxl", RECIPE)
    words = r"^the base model: .*model_index.json: a StableDiffusionXLPipeline, but family is cascade: "
    with pytest.raises(StageError, match=words):
        check_model_folders({"base": model.folder}, "cascade", RECIPE)


def test_a_size_that_a_model_cannot_draw_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    """Its configs alone are there."""
    folder = write_small_cascade(tmp_path / "cascade", seed=1)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    asked = RECIPE.model_copy(update={"width": 64, "height": 96})
    check_model_folders({"base": folder}, "cascade", asked)
    words = r"^the base model: height 80: whole latents of .*cascade make no picture of this side; choose 72 or 96$"
    with pytest.raises(StageError, match=words):
        check_model_folders({"base": folder}, "cascade", asked.model_copy(update={"height": 80}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_draws_the_same_twice(model: Model, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "again")]
    for folder, processes in zip(folders, (1, torch.cuda.device_count()), strict=True):
        with measured("generate", "test", "0", "pictures", processes) as cost:
            draw_pictures(picture_jobs([model], [FIRST, SECOND], folder), RECIPE, "cuda", processes, cost)
    first, again = ([sha256_file(file) for file in sorted(folder.rglob("*.png"))] for folder in folders)
    assert first == again
