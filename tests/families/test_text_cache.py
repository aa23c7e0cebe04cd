"""The text cache: it keeps what was computed, forgets the least recently used, and never goes over its limit."""

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st

from families.text_cache import BYTES_PER_MEGABYTE, Encoded, TextCache

FLOATS = BYTES_PER_MEGABYTE // 4


def encoder_of(calls: list[str], caption: str, parts_of_a_megabyte: int = 4) -> Callable[[], Encoded]:
    """An encoder whose result is so many parts of a megabyte, and that notes that it was called."""

    def encode() -> Encoded:
        calls.append(caption)
        return torch.full((FLOATS // parts_of_a_megabyte - 1,), float(ord(caption[0]))), torch.zeros(1)

    return encode


def test_a_kept_caption_is_not_encoded_again() -> None:
    cache, calls = TextCache(1), []
    first = cache.encoded("a", 75, encoder_of(calls, "a"))
    assert cache.encoded("a", 75, encoder_of(calls, "a")) is first
    assert calls == ["a"]


def test_lengths_are_kept_apart() -> None:
    cache, calls = TextCache(1), []
    for length in (75, 150, 75):
        cache.encoded("a", length, encoder_of(calls, "a"))
    assert calls == ["a", "a"]


def test_the_least_recently_used_goes_first() -> None:
    cache, calls = TextCache(1), []
    for caption in "abcd" + "a" + "e":
        cache.encoded(caption, 75, encoder_of(calls, caption))
    assert calls == list("abcde")
    for caption in "acde" + "b":
        cache.encoded(caption, 75, encoder_of(calls, caption))
    assert calls == [*list("abcde"), "b"], "b alone was forgotten for e"


def test_what_does_not_fit_is_returned_and_not_kept() -> None:
    calls: list[str] = []
    for cache, parts in ((TextCache(0), 4), (TextCache(1), 1)):
        calls.clear()
        for _ in range(2):
            context, _ = cache.encoded("a", 75, encoder_of(calls, "a", parts) if parts > 1 else lambda: too_large(calls))
            assert float(context[0]) == 97.0
        assert calls == ["a", "a"]
        assert cache.bytes == 0


def too_large(calls: list[str]) -> Encoded:
    calls.append("a")
    return torch.full((FLOATS + 1,), 97.0), torch.zeros(1)


def test_a_view_counts_with_all_that_it_keeps() -> None:
    cache = TextCache(1)
    cache.encoded("a", 75, lambda: (torch.zeros(FLOATS // 2)[:1], torch.zeros(1)))
    assert cache.bytes == FLOATS // 2 * 4 + 4


@given(st.lists(st.sampled_from("abcdefghij")))
def test_any_history_gives_the_same_results_within_the_limit(captions: list[str]) -> None:
    cache, calls = TextCache(1), []
    for caption in captions:
        context, _ = cache.encoded(caption, 75, encoder_of(calls, caption))
        assert float(context[0]) == ord(caption)
        assert cache.bytes <= BYTES_PER_MEGABYTE
    assert cache.bytes == min(4, len(set(captions))) * BYTES_PER_MEGABYTE // 4
