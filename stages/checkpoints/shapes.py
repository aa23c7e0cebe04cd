"""Names and shapes of the tensors that both families have: those of a layer, and of CLIP's text encoder.

Source: CLIPTextModel and CLIPTextModelWithProjection of transformers 4.57.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]


def layer(name: str, *shape: int, bias: bool = True) -> Named:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def text_encoder(config: Mapping[str, Any]) -> Named:
    width, inner = config["hidden_size"], config["intermediate_size"]
    embeddings = "text_model.embeddings"
    yield from layer(f"{embeddings}.token_embedding", config["vocab_size"], width, bias=False)
    yield from layer(f"{embeddings}.position_embedding", config["max_position_embeddings"], width, bias=False)
    for i in range(config["num_hidden_layers"]):
        block = f"text_model.encoder.layers.{i}"
        for norm in ("layer_norm1", "layer_norm2"):
            yield from layer(f"{block}.{norm}", width)
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from layer(f"{block}.self_attn.{projection}", width, width)
        yield from layer(f"{block}.mlp.fc1", inner, width)
        yield from layer(f"{block}.mlp.fc2", width, inner)
    yield from layer("text_model.final_layer_norm", width)


def text_projection(config: Mapping[str, Any]) -> Named:
    yield from layer("text_projection", config["projection_dim"], config["hidden_size"], bias=False)
