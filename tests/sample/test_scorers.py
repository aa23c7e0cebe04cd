"""The sample's scorers: what they learn from, and folders that the loaders of annotation models open."""

import io
import json
import tarfile
from pathlib import Path

from repro.hashing import hash_tree
from repro.params import QualityScorer, Scorer

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sample.population import SEED
from sample.scorers import (
    HEAD_FILE,
    Settings,
    cleanness,
    fitted_pixels,
    liking,
    make_aesthetic,
    make_quality,
    normalised,
    open_eyes,
    unit_rows,
    write_aesthetic,
    write_quality,
)
from sample.tagger_pictures import LabelledPicture
from sample.taught import taught_posts
from tagging.aesthetic_shadow import AestheticShadow
from tagging.waifu_aesthetic import WaifuAesthetic

MODELS = Path("models/sample-taggers")
TINY = Settings(updates=2, batch=3, warmup=1)
LOCAL = {"hub": None, "sha256": {}}


def labelled(seed: int, tier: str = "clean") -> LabelledPicture:
    pixels = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (90, 110, 3), dtype=np.uint8)
    return LabelledPicture(Image.fromarray(pixels), "general", frozenset(), frozenset(), tier)


def aesthetic(models: Path) -> AestheticShadow:
    return AestheticShadow(models, Scorer(path="aesthetic", label="hq", **LOCAL), torch.device("cpu"))


def quality(models: Path) -> WaifuAesthetic:
    settings = QualityScorer(path="quality", head=HEAD_FILE, clip={"path": "quality/clip", **LOCAL}, **LOCAL)
    return WaifuAesthetic(models, settings, torch.device("cpu"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `aesthetic` and `quality` of scorers that have learnt next to nothing."""
    folder = tmp_path_factory.mktemp("scorers")
    write_both(folder)
    return folder


def write_both(folder: Path) -> None:
    pictures = [labelled(number, ("clean", "soft")[number % 2]) for number in range(6)]
    for name, write in (("aesthetic", write_aesthetic), ("quality", write_quality)):
        (folder / name).mkdir()
        write(folder / name, pictures, TINY)


def test_better_tiers_are_liked_more():
    order = [liking(labelled(0, tier)) for tier in ("clean", "soft", "noisy", "miscoloured")]
    assert order == sorted(order, reverse=True)
    assert 0 < order[-1] < order[0] < 1
    assert [cleanness(labelled(0, tier)) for tier in ("clean", "soft")] == [1, 0]


def test_first_filters_see_differences_and_mean_colours():
    patches = nn.Conv2d(3, 12, 12, 12)
    before = patches.weight.detach().clone()
    open_eyes(patches, "test")
    differences, colours, rest = patches.weight.detach().split(4)
    flat = torch.full((1, 3, 12, 12), 0.7)
    assert torch.allclose((differences * flat).sum(dim=(1, 2, 3)), torch.zeros(4), atol=1e-5)
    assert ((differences != 0).sum(dim=(1, 2, 3)) == 9).all()
    assert (colours == colours[:, :, :1, :1]).all()
    assert torch.equal(rest, before[8:])


@pytest.mark.parametrize("make", [make_aesthetic, make_quality])
def test_training_sees_what_the_processor_makes(make):
    processor, image = make()[-1], labelled(3).image
    seen = normalised(fitted_pixels([image], processor), processor)
    assert torch.allclose(seen, processor(image, return_tensors="pt").pixel_values, atol=1e-5)


def test_unit_rows_have_length_one_each():
    rows = unit_rows(torch.tensor([[3.0, 4.0], [0.5, 0.0]]))
    assert torch.allclose(rows, torch.tensor([[0.6, 0.8], [1.0, 0.0]]))


def test_the_same_bytes_again(written: Path, tmp_path: Path):
    write_both(tmp_path)
    assert hash_tree(tmp_path) == hash_tree(written)


def test_folders_hold_no_version_and_no_path(written: Path):
    for path in sorted(written.rglob("*.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        assert not {"transformers_version", "_name_or_path"} & config.keys()


def test_loaders_give_the_scores_that_were_trained(written: Path):
    """The head's sigmoid and the classifier's softmax, from the models as the writer's formulas have them."""
    images = [labelled(number).image for number in range(3)]
    for scorer in (aesthetic(written), quality(written)):
        scores = [score for (score,) in scorer.describe(images)]
        assert len(set(scores)) == 3
        assert all(0 < score < 1 for score in scores)


def test_committed_scores_follow_the_tiers():
    """On one of the sample's archives: spoilt colours score least, and scores reach several levels of the card's tables."""
    tiers = {post.id: post.picture.tier for post in taught_posts(SEED)[0] if post.picture and not post.damage}
    images = {}
    with tarfile.open("data/sample/images/data-0596.tar") as archive:
        for member in archive:
            if (post := int(Path(member.name).stem)) in tiers:
                images[post] = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")
    for scorer, levels in ((aesthetic(MODELS), (0.1, 0.25, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9)),
                           (quality(MODELS), (0.025, 0.125, 0.25, 0.5, 0.75, 0.9, 0.98))):  # fmt: skip
        scores = np.array([score for (score,) in scorer.describe(list(images.values()))])
        median = {tier: np.median(scores[[tiers[post] == tier for post in images]]) for tier in sorted(set(tiers.values()))}
        assert median["clean"] > median["soft"] > median["miscoloured"]
        assert len(set(np.searchsorted(levels, scores).tolist())) >= 4
