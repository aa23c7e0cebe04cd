"""Measure one update of each optimizer against bitsandbytes', torch's and transformers' own, side by side on one thread.

    python benchmarks/optimizers.py [--updates 30]

2 million numbers, about what the sample trains, in many small weights as a LoKr has them and in a few large ones. Both
sides update the same weights with the same gradients, under the portable settings that the trainer runs with, and take
turns, so that a busy moment of the machine meets both. Figures are the least CPU time of an update in nanoseconds a
trained number. It refuses to go on where the two sides' weights do not end up alike. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "stages"))

from repro.numerics import fix_torch  # noqa: E402
from repro.params import load_params  # noqa: E402

import bitsandbytes  # noqa: E402
import torch  # noqa: E402
from transformers.optimization import Adafactor  # noqa: E402

from training.flat import FlatWeights  # noqa: E402
from training.optimizers import make_optimizer  # noqa: E402

BETAS, DECAY, RATE = (0.9, 0.95), 0.1, 2e-5
COMMON = {"lr": RATE, "weight_decay": DECAY}
PEERS: dict[str, tuple[str, Callable[[list], torch.optim.Optimizer]]] = {
    "lion8bit": (
        f"bitsandbytes {bitsandbytes.__version__} Lion8bit",
        lambda weights: bitsandbytes.optim.Lion8bit(weights, betas=BETAS, **COMMON),
    ),
    "lion": (
        f"bitsandbytes {bitsandbytes.__version__} Lion",
        lambda weights: bitsandbytes.optim.Lion(weights, betas=BETAS, **COMMON),
    ),
    "adamw8bit": (
        f"bitsandbytes {bitsandbytes.__version__} AdamW8bit",
        lambda weights: bitsandbytes.optim.AdamW8bit(weights, betas=BETAS, **COMMON),
    ),
    "adamw": (
        "torch AdamW, fused",
        lambda weights: torch.optim.AdamW(weights, betas=BETAS, fused=True, **COMMON),
    ),
    "adafactor": (
        "transformers Adafactor",
        lambda weights: Adafactor(weights, scale_parameter=False, relative_step=False, **COMMON),
    ),
}
LAYOUTS = {"512 weights of 64 x 64": (512, (64, 64)), "4 weights of 1024 x 512": (4, (1024, 512))}
TARGETS = {"512 weights of 64 x 64": {"lion8bit": 3.0, "adamw8bit": 3.0}, "4 weights of 1024 x 512": {}}
"""Peer's time over ours, at least. AdamW is torch's kernel on both sides."""
ALIKE = 0.02
"""Mean difference of the two sides' weights, of the mean distance moved, at most: 8-bit codes are not theirs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=30)
    args = parser.parse_args()
    fix_torch()
    figures = {}
    print("One thread, portable settings; CPU nanoseconds a number and update.")
    for layout, (count, shape) in LAYOUTS.items():
        numbers = count * torch.Size(shape).numel()
        seconds = {name: measure(name, shape, count, args.updates) for name in PEERS}
        figures[layout] = {
            name: {"peer_ns": 1e9 * theirs / numbers, "ours_ns": 1e9 * ours / numbers, "ratio": theirs / ours}
            for name, (theirs, ours) in seconds.items()
        }
        print_table(layout, figures[layout])
    met = all(figures[layout][name]["ratio"] >= least for layout in LAYOUTS for name, least in TARGETS[layout].items())
    print(json.dumps({"layouts": figures, "targets": TARGETS, "met": met}))


def start(shape: tuple[int, ...], count: int) -> list[torch.nn.Parameter]:
    draw = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=draw) * 0.02) for _ in range(count)]


def measure(name: str, shape: tuple[int, ...], count: int, updates: int) -> tuple[float, float]:
    """Least CPU seconds of an update, (the peer's, ours)."""
    theirs, ours = start(shape, count), start(shape, count)
    peer = PEERS[name][1](theirs)
    flat = FlatWeights({"unet": [(str(i), weight) for i, weight in enumerate(ours)]})
    settings = load_params(ROOT / "params.yaml").train.model_copy(
        update={"optimizer": name, "betas": list(BETAS), "weight_decay": DECAY}
    )
    optimizer = make_optimizer(flat, range(len(flat.weights)), settings)
    gradient = torch.zeros_like(flat.weights)
    least = float("inf"), float("inf")
    for update in range(updates):
        draw = torch.Generator().manual_seed(100 + update)
        for weight, view in zip(theirs, flat.views(gradient).values(), strict=True):
            view.copy_(torch.randn(shape, generator=draw) * 1e-3)
            weight.grad = view.clone()
        taken = seconds_of(peer.step), seconds_of(optimizer.step, gradient, {"unet": RATE}, update)
        least = min(least[0], taken[0]), min(least[1], taken[1])
    require_alike(name, start(shape, count), theirs, ours)
    return least


def seconds_of(step: Callable[..., object], *arguments: object) -> float:
    began = time.process_time()
    step(*arguments)
    return time.process_time() - began


def require_alike(name: str, before: list, theirs: list, ours: list) -> None:
    """End the benchmark unless both sides moved the weights alike."""
    first, their, our = (torch.cat([weight.detach().flatten() for weight in side]) for side in (before, theirs, ours))
    apart, moved = float((their - our).abs().mean()), float((their - first).abs().mean())
    if not apart < ALIKE * moved:
        sys.exit(f"{name}: after all updates the two sides are {apart:.2e} apart, having moved {moved:.2e}")


def print_table(layout: str, figures: dict[str, dict[str, float]]) -> None:
    print(f"\n{layout}\n")
    print("| optimizer | peer | peer's | ours | ratio | target |")
    print("|---|---|---|---|---|---|")
    for name, row in figures.items():
        target = f"{TARGETS[layout][name]:g} at least" if name in TARGETS[layout] else "none"
        print(f"| {name} | {PEERS[name][0]} | {row['peer_ns']:.2f} | {row['ours_ns']:.2f} | {row['ratio']:.2f} | {target} |")
    print()


if __name__ == "__main__":
    main()
