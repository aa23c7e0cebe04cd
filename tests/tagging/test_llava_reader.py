"""LLaVA's answers against choosing the likeliest token by hand, one picture at a time and without the library's loop."""

import io
import json
from pathlib import Path

from repro.errors import StageError
from repro.numerics import fix_torch
from repro.params import TextReader

import polars as pl
import pytest
import torch
from PIL import Image
from tiny_pictures import tiny_picture
from tiny_taggers import MARKS, PROMPT, READER_SIDE, write_reader
from transformers import AutoTokenizer, CLIPImageProcessor, LlavaForConditionalGeneration

from tagging.llava_reader import LlavaReader

CPU = torch.device("cpu")
SHOWN = PROMPT.removeprefix("<image>")
PROMPT_TOKENS = 1 + 1 + len(SHOWN)  # start, picture, letters
PICTURE_TOKENS = 4  # of 28 x 28 pixels in patches of 14


def settings(**changes: object) -> TextReader:
    given = {"precision": "fp32", "prompt": PROMPT, "max_length": 64, "only_tags": ["english_text"]} | changes
    return TextReader(path="text", hub=None, sha256={}, **given)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fix_torch()
    folder = tmp_path_factory.mktemp("models")
    write_reader(folder / "text")
    return folder


@pytest.fixture(scope="module")
def reader(models: Path) -> LlavaReader:
    return LlavaReader(models, settings(), CPU)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.open(io.BytesIO(tiny_picture("text", number))) for number in range(5)]


@torch.no_grad()
def answers_by_hand(folder: Path, pictures: list[Image.Image], max_length: int) -> list[str]:
    """The prompt and the likeliest letters after it, until the end token or `max_length` with the picture as one token."""
    assert READER_SIDE**2 == PICTURE_TOKENS * 14**2
    model, tokenizer = LlavaForConditionalGeneration.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessor.from_pretrained(folder)
    start = tokenizer(PROMPT.replace("<image>", "<image>" * PICTURE_TOKENS)).input_ids
    answers = []
    for picture in pictures:
        pixels = processor(picture.convert("RGB"), return_tensors="pt").pixel_values
        chosen: list[int] = []
        while len(start) - PICTURE_TOKENS + 1 + len(chosen) < max_length:
            logits = model(input_ids=torch.tensor([start + chosen]), pixel_values=pixels, use_cache=False).logits
            chosen.append(int(logits[0, -1].argmax()))
            if chosen[-1] == tokenizer.eos_token_id:
                break
        answers.append(SHOWN + "".join(tokenizer.convert_ids_to_tokens(token for token in chosen if token >= len(MARKS))))
    return answers


def test_answers_are_the_likeliest_letters_after_the_prompt(
    models: Path, reader: LlavaReader, pictures: list[Image.Image]
) -> None:
    answers = [answer for picture in pictures for (answer,) in reader.describe([picture])]
    assert answers == answers_by_hand(models / "text", pictures, 64)
    lengths = {len(answer) - len(SHOWN) for answer in answers}
    assert len(set(answers)) == len(pictures)
    assert max(lengths) == 64 - PROMPT_TOKENS
    assert min(lengths) < 64 - PROMPT_TOKENS
    assert reader.schema == {"answer": pl.String}


def test_an_answer_does_not_depend_on_its_batch(reader: LlavaReader, pictures: list[Image.Image]) -> None:
    alone = [answer for picture in pictures for answer in reader.describe([picture])]
    assert reader.describe(pictures) == alone
    assert reader.describe(pictures[::-1]) == alone[::-1]


@pytest.mark.parametrize("letters", [1, 5])
def test_max_length_counts_the_picture_as_one_token(models: Path, pictures: list[Image.Image], letters: int) -> None:
    short = LlavaReader(models, settings(max_length=PROMPT_TOKENS + letters), CPU)
    for (answer,) in short.describe(pictures):
        assert len(answer) - len(SHOWN) <= letters
    assert max(len(answer) for (answer,) in short.describe(pictures)) == len(SHOWN) + letters


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_answer_too(models: Path, pictures: list[Image.Image], precision: str) -> None:
    lower = LlavaReader(models, settings(precision=precision), CPU)
    assert all(answer.startswith(SHOWN) and len(answer) > len(SHOWN) for (answer,) in lower.describe(pictures))


def test_colours_of_any_mode_become_rgb(reader: LlavaReader, pictures: list[Image.Image]) -> None:
    clear = pictures[0].convert("RGBA")
    clear.putalpha(0)
    assert reader.describe([clear, pictures[0].convert("P", palette=Image.Palette.WEB)])[0] == reader.describe(pictures[:1])[0]


def test_the_models_own_habits_of_sampling_do_not_count(tmp_path: Path, reader: LlavaReader, pictures: list[Image.Image]) -> None:
    write_reader(tmp_path / "text")
    habits = {"do_sample": True, "temperature": 3.0, "top_p": 0.9, "num_beams": 2, "max_length": 5, "repetition_penalty": 5.0}
    (tmp_path / "text" / "generation_config.json").write_text(json.dumps(habits))
    assert LlavaReader(tmp_path, settings(), CPU).describe(pictures) == reader.describe(pictures)


@pytest.mark.parametrize("prompt", ["what does the text say?", "<image><image>\nand now?"])
def test_a_prompt_without_exactly_one_picture_is_refused(models: Path, prompt: str) -> None:
    with pytest.raises(StageError, match=r"annotate\.text\.prompt: .* must say <image> once"):
        LlavaReader(models, settings(prompt=prompt), CPU)


def test_a_length_that_leaves_no_answer_is_refused(models: Path) -> None:
    expected = rf"annotate\.text\.max_length: {PROMPT_TOKENS}, but the prompt alone has {PROMPT_TOKENS} tokens"
    with pytest.raises(StageError, match=expected):
        LlavaReader(models, settings(max_length=PROMPT_TOKENS), CPU)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    write_reader(tmp_path / "text")
    path = tmp_path / "text" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_token_index": 5}))
    with pytest.raises(StageError, match="text: token <image> is 3 for the tokenizer, but 5 for the model"):
        LlavaReader(tmp_path, settings(), CPU)


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer.json"])
def test_broken_files_are_told_in_words(tmp_path: Path, name: str) -> None:
    write_reader(tmp_path / "text")
    (tmp_path / "text" / name).write_text("{")
    with pytest.raises(StageError, match=r"text.*: cannot be loaded as "):
        LlavaReader(tmp_path, settings(), CPU)


@pytest.mark.parametrize("prompt", ["<image>\nwas sagt der Text, schön?", "user: <image> 文字?"])
def test_a_prompt_that_the_tokenizer_does_not_give_back_is_refused(models: Path, prompt: str) -> None:
    """Captions could not tell the answer from it, after all the hours of reading."""
    with pytest.raises(StageError, match=r"annotate\.text\.prompt: .* comes back from the tokenizer as "):
        LlavaReader(models, settings(prompt=prompt), CPU)


def test_a_picture_in_the_middle_of_the_prompt_is_taken_out_again(models: Path, pictures: list[Image.Image]) -> None:
    middle = LlavaReader(models, settings(prompt="user: <image> what?"), CPU)
    assert all(
        answer.split()[:2] == ["user:", "what?"] or answer.startswith("user:  what?") for (answer,) in middle.describe(pictures)
    )
