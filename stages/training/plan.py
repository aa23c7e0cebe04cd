"""What a training run would be, told before it begins: steps, buckets, trained numbers, memory."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from repro.params import Params

import torch

from training.adapters import lokr_size
from training.examples import Examples
from training.memory import modules_of, update_memory
from training.order import updates_per_epoch

GIB = 1 << 30


def _full_size(modules: dict[str, torch.nn.Module], train_text: bool) -> int:
    parts = ["unet", "text_encoder", "text_encoder_2"] if train_text else ["unet"]
    return sum(weight.numel() for part in parts for weight in modules[part].parameters())


def _trained(params: Params, modules: dict[str, torch.nn.Module]) -> str:
    settings, train_text = params.train, params.te_lr > 0
    parts = "UNet and both text encoders" if train_text else "UNet only"
    if settings.method == "full":
        return f"all {_full_size(modules, train_text):,} weights of {parts}"
    size = lokr_size(modules, settings.lokr, train_text, settings.file_dtype)
    return (
        f"{size.numbers:,} numbers of a LoKr on {parts}; its file has {size.tensor_bytes / 1e6:,.1f} MB ({settings.file_dtype})"
    )


def _buckets(buckets: list[tuple[int, int]], micro_batch_size: int) -> Iterator[str]:
    for (width, height), count in sorted(Counter(map(tuple, buckets)).items()):
        last = count % micro_batch_size
        short = f", the last of {last}" if last else ""
        yield f"  {width:>5} x {height:<5} {count:>9,} images in {-(-count // micro_batch_size):>8,} micro-batches{short}"


def _memory(params: Params, base: Path, buckets: list[tuple[int, int]]) -> Iterator[str]:
    settings = params.train
    largest = max(map(tuple, buckets), key=lambda bucket: (math.prod(bucket), bucket))
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
    settings = params.train
    with torch.device("meta"):
        modules = modules_of(base)
    examples = Examples(latents, captions, params, modules["vae"].config.scaling_factor)
    buckets = examples.buckets()
    per_epoch = updates_per_epoch(buckets, settings.micro_batch_size, settings.accumulation * settings.virtual_ranks)
    updates = settings.updates or settings.epochs * per_epoch
    sizes = set(map(tuple, buckets))
    lines = [
        f"images      {len(examples.rows):,}, shown {len(buckets):,} times in an epoch, in {len(sizes)} buckets",
        *_buckets(buckets, settings.micro_batch_size),
        f"update      {settings.batch_size} images: {settings.virtual_ranks} virtual ranks"
        f" x {settings.accumulation} micro-batches x {settings.micro_batch_size} images",
        f"steps       {per_epoch:,} updates an epoch, {updates:,} in all ({updates / per_epoch:.2f} epochs);"
        f" {settings.schedule}, warm-up {settings.warmup_updates} updates",
        f"trains      {_trained(params, modules)}",
        f"computes    in {settings.precision} on {params.device}, {settings.optimizer}",
        *_memory(params, base, buckets),
    ]
    return "\n".join(lines)
