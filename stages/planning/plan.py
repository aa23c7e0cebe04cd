"""The plan of a run in words, and where it does not meet what the published model's card states."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from repro.devices import TORCH_TYPES
from repro.params import Card, Params

import torch

from checkpoints.formula import parse_formula
from families.family import Modules, family
from latents.buckets import Size, recipe_buckets
from planning.architecture import base_configs
from planning.posts import RangePosts, expected_posts
from planning.updates import Updates, planned_updates
from training.plan import memory_lines, trained_words
from training.schedules import schedule_words

SECONDS_A_DAY = 86_400
# Numbers that a picture's latents have for each one of their places: a VAE's mean and deviation, or the latents alone.
TENSORS = {"sdxl": 2, "cascade": 1}
# A card's days and seconds are rounded, and not all of the time goes into updates.
TIME_TOLERANCE = 0.1


@dataclass(frozen=True)
class Plan:
    """The lines to show, and a line for each figure of the card that the plan does not meet."""

    lines: list[str]
    differences: list[str]


@dataclass(frozen=True)
class Figure:
    """One figure of a card, beside the plan's: None where the card does not state it."""

    name: str
    stated: str | None
    planned: str
    agrees: bool

    def line(self) -> str:
        if self.stated is None:
            return f"  {self.name:<10} not stated; planned {self.planned}"
        return f"  {self.name:<10} {self.stated}; planned {self.planned}: {'agrees' if self.agrees else 'DIFFERS'}"


def make_plan(params: Params, images_per_second: float | None) -> Plan:
    """The run of these parameters, as far as they tell it; reads no data but, where it is there, the metadata database.

    Args:
        images_per_second: of training, measured; None where nobody has measured it.

    Raises:
        StageError: the database or a base model that is there cannot be read, or latents' settings give no bucket.
    """
    if is_merge_only(params):
        return Plan(list(_merge_lines(params)), [])
    settings, card = params.train, params.card
    buckets = _buckets(params)
    posts = expected_posts(params)
    chosen = sum(r.chosen for r in posts)
    shown = (card and (card.showings or card.images)) or chosen
    updates = planned_updates(settings, shown, buckets and len(buckets), card.rounded_to if card and card.images else 1)
    steps = _updates_words(updates) if shown or settings.updates else "not known before"
    with base_configs(params) as (base, whose):
        with torch.device("meta"):
            modules = family(params.family).empty_modules(base)
        trained, megabytes = trained_words(params, modules)
        lines = [
            f"recipe      {params.recipe}: {params.merge.title}",
            *_post_lines(params, posts),
            f"images      {_images_words(params, chosen, shown)}",
            *_bucket_lines(params, buckets),
            f"update      {settings.batch_size} images: {settings.virtual_ranks} virtual ranks x {settings.accumulation}"
            f" micro-batches x {settings.micro_batch_size} images",
            f"steps       {steps}; {schedule_words(settings, updates.expected)}",
            f"configs     {whose}",
            f"trains      {trained}",
            f"disk        {_latent_space(params, modules, buckets, shown)} for latents",
            *memory_lines(params, base, buckets or [(params.latents.resolution,) * 2]),
            *_time_lines(params, updates, images_per_second),
        ]
    figures = list(_card_figures(card, params, chosen, updates, megabytes)) if card else []
    if figures:
        lines += [f"card        {card.source}", *(figure.line() for figure in figures)]
    return Plan(lines, [figure.line().strip() for figure in figures if not figure.agrees])


def is_merge_only(params: Params) -> bool:
    """Whether the recipe's model is merged of published files, of nothing that this recipe trains."""
    formula = parse_formula(params.merge.formula)
    return "trained" not in {*formula.models, *formula.lokrs}


def _merge_lines(params: Params) -> Iterator[str]:
    yield f"recipe      {params.recipe}: {params.merge.title}"
    yield f"merge       {params.merge.formula}"
    for name in parse_formula(params.merge.formula).models:
        file = Path(params.models.folder, params.models.files.get(name, ""))
        yield f"            {name}: {file} ({'there' if file.exists() else 'not there yet: `make fetch`, or bring it'})"
    yield "run         dvc repro merge; nothing is trained"


def _buckets(params: Params) -> list[Size] | None:
    return None if params.latents.bucket_no_upscale else recipe_buckets(params.latents)


def _post_lines(params: Params, posts: list[RangePosts]) -> Iterator[str]:
    drawn = "draws with replacement" if params.select.draw == "replay" else "keyed draw"
    for at, r in enumerate(posts):
        number = f"{r.chosen:,}" if r.chosen or r.available is not None else "all, not counted"
        of = "" if r.available is None else f" of {r.available:,}" + (" in the database" if r.counted else " ids at most")
        yield f"{'posts' if not at else '':<11} {number}{of}, {r.name}"
    yield f"            ({drawn}; before conditions, caps and the filter)"


def _images_words(params: Params, chosen: int, shown: int) -> str:
    card = params.card
    if not shown:
        return "not known before they are counted: after cache-latents `train.py --dry-run` does"
    if not card or not (card.showings or card.images):
        return f"{shown:,} at most, shown once an epoch; after cache-latents `train.py --dry-run` counts them"
    known = f"{card.images:,} by the card" if card.images else "number not stated"
    repeats = f", shown {shown:,} times an epoch" if card.showings else ""
    share = f", {card.images / chosen:.1%} of the posts" if card.images and chosen else ""
    return known + share + repeats


def _bucket_lines(params: Params, buckets: list[Size] | None) -> Iterator[str]:
    if buckets is None:
        yield "buckets     as the images ask (bucket_no_upscale)"
        return
    areas = [math.prod(bucket) for bucket in buckets]
    yield (
        f"buckets     {len(buckets)}, from {buckets[0][0]} x {buckets[0][1]} to {buckets[-1][0]} x {buckets[-1][1]};"
        f" {min(areas):,} to {max(areas):,} pixels, in steps of {params.latents.bucket_reso_steps}"
    )


def _updates_words(updates: Updates) -> str:
    if updates.fewest == updates.most:
        return f"{updates.expected:,} updates"
    return f"{updates.expected:,} updates ({updates.fewest:,} to {updates.most:,}, as the pictures fall into buckets)"


def _latent_space(params: Params, modules: Modules, buckets: list[Size] | None, shown: int) -> str:
    settings, of = params.latents, family(params.family)
    sizes = buckets or [(settings.resolution, settings.resolution)]
    numbers = sorted(math.prod(of.latent_shape(modules, size)) for size in sizes)
    images = (params.card and params.card.images) or shown
    bytes_of_number = TENSORS[params.family] * TORCH_TYPES[settings.dtype].itemsize
    if not images:
        return f"{numbers[-1] * bytes_of_number / 1024:,.0f} KiB an image at most"
    least, most = (images * number * bytes_of_number / 1e9 for number in (numbers[0], numbers[-1]))
    return f"{least:,.1f} to {most:,.1f} GB" if f"{least:.1f}" != f"{most:.1f}" else f"{most:,.1f} GB"


def _time_lines(params: Params, updates: Updates, images_per_second: float | None) -> Iterator[str]:
    if images_per_second is None:
        yield "time        not measured here; give --images-per-second (make plan RATE=...)"
        return
    seconds = updates.expected * params.train.batch_size / images_per_second
    words = f"{seconds / SECONDS_A_DAY:.1f} days" if seconds >= 2 * SECONDS_A_DAY else f"{seconds / 3600:.1f} hours"
    yield f"time        {words} at {images_per_second:g} images/s in all"


def _card_figures(card: Card, params: Params, chosen: int, updates: Updates, megabytes: float | None) -> Iterator[Figure]:
    images = card.images
    within = images is None or images <= chosen + card.rounded_to / 2
    yield Figure("images", None if images is None else f"{images:,}", f"at most {chosen:,}", within)
    stated = card.updates
    words = f"{updates.expected:,} ({updates.fewest:,} to {updates.most:,})"
    yield Figure("steps", None if stated is None else f"{stated:,}", words, stated is None or updates.allow(stated))
    if megabytes is not None:
        below = card.lokr_megabytes
        agrees = below is None or megabytes < below
        yield Figure("LoKr file", None if below is None else f"below {below:g} MB", f"{megabytes:,.1f} MB", agrees)
    if card.seconds_per_update and card.days:
        days = updates.expected * card.seconds_per_update / SECONDS_A_DAY
        rate = params.train.batch_size / card.seconds_per_update
        words = f"{days:.1f} by its {card.seconds_per_update:g} s an update, {rate:.2f} images/s on {card.gpus} GPUs"
        yield Figure("days", f"{card.days:g}", words, abs(days - card.days) <= TIME_TOLERANCE * card.days)
