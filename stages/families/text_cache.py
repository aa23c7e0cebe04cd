"""Text encoder outputs of captions seen before, for training with frozen text encoders."""

from collections import OrderedDict
from collections.abc import Callable

import torch

Encoded = tuple[torch.Tensor, torch.Tensor]
BYTES_PER_MEGABYTE = 10**6


class TextCache:
    """Context and pooled output by caption, at most `megabytes` of the encoders' device; the least recently used go first.

    What is kept is what was computed, so that a cache of any size (0 keeps nothing) changes no bit.
    """

    def __init__(self, megabytes: int):
        self._limit = megabytes * BYTES_PER_MEGABYTE
        self._kept: OrderedDict[tuple[str, int], Encoded] = OrderedDict()
        self.bytes = 0

    def encoded(self, caption: str, max_token_length: int, encode: Callable[[], Encoded]) -> Encoded:
        """The kept result of this caption at this length, or that of `encode`, which then is kept."""
        key = (caption, max_token_length)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        encoded = self._kept[key] = encode()
        self.bytes += _bytes_of(encoded)
        while self.bytes > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= _bytes_of(oldest)
        return encoded


def encode_training_captions(
    cache: TextCache | None, captions: list[str], max_token_length: int, encode: Callable[[list[str], int], Encoded]
) -> Encoded:
    """Context and pooled output of captions, as one batch; with a cache without gradients and one caption at a time, so that no
    bit depends on what else is in the batch or was kept."""
    if cache is None:
        return encode(captions, max_token_length)
    with torch.no_grad():
        encoded = [
            cache.encoded(caption, max_token_length, lambda one=caption: encode([one], max_token_length)) for caption in captions
        ]
        return torch.cat([context for context, _ in encoded]), torch.cat([pooled for _, pooled in encoded])


def _bytes_of(encoded: Encoded) -> int:
    """Memory that holding the tensors keeps; a view keeps all of what it looks into."""
    return sum(tensor.untyped_storage().nbytes() for tensor in encoded)
