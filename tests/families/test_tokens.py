"""Token windows against sd-scripts' chunks."""

import json
import string
from itertools import product
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from families.tokens import token_windows

FIRST_CONTENT_ID = 1000
PAD = {"te1_pad_eos": "<|endoftext|>", "te2_pad_0": "!"}
WORDS = ["".join(pair) for pair in product(string.ascii_lowercase, repeat=2)]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CLIPTokenizer]:
    """CLIP tokenizers in which the i-th two-letter word is token 1000 + i; marks and pads as in SDXL."""
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocabulary = {"!": 0, **{letter: 1 + i for i, letter in enumerate(letters)}}
    vocabulary |= {f"{word}</w>": FIRST_CONTENT_ID + i for i, word in enumerate(WORDS)}
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = "".join(f"{a} {b}</w>\n" for a, b in WORDS)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}")
    files = str(folder / "vocab.json"), str(folder / "merges.txt")
    return {name: CLIPTokenizer(*files, pad_token=pad, model_max_length=77) for name, pad in PAD.items()}


@pytest.mark.golden
def test_windows_are_sd_scripts(golden: Path, tokenizers: dict[str, CLIPTokenizer]) -> None:
    cases = json.loads((golden / "train" / "token_chunks.json").read_text())["cases"]
    for case in cases:
        caption = " ".join(WORDS[: case["n_content_tokens"]])
        length = case["max_token_length"] or 75
        windows = token_windows(tokenizers[case["tokenizer"]], [caption], length)[0].tolist()
        assert windows == case["ids"], (case["n_content_tokens"], case["tokenizer"], length)


def test_captions_of_a_batch_do_not_influence_each_other(tokenizers: dict[str, CLIPTokenizer]) -> None:
    captions = ["", "ab", " ".join(WORDS[:80]), " ".join(WORDS[:300])]
    for tokenizer in tokenizers.values():
        together = token_windows(tokenizer, captions, 225)
        assert together.shape == (4, 3, 77)
        for i, caption in enumerate(captions):
            assert token_windows(tokenizer, [caption], 225)[0].tolist() == together[i].tolist()
