"""The pipeline from latents to pictures at SDXL's full size on random weights: how fast each stage is, and whether two runs have
the same bytes.

    python benchmarks/gpu.py                 # on a GPU; needs `make references` before, for the sample's pictures and captions
    python benchmarks/gpu.py --small         # the same stages on the CPU with the sample's model, to try this program itself

Each stage is run as its script, twice, in folders of its own. Training is run at two lengths, and its rate is that of the updates
by which they differ, so that loading does not count; the merge stands against copying the file that it writes, in the same run.
The published recipes' sizes: 1024 x 1024 in buckets, micro-batches of 4, 225 tokens. Random weights draw noise as fast as others
draw pictures. Needs 25 GB in --work at full size.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "stages"), str(ROOT / "benchmarks")]

import repro  # noqa: E402, F401 - fixes the numeric environment
from repro.hashing import hash_tree  # noqa: E402

import measure  # noqa: E402
import polars as pl  # noqa: E402
import torch  # noqa: E402

from planning.sdxl_architecture import meta_modules, real_sdxl_configs  # noqa: E402

TOKENIZERS = ROOT / "models/sample-base"
SIDE, SMALL_SIDE = 1024, 64
MICRO_BATCH, BATCH = 4, 16
# Of training: the short run, and by how many the longer one exceeds it.
UPDATES, MORE_UPDATES = 2, 20
STEPS = 20
NEEDED = ("data/captions", "data/kept", "data/references/references.json")


def write_random_base(folder: Path, device: str) -> Path:
    """A diffusers folder of SDXL with the modules' own random weights, in fp16."""
    torch.manual_seed(0)
    meta = meta_modules(real_sdxl_configs())
    for part in list(meta):
        module = meta.pop(part).to_empty(device=device).to(torch.float16)
        for weight in module.state_dict().values():
            if weight.is_floating_point():
                spread = 0.02 if weight.dim() > 1 else 0.0
                weight.copy_(torch.randn(weight.shape, device=device) * spread + (0.0 if weight.dim() > 1 else 1.0))
        for name, weight in module.named_parameters():
            if name.endswith("bias"):
                weight.data.zero_()
        module.save_pretrained(folder / part)
        del module
    for part in ("tokenizer", "tokenizer_2", "scheduler", "model_index.json"):
        (folder / part).symlink_to(TOKENIZERS / part)
    return folder


class GpuMemory:
    """The most memory that the card's processes had at once, by nvidia-smi; None where there is none."""

    def __init__(self) -> None:
        self.peak: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self._ended.wait(0.2):
            try:
                told = subprocess.run(command, capture_output=True, text=True)
            except FileNotFoundError:
                return
            if told.returncode == 0:
                self.peak = max(self.peak or 0, *(int(line) for line in told.stdout.split()))

    def stop(self) -> float | None:
        self._ended.set()
        self._thread.join()
        return None if self.peak is None else self.peak / 1024


class Bench:
    """Runs the stages with one set of parameters, in one folder."""

    def __init__(self, args: argparse.Namespace, base: Path):
        self.work, self.base, self.rows = args.work, base, []
        small, side = args.small, SMALL_SIDE if args.small else SIDE
        precision = "fp32" if small else "bf16"
        values = {"device": "cpu" if small else "cuda", "runtime.processes": 1, "train.precision": precision}
        if not small:
            values |= {"latents.resolution": side, "latents.min_bucket_reso": 256, "latents.max_bucket_reso": 4096,
                       "latents.bucket_reso_steps": 64, "latents.dtype": "fp16", "train.max_token_length": 225}  # fmt: skip
            values |= {f"train.lokr.{key}": 4 for key in ("unet_attention", "unet_feed_forward", "unet_resnet", "unet_projection",
                                                          "text_attention", "text_mlp")}  # fmt: skip
        values |= {
            "train.batch_size": BATCH,
            "train.micro_batch_size": MICRO_BATCH,
            "train.virtual_ranks": 1,
            "train.pictures": "",
        }
        values |= {"train.checkpoints": "", "train.save_every": 1000, "train.file_dtype": "fp16"}
        drawn = {"width": side, "height": side, "original_width": side, "original_height": side, "pictures": 1, "steps": STEPS,
                 "precision": precision, "modes": "[name]", "templates": "{plain: solo}"}  # fmt: skip
        self.values = values | {f"evaluate.generation.{key}": value for key, value in drawn.items()}

    def stage(self, script: str, run: str, *options: object, **changes: object) -> tuple[measure.Measurement, float | None]:
        """Run one stage; its state and log are the run's own."""
        sets = [word for key, value in (self.values | changes).items() for word in ("--set", f"{key}={value}")]
        environment = {"STATE_ROOT": str(self.work / run / "state"), "COST_LOG": str(self.work / run / "cost.jsonl")}
        command = [sys.executable, ROOT / "stages" / script, "--params", ROOT / "recipes/sample.yaml", *sets, *map(str, options)]
        memory = GpuMemory()
        measured = measure.run(command, cwd=ROOT, env=os.environ | environment)
        return measured, memory.stop()

    def twice(
        self, name: str, units: str, count: int, script: str, outputs: list[str], *options: object, **changes: object
    ) -> dict:
        """Run a stage two times and note what it took and whether the outputs (names that begin with RUN) are the same."""
        runs = []
        for run in ("first", "second"):
            (self.work / run).mkdir(exist_ok=True)
            filled = [str(option).replace("RUN", str(self.work / run)) for option in options]
            measured, gib = self.stage(script, run, *filled, **changes)
            runs.append((measured, gib, [hash_tree(self.work / run / output) for output in outputs]))
        (first, gib, hashes), (second, _, again) = runs
        best = min(first.wall, second.wall)
        row = {"stage": name, "units": units, "count": count, "wall_s": best, "cpu_s": min(first.cpu, second.cpu),
               "per_second": count / best, "peak_gib": gib, "same_bytes": hashes == again}  # fmt: skip
        self.rows.append(row)
        print(line_of(row), flush=True)
        return row

    def run(self) -> None:
        images = sum(pl.read_parquet(file).height for file in (ROOT / "data/captions").glob("captions-*.parquet"))
        self.twice("latents", "pictures", images, "cache_latents.py", ["latents"], "--captions", ROOT / "data/captions",
                   "--posts", ROOT / "data/kept", "--base", self.base, "--output", "RUN/latents")  # fmt: skip
        inputs = ("--latents", self.work / "first/latents", "--captions", ROOT / "data/captions", "--base", self.base)
        outputs = {"output": "lokr.safetensors", "checkpoints": "checkpoints", "pictures": "drawn", "history": "train.csv"}
        outputs |= {"metrics": "train.json"}
        named = [word for option, name in outputs.items() for word in (f"--{option}", f"RUN/{name}")]
        compared = ["lokr.safetensors", "train.csv"]
        short = self.twice("train, loading with it", "pictures", UPDATES * BATCH, "train.py", compared, *inputs, *named,
                           **{"train.updates": UPDATES})  # fmt: skip
        longer = [option.replace("RUN", str(self.work / "longer")) for option in named]
        (self.work / "longer").mkdir(exist_ok=True)
        measured, gib = self.stage("train.py", "longer", *inputs, *longer, **{"train.updates": UPDATES + MORE_UPDATES})
        seconds = measured.wall - short["wall_s"]
        row = {"stage": "train", "units": "pictures", "count": MORE_UPDATES * BATCH, "wall_s": seconds, "cpu_s": measured.cpu,
               "per_second": MORE_UPDATES * BATCH / seconds, "peak_gib": gib, "same_bytes": short["same_bytes"]}  # fmt: skip
        self.rows.append(row)
        print(line_of(row), flush=True)
        merge = self.twice("merge", "files", 1, "merge.py", ["model.safetensors", "model"], "--model", f"base={self.base}",
                           "--model", f"trained={self.work / 'first/lokr.safetensors'}", "--layout", "both",
                           "--out", "RUN/model.safetensors")  # fmt: skip
        copied = self.copy_seconds(self.work / "first/model.safetensors")
        merge["ratio_to_copy"] = merge["wall_s"] / copied
        print(f"  merge / copying both of its outputs: {merge['ratio_to_copy']:.2f}")
        references = ROOT / "data/references/references.json"
        drawn = len(json.loads(references.read_bytes())["characters"])
        self.twice("generate", "pictures", drawn, "generate_pictures.py", ["pictures"], "--model",
                   f"merged={self.work / 'first/model'}", "--references", references, "--output", "RUN/pictures")  # fmt: skip

    def copy_seconds(self, file: Path) -> float:
        """Seconds to copy a file twice, as the merge writes its numbers to two places."""
        start = time.monotonic()
        for number in (1, 2):
            subprocess.run(["cp", file, self.work / f"copy-{number}"], check=True)
            (self.work / f"copy-{number}").unlink()
        return time.monotonic() - start


def line_of(row: dict) -> str:
    memory = "" if row["peak_gib"] is None else f"  {row['peak_gib']:6.1f} GiB on the card"
    same = "same bytes twice" if row["same_bytes"] else "DIFFERENT BYTES"
    took = f"{row['wall_s']:8.1f} s  {row['cpu_s']:8.1f} CPU s"
    return f"{row['stage']:<24}{row['count']:>5} {row['units']:<9} {took}  {row['per_second']:8.3f}/s{memory}  {same}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="on the CPU, with the sample's model")
    parser.add_argument("--work", type=Path, help="folder for what is made (default: a temporary one)")
    args = parser.parse_args()
    if missing := [name for name in NEEDED if not (ROOT / name).exists()]:
        sys.exit(f"{missing[0]}: not there; `make references` makes it")
    if not args.small and not torch.cuda.is_available():
        sys.exit("no CUDA GPU here; --small tries the program on the CPU")
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        args.work = Path(folder)
        base = TOKENIZERS if args.small else write_random_base(args.work / "base", "cuda")
        bench = Bench(args, base)
        bench.run()
    card = torch.cuda.get_device_name() if not args.small else "CPU"
    print(json.dumps({"card": card, "torch": torch.__version__, "cuda": torch.version.cuda, "rows": bench.rows}))
    if not all(row["same_bytes"] for row in bench.rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
