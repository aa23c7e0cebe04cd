"""Measure training of the full-size SDXL on a GPU: images a second, share of the card's peak, memory, determinism's price.

    python benchmarks/train_gpu.py [--micro-batches 4 8] [--precisions bf16 fp16] [--lokr-factor 4]

Random weights of SDXL's own shapes, 1024 x 1024, captions of 225 tokens, a LoKr on the UNet and both text encoders, Lion8bit.
Every row is a process of its own that computes `--accumulation` micro-batches and one update, several times, and says:

  images/s       of forward, backward and optimizer, the median of the rounds; latents, norm and exchange are not in it
  share of peak  FLOPs of that row's own operations (counted by torch on fake tensors; recomputed ones of checkpointing
                 not counted) over the card's dense peak of the precision
  peak GiB       the most that torch's allocator held

The peer is diffusers' UNet and transformers' text encoders with lycoris-lora's network on them as it is shipped, under
the same autocast and the same optimizer. Without a GPU nothing is timed: FLOPs are counted, and ours' memory is estimated
as stages/train.py --dry-run does. `--device cpu --base models/sample-base --side 64` tries the whole program on a CPU.
Prints a table and goals; the last line is one JSON object.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "stages"), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from repro.numerics import fix_torch  # noqa: E402 - stages/ must be on the path
from repro.params import Params, load_params  # noqa: E402

import torch  # noqa: E402
from lycoris_network import attach_lycoris, trained_groups  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count  # noqa: E402

from families import sdxl  # noqa: E402
from families.family import Batch, Sizes  # noqa: E402
from families.sdxl import Sdxl  # noqa: E402
from planning.sdxl_architecture import write_real_sdxl_configs  # noqa: E402
from training.adapters import make_trained  # noqa: E402
from training.flat import FlatWeights  # noqa: E402
from training.memory import update_memory  # noqa: E402
from training.optimizers import Optimizer, make_optimizer  # noqa: E402

GIB = 1 << 30
CAPTION = "1girl, solo, " + ", ".join(f"long hair {i}, looking at viewer" for i in range(30))
# Dense TFLOP/s of half precision with float32 accumulation, by the makers' data sheets.
PEAKS = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "RTX 5090": 210, "RTX 4090": 165, "RTX 3090": 71}
GOAL_IMAGES, GOAL_DETERMINISM, GOAL_MEMORY = 20.0, 0.9, 22.0


def random_model(base: Path, device: str, precision: str) -> Sdxl:
    """A model of these configs with the modules' own random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        modules = sdxl.empty_modules(base)
    model = sdxl.assemble(base, modules, precision)
    if device != "cpu":
        sdxl.move_to(model, torch.device(device))
    return model


def hold_weights_in(dtype: torch.dtype, parts: list[torch.nn.Module]) -> None:
    """All weights in this type, as sd-scripts holds a frozen model's; fake tensors refuse Module.to()."""
    for module in (module for part in parts for module in part.modules()):
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, torch.nn.Parameter(weight.to(dtype), requires_grad=False))


class Side:
    """One row's model and LoKr, ready to compute updates.

    Args:
        row: kind (ours or lycoris), precision, micro_batch, checkpointing, deterministic.
    """

    def __init__(self, row: dict, params: Params, base: Path, device: str, side: int):
        self.params, self.device, self.count = params, device, row["micro_batch"]
        self.model = random_model(base, device, row["precision"])
        self.refresh = self.finish = lambda: None
        if row["kind"] == "ours":
            trained = make_trained(self.model, params)
            groups, self.refresh, self.finish = trained.groups, trained.fold, trained.finish_gradients
        else:
            half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(row["precision"], torch.float32)
            hold_weights_in(half, [self.model.unet, self.model.text_encoder, self.model.text_encoder_2])
            groups = trained_groups(attach_lycoris(self.model, params.train.lokr, device))
        self.flat = FlatWeights(groups, 1, device)
        self.refresh()
        if row["checkpointing"]:
            sdxl.checkpoint_gradients(self.model)
        self.shape = (self.count, *sdxl.latent_shape(sdxl.modules_of(self.model), (side, side)))
        self.sizes = [Sizes(side, side, 0, 0, side, side)] * self.count

    def micro_batch(self) -> None:
        latents, noise = torch.randn(self.shape), torch.randn(self.shape)
        timesteps = torch.full((self.count,), 500)
        batch = Batch(list(range(self.count)), latents, noise, timesteps, [CAPTION] * self.count, self.sizes)
        sdxl.losses(self.model, batch, self.params.train).mean().backward()

    def update(self, accumulation: int, optimizer: Optimizer) -> None:
        gradient = self.flat.collect_gradients()
        for _ in range(accumulation):
            self.micro_batch()
        self.finish()
        optimizer.step(gradient, {"unet": 2e-5, "text": 5e-6}, 0)
        self.refresh()


def product_flops(total: list[int], left: list[int], right: list[int], **_: object) -> int:
    """Of total += left @ right, by their shapes: torch's counter knows addmm, and not its form in place."""
    return 2 * left[0] * left[1] * right[1]


def attention_flops(query: list[int], key: list[int], value: list[int], *_: object, **__: object) -> int:
    """Of the CPU's flash attention, which stands in for the GPU's on fake tensors."""
    return sdpa_flop_count(query, key, value)


def attention_backward_flops(
    gradient: list[int], query: list[int], key: list[int], value: list[int], *_: object, **__: object
) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


COUNTED = {
    torch.ops.aten.addmm_: product_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_flops,
}


def flops_an_image(row: dict, params: Params, base: Path, side: int) -> float:
    """FLOPs of one image's forward and backward pass, without those that checkpointing computes again."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = Side(row | {"checkpointing": False, "micro_batch": 1}, params, base, "cpu", side)
        fake.flat.collect_gradients()
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            fake.micro_batch()
    return float(counter.get_total_flops())


def count_row(row: dict, params: Params, args: argparse.Namespace) -> dict:
    """What can be said of a row without a GPU."""
    counted = row | {"tflop_per_image": flops_an_image(row, params, args.base, args.side) / 1e12}
    if row["kind"] == "ours":
        runtime = params.runtime.model_copy(update={"gradient_checkpointing": row["checkpointing"]})
        params = params.model_copy(update={"runtime": runtime})
        memory = update_memory(params, args.base, (args.side, args.side), row["micro_batch"])
        counted["estimated_gib"] = memory.of_process(1, 1) / GIB
    return counted


def measure_row(row: dict, params: Params, args: argparse.Namespace) -> dict:
    """Run one row in this process."""
    fix_torch()
    cuda = args.device == "cuda"
    if cuda and not torch.cuda.is_available():
        return count_row(row, params, args)
    torch.use_deterministic_algorithms(row["deterministic"])
    flops = flops_an_image(row, params, args.base, args.side)
    side = Side(row, params, args.base, args.device, args.side)
    optimizer = make_optimizer(side.flat, range(len(side.flat.weights)), params.train)
    seconds = []
    for number in range(args.rounds + 1):
        start = time.perf_counter()
        side.update(args.accumulation, optimizer)
        if cuda:
            torch.cuda.synchronize()
        if number:
            seconds.append(time.perf_counter() - start)
        elif cuda:
            torch.cuda.reset_peak_memory_stats()  # loading and warming up are not training
    images = row["micro_batch"] * args.accumulation
    name = torch.cuda.get_device_name() if cuda else "CPU"
    peak = next((value for key, value in PEAKS.items() if key in name), None)
    rate = images / statistics.median(seconds)
    return row | {
        "card": name,
        "images_per_second": rate,
        "tflop_per_image": flops / 1e12,
        "share_of_peak": flops * rate / (peak * 1e12) if peak else None,
        "peak_gib": torch.cuda.max_memory_allocated() / GIB if cuda else None,
    }


def rows_of(micro_batches: list[int], precisions: list[str]) -> list[dict]:
    """Ours and the peer at each size and precision; what determinism and checkpointing change at the first precision."""
    plain = {"checkpointing": False, "deterministic": True}
    rows = [
        {"kind": kind, "precision": precision, "micro_batch": size, **plain}
        for precision in precisions
        for size in micro_batches
        for kind in ("ours", "lycoris")
    ]
    first = {"kind": "ours", "precision": precisions[0]}
    rows += [first | {"micro_batch": size, "checkpointing": True, "deterministic": True} for size in micro_batches]
    rows += [first | {"micro_batch": size, "checkpointing": False, "deterministic": False} for size in micro_batches]
    return rows


def run_row(row: dict, args: argparse.Namespace) -> dict:
    """Measure a row in a process of its own; a row that does not fit the card's memory says so."""
    command = [
        sys.executable, __file__, "--row", json.dumps(row), "--device", args.device, "--base", str(args.base),
        "--side", str(args.side), "--rounds", str(args.rounds), "--accumulation", str(args.accumulation),
        "--lokr-factor", str(args.lokr_factor),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        said = result.stderr.strip().splitlines() or [f"ended with {result.returncode}"]
        reason = "out of memory" if "OutOfMemoryError" in result.stderr else said[-1]
        return row | {"failed": reason}
    return json.loads(result.stdout.splitlines()[-1])


def line_of(row: dict) -> str:
    what = f"{row['kind']:<8} {row['precision']} {row['micro_batch']:>3}  {'ckpt' if row['checkpointing'] else '    '}"
    what += f"  {'deterministic' if row['deterministic'] else 'free running '}"
    if "failed" in row:
        return f"{what}  {row['failed']}"
    if "images_per_second" not in row:
        memory = f"  estimated {row['estimated_gib']:5.1f} GiB" if "estimated_gib" in row else ""
        return f"{what}  not timed: no GPU here  {row['tflop_per_image']:6.2f} TFLOP{memory}"
    share = f"{row['share_of_peak'] * 100:5.1f} %" if row["share_of_peak"] else "      -"
    memory = f"{row['peak_gib']:6.1f} GiB" if row["peak_gib"] else "         -"
    return f"{what}  {row['images_per_second']:7.2f} images/s  {row['tflop_per_image']:6.2f} TFLOP  {share}  {memory}"


def goals(rows: list[dict]) -> list[str]:
    """The issue's goals, as far as the rows that were measured tell."""

    def find(**wanted: object) -> dict | None:
        return next((r for r in rows if "images_per_second" in r and wanted.items() <= r.items()), None)

    lines = []
    ours = {"kind": "ours", "precision": "bf16", "micro_batch": 8, "checkpointing": False}
    strict, free = find(**ours, deterministic=True), find(**ours, deterministic=False)
    if strict:
        rate = strict["images_per_second"]
        lines.append(f"micro-batch 8, bf16: {rate:.1f} images/s (goal on an H200: {GOAL_IMAGES:.0f} or more)")
    if strict and free:
        ratio = strict["images_per_second"] / free["images_per_second"]
        lines.append(f"deterministic / free running: {ratio:.3f} (goal: {GOAL_DETERMINISM} or more)")
    small = find(kind="ours", precision="bf16", micro_batch=4, checkpointing=True)
    if small and small["peak_gib"]:
        lines.append(f"micro-batch 4 with checkpointing: {small['peak_gib']:.1f} GiB (goal: {GOAL_MEMORY:.0f} or less)")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp16"], choices=["bf16", "fp16", "fp32"])
    parser.add_argument("--lokr-factor", type=int, default=4, help="of every layer (default: %(default)s)")
    parser.add_argument("--accumulation", type=int, default=8, help="micro-batches an update (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="updates measured (default: %(default)s)")
    parser.add_argument("--side", type=int, default=1024, help="pixels (default: %(default)s)")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--base", type=Path, help="folder of configs and tokenizers (default: SDXL's full size)")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        recipe = ROOT / "recipes/sample.yaml"
        classes = load_params(recipe).train.lokr.model_dump(exclude={"by_name"})
        factors = [f"train.lokr.{key}={args.lokr_factor}" for key in classes]
        changed = [f"train.precision={args.row['precision']}", "train.max_token_length=225", *factors]
        print(json.dumps(measure_row(args.row, load_params(recipe, changed), args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        args.base = args.base or write_real_sdxl_configs(Path(folder) / "sdxl", ROOT / "models/sample-base")
        rows = []
        for row in rows_of(args.micro_batches, args.precisions):
            rows.append(run_row(row, args))
            print(line_of(rows[-1]), flush=True)
    print("\n".join(goals(rows)))
    print(json.dumps({"torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
