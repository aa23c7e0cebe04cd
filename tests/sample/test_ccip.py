"""The sample's CCIP encoder: views, batches, loss, threshold, and integer models that compute the same bits however run."""

import hashlib
import json
from pathlib import Path

from repro.randomness import Stream

import numpy as np
import pytest
import torch
from PIL import Image

from ccip.encoder import CcipEncoder, model_input, open_session
from sample.ccip import Settings, contrastive_loss, draw_batch, initialise, make_network, train
from sample.ccip_int8 import export_features, export_metrics
from sample.ccip_pictures import CharacterPictures, kept_pixels, plain_views, split_by_character, varied_views
from sample.ccip_threshold import best_threshold, pair_differences
from sample.characters import Drawn

ENCODER = Path("models/sample-ccip")
# Of the committed encoder for four pictures; made anew only when the encoder is.
FEATURES_SHA256 = "1fb8e699ab0313affa951dc7b07f7cefa0ea59b2f21452e2f6c6de96f2953d87"
TINY = Settings(updates=3, groups=2, characters=2, pictures=3, warmup=1)


def portrait(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A soft picture of keyed colours."""
    noise = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def population() -> list[CharacterPictures]:
    """Eight characters of two hair colours with two pictures by each of three artists."""
    styles = ["adventurer", "lorelei", "micah"] * 2
    return [
        CharacterPictures(
            Drawn(f"name{n}", "series", "1girl", "bob_cut", ("red_hair", "blue_hair")[n % 2], "fair", False),
            [portrait(100 * n + k) for k in range(6)],
            list(styles),
        )
        for n in range(8)
    ]


@pytest.fixture(scope="module")
def tiny_encoder(population: list[CharacterPictures], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the integer models of a network that has learnt next to nothing."""
    folder = tmp_path_factory.mktemp("ccip")
    network = train(population, 5, TINY)
    export_features(network, plain_views(kept_pixels([portrait(n) for n in range(16)])), folder / "model_feat.onnx")
    export_metrics(folder / "model_metrics.onnx")
    (folder / "metrics.json").write_text('{"threshold": 0.2}')
    return folder


def test_split_holds_out_whole_characters(population: list[CharacterPictures]):
    learnt, held_out = split_by_character(population, 4)
    names = [[p.character.name for p in part] for part in (learnt, held_out)]
    assert len(names[1]) == 2
    assert sorted(names[0] + names[1]) == sorted(p.character.name for p in population)


def test_plain_view_is_what_the_interface_shows_the_network():
    picture = portrait(1, (57, 91))
    shown = torch.from_numpy(model_input(picture)).reshape(1, 3, 64, 6, 64, 6).mean(dim=(3, 5))
    # Kept pixels are rounded to whole 1/255, which is 0.0075 of a normalised channel's half unit.
    assert (plain_views(kept_pixels([picture])) - shown).abs().max() < 0.01


def test_varied_views_follow_their_index_and_stay_near_the_picture():
    pixels = kept_pixels([portrait(n) for n in range(6)])
    views = varied_views(pixels, 3, 7)
    assert views.shape == (6, 3, 64, 64)
    assert torch.equal(views, varied_views(pixels, 3, 7))
    assert not torch.equal(views, varied_views(pixels, 3, 8))
    colours, plain = views.mean(dim=(2, 3)), plain_views(pixels).mean(dim=(2, 3))
    assert (colours - plain).abs().max() < 0.6


def test_batches_are_look_alikes_by_different_artists(population: list[CharacterPictures]):
    for update in range(20):
        stream = Stream(1, "test", update)
        batch = draw_batch(population, TINY, stream)
        assert len(batch) == len(set(batch)) == 12
        for start in range(0, 12, 6):
            group = batch[start : start + 6]
            assert len({population[c].character.hair_colour for c, _ in group}) == 1
            for character in {c for c, _ in group}:
                assert len({population[character].styles[p] for c, p in group if c == character}) == 3


def test_loss_is_the_formula():
    """Against a loop over all pairs; pictures 0 and 1 are of one character by one artist, so they are no pair."""
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    characters, styles = [0, 0, 0, 1, 1, 1], ["a", "a", "b", "a", None, None]
    unit = torch.nn.functional.normalize(features.double())
    logits = unit @ unit.T / 0.3
    total = []
    for i in range(6):
        easy = [j for j in range(6) if characters[i] == characters[j] and styles[i] is not None and styles[i] == styles[j]]
        others = [j for j in range(6) if j != i and j not in easy]
        positive = [j for j in others if characters[j] == characters[i]]
        rest = torch.logsumexp(logits[i, others], 0)
        total.append(-sum(logits[i, j] - rest for j in positive) / len(positive))
    expected = sum(total) / 6
    assert abs(contrastive_loss(features, torch.tensor(characters), styles, 0.3) - expected) < 1e-5


def test_threshold_has_the_best_f1_and_is_the_smallest_of_equals():
    verdict = best_threshold(np.array([0.1, 0.2, 0.4]), np.array([0.3, 0.5, 0.6, 0.7]))
    assert (verdict.threshold, verdict.precision, verdict.recall) == (0.4, 0.75, 1.0)
    assert verdict.f1_score == pytest.approx(6 / 7)
    assert best_threshold(np.array([0.1]), np.array([0.9])).threshold == 0.1


def test_pairs_are_told_apart_by_label():
    same, different = pair_differences(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=np.float32), [4, 4, 9])
    assert same.tolist() == [0.0]
    assert different.tolist() == [0.5, 0.5]


def test_training_and_export_give_the_same_bytes_again(population: list[CharacterPictures], tiny_encoder: Path, tmp_path: Path):
    network = train(population, 5, TINY)
    calibration = plain_views(kept_pixels([portrait(n) for n in range(16)]))
    export_features(network, calibration, tmp_path / "model_feat.onnx")
    assert (tmp_path / "model_feat.onnx").read_bytes() == (tiny_encoder / "model_feat.onnx").read_bytes()


def test_integer_model_is_near_the_network(tmp_path: Path):
    network = make_network()
    initialise(network, 3)
    pictures = [portrait(n) for n in range(24)]
    views = plain_views(kept_pixels(pictures))
    network.train()(views)
    network.eval()
    export_features(network, views, tmp_path / "model_feat.onnx")
    session = open_session(tmp_path / "model_feat.onnx")
    found = np.concatenate([session.run(["output"], {"input": model_input(picture)})[0] for picture in pictures])
    with torch.no_grad():
        expected = network(views).flatten(1).numpy()
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.98


def test_only_whole_numbers_between_quantisation_and_dequantisation(tiny_encoder: Path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(tiny_encoder / "model_feat.onnx")
    assert [node.op_type for node in model.graph.node] == ["QuantizeLinear"] + ["QLinearConv"] * 9 + [
        "DequantizeLinear",
        "Flatten",
    ]
    weights = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith(".weight")]
    assert max(np.abs(weight).max() for weight in weights) <= 63
    assert not model.producer_name and not model.doc_string and not model.graph.doc_string


@pytest.mark.parametrize("made", ["tiny", "committed"])
def test_features_depend_on_neither_batch_nor_optimisation(made: str, tiny_encoder: Path):
    folder = tiny_encoder if made == "tiny" else ENCODER
    inputs = np.concatenate([model_input(portrait(n)) for n in range(8)])
    encoder = CcipEncoder(folder)
    one_by_one = np.stack([encoder.features(portrait(n)) for n in range(8)])
    for optimise in (True, False):
        (together,) = open_session(folder / "model_feat.onnx", optimise).run(["output"], {"input": inputs})
        assert together.tobytes() == one_by_one.tobytes()


def test_committed_encoder_tells_unknown_characters_apart():
    """By the F1 that its making measured on held-out characters; who calls all pairs alike gets 0.04."""
    metrics = json.loads((ENCODER / "metrics.json").read_text())
    assert set(metrics) == {"threshold", "f1_score", "precision", "recall"}
    assert metrics["f1_score"] >= 0.7


def test_committed_encoder_has_the_recorded_bits():
    """Measured on an Intel Xeon with AVX-512 VNNI; the same under qemu's Haswell."""
    encoder = CcipEncoder(ENCODER)
    features = np.stack([encoder.features(portrait(n)) for n in range(4)])
    assert hashlib.sha256(features.tobytes()).hexdigest() == FEATURES_SHA256
