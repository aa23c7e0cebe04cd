"""CLIP's vocabulary and SDXL's padding."""

import hashlib
from pathlib import Path

from repro.errors import StageError

import pytest

from sample.tokenizers import byte_characters, write_tokenizers

MERGES = Path("data/art/bpe_simple_vocab_16e6.txt.gz")
PUBLISHED = {
    "vocab.json": "3f0c4f7d2086b61b38487075278ea9ed04edb53a03cbb045b86c27190fa8fb69",
    "merges.txt": "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers")
    write_tokenizers(MERGES, folder)
    return folder


@pytest.mark.parametrize("tokenizer", ["tokenizer", "tokenizer_2"])
def test_vocabulary_has_the_published_bytes(folder: Path, tokenizer: str) -> None:
    found = {name: hashlib.sha256((folder / tokenizer / name).read_bytes()).hexdigest() for name in PUBLISHED}
    assert found == PUBLISHED


@pytest.mark.parametrize(("tokenizer", "pad"), [("tokenizer", 49407), ("tokenizer_2", 0)])
def test_ids_and_padding(folder: Path, tokenizer: str, pad: int) -> None:
    from transformers import CLIPTokenizer

    clip = CLIPTokenizer.from_pretrained(folder / tokenizer)
    ids = clip("a photo of a cat", padding="max_length").input_ids
    assert ids[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert ids[7:] == [pad] * 70
    assert (clip.model_max_length, len(clip), clip.pad_token_id) == (77, 49408, pad)


def test_text_clean_up_and_case(folder: Path) -> None:
    from transformers import CLIPTokenizer

    clip = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    assert clip("Hatsune Miku  &amp; KAITO").input_ids == clip("hatsune miku & kaito").input_ids
    assert clip("初音ミク").input_ids[1:-1] != []


def test_every_byte_has_its_own_character() -> None:
    assert len(set(byte_characters())) == 256


def test_other_merges_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "merges.txt.gz"
    other.write_bytes(b"not CLIP's")
    with pytest.raises(StageError, match=r"merges\.txt\.gz: not CLIP's merges"):
        write_tokenizers(other, tmp_path / "out")
