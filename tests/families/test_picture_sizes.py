"""Sizes that Stable Cascade can draw, by configs alone: the published model's, and what is wrong with a folder."""

import json
from pathlib import Path

from repro.errors import StageError
from repro.params import SampledPictures

import pytest

from families.picture_sizes import refuse_undrawable_size

CONFIGS = {
    "model_index.json": {"resolution_multiple": 42.67},
    "decoder/model_index.json": {"latent_dim_scale": 10.67},
    "decoder/decoder/config.json": {"patch_size": 2},
    "decoder/vqgan/config.json": {"up_down_scale_factor": 2, "levels": 2},
}


def asked(width: int, height: int = 1024) -> SampledPictures:
    values = {
        "negative_prompt": "", "sampler": "ddpm", "steps": 20, "guidance": 4.0, "width": width, "height": height,
        "original_width": None, "original_height": None, "decoder": {"steps": 10, "guidance": 1.0},
    }  # fmt: skip
    return SampledPictures.model_validate(values)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The scales of the published model."""
    for name, config in CONFIGS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("side", range(128, 4097, 128))
def test_the_published_model_draws_multiples_of_128(published: Path, side: int) -> None:
    refuse_undrawable_size(published, "cascade", asked(side, side))


@pytest.mark.parametrize(("side", "nearest"), [(1000, "936 or 1024"), (832, "808 or 896"), (8, "40")])
def test_of_other_sides_the_nearest_two_are_named(published: Path, side: int, nearest: str) -> None:
    with pytest.raises(StageError, match=f"^width {side}: .* make no picture of this side; choose {nearest}$"):
        refuse_undrawable_size(published, "cascade", asked(side))
    for other in map(int, nearest.split(" or ")):
        refuse_undrawable_size(published, "cascade", asked(other))
    refuse_undrawable_size(published, "sdxl", asked(side))


def test_a_name_that_is_no_familys_is_not_taken_for_one(published: Path) -> None:
    with pytest.raises(KeyError, match="third"):
        refuse_undrawable_size(published, "third", asked(1024))


def test_the_height_is_looked_at_too(published: Path) -> None:
    with pytest.raises(StageError, match=r"^height 1000: "):
        refuse_undrawable_size(published, "cascade", asked(1024, 1000))


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("decoder/vqgan/config.json", None, "missing; expected the decoder of a Stable Cascade folder"),
        ("decoder/vqgan/config.json", '{"levels": 2}', "no up_down_scale_factor can be read there"),
        ("decoder/decoder/config.json", '{"patch_size": 0}', "patch_size is 0, expected a whole number above 0"),
        ("decoder/decoder/config.json", "[", "no patch_size can be read there"),
        ("decoder/model_index.json", None, "cannot be read as a diffusers folder's index"),
    ],
)
def test_configs_that_do_not_say_it(published: Path, file: str, text: str | None, words: str) -> None:
    (published / file).unlink() if text is None else (published / file).write_text(text)
    with pytest.raises(StageError, match=words):
        refuse_undrawable_size(published, "cascade", asked(1024))
