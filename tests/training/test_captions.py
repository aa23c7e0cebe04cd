"""Training captions: the kept part stays, general tags are shuffled and dropped, draws are keyed; sd-scripts' answers."""

import json
import random
from collections.abc import MutableSequence
from pathlib import Path
from typing import Any

from repro.params import Train, load_params
from repro.randomness import Stream

import pytest

from training.captions import training_caption

KEEP = ["1girl", "hatsune miku", "vocaloid", "artist a"]
GENERAL = [f"tag {i}" for i in range(20)]


@pytest.fixture
def settings(tmp_path) -> Train:
    from tiny_training import write_params

    return load_params(write_params(tmp_path / "p.yaml", shuffle_tags=True, tag_dropout=0.2, caption_dropout=0.0)).train


def caption(settings: Train, epoch: int = 0, image: int = 1, *more: int, seed: int = 1, **changed: object) -> str:
    return training_caption(KEEP, GENERAL, settings.model_copy(update=changed), Stream(seed, "caption", epoch, image, *more))


def test_the_kept_part_leads_whole_and_in_order(settings: Train) -> None:
    for image in range(100):
        assert caption(settings, image=image).split(", ")[:4] == KEEP


def test_general_tags_are_a_shuffled_subset(settings: Train) -> None:
    orders = [caption(settings, image=image).split(", ")[4:] for image in range(200)]
    assert all(len(set(tags)) == len(tags) and set(tags) <= set(GENERAL) for tags in orders)
    assert len({tuple(tags) for tags in orders}) == 200
    share = sum(map(len, orders)) / (200 * len(GENERAL))
    assert 0.77 < share < 0.83


def test_without_shuffle_and_dropout_the_caption_is_whole(settings: Train) -> None:
    assert caption(settings, shuffle_tags=False, tag_dropout=0.0) == ", ".join(KEEP + GENERAL)


def test_without_shuffle_the_survivors_keep_their_order(settings: Train) -> None:
    tags = caption(settings, shuffle_tags=False, tag_dropout=0.5).split(", ")[4:]
    assert tags == sorted(tags, key=GENERAL.index)
    assert 0 < len(tags) < 20


def test_all_tags_can_be_dropped(settings: Train) -> None:
    assert caption(settings, tag_dropout=1.0) == ", ".join(KEEP)


def test_whole_captions_are_dropped_at_their_rate(settings: Train) -> None:
    texts = [caption(settings, image=image, caption_dropout=0.1) for image in range(2000)]
    assert 150 < texts.count("") < 250
    assert caption(settings, caption_dropout=1.0) == ""


def test_draws_are_keyed_by_seed_epoch_and_image(settings: Train) -> None:
    keys = [(seed, epoch, image) for seed in (1, 2) for epoch in range(4) for image in (10, 11)]
    first = {key: caption(settings, seed=key[0], epoch=key[1], image=key[2]) for key in keys}
    again = {key: caption(settings, seed=key[0], epoch=key[1], image=key[2]) for key in reversed(keys)}
    assert first == again
    assert len(set(first.values())) == len(keys)


def test_occurrences_of_an_image_get_captions_of_their_own(settings: Train) -> None:
    assert len({caption(settings, 3, 10), caption(settings, 3, 10, 1), caption(settings, 3, 10, 2)}) == 3


def test_empty_parts(settings: Train) -> None:
    assert training_caption([], [], settings, Stream(1, "caption", 0, 1)) == ""
    assert training_caption(["1girl"], [], settings, Stream(1, "caption", 0, 1)) == "1girl"


class Counted:
    """A keyed stream that notes what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._stream = Stream(1, "caption", 0, 1)

    def uniform(self) -> float:
        self.asked.append("uniform")
        return self._stream.uniform()

    def shuffle(self, items: MutableSequence[str]) -> None:
        self.asked.append("shuffle")
        self._stream.shuffle(items)


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ({"shuffle_tags": False, "tag_dropout": 0.0}, []),
        ({"tag_dropout": 0.0}, ["shuffle"]),
        ({"shuffle_tags": False, "tag_dropout": 0.0, "caption_dropout": 1e-9}, ["uniform"]),
        ({"caption_dropout": 1.0}, ["uniform"]),
        ({"caption_dropout": 1e-9}, ["uniform", "shuffle"] + 20 * ["uniform"]),
    ],
)
def test_a_rate_of_zero_takes_no_draw(settings: Train, changed: dict[str, Any], asked: list[str]) -> None:
    draws = Counted()
    training_caption(KEEP, GENERAL, settings.model_copy(update=changed), draws)
    assert draws.asked == asked


class PythonRandom:
    """The draws of sd-scripts: one stream of python's random."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)

    def uniform(self) -> float:
        return self._random.random()

    def shuffle(self, items: MutableSequence[str]) -> None:
        self._random.shuffle(items)


EXPRESSIBLE = {"shuffle_caption", "caption_tag_dropout_rate", "caption_dropout_rate", "keep_tokens", "keep_tokens_separator"}


def kept_and_general(caption: str, options: dict[str, Any]) -> tuple[list[str], list[str]] | None:
    """A reference's caption in our form; None where it has none (a fixed part at the end, or text left as it was)."""
    line = caption.split("\n")[0]
    separator = options.get("keep_tokens_separator")
    if not (options.get("shuffle_caption") or options.get("caption_tag_dropout_rate")):
        tokens = line.split(", ")
        return ([], tokens) if "|||" not in line and ", ".join(tokens) == line else None
    if separator and separator in line:
        kept, general, *rest = ([tag.strip() for tag in part.split(",") if tag.strip()] for part in line.split(separator))
        return None if any(rest) else (kept, general)
    tokens = [tag.strip() for tag in line.strip().split(",")]
    return tokens[: options.get("keep_tokens", 0)], tokens[options.get("keep_tokens", 0) :]


@pytest.mark.golden
def test_captions_and_the_number_of_draws_are_sd_scripts(golden: Path, settings: Train) -> None:
    compared = 0
    for case in json.loads((golden / "train" / "captions.json").read_text())["cases"]:
        options = case["settings"]
        parts = kept_and_general(case["caption"], options)
        if options.keys() - EXPRESSIBLE or parts is None:
            continue
        ours = settings.model_copy(
            update={
                "shuffle_tags": options.get("shuffle_caption", False),
                "tag_dropout": options.get("caption_tag_dropout_rate", 0.0),
                "caption_dropout": options.get("caption_dropout_rate", 0.0),
            }
        )
        draws = PythonRandom(case["python_random_seed"])
        assert training_caption(*parts, ours, draws) == case["out"], case
        assert draws.uniform() == case["next_random_after"], case
        compared += 1
    assert compared >= 80
