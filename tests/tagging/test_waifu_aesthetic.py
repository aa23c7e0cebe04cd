"""The quality score against its formula in float64, and the head's two file formats."""

import io
from pathlib import Path

from repro.errors import StageError
from repro.numerics import fix_torch
from repro.params import QualityScorer

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings, strategies
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_pictures import random_features, tiny_picture
from tiny_taggers import HEAD_FILE, write_clip, write_quality_head
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPVisionModelWithProjection

from tagging.waifu_aesthetic import SHAPES, WaifuAesthetic, head_scores, read_head

CPU = torch.device("cpu")


def quality(head: str = HEAD_FILE) -> QualityScorer:
    local = {"hub": None, "sha256": {}}
    return QualityScorer(path="quality", **local, head=head, clip={"path": "clip", **local})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fix_torch()
    folder = tmp_path_factory.mktemp("models")
    write_clip(folder / "clip")
    write_quality_head(folder / "quality" / HEAD_FILE)
    return folder


@pytest.fixture(scope="module")
def scorer(models: Path) -> WaifuAesthetic:
    return WaifuAesthetic(models, quality(), CPU)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.open(io.BytesIO(tiny_picture("quality", number))) for number in range(6)]


def formula(features: np.ndarray, head: dict[str, torch.Tensor]) -> np.ndarray:
    """Scores of features [n, 512], all in float64."""
    weights = {name: tensor.double().numpy() for name, tensor in head.items()}
    hidden = features.astype(np.float64)
    hidden /= np.sqrt((hidden**2).sum(1, keepdims=True))
    for layer in ("fc1", "fc2"):
        hidden = np.maximum(hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"], 0)
    return 1 / (1 + np.exp(-(hidden @ weights["fc3.weight"].T + weights["fc3.bias"])))[:, 0]


def test_scores_are_the_heads_of_clips_features_of_the_rgb_picture(
    models: Path, scorer: WaifuAesthetic, pictures: list[Image.Image]
) -> None:
    clear = pictures[0].convert("RGBA")
    clear.putalpha(0)
    asked = [*pictures, clear, pictures[1].convert("L"), pictures[2].resize((200, 40))]
    with torch.no_grad():
        processor = CLIPImageProcessor.from_pretrained(models / "clip")
        pixels = processor([picture.convert("RGB") for picture in asked], return_tensors="pt").pixel_values
        features = CLIPVisionModelWithProjection.from_pretrained(models / "clip")(pixels).image_embeds.numpy()
    scores = [score for (score,) in scorer.describe(asked)]
    assert scores == pytest.approx(formula(features, read_head(models / "quality" / HEAD_FILE)), abs=1e-6)
    assert scores[len(pictures)] == scores[0]  # transparent all over: its hidden colours count
    assert max(scores) - min(scores) > 0.1
    assert scorer.schema == {"score": pl.Float32}


def test_a_score_depends_on_the_batch_size_at_most(scorer: WaifuAesthetic, pictures: list[Image.Image]) -> None:
    together = scorer.describe(pictures)
    first = pictures[0]
    assert {scorer.describe([first, *others])[0] for others in ([pictures[1], pictures[2]], [pictures[5], pictures[5]])} == {
        scorer.describe([first] * 3)[0]
    }
    alone = [score for picture in pictures for (score,) in scorer.describe([picture])]
    assert alone == pytest.approx([score for (score,) in together], abs=1e-6)


@settings(max_examples=20)
@given(rows=strategies.integers(1, 5), scale=strategies.floats(1e-3, 1e3))
def test_the_length_of_features_does_not_count(models: Path, rows: int, scale: float) -> None:
    head = read_head(models / "quality" / HEAD_FILE)
    features = torch.from_numpy(random_features("quality features", rows, 512))
    found = head_scores(head, features * scale)
    assert found.dtype == torch.float32
    assert found.numpy() == pytest.approx(formula(features.numpy(), head), abs=1e-6)


def test_a_head_of_torch_save_gives_the_same_rows(models: Path, scorer: WaifuAesthetic, pictures: list[Image.Image]) -> None:
    write_quality_head(models / "quality" / "aes-B32-v0.pth")
    pickled = WaifuAesthetic(models, quality("aes-B32-v0.pth"), CPU)
    assert pickled.describe(pictures) == scorer.describe(pictures)
    clip = ["clip/config.json", "clip/preprocessor_config.json", "clip/model.safetensors"]
    assert list(pickled.digests) == ["aes-B32-v0.pth", *clip]
    assert list(scorer.digests) == [HEAD_FILE, *clip]


def test_the_picture_encoder_of_a_whole_clip_is_taken(models: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    """As openai/clip-vit-base-patch32 has it: with the text encoder, weights in pytorch_model.bin."""
    seen = CLIPVisionModelWithProjection.from_pretrained(models / "clip")
    words = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    config = CLIPConfig(text_config=words, vision_config=seen.config.to_dict(), projection_dim=512)
    whole = CLIPModel(config)
    whole.load_state_dict(seen.state_dict(), strict=False)
    write_quality_head(tmp_path / "quality" / HEAD_FILE)
    write_clip(tmp_path / "clip")
    config.save_pretrained(tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").unlink()
    torch.save(whole.state_dict(), tmp_path / "clip" / "pytorch_model.bin")
    taken = WaifuAesthetic(tmp_path, quality(), CPU)
    assert taken.describe(pictures) == WaifuAesthetic(models, quality(), CPU).describe(pictures)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("damage", ["missing", "other shape"])
def test_a_head_of_other_shapes_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    write_quality_head(tmp_path / HEAD_FILE)
    tensors = load_file(tmp_path / HEAD_FILE)
    tensors[name] = tensors[name][..., :-1].clone()
    if damage == "missing":
        del tensors[name]
    save_file(tensors, tmp_path / HEAD_FILE)
    found = "missing" if damage == "missing" else r"\(.*\)"
    with pytest.raises(StageError, match=rf"{HEAD_FILE}: {name} is {found}, expected \(.*\); this is not an aes-B32 head"):
        read_head(tmp_path / HEAD_FILE)


def test_a_head_with_more_tensors_is_refused(tmp_path: Path) -> None:
    write_quality_head(tmp_path / HEAD_FILE)
    save_file(load_file(tmp_path / HEAD_FILE) | {"fc4.bias": torch.zeros(1)}, tmp_path / HEAD_FILE)
    with pytest.raises(StageError, match=r"fc4\.bias is \(1,\), expected none"):
        read_head(tmp_path / HEAD_FILE)


class Code:
    """What a pickle could run."""

    def __reduce__(self) -> tuple:
        return (Path.mkdir, (Path("never made"),))


@pytest.mark.parametrize(
    "content", [b"", b"no head", "code", torch.zeros(3), [1, 2]], ids=["empty", "text", "code", "tensor", "list"]
)
def test_a_file_that_holds_no_head_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "head.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save({"fc1.weight": Code()} if content == "code" else content, path)
    with pytest.raises(StageError, match=r"^.*head\.pth: cannot be loaded as an aesthetic head's weights \("):
        read_head(path)
    assert not Path("never made").exists()


def test_features_of_another_width_are_refused(tmp_path: Path) -> None:
    write_quality_head(tmp_path / "quality" / HEAD_FILE)
    write_clip(tmp_path / "clip", features=256)
    with pytest.raises(StageError, match="clip: its features are 256 wide, the head takes 512"):
        WaifuAesthetic(tmp_path, quality(), CPU)
