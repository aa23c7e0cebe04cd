"""Stable Cascade's text conditioning: what its CLIP text encoder says of captions.

The last layer's hidden states before the final layer norm and the pooled output of the first window, from tokens padded as
the tokenizer itself pads, without an attention mask: as stage C was fine-tuned by sd-scripts (branch stable-cascade,
235a1ea2). diffusers' pipelines mask the padding and cut prompts to one window.
"""

import torch
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from families.components import moved
from families.text_cache import Encoded
from families.text_windows import join_windows
from families.tokens import token_windows


def encode_captions(
    tokenizer: CLIPTokenizer, encoder: CLIPTextModelWithProjection, captions: list[str], max_token_length: int
) -> Encoded:
    """Context [captions, 75n + 2, c] and pooled [captions, projection] of captions, computed as one batch."""
    ids = token_windows(tokenizer, captions, max_token_length)
    windows = ids.shape[1]
    output = encoder(moved(ids.flatten(0, 1), encoder.device), output_hidden_states=True)
    return join_windows(output.hidden_states[-1], windows), output.text_embeds[::windows]


def zero_image_embeddings(pooled: torch.Tensor, channels: int) -> torch.Tensor:
    """[n, 1, channels]: what stage C is told in place of a picture's CLIP embedding."""
    return pooled.new_zeros(len(pooled), 1, channels)
