"""Measure a training update of the sample against its bare arithmetic and against lycoris-lora's own forward.

    python benchmarks/train_step.py [--rounds 8]

All sides train the same LoKr on the same model (models/base) with the same batches and the same optimizer, in one
process and one thread; each round runs one update of each side in turn, so that a busy machine slows all of them.

  ours      an update of stages/train.py: data order, latents, captions, losses, gradient tree, norm, optimizer
  bare      forward, backward and optimizer of the same model with the same LoKr layers, on ready-made batches
  all       the same without a LoKr: forward and backward through all of the model's own weights, updated by the optimizer
  lycoris   bare, with the LoKr network of lycoris-lora on the model, as it comes

Needs `make` to have run (data/latents, data/captions, models/base). Prints the least seconds of each side and ratios;
the last line is one JSON object.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "stages"), str(ROOT / "benchmarks")]

from repro.params import Params, load_params  # noqa: E402 - stages/ must be on the path

import torch  # noqa: E402
from lycoris_network import attach_lycoris, trained_groups  # noqa: E402

from families import sdxl  # noqa: E402
from families.family import Batch  # noqa: E402
from training.adapters import make_trained  # noqa: E402
from training.flat import FlatWeights  # noqa: E402
from training.loop import Job, Trainer  # noqa: E402
from training.optimizers import make_optimizer  # noqa: E402
from training.ranks import Ranks  # noqa: E402
from training.stopping import StopRequest  # noqa: E402

OVERHEAD_LIMIT = 1.05
Update = Callable[[list[Batch]], None]


def trainer_of(params: Params, state: Path) -> Trainer:
    job = Job(params, ROOT / "models/base", ROOT / "data/latents", ROOT / "data/captions", state)
    return Trainer(job, Ranks(0, 1))


def batches_of(trainer: Trainer, update: int) -> list[Batch]:
    """The micro-batches of an update, read and drawn."""
    epoch = trainer.order.epoch_of(update)
    return [trainer.examples.batch(entries, epoch) for virtual in trainer.order.update(update) for entries in virtual]


def bare_update(params: Params, train_model: Callable) -> Update:
    """Forward, backward and optimizer over the groups of parameters that `train_model(model)` gives, with what is to be
    called before the first and after each update, and after the backward passes."""
    model = sdxl.load(ROOT / "models/base")
    groups, refresh, finish = train_model(model)
    weights = sdxl.loss_weights(model, params.train, model.device)
    flat = FlatWeights(groups)
    refresh()
    optimizer = make_optimizer(flat, range(len(flat.weights)), params.train)
    rates = {"unet": params.lr, "text": params.te_lr}

    def update(batches: list[Batch]) -> None:
        gradient = flat.collect_gradients()
        images = sum(len(batch.ids) for batch in batches)
        for batch in batches:
            losses = sdxl.losses(model, batch, params.train) * weights.of(batch.timesteps)
            (losses.sum() / images).backward()
        finish()
        optimizer.step(gradient, rates, 0)
        refresh()

    return update


def with_our_lokr(params: Params) -> Update:
    def train_model(model):
        trained = make_trained(model, params)
        return trained.groups, trained.fold, trained.finish_gradients

    return bare_update(params, train_model)


def with_all_weights(params: Params) -> Update:
    def train_model(model):
        parts = {"text": ("text_encoder", "text_encoder_2"), "unet": ("unet",)}
        groups = {
            group: [(f"{part}.{n}", p) for part in names for n, p in getattr(model, part).named_parameters()]
            for group, names in parts.items()
        }
        return groups, lambda: None, lambda: None

    return bare_update(params, train_model)


def with_lycoris(params: Params) -> Update:
    """The LoKr network of lycoris-lora 4.1.3, full matrices, the recipe's factors."""

    def train_model(model):
        return trained_groups(attach_lycoris(model, params.train.lokr)), lambda: None, lambda: None

    return bare_update(params, train_model)


def measure(sides: dict[str, Callable[[int], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Least CPU and wall seconds of an update of each side; the first round warms up."""
    best = {name: {"cpu": float("inf"), "wall": float("inf")} for name in sides}
    for number in range(rounds + 1):
        for name, update in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            update(number)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if number:
                best[name] = {"cpu": min(best[name]["cpu"], cpu), "wall": min(best[name]["wall"], wall)}
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="updates of each side (default: %(default)s)")
    rounds = parser.parse_args().rounds
    params = load_params(ROOT / "recipes/sample.yaml")
    with tempfile.TemporaryDirectory() as state:
        trainer = trainer_of(params, Path(state))
        counted, stop = trainer.first_state(), StopRequest()
        ready = [batches_of(trainer, number) for number in range(rounds + 1)]

        def on_ready_batches(update: Update) -> Callable[[int], None]:
            return lambda number: update(ready[number])

        sides = {
            "ours": lambda number: trainer.update(counted, stop),
            "bare": on_ready_batches(with_our_lokr(params)),
            "all": on_ready_batches(with_all_weights(params)),
            "lycoris": on_ready_batches(with_lycoris(params)),
        }
        best = measure(sides, rounds)
    for name, figures in best.items():
        print(f"{name:<10} {figures['cpu'] * 1000:8.1f} ms CPU {figures['wall'] * 1000:8.1f} ms wall")
    ratios = {
        f"{of} / {to}": best[of]["cpu"] / best[to]["cpu"] for of, to in (("ours", "bare"), ("ours", "all"), ("lycoris", "ours"))
    }
    for name, ratio in ratios.items():
        limit = f" (limit {OVERHEAD_LIMIT}: {'met' if ratio <= OVERHEAD_LIMIT else 'missed'})" if name == "ours / bare" else ""
        print(f"{name}, CPU seconds: {ratio:.3f}{limit}")
    print(json.dumps({"torch": torch.__version__.split("+")[0], "rounds": rounds, "seconds": best, "ratios": ratios}))


if __name__ == "__main__":
    main()
