"""The caption an image gets in one epoch: tags shuffled and dropped behind the kept part.

The rules are sd-scripts' (48d368fa, `process_caption`): the kept part stays whole and in order, each
general tag is kept with probability 1 - tag_dropout after the shuffle, a whole caption is dropped
with probability caption_dropout. The draws are keyed (by epoch, image and occurrence), not by call order.
"""

from repro.params import Train
from repro.randomness import Stream


def training_caption(keep: list[str], general: list[str], settings: Train, seed: int, *key: int) -> str:
    """The text that one entry of an epoch gets: kept tags, then the surviving general tags.

    Args:
        key: what the draws hang on, see `training.examples.draw_key`.
    """
    draws = Stream(seed, "caption", *key)
    if draws.uniform() < settings.caption_dropout:
        return ""
    tags = list(general)
    if settings.shuffle_tags:
        draws.shuffle(tags)
    return ", ".join([*keep, *(tag for tag in tags if draws.uniform() >= settings.tag_dropout)])
