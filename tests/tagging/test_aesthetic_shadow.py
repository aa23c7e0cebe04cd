"""The appeal score against transformers' own pipeline, whose answers it stands for."""

import io
import json
from pathlib import Path

from repro.errors import StageError
from repro.numerics import fix_torch
from repro.params import Scorer

import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_pictures import tiny_picture
from tiny_taggers import write_aesthetic
from transformers import ViTForImageClassification, ViTImageProcessor, pipeline

from tagging.aesthetic_shadow import AestheticShadow

CPU = torch.device("cpu")


def settings(label: str = "hq") -> Scorer:
    return Scorer(path="aesthetic", hub=None, sha256={}, label=label)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fix_torch()
    folder = tmp_path_factory.mktemp("models")
    write_aesthetic(folder / "aesthetic")
    return folder


@pytest.fixture(scope="module")
def scorer(models: Path) -> AestheticShadow:
    return AestheticShadow(models, settings(), CPU)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.open(io.BytesIO(tiny_picture("aesthetic", number))) for number in range(6)]


def turned(picture: Image.Image) -> Image.Image:
    """A JPEG that says in its EXIF data that it lies on its side."""
    about = Image.Exif()
    about[0x0112] = 6
    written = io.BytesIO()
    picture.save(written, "JPEG", exif=about)
    return Image.open(written)


def in_modes(picture: Image.Image) -> dict[str, Image.Image]:
    clear = picture.convert("RGBA")
    clear.putalpha(picture.convert("L"))
    return {
        "RGB": picture,
        "RGBA": clear,
        "L": picture.convert("L"),
        "LA": clear.convert("LA"),
        "P": picture.convert("P", palette=Image.Palette.ADAPTIVE),
        "CMYK": picture.convert("CMYK"),
        "turned": turned(picture),
        "wide": picture.resize((300, 40)),
    }


def test_scores_are_those_of_the_image_classification_pipeline(
    models: Path, scorer: AestheticShadow, pictures: list[Image.Image]
) -> None:
    folder = models / "aesthetic"
    reference = pipeline(
        "image-classification",
        model=ViTForImageClassification.from_pretrained(folder),
        image_processor=ViTImageProcessor.from_pretrained(folder),
    )
    asked = [*pictures, *in_modes(pictures[0]).values()]
    for picture, (score,) in zip(asked, scorer.describe(asked), strict=True):
        expected = next(answer["score"] for answer in reference(picture) if answer["label"] == "hq")
        assert score == pytest.approx(expected, abs=2e-6)


def test_the_score_is_the_probability_of_the_label(models: Path, scorer: AestheticShadow, pictures: list[Image.Image]) -> None:
    low = AestheticShadow(models, settings("lq"), CPU)
    sums = [high + low for (high,), (low,) in zip(scorer.describe(pictures), low.describe(pictures), strict=True)]
    assert sums == pytest.approx([1.0] * len(pictures), abs=1e-6)
    assert scorer.schema == {"score": pl.Float32}


def test_a_score_depends_on_the_batch_size_at_most(scorer: AestheticShadow, pictures: list[Image.Image]) -> None:
    together = scorer.describe(pictures)
    assert len(set(together)) == len(pictures)
    first = pictures[0]
    assert {scorer.describe([first, *others])[0] for others in ([pictures[1], pictures[2]], [pictures[5], pictures[5]])} == {
        scorer.describe([first] * 3)[0]
    }
    alone = [score for picture in pictures for (score,) in scorer.describe([picture])]
    assert alone == pytest.approx([score for (score,) in together], abs=1e-6)


def test_a_label_that_the_model_has_not_is_refused(models: Path) -> None:
    with pytest.raises(StageError, match=r"annotate\.aesthetic\.label: 'good' is no label of .*aesthetic; it has 'hq', 'lq'"):
        AestheticShadow(models, settings("good"), CPU)


def test_a_preprocessor_for_another_size_is_refused(tmp_path: Path) -> None:
    write_aesthetic(tmp_path / "aesthetic")
    path = tmp_path / "aesthetic" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": {"height": 32, "width": 64}}))
    with pytest.raises(StageError, match=r"makes pictures of .*, but the model takes 64 x 64"):
        AestheticShadow(tmp_path, settings(), CPU)


def test_scores_that_are_not_finite_are_refused(tmp_path: Path, pictures: list[Image.Image]) -> None:
    write_aesthetic(tmp_path / "aesthetic")
    weights = load_file(tmp_path / "aesthetic" / "model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, tmp_path / "aesthetic" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match="aesthetic: its answers are not numbers from 0 to 1; fetch it again"):
        AestheticShadow(tmp_path, settings(), CPU).describe(pictures)
