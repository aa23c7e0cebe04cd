"""What the text in a picture says, by LLaVA 1.5 (llava-hf/llava-1.5-7b-hf): the likeliest answer to one question.

As SoteDiffusion's script asked in 2024 (Disty0/dataset-helpers de43aa7, text-llava15-7b.py): the prompt is taken as it is,
not as a chat, and `max_length` counts the tokens of prompt and answer with the picture as one. Later transformers count the
picture as the hundreds of tokens that it becomes, so the answer's own length is what is handed on.
"""

from collections.abc import Sequence
from pathlib import Path

from repro.devices import TORCH_TYPES
from repro.errors import StageError
from repro.params import TextReader

import polars as pl
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessor, GenerationConfig, LlavaForConditionalGeneration, LlavaProcessor

from booru.captioning.annotations import PICTURE_TOKEN
from booru.captioning.reader_text import begins_with
from tagging.model_files import PREPROCESSOR, load_pretrained, loading, text_folder


class LlavaReader:
    """LLaVA behind the interface of `tagging.model`: a row is (answer,), the whole decoded text, prompt included, without
    special tokens.

    Weights and activations have the settings' precision. All prompts are the same, so those of a batch need no padding.
    """

    schema = {"answer": pl.String}  # noqa: RUF012

    def __init__(self, models: Path, settings: TextReader, device: str | torch.device):
        """Open the model's folder below `models`.

        Raises:
            StageError: a file is missing, has another sha256 than the settings or cannot be loaded; the prompt has not
                exactly one picture, comes back from the tokenizer as another, or leaves no token for an answer.
        """
        part = text_folder(settings)
        folder = Path(models, settings.path)
        if settings.prompt.count(PICTURE_TOKEN) != 1:
            raise StageError(f"{part.key}.prompt: {settings.prompt!r} must say {PICTURE_TOKEN} once, where the picture stands")
        self.digests = part.digests(models)
        model = load_pretrained(LlavaForConditionalGeneration, folder, TORCH_TYPES[settings.precision])
        self._processor = _processor(folder, model)
        tokens = self._processor.tokenizer(settings.prompt).input_ids
        told = self._decoded([tokens])[0]
        if not begins_with(told, settings.prompt.replace(PICTURE_TOKEN, "")):
            raise StageError(
                f"{part.key}.prompt: {settings.prompt!r} comes back from the tokenizer as {told!r}, so that captions could not"
                " tell the answer from it; write it in the tokenizer's letters"
            )
        prompt_tokens = len(tokens)
        if prompt_tokens >= settings.max_length:
            raise StageError(f"{part.key}.max_length: {settings.max_length}, but the prompt alone has {prompt_tokens} tokens")
        # generate() fills what this leaves at its default from the model's own, so it must be the model's own.
        model.generation_config = _greedy(self._processor.tokenizer, settings.max_length - prompt_tokens)
        self._model, self._device, self._prompt = model.to(device), device, settings.prompt

    @torch.no_grad()
    def describe(self, pictures: Sequence[Image.Image]) -> list[tuple[str]]:
        asked = self._processor(
            images=[picture.convert("RGB") for picture in pictures], text=[self._prompt] * len(pictures), return_tensors="pt"
        ).to(self._device)
        tokens = self._model.generate(
            input_ids=asked.input_ids, attention_mask=asked.attention_mask, pixel_values=asked.pixel_values.to(self._model.dtype)
        )
        return [(answer,) for answer in self._decoded(tokens)]

    def _decoded(self, tokens: torch.Tensor | list[list[int]]) -> list[str]:
        return self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _processor(folder: Path, model: LlavaForConditionalGeneration) -> LlavaProcessor:
    """Of the model's own patches: revisions of 2024 have no processor_config.json that tells them."""
    with loading(folder / PREPROCESSOR, "CLIP's preprocessor"):
        pictures = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    with loading(folder, "a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    ours, its = tokenizer.convert_tokens_to_ids(PICTURE_TOKEN), model.config.image_token_id
    if ours != its:
        raise StageError(
            f"{folder}: token {PICTURE_TOKEN} is {ours} for the tokenizer, but {its} for the model; they do not belong together"
        )
    return LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=model.config.vision_config.patch_size,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        num_additional_image_tokens=1,  # CLIP's class token
    )


def _greedy(tokenizer: AutoTokenizer, new_tokens: int) -> GenerationConfig:
    """At each step the likeliest token, until the end token or `new_tokens`; finished answers of a batch are padded."""
    end = tokenizer.eos_token_id
    padding = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=new_tokens, bos_token_id=tokenizer.bos_token_id, eos_token_id=end,
        pad_token_id=padding,
    )  # fmt: skip
