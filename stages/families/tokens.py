"""CLIP tokens of captions longer than one window, as SDXL's trainers cut them."""

import torch
from transformers import CLIPTokenizer

WINDOW = 77


def token_windows(tokenizer: CLIPTokenizer, captions: list[str], max_token_length: int) -> torch.Tensor:
    """Token ids, int64 [captions, max_token_length / 75, 77]: each window is BOS, 75 ids, last.

    The caption is cut to max_token_length content tokens. A second tokenizer whose pad is not EOS
    ends a window with EOS where its text stops short of it, and a wholly padded window begins with
    EOS after BOS: sd-scripts 48d368fa, `_get_input_ids`, which the published models were trained with.
    """
    ids = tokenizer(
        captions, padding="max_length", truncation=True, max_length=max_token_length + 2, return_tensors="pt"
    ).input_ids
    if max_token_length + 2 == WINDOW:
        return ids.unsqueeze(1)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    windows = []
    for first in range(1, max_token_length, WINDOW - 2):
        window = torch.cat([ids[:, :1], ids[:, first : first + WINDOW - 2], ids[:, -1:]], dim=1)
        if pad != end:
            stops_short = (window[:, -2] != end) & (window[:, -2] != pad)
            window[stops_short, -1] = end
            window[window[:, 1] == pad, 1] = end
        windows.append(window)
    return torch.stack(windows, dim=1)
