"""CLIP's vocabulary, and SDXL's two tokenizer folders made from it.

Source of the merges: `bpe_simple_vocab_16e6.txt.gz` of openai/CLIP (MIT), as open-clip-torch 3.3.0
carries it. The vocabulary is built by the rule of CLIP's `simple_tokenizer.py`; vocab.json and
merges.txt come out as openai/clip-vit-large-patch14 publishes them.
"""

import gzip
import hashlib
import json
from pathlib import Path

from repro.errors import StageError
from repro.outputs import json_text

MERGES_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
START, END = "<|startoftext|>", "<|endoftext|>"
ENTRIES = 49_408
# The file goes on to 262,144 merges; CLIP uses as many as its vocabulary has room for.
MERGES = ENTRIES - 2 * 256 - 2
MODEL_MAX_LENGTH = 77
# SDXL pads the first text encoder's ids with the end token and the second's with id 0, which is "!".
PAD_TOKENS = {"tokenizer": END, "tokenizer_2": "!"}


def read_merges(path: Path) -> list[str]:
    """The 48,894 merges that CLIP uses, in order of priority.

    Raises:
        StageError: the file has other bytes than CLIP's.
    """
    data = Path(path).read_bytes()
    if hashlib.sha256(data).hexdigest() != MERGES_SHA256:
        raise StageError(f"{path}: not CLIP's merges (sha256 {MERGES_SHA256[:12]}... expected); restore it from git")
    lines = gzip.decompress(data).decode("utf-8").split("\n")
    return lines[1 : MERGES + 1]


def byte_characters() -> list[str]:
    """A visible character for each of the 256 bytes, in vocabulary order: printable Latin-1 bytes
    stand for themselves, the others for the code points from 256 on (GPT-2's mapping)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(256 + i) for i in range(others)]


def build_vocabulary(merges: list[str]) -> dict[str, int]:
    """{token: id}: bytes, bytes at a word's end, merged pairs, start and end of text."""
    single = byte_characters()
    tokens = [*single, *(c + "</w>" for c in single), *("".join(pair.split()) for pair in merges), START, END]
    return {token: i for i, token in enumerate(tokens)}


def write_tokenizers(merges_file: Path, folder: Path) -> None:
    """Write `folder/tokenizer` and `folder/tokenizer_2`, each openable by `CLIPTokenizer.from_pretrained`."""
    merges = read_merges(merges_file)
    # Separators, escapes and the missing final newline are those of the published file.
    vocabulary = json.dumps(build_vocabulary(merges), ensure_ascii=False)
    for name, pad_token in PAD_TOKENS.items():
        target = Path(folder) / name
        target.mkdir(parents=True, exist_ok=True)
        (target / "vocab.json").write_text(vocabulary, encoding="utf-8")
        (target / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad_token}
        (target / "special_tokens_map.json").write_text(json_text(special), encoding="utf-8")
        config = {
            **special,
            "add_prefix_space": False,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": MODEL_MAX_LENGTH,
            "tokenizer_class": "CLIPTokenizer",
        }
        (target / "tokenizer_config.json").write_text(json_text(config), encoding="utf-8")
