"""Text encoder outputs of captions longer than one window of CLIP."""

from collections.abc import Sequence

import torch
from transformers import CLIPTokenizer

from families.tokens import WINDOW


def join_windows(hidden: torch.Tensor, windows: int) -> torch.Tensor:
    """[captions * windows, 77, c] -> [captions, 75 * windows + 2, c]: first BOS, the contents, last token."""
    hidden = hidden.reshape(-1, windows, WINDOW, hidden.shape[-1])
    contents = hidden[:, :, 1:-1].flatten(1, 2)
    return torch.cat([hidden[:, 0, :1], contents, hidden[:, -1, -1:]], dim=1)


def length_needed(tokenizers: Sequence[CLIPTokenizer], captions: list[str]) -> int:
    """The max_token_length, in whole windows, that holds all tokens of the longest caption by each of the tokenizers."""
    tokens = max(len(ids) for tokenizer in tokenizers for ids in tokenizer(captions, add_special_tokens=False).input_ids)
    return max(1, -(-tokens // (WINDOW - 2))) * (WINDOW - 2)
