"""What a training run would be, told before it begins: steps, buckets, trained numbers, memory."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from repro.params import Params

import torch

from families.family import Modules, family
from families.picture_sizes import refuse_undrawable_size
from families.pipelines import refuse_other_family
from latents.buckets import Size
from training.adapters import lokr_size, trained_components
from training.examples import Examples
from training.memory import update_memory
from training.order import updates_per_epoch
from training.schedules import schedule_words

GIB = 1 << 30


def trained_words(params: Params, modules: Modules) -> tuple[str, float | None]:
    """What is trained, and the megabytes of a LoKr's file, None where all weights are."""
    settings, train_text = params.train, params.te_lr > 0
    components = trained_components(params.family, train_text)
    parts = " and ".join(components)
    if settings.method == "full":
        weights = sum(weight.numel() for component in components for weight in modules[component].parameters())
        return f"all {weights:,} weights of {parts}", None
    size = lokr_size(params.family, modules, settings.lokr, train_text, settings.file_dtype)
    megabytes = size.tensor_bytes / 1e6
    return f"{size.numbers:,} numbers of a LoKr on {parts}; its file has {megabytes:,.1f} MB ({settings.file_dtype})", megabytes


def _buckets(buckets: list[tuple[int, int]], micro_batch_size: int) -> Iterator[str]:
    for (width, height), count in sorted(Counter(map(tuple, buckets)).items()):
        last = count % micro_batch_size
        short = f", the last of {last}" if last else ""
        yield f"  {width:>5} x {height:<5} {count:>9,} images in {-(-count // micro_batch_size):>8,} micro-batches{short}"


def memory_lines(params: Params, base: Path, buckets: Iterable[Size]) -> Iterator[str]:
    """What a process takes, by their number, on the largest of the buckets (width, height); reads the base's configs alone."""
    settings = params.train
    largest = max(buckets, key=lambda bucket: (math.prod(bucket), bucket))
    memory = update_memory(params, base, largest, settings.micro_batch_size)
    how = "with" if params.runtime.gradient_checkpointing else "without"
    size = f"{largest[0]} x {largest[1]}"
    yield f"memory      {memory.resident / GIB:.2f} GiB between updates; while it computes pictures of {size}"
    yield f"            {how} gradient checkpointing (libraries and the allocator take more for themselves):"
    for k in range(settings.virtual_ranks.bit_length()):
        processes = 1 << k
        total = memory.of_process(settings.virtual_ranks, processes)
        yield f"            {total / GIB:.2f} GiB in {'the process' if processes == 1 else f'each of {processes} processes'}"


def plan_text(params: Params, latents: Path, captions: Path, base: Path) -> str:
    """The run of these parameters on these inputs, in words for a terminal.

    Raises:
        StageError: an input is missing or does not fit.
    """
    settings, of = params.train, family(params.family)
    refuse_other_family(base, params.family)
    if settings.pictures:
        refuse_undrawable_size(base, params.family, settings.pictures)
    with torch.device("meta"):
        modules = of.empty_modules(base)
    examples = Examples(latents, captions, params, of.latent_scale(modules))
    buckets = examples.buckets()
    per_epoch = updates_per_epoch(buckets, settings.micro_batch_size, settings.accumulation * settings.virtual_ranks)
    updates = settings.updates or settings.epochs * per_epoch
    sizes = set(map(tuple, buckets))
    trained, _ = trained_words(params, modules)
    lines = [
        f"images      {len(examples.rows):,}, shown {len(buckets):,} times in an epoch, in {len(sizes)} buckets",
        *_buckets(buckets, settings.micro_batch_size),
        f"update      {settings.batch_size} images: {settings.virtual_ranks} virtual ranks"
        f" x {settings.accumulation} micro-batches x {settings.micro_batch_size} images",
        f"steps       {per_epoch:,} updates an epoch, {updates:,} in all ({updates / per_epoch:.2f} epochs);"
        f" {schedule_words(settings, updates)}",
        f"trains      {trained}",
        f"computes    in {settings.precision} on {params.device}, {settings.optimizer}",
        *memory_lines(params, base, sizes),
    ]
    return "\n".join(lines)
