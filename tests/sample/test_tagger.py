"""The sample's tagger: its pictures and words, its training, and an integer model that computes the same bits however run."""

import csv
import hashlib
import io
import sqlite3
import tarfile
from collections import defaultdict
from pathlib import Path

from repro.onnx import open_session
from repro.params import Tagger
from repro.randomness import Stream

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops

from sample.characters import taught_characters
from sample.posts import CHARACTER, RATINGS
from sample.tagger import Settings, calibration_views, epochs, initialise, make_network, train
from sample.tagger_int8 import export_tagger, sigmoid_table, write_tags
from sample.tagger_lettering import WORDS, lettered, signed
from sample.tagger_pictures import (
    TEXT_TAG,
    LabelledPicture,
    Vocabulary,
    kept_pixels,
    learning_posts,
    plain_views,
    square,
    targets,
    varied_views,
    vocabulary,
    with_word,
    wordless,
)
from sample.taught import taught_posts
from tagging.wd_preprocess import model_input
from tagging.wd_tagger import WdModel, WdTagger

MODELS = Path("models/sample-taggers")
SAMPLE = Path("data/sample")
# Of the committed tagger for four pictures; made anew only when the tagger is.
PROBABILITIES_SHA256 = "2e7d32d10186f0d324e38750ac4f4d02e74ed03cb054cb4c71d9749d4af1c34c"
TINY = Settings(updates=3, batch=4, warmup=1)


def portrait(seed: int, size: tuple[int, int] = (96, 80)) -> Image.Image:
    """A soft picture of keyed colours."""
    noise = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures() -> list[LabelledPicture]:
    """Twelve pictures of two characters; every third one smiles."""
    return [
        LabelledPicture(
            portrait(n),
            RATINGS[n % 2],
            frozenset({"1girl", "smile"} if n % 3 == 0 else {"1girl"}),
            frozenset({("yuki", "hana")[n % 2], "stranger"}),
            "clean",
        )
        for n in range(12)
    ]


@pytest.fixture(scope="module")
def names() -> Vocabulary:
    return Vocabulary(("1girl", "smile"), ("hana", "yuki"), (12, 4, 6, 6))


@pytest.fixture(scope="module")
def tiny_tagger(pictures: list[LabelledPicture], names: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tagger that has learnt next to nothing."""
    folder = tmp_path_factory.mktemp("tagger")
    export_tagger(train(pictures, names, TINY), names, calibration_views(pictures, 8), folder / "model.onnx")
    write_tags(names, folder / "selected_tags.csv")
    return folder


def test_learning_posts_are_none_of_the_sample():
    """By what fixes a picture's pixels. Places without anyone are left out: there are few, and they repeat."""
    learnt = learning_posts()
    shown = {post.picture for post in taught_posts(20240119)[0]}
    assert not any(post.picture in shown for post in learnt if CHARACTER in {kind for _, kind in post.tags})
    counts = defaultdict(int)
    for post in learnt:
        for name, kind in post.tags:
            counts[name] += kind == CHARACTER
    assert min(counts[character.name] for character in taught_characters()) >= 100


def test_every_word_stands_on_the_picture_and_within_it():
    plain = Image.new("RGB", (96, 112), "#808080")
    for number, word in enumerate((*WORDS, "I", "WWWWWW")):
        for draw_word in (lettered, signed):
            changed = ImageChops.difference(plain, draw_word(plain, word, Stream(1, "test", number))).getbbox()
            assert changed is not None
            left, top, right, bottom = changed
            assert 0 <= left < right <= 96
            assert 0 <= top < bottom <= 112
            assert (bottom - top) <= 0.5 * 112
    assert plain.getcolors() == [(96 * 112, (128, 128, 128))]


def test_a_word_adds_its_tag_and_nothing_else(pictures: list[LabelledPicture]):
    marked = with_word(pictures[0], 7)
    assert marked.general == pictures[0].general | {TEXT_TAG}
    assert (marked.rating, marked.characters) == (pictures[0].rating, pictures[0].characters)
    assert wordless([marked, pictures[1]]) == [pictures[1].image]


def test_vocabulary_knows_taught_characters_and_frequent_tags_most_frequent_first(pictures: list[LabelledPicture]):
    found = vocabulary(pictures * 6)
    assert found == Vocabulary(("1girl", "smile"), ("hana", "yuki"), (72, 24, 36, 36))
    assert vocabulary(pictures * 5).general == ("1girl",)


def test_targets_follow_the_order_of_outputs(pictures: list[LabelledPicture], names: Vocabulary):
    assert targets(pictures[:2], names).tolist() == [[1, 0, 0, 0, 1, 1, 0, 1], [0, 1, 0, 0, 1, 0, 1, 0]]


def test_plain_view_is_what_the_interface_shows_the_network():
    """The preprocessing of imgutils, Pillow's bicubic at once to 64 pixels, within what two resizings in turn differ."""
    picture = portrait(1, (128, 91))
    shown = torch.from_numpy(model_input(picture, 64, "imgutils")).permute(2, 0, 1)
    seen = plain_views(kept_pixels(iter([picture]), 1))[0] * 128 + 128
    assert (seen - shown).abs().mean() < 1.5


def test_square_pads_with_white_in_the_middle():
    padded = square(Image.new("RGB", (3, 8), "black"))
    assert padded.size == (8, 8)
    assert [x for x in range(8) if padded.getpixel((x, 4)) == (0, 0, 0)] == [2, 3, 4]
    assert padded.getpixel((0, 0)) == (255, 255, 255)


def test_varied_views_follow_their_index_and_stay_near_the_picture(pictures: list[LabelledPicture]):
    pixels = kept_pixels(iter([picture.image for picture in pictures[:6]]), 6)
    views = varied_views(pixels, 3)
    assert views.shape == (6, 3, 64, 64)
    assert torch.equal(views, varied_views(pixels, 3))
    assert not torch.equal(views, varied_views(pixels, 4))
    colours, plain = views.mean(dim=(2, 3)), plain_views(pixels).mean(dim=(2, 3))
    assert (colours - plain).abs().max() < 0.3


def test_epochs_show_every_picture_once_and_full_batches_only():
    batches = epochs(10, 3, 7)
    assert [len(batch) for batch in batches] == [3] * 7
    for epoch in (batches[:3], batches[3:6]):
        places = [place for batch in epoch for place in batch]
        assert len(set(places)) == 9
    assert batches[:3] != batches[3:6]


def test_before_learning_probabilities_are_the_shares():
    shares = torch.tensor([0.5, 0.1, 0.9])
    network = make_network(3).eval()
    initialise(network, shares)
    with torch.no_grad():
        found = network(torch.zeros(1, 3, 64, 64)).sigmoid().flatten()
    assert torch.allclose(found, shares, atol=1e-6)


def test_training_and_export_give_the_same_bytes_again(
    pictures: list[LabelledPicture], names: Vocabulary, tiny_tagger: Path, tmp_path: Path
):
    export_tagger(train(pictures, names, TINY), names, calibration_views(pictures, 8), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == (tiny_tagger / "model.onnx").read_bytes()


def test_integer_model_is_near_the_network(names: Vocabulary, tmp_path: Path):
    network = make_network(8)
    initialise(network, torch.full((8,), 0.5))
    with torch.no_grad():
        network[-1].weight.mul_(10)
    images = [portrait(n, (64, 64)) for n in range(24)]
    inputs = np.stack([model_input(image, 64, "kohya-2024-04") for image in images])
    views = (torch.from_numpy(inputs).permute(0, 3, 1, 2) - 128) / 128
    network.train()(views)
    network.eval()
    export_tagger(network, names, views, tmp_path / "model.onnx")
    (found,) = open_session(tmp_path / "model.onnx").run(["output"], {"input": inputs})
    with torch.no_grad():
        expected = network(views).flatten(1).sigmoid().numpy()
    assert expected.std() > 0.1
    assert np.abs(found - expected).max() < 0.1


def test_sigmoid_table_rises_through_one_half():
    table = sigmoid_table()
    assert table.dtype == np.float32
    assert table[128] == 0.5
    assert (np.diff(table) > 0).all()


def test_only_whole_numbers_until_the_table(tiny_tagger: Path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(tiny_tagger / "model.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["QuantizeLinear", "Transpose", *["QLinearConv"] * 8, "Flatten", "Cast", "Gather"]
    assert not model.producer_name and not model.doc_string and not model.graph.doc_string


def test_tag_list_has_the_published_form(tiny_tagger: Path):
    with open(tiny_tagger / "selected_tags.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["category"]) for row in rows] == [
        *((rating, "9") for rating in RATINGS),
        ("1girl", "0"),
        ("smile", "0"),
        ("hana", "4"),
        ("yuki", "4"),
    ]
    assert len({row["tag_id"] for row in rows}) == len(rows)


@pytest.mark.parametrize("made", ["tiny", "committed"])
def test_probabilities_depend_on_neither_batch_nor_optimisation(made: str, tiny_tagger: Path):
    folder = tiny_tagger if made == "tiny" else MODELS / "wd"
    model, images = WdModel(folder, "kohya-2024-04"), [portrait(n) for n in range(8)]
    one_by_one = np.concatenate([model.probabilities([image]) for image in images])
    inputs = np.stack([model_input(image, 64, "kohya-2024-04") for image in images])
    for optimise in (True, False):
        (together,) = open_session(folder / "model.onnx", optimise).run(["output"], {"input": inputs})
        assert together.tobytes() == one_by_one.tobytes()


def test_committed_tagger_has_the_recorded_bits():
    model = WdModel(MODELS / "wd", "kohya-2024-04")
    found = model.probabilities([portrait(n) for n in range(4)])
    assert hashlib.sha256(found.tobytes()).hexdigest() == PROBABILITIES_SHA256


def sample_pictures(residue: int) -> dict[int, Image.Image]:
    """The readable pictures of one of the sample's archives, by post."""
    found = {}
    with tarfile.open(SAMPLE / "images" / f"data-{residue:04d}.tar") as archive:
        for member in archive:
            try:
                found[int(Path(member.name).stem)] = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")
            except OSError:  # the sample has broken pictures too
                continue
    return found


def test_committed_tagger_knows_the_sample():
    """Of two archives, some 250 pictures: characters nearly always right, general tags mostly; text, of which there is none,
    is seen in fewer than 2 %."""
    settings = {"path": "wd", "hub": None, "sha256": {}, "preprocess": "kohya-2024-04", "floor": 0.35}
    tagger = WdTagger(MODELS, Tagger(**settings))
    with sqlite3.connect(f"file:{SAMPLE / 'metadata.db'}?mode=ro", uri=True) as database:
        rows = database.execute("SELECT post_id, name FROM posttagrelation JOIN tag ON tag.id = tag_id").fetchall()
    tags = defaultdict(set)
    for post, name in rows:
        tags[post].add(name)
    characters, general = set(tagger.vocabulary.of(4)), set(tagger.vocabulary.of(0))
    assert characters == {character.name for character in taught_characters()}
    text, right, found, true = 0, np.zeros(2), np.zeros(2), np.zeros(2)
    images = sample_pictures(17) | sample_pictures(596)
    for post, (_, places, probabilities) in zip(images, tagger.describe(list(images.values())), strict=True):
        told = {tagger.vocabulary.names[place]: p for place, p in zip(places, probabilities, strict=True)}
        text += TEXT_TAG in told
        answers = ({name for name in told if name in characters and told[name] >= 0.5}, told.keys() & general)
        for kind, (said, known) in enumerate(zip(answers, (characters, general), strict=True)):
            right[kind] += len(said & tags[post])
            found[kind] += len(said)
            true[kind] += len(known & tags[post])
    assert text < 0.02 * len(images)
    precision, recall = right / found, right / true
    assert min(precision[0], recall[0]) > 0.95
    assert min(precision[1], recall[1]) > 0.8
