"""The sample's text reader: its tokenizer and dialogues, and folders that the loader of LLaVA opens."""

from pathlib import Path

from repro.hashing import hash_tree
from repro.params import TextReader
from repro.randomness import Stream

import numpy as np
import pytest
import torch
from PIL import Image

from sample.reader import (
    IMAGE,
    PROMPT,
    Settings,
    answer_to,
    dialogues,
    make_tokenizer,
    train,
    worded_pictures,
    write_reader,
)
from sample.tagger_lettering import WORDS, signed
from tagging.llava_reader import LlavaReader

MODELS = Path("models/sample-taggers")
TINY = Settings(pictures=8, updates=2, batch=4, warmup=1)
ASKED = PROMPT.removeprefix(IMAGE)


def picture(seed: int) -> Image.Image:
    noise = np.random.Generator(np.random.PCG64(seed)).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((112, 112), Image.Resampling.BICUBIC)


def opened(models: Path) -> LlavaReader:
    settings = TextReader(
        path="text", hub=None, sha256={}, precision="fp32", prompt=PROMPT, max_length=64, only_tags=["english_text"]
    )  # fmt: skip
    return LlavaReader(models, settings, torch.device("cpu"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `text` of a reader that has learnt next to nothing."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "text").mkdir()
    write_reader(folder / "text", train([picture(n) for n in range(3)], TINY))
    return folder


@pytest.mark.parametrize("word", WORDS)
def test_question_and_answer_fit_and_come_back(word: str):
    tokenizer = make_tokenizer()
    ids = tokenizer.encode(PROMPT).ids + tokenizer.encode(answer_to(word), add_special_tokens=False).ids
    assert len(ids) < 64
    assert tokenizer.decode(ids) == f"{ASKED}{answer_to(word)}"


def test_any_ascii_question_has_tokens():
    tokenizer, text = make_tokenizer(), "USER: What's in [it]? 100%, {a}~|z\\"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert 0 not in tokenizer.encode(text).ids


def test_only_answers_count():
    tokenizer = make_tokenizer()
    ids, labels = dialogues(tokenizer, ["WOW", "HELLO"])
    assert ids.shape == labels.shape
    counted = labels != -100
    assert torch.equal(ids[counted], labels[counted])
    told = [tokenizer.decode(row[row != -100].tolist(), skip_special_tokens=False) for row in labels]
    assert told == [f"{answer_to(word)}</s>" for word in ("WOW", "HELLO")]
    assert (ids == tokenizer.token_to_id(IMAGE)).sum(1).tolist() == [16, 16]


def test_pictures_carry_all_words_alike():
    images, words = worded_pictures([picture(0)], 2 * len(WORDS))
    assert [words.count(word) for word in WORDS] == [2] * len(WORDS)
    assert all(image.size == (112, 112) for image in images)
    assert images[0].tobytes() != picture(0).tobytes()


def test_the_same_bytes_again(written: Path, tmp_path: Path):
    write_reader(tmp_path, train([picture(n) for n in range(3)], TINY))
    assert hash_tree(tmp_path) == hash_tree(written / "text")


def test_the_loader_asks_and_stops_in_time(written: Path):
    for (answer,) in opened(written).describe([picture(5), picture(6)]):
        assert answer.startswith(ASKED)


def test_committed_reader_reads_signs():
    signs = [(word, signed(picture(30 + n), word, Stream(9, "test", n))) for n in range(3) for word in WORDS]
    answers = [answer for (answer,) in opened(MODELS).describe([image for _, image in signs])]
    assert all(answer.startswith(f'{ASKED} The text says "') and answer.endswith('".') for answer in answers)
    right = sum(answer == f"{ASKED}{answer_to(word)}" for (word, _), answer in zip(signs, answers, strict=True))
    assert right >= 0.8 * len(signs)
