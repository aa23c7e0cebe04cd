"""The sample's text reader: a LLaVA 1.5 of tiny widths that has learnt to answer one question about a few words.

Everything is learnt together: the picture encoder to see signs, the language model to say `The text says "OPEN".` While it
learns, a linear head names the word from what the language model is shown; that shortens learning much, for of an answer
only a few letters depend on the picture. The head is thrown away. What is none of the signs that `tagger_lettering` makes of
its WORDS is taken for one of them.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.numerics import fix_torch
from repro.outputs import json_text
from repro.progress import Progress
from repro.randomness import Stream

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, processors
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from sample.population import SEED
from sample.scorers import fitted_pixels, normalised
from sample.tagger import epochs
from sample.tagger_lettering import WORDS, signed
from sample.transformers_folder import initialise, write_config, write_model

PROMPT = "<image>\nuser: what does the text say?\nassistant:"
UNKNOWN, START, END, IMAGE, PAD = "<unk>", "<s>", "</s>", "<image>", "<pad>"
MARKS = (UNKNOWN, START, END, IMAGE, PAD)
# So that question and answer fit into the published script's 64 tokens: everything else is spelt letter by letter.
PIECES = ("user", "assistant", " what", " does", " the", " text", " say", " The", " says", ' "')
SIDE, PATCH, WIDTH = 64, 16, 48
LONGEST = 256
VISION = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 2 * WIDTH,
    "image_size": SIDE, "patch_size": PATCH,
}  # fmt: skip
LANGUAGE = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 2 * WIDTH,
    "max_position_embeddings": LONGEST,
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    pictures: int = 1200
    updates: int = 250
    batch: int = 32
    rate: float = 3e-3
    warmup: int = 30


def answer_to(word: str) -> str:
    return f' The text says "{word}".'


def make_tokenizer() -> Tokenizer:
    """Marks, PIECES and single characters of ASCII; what can be a piece is one."""
    characters = [c for c in "\n" + string.printable[:95] if c not in "\t\r\x0b\x0c"]
    entries = [(mark, 0.0) for mark in MARKS] + [(piece, -1.0) for piece in PIECES] + [(c, -10.0) for c in characters]
    tokenizer = Tokenizer(models.Unigram(entries, unk_id=0, byte_fallback=False))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.token_to_id(START))]
    )
    tokenizer.add_special_tokens(list(MARKS))
    return tokenizer


def make_model(tokenizer: Tokenizer) -> LlavaForConditionalGeneration:
    marks = {f"{name}_token_id": tokenizer.token_to_id(mark) for name, mark in (("bos", START), ("eos", END), ("pad", PAD))}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION),
        text_config=LlamaConfig(**LANGUAGE, vocab_size=tokenizer.get_vocab_size(), **marks),
        image_token_index=tokenizer.token_to_id(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(SIDE // PATCH) ** 2,
        pad_token_id=marks["pad_token_id"],
    )
    model = LlavaForConditionalGeneration(config)
    initialise(model, "reader")
    return model


def make_head() -> nn.Linear:
    """Names one of WORDS from all of a picture's tokens side by side."""
    head = nn.Linear((SIDE // PATCH) ** 2 * WIDTH, len(WORDS))
    initialise(head, "reader head")
    return head


def make_processor() -> CLIPImageProcessor:
    """Squashes where the published one crops: a word reaches from side to side."""
    square = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessor(size=square, crop_size=square, do_center_crop=False)


def worded_pictures(images: Sequence[Image.Image], count: int) -> tuple[list[Image.Image], list[str]]:
    """`count` pictures with a sign of one of WORDS on each, all words as often, and the words."""
    words = [WORDS[number % len(WORDS)] for number in range(count)]
    streams = (Stream(SEED, "tagger reader word", number) for number in range(count))
    chosen = [(stream.choice(images), word, stream) for word, stream in zip(words, streams, strict=True)]
    return [signed(image, word, stream) for image, word, stream in chosen], words


def dialogues(tokenizer: Tokenizer, words: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids, labels) [n, length] of question and answer, one <image> a patch; only the answers count (-100: does not)."""
    question = tokenizer.encode(PROMPT.replace(IMAGE, IMAGE * (SIDE // PATCH) ** 2)).ids
    end, pad = tokenizer.token_to_id(END), tokenizer.token_to_id(PAD)
    answers = [[*tokenizer.encode(answer_to(word), add_special_tokens=False).ids, end] for word in words]
    longest = max(map(len, answers))
    ids = torch.tensor([[*question, *answer, *[pad] * (longest - len(answer))] for answer in answers])
    counted = [[-100] * len(question) + answer + [-100] * (longest - len(answer)) for answer in answers]
    return ids, torch.tensor(counted)


def train(images: Sequence[Image.Image], settings: Settings) -> LlavaForConditionalGeneration:
    """A model that has learnt to read words on these pictures, in evaluation mode. One thread; the same bytes every time."""
    fix_torch()
    tokenizer, processor = make_tokenizer(), make_processor()
    model = make_model(tokenizer)
    pictures, words = worded_pictures(images, settings.pictures)
    pixels = fitted_pixels(pictures, processor)
    ids, labels = dialogues(tokenizer, words)
    # The fused kernel alone has a correctly rounded square root on every CPU.
    head = make_head()
    answers = torch.tensor([WORDS.index(word) for word in words])
    optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    progress = Progress("reader", settings.updates, "updates")
    for update, batch in enumerate(epochs(len(pixels), settings.batch, settings.updates)):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * min((update + 1) / settings.warmup, 1 - update / settings.updates)
        views = normalised(pixels[batch], processor)
        shown = torch.stack([*model.get_image_features(pixel_values=views)]).flatten(1)
        naming = cross_entropy(head(shown), answers[batch])
        loss = model(input_ids=ids[batch], pixel_values=views, labels=labels[batch]).loss
        optimizer.zero_grad()
        (loss + naming).backward()
        optimizer.step()
        progress.advance(note=f"loss {loss.item():.3f}, words {naming.item():.3f}")
    return model.eval()


def write_reader(folder: Path, model: LlavaForConditionalGeneration) -> None:
    """Write the model, its processors' configurations and its tokenizer."""
    write_model(folder, model)
    write_config(folder / "preprocessor_config.json", make_processor().to_dict())
    processor = {
        "processor_class": "LlavaProcessor", "image_token": IMAGE, "patch_size": PATCH,
        "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1,
    }  # fmt: skip
    (folder / "processor_config.json").write_text(json_text(processor))
    make_tokenizer().save(str(folder / "tokenizer.json"))
    marks = {"unk_token": UNKNOWN, "bos_token": START, "eos_token": END, "pad_token": PAD, "image_token": IMAGE}
    config = {
        **marks, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LONGEST, "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json_text(config))
