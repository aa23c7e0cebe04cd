"""Measure the LoKr layers on the sample's base model, against training the same weights and against lycoris-lora's own forward.

    python benchmarks/lokr_layers.py [--rounds 15]

Forward and backward pass of one micro-batch of the sample recipe (2 pictures of 64 x 64 pixels, both text encoders
trained), on one thread and under the portable settings that the trainer runs with. All sides take turns, so that a busy
moment of the machine meets all of them; figures are the least CPU time. An update's gradient is made up of them: as many
micro-batches and virtual ranks as the recipe has. It refuses to go on where the losses of the sides, which all have the
same change of weights, differ. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "stages"), str(ROOT / "benchmarks")]

from repro.numerics import fix_torch  # noqa: E402
from repro.params import Params, load_params  # noqa: E402

import torch  # noqa: E402
from lycoris_network import attach_lycoris  # noqa: E402

from checkpoints.sdxl_names import LOKR_PREFIX  # noqa: E402
from families import sdxl  # noqa: E402
from families.family import Batch, Sizes  # noqa: E402
from families.sdxl import Sdxl  # noqa: E402
from training.adapters import W1, W2, Trained, make_trained  # noqa: E402
from training.flat import FlatWeights  # noqa: E402
from training.lokr_layers import lokr_shapes  # noqa: E402
from training.lokr_targets import LokrTarget, lokr_targets  # noqa: E402

BASE = ROOT / "models" / "sample-base"
RECIPE = ROOT / "recipes" / "sample.yaml"
SIDE, LATENT_SIDE = 64, 16
MOST = 1.05
"""An update's gradient of ours over that of the same weights trained themselves, at most."""
ALIKE = 1e-4
"""Difference of two sides' losses, as a share, at most."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    fix_torch()
    params = load_params(RECIPE)
    ours, trained = our_layers(params)
    models = {
        "ours": ours,
        "the same weights trained": trained_weights(params),
        "lycoris-lora, rebuilt weight": lycoris_layers(params, bypass=False),
        "lycoris-lora, bypass": lycoris_layers(params, bypass=True),
    }
    require_alike({name: loss(model, params).item() for name, model in models.items()})
    steps = {name: lambda model=model: loss(model, params).backward() for name, model in models.items()}
    least = least_seconds(steps | {"finish_gradients": trained.finish_gradients, "fold": trained.fold}, args.rounds)
    once = {"ours": params.train.virtual_ranks * least["finish_gradients"] + least["fold"]}
    micro_batches = params.train.virtual_ranks * params.train.accumulation
    updates = {name: micro_batches * least[name] + once.get(name, 0.0) for name in models}
    print_table({name: least[name] for name in models}, updates)
    print(f"of ours: finish_gradients {1e3 * least['finish_gradients']:.1f} ms a virtual rank, fold {1e3 * least['fold']:.1f} ms")
    ratio = updates["ours"] / updates["the same weights trained"]
    print(json.dumps({"least_seconds": least, "update_seconds": updates, "ratio": ratio, "most": MOST, "met": ratio <= MOST}))


def loss(model: Sdxl, params: Params) -> torch.Tensor:
    pictures = params.train.micro_batch_size
    draw = torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(pictures, 4, LATENT_SIDE, LATENT_SIDE, generator=draw) for _ in range(2))
    captions = ["1girl, blue hair, smile, simple background"] * pictures
    sizes = [Sizes(SIDE, SIDE, 0, 0, SIDE, SIDE)] * pictures
    timesteps = torch.linspace(100, 900, pictures).long()
    batch = Batch(list(range(pictures)), latents, noise, timesteps, captions, sizes)
    return sdxl.losses(model, batch, params.train).mean()


def targets_of(model: Sdxl, params: Params) -> list[LokrTarget]:
    return lokr_targets("sdxl", sdxl.modules_of(model), params.train.lokr, train_text=True)


def random_lokr(target: LokrTarget) -> tuple[torch.Tensor, torch.Tensor]:
    """w1 and w2 of a layer, the same for every side."""
    draw = torch.Generator().manual_seed(sum(target.name.encode()))
    w1, w2 = lokr_shapes(tuple(target.layer.weight.shape), target.factor)
    return torch.randn(w1, generator=draw) * 0.1, torch.randn(w2, generator=draw) * 0.1


def our_layers(params: Params) -> tuple[Sdxl, Trained]:
    model = sdxl.load(BASE)
    numbers = {target.name: random_lokr(target) for target in targets_of(model, params)}
    trained = make_trained(model, params)
    flat = FlatWeights(trained.groups)
    views = flat.views(flat.weights)
    for name, (w1, w2) in numbers.items():
        views[f"{name}.{W1}"].copy_(w1)
        views[f"{name}.{W2}"].copy_(w2)
    flat.collect_gradients()
    trained.fold()
    return model, trained


def trained_weights(params: Params) -> Sdxl:
    """The layers' weights with the change in them, to be trained as they are."""
    model = sdxl.load(BASE)
    for target in targets_of(model, params):
        w1, w2 = random_lokr(target)
        weight = target.layer.weight
        weight.data += torch.kron(w1.view(*w1.shape, *[1] * (w2.ndim - 2)), w2)
        weight.requires_grad_(True)
    return model


def lycoris_layers(params: Params, bypass: bool) -> Sdxl:
    model = sdxl.load(BASE)
    numbers = {
        LOKR_PREFIX[target.component] + target.path.replace(".", "_"): random_lokr(target) for target in targets_of(model, params)
    }
    network = attach_lycoris(model, params.train.lokr, bypass=bypass)
    for module in network.text_encoder_loras + network.unet_loras:
        w1, w2 = numbers.pop(module.lora_name)
        module.lokr_w1.data.copy_(w1)
        module.lokr_w2.data.copy_(w2)
    if numbers:
        sys.exit(f"lycoris-lora left {next(iter(numbers))} alone")
    return model


def require_alike(losses: dict[str, float]) -> None:
    """End the benchmark unless all sides compute the same."""
    for name, value in losses.items():
        if abs(value - losses["ours"]) > ALIKE * losses["ours"]:
            sys.exit(f"{name}: its loss is {value:.6f}, ours {losses['ours']:.6f}")


def least_seconds(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each step; they take turns, and a first round is not counted."""
    least = dict.fromkeys(steps, float("inf"))
    for i in range(rounds + 1):
        for name, step in steps.items():
            began = time.process_time()
            step()
            if i:
                least[name] = min(least[name], time.process_time() - began)
    return least


def print_table(micro_batches: dict[str, float], updates: dict[str, float]) -> None:
    print("| | CPU ms a micro-batch | CPU ms an update's gradient | over ours |")
    print("|---|---|---|---|")
    for name, seconds in updates.items():
        print(f"| {name} | {1e3 * micro_batches[name]:.1f} | {1e3 * seconds:.0f} | {seconds / updates['ours']:.2f} |")
    print()


if __name__ == "__main__":
    main()
