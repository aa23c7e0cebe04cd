"""Random annotation models of tiny widths with the published ones' files, classes and interfaces.

Every weight follows from the builder's `seed` and its own name. The answers mean nothing but differ from picture to picture.
`write_taggers` writes all of them below one folder; `annotate_settings` are the parameters that name them.
"""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro import numerics
from repro.outputs import json_text
from repro.randomness import seed_for

import onnx
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

TAGGER_SIDE = 32
RATINGS = ("general", "sensitive", "questionable", "explicit")
GENERAL = ("1girl", "solo", "smile", "english_text", "long_hair", "^_^", "holding_sword")
CHARACTERS = ("hatsune_miku", "skadi_(arknights)", "saber_(fate)")
CLIP_FEATURES = 512
HEAD_FILE = "aes-B32-v0.safetensors"
PROMPT = "<image>\nuser: what does the text say?\nassistant:"
LETTERS = "\n abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"-"
MARKS = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
PATCH = 14
READER_SIDE = 2 * PATCH


def write_taggers(folder: Path, seed: int = 0) -> None:
    """All four models: tags, aesthetic, quality (the head) with its clip, text."""
    write_wd_tagger(folder / "tags", seed)
    write_aesthetic(folder / "aesthetic", seed)
    write_clip(folder / "clip", seed)
    write_quality_head(folder / "quality" / HEAD_FILE, seed)
    write_reader(folder / "text", seed)


def annotate_settings(folder: Path, batch_size: int = 2) -> dict[str, Any]:
    """The section `annotate` for what `write_taggers` wrote."""
    local = {"hub": None, "sha256": {}}
    return {
        "folder": str(folder),
        "batch_size": batch_size,
        "tags": {"path": "tags", **local, "preprocess": "kohya-2024-04", "floor": 0.1},
        "aesthetic": {"path": "aesthetic", **local, "label": "hq"},
        "quality": {"path": "quality", **local, "head": HEAD_FILE, "clip": {"path": "clip", **local}},
        "text": {"path": "text", **local, "precision": "fp32", "prompt": PROMPT, "max_length": 64, "only_tags": ["english_text"]},
    }


def annotate_overrides(settings: dict[str, Any]) -> list[str]:
    """`--set` options that put a whole section `annotate` in place."""
    return [word for key, value in settings.items() for word in ("--set", f"annotate.{key}={json.dumps(value)}")]


def write_wd_tagger(folder: Path, seed: int = 0) -> None:
    """model.onnx, a logistic regression on the pooled picture [N, side, side, 3] BGR 0..255, and selected_tags.csv."""
    folder.mkdir(parents=True)
    rows = [(name, 9) for name in RATINGS] + [(name, 0) for name in GENERAL] + [(name, 4) for name in CHARACTERS]
    with open(folder / "selected_tags.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("tag_id", "name", "category", "count"))
        writer.writerows((100 + place, name, category, 1000 - place) for place, (name, category) in enumerate(rows))
    cells = 4
    features = 3 * (TAGGER_SIDE // (TAGGER_SIDE // cells)) ** 2
    weight = _uniform((features, len(rows)), seed, "tagger", "weight") * (8 / 255 / math.sqrt(features))
    weight -= weight.mean(0)  # no tag is set off by brightness alone
    nodes = [
        helper.make_node("Transpose", ["input"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["channels"], ["pooled"], kernel_shape=[TAGGER_SIDE // cells] * 2,
                         strides=[TAGGER_SIDE // cells] * 2),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["output"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", TAGGER_SIDE, TAGGER_SIDE, 3])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", len(rows)])],
        [
            helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.flatten().tolist()),
            helper.make_tensor("bias", TensorProto.FLOAT, [len(rows)], [0.0] * len(rows)),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), folder / "model.onnx")


def write_aesthetic(folder: Path, seed: int = 0, labels: tuple[str, ...] = ("hq", "lq")) -> None:
    """A ViT classifier of pictures at 64 x 64."""
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16,
        id2label=dict(enumerate(labels)), label2id={label: number for number, label in enumerate(labels)},
    )  # fmt: skip
    _save(_built(lambda: ViTForImageClassification(config), seed, "aesthetic"), folder)
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


def write_clip(folder: Path, seed: int = 0, features: int = CLIP_FEATURES) -> None:
    """A CLIP picture encoder at 64 x 64."""
    config = CLIPVisionConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=32,
        projection_dim=features,
    )  # fmt: skip
    _save(_built(lambda: CLIPVisionModelWithProjection(config), seed, "clip"), folder)
    CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(folder)


def write_quality_head(path: Path, seed: int = 0) -> None:
    """The head's six tensors, as .safetensors, or by torch.save for another ending."""
    head = nn.ModuleDict({"fc1": nn.Linear(CLIP_FEATURES, 256), "fc2": nn.Linear(256, 128), "fc3": nn.Linear(128, 1)})
    _randomise(head, seed, "quality")
    with torch.no_grad():
        head["fc3"].weight *= 8  # scores over the whole range
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(head.state_dict(), path)
    else:
        torch.save(head.state_dict(), path)


def write_reader(folder: Path, seed: int = 0) -> None:
    """LLaVA over pictures of 28 x 28 and single letters, padded at the left as the published tokenizer pads."""
    vocabulary = {token: number for number, token in enumerate([*MARKS, *LETTERS])}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            image_size=READER_SIDE, patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=4,
        ),
        image_token_index=vocabulary["<image>"], pad_token_id=4,
    )  # fmt: skip
    model = _built(lambda: LlavaForConditionalGeneration(config), seed, "reader")
    with torch.no_grad():
        model.lm_head.weight[vocabulary["</s>"]] *= 2  # answers of several lengths
    _save(model, folder)
    crop = {"height": READER_SIDE, "width": READER_SIDE}
    CLIPImageProcessor(size={"shortest_edge": READER_SIDE}, crop_size=crop).save_pretrained(folder)
    _write_letters(folder, vocabulary)


def _write_letters(folder: Path, vocabulary: dict[str, int]) -> None:
    """A tokenizer of single letters with LLaVA's marks."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(list(MARKS))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left", "model_max_length": 256,
        "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json_text(config))


def _built(make: Callable[[], nn.Module], seed: int, name: str) -> nn.Module:
    """A model with its classes' own start (the state of torch's generator stays), then weights by name."""
    with torch.random.fork_rng(devices=[]):
        model = make().eval()
    _randomise(model, seed, name)
    return model


def _save(model: nn.Module, folder: Path) -> None:
    folder.mkdir(parents=True)
    model.save_pretrained(folder)


@torch.no_grad()
def _randomise(model: nn.Module, seed: int, name: str) -> None:
    """Weights as wide as keep the size of what passes, so that answers differ with the picture; norms near one."""
    for key, parameter in model.named_parameters():
        values = _uniform(tuple(parameter.shape), seed, name, key)
        if parameter.ndim > 1:
            parameter.copy_(values * math.sqrt(12 / parameter[0].numel()))
        else:
            parameter.copy_(values * 0.1 + ("norm" in key and key.endswith("weight")))


def _uniform(shape: tuple[int, ...], seed: int, *name: str) -> torch.Tensor:
    """float32 in [-1, 1) by (seed, name)."""
    numerics.fix_torch()
    draws = torch.Generator().manual_seed(seed_for(seed, "tiny taggers", *name))
    return torch.rand(shape, generator=draws) * 2 - 1
