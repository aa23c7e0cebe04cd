"""Measure merging against sd-mecha and against copying: equal values, whole processes.

    python benchmarks/merge.py [--runs 3] [--work DIR]

Makes four SDXL files of 1.4 GB, a LoKr file and a diffusers folder (reused from DIR), merges the four with sd-mecha
and with ours, refuses to go on unless every value is equal, and prints seconds, memory and ratios. The plain copy
reads the four files and writes one, flushed to the disk as ours is. Ours also adds the LoKr and converts the folder
to a single file and back; their results are checked. Files are read once beforehand, so that nobody pays for the
disk; only "from the disk" are they taken out of the page cache again, for the copy and for ours alike: models of four
times 7 GB do not stay there. The last line is one JSON object.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from measure import Measurement, best, run
from merge_check import require_equal_files, require_equal_folders, require_lokr_merged
from merge_data import LOKR, MODELS, make_files
from sd_mecha_setup import VERSION, sd_mecha_python, sdxl_shapes

ROOT = Path(__file__).resolve().parent.parent
FORMULA = "beta7 + 0.8 * (anxl3 - anxl2) + 0.5 * (base7 - beta7)"
COPY = 'cat "$2" "$3" "$4" > /dev/null && dd if="$1" of="$5.partial" bs=1M conv=fsync && mv "$5.partial" "$5"'
PLAIN, THEIRS = "plain copy", f"sd-mecha {VERSION}, default threads"
FIRST, AGAIN = "ours, merge, first time", "ours, merge, again"
COLD_PLAIN, COLD = "plain copy, from the disk", "ours, merge, again, from the disk"
ADD_LOKR, TO_FILE, TO_FOLDER = "ours, LoKr added", "ours, folder -> single file", "ours, single file -> folder"
CPU_RATIO, CPU_LIMIT, WALL_RATIO, MEMORY_LIMIT = 5, 8, 2.5, 400 * 10**6
"""Targets, the first three of a merge whose inputs' hashes are known: neither peer hashes anything."""


@dataclass(frozen=True)
class Step:
    """A command to measure; the output that it writes is removed ahead of each run."""

    name: str
    command: Sequence[str | os.PathLike]
    output: Path
    forgetful: bool = False
    """Whether the hashes that ours remembers of its inputs are removed as well."""
    from_disk: Sequence[Path] = ()
    """Files to take out of the page cache ahead of each run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of everything but sd-mecha")
    parser.add_argument("--sd-mecha-runs", type=int, default=2)
    parser.add_argument("--work", type=Path, default=ROOT / "state" / "bench-merge", metavar="DIR")
    parser.add_argument("--stages", type=Path, default=ROOT / "stages", help="the stages to measure")
    args = parser.parse_args()
    work = args.work.resolve()
    outputs = work / "outputs"
    outputs.mkdir(parents=True, exist_ok=True)

    environment = work / f"sd-mecha-{VERSION}"
    python = sd_mecha_python(environment)
    files, lokr, folder = make_data(work, environment)
    read_once([*files, lokr, *folder.rglob("*.safetensors")])

    theirs = Step(THEIRS, [python, ROOT / "benchmarks" / "sd_mecha_merge.py", *files], outputs / "sd-mecha.safetensors")
    copy = Step(PLAIN, ["sh", "-c", COPY, "sh", *files], outputs / "copy.safetensors")
    first, again, add_lokr, to_file, to_folder = steps_of_ours(args.stages.resolve() / "merge.py", files, lokr, folder, outputs)
    measured = measure_in_turn([theirs], args.sd_mecha_runs, work)
    measured |= measure_in_turn([copy, first, again], args.runs, work)
    cold = [replace(copy, name=COLD_PLAIN, from_disk=files), replace(again, name=COLD, from_disk=files)]
    measured |= measure_in_turn(cold, args.runs, work)
    for step in (add_lokr, to_file, to_folder):
        measured |= measure_in_turn([step], args.runs, work)

    values = require_equal_files(theirs.output, again.output, "ours against sd-mecha")
    modules = require_lokr_merged(files[0], lokr, add_lokr.output, ADD_LOKR)
    require_equal_folders(folder, to_folder.output, TO_FOLDER)
    shutil.rmtree(outputs)
    report(measured, values, modules, args)


def make_data(work: Path, environment: Path) -> tuple[list[Path], Path, Path]:
    """The four files, the LoKr file and the diffusers folder; what is not there yet is made."""
    make_files(work, sdxl_shapes(environment))
    folder = work / "diffusers"
    if not folder.exists():
        subprocess.run([sys.executable, ROOT / "benchmarks" / "merge_folder.py", folder], check=True)
    return [work / f"{name}.safetensors" for name in MODELS], work / LOKR, folder


def read_once(paths: Iterable[Path]) -> None:
    """Bring the files into the page cache."""
    for path in paths:
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass


def steps_of_ours(script: Path, files: Sequence[Path], lokr: Path, folder: Path, outputs: Path) -> list[Step]:
    def command(formula: str, models: dict[str, Path], *options: str | Path) -> list[str | Path]:
        given = [part for name, path in models.items() for part in ("--model", f"{name}={path}")]
        return [sys.executable, script, "--formula", formula, *given, "--dtype", "fp16", *options, "--out"]

    merge = command(FORMULA, dict(zip(MODELS, files, strict=True)))
    single, merged = outputs / "single.safetensors", outputs / "merged.safetensors"
    as_folder = ("--layout", "diffusers", "--configs", folder)
    return [
        Step(FIRST, merge, merged, forgetful=True),
        Step(AGAIN, merge, merged),
        Step(ADD_LOKR, command("lokr(base, trained, 1.0)", {"base": files[0], "trained": lokr}), outputs / "lokr.safetensors"),
        Step(TO_FILE, command("m", {"m": folder}, "--layout", "single-file"), single),
        Step(TO_FOLDER, command("m", {"m": single}, *as_folder), outputs / "folder"),
    ]


def measure_in_turn(steps: Sequence[Step], runs: int, work: Path) -> dict[str, Measurement]:
    """Run the steps one after the other, several times over; of each step the least seconds, the most memory."""
    measured: dict[str, list[Measurement]] = {step.name: [] for step in steps}
    for _ in range(runs):
        for step in steps:
            print(step.name, file=sys.stderr, flush=True)
            measured[step.name].append(run_step(step, work / "cache"))
    return {name: best(runs_of_step) for name, runs_of_step in measured.items()}


def run_step(step: Step, cache: Path) -> Measurement:
    if step.output.is_dir():
        shutil.rmtree(step.output)
    step.output.unlink(missing_ok=True)
    if step.forgetful:
        shutil.rmtree(cache, ignore_errors=True)
    os.sync()  # so that nobody waits for the writing of another's output
    for path in step.from_disk:
        leave_page_cache(path)
    return run([*step.command, step.output], cwd=ROOT, env=os.environ | {"XDG_CACHE_HOME": str(cache)})


def leave_page_cache(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def report(measured: dict[str, Measurement], values: int, modules: int, args: argparse.Namespace) -> None:
    ratios = {
        name: {"cpu": measured[THEIRS].cpu / measured[name].cpu, "wall": measured[name].wall / measured[PLAIN].wall}
        for name in (FIRST, AGAIN)
    }
    cold_wall = measured[COLD].wall / measured[COLD_PLAIN].wall
    ours = (FIRST, AGAIN, COLD, ADD_LOKR, TO_FILE, TO_FOLDER)
    peak = max(measured[name].max_rss for name in ours)

    print(f"{FORMULA}, {values} values, four float16 files: all values of both sides are equal.")
    print(f"LoKr: all {modules} modules are merged as numpy does it. Folder to file to folder: the same values again.")
    print(f"Whole processes, files in the page cache, {os.cpu_count()} cores. Least wall and CPU seconds, most memory of")
    print(f"{args.runs} runs, of sd-mecha {args.sd_mecha_runs}. First time: inputs are hashed; again: hashes are remembered.\n")
    print_table(measured)
    for name, ratio in ratios.items():
        cpu_met = judged(ratio["cpu"] >= CPU_RATIO, f"{CPU_RATIO} at least") if name == AGAIN else "no target"
        wall_met = judged(ratio["wall"] <= WALL_RATIO, f"{WALL_RATIO} at most") if name == AGAIN else "no target"
        print(f"sd-mecha / {name}, CPU seconds: {ratio['cpu']:.1f} ({cpu_met})")
        print(f"{name} / plain copy, wall seconds: {ratio['wall']:.2f} ({wall_met})")
    print(f"{COLD} / {COLD_PLAIN}, wall seconds: {cold_wall:.2f} ({judged(cold_wall <= WALL_RATIO, f'{WALL_RATIO} at most')})")
    cpu = measured[AGAIN].cpu
    print(f"{AGAIN}, CPU seconds: {cpu:.2f} ({judged(cpu <= CPU_LIMIT, f'{CPU_LIMIT} at most')})")
    print(f"ours, largest process: {peak / 1e6:.0f} MB ({judged(peak <= MEMORY_LIMIT, f'{MEMORY_LIMIT / 1e6:.0f} MB at most')})")
    figures = {
        "cores": os.cpu_count(),
        "values": values,
        "lokr_modules": modules,
        "runs": {"ours": args.runs, "sd_mecha": args.sd_mecha_runs},
        "measured": {name: asdict(m) for name, m in measured.items()},
        "sd_mecha_cpu_to_ours": {name: ratio["cpu"] for name, ratio in ratios.items()},
        "our_wall_to_plain_copy": {name: ratio["wall"] for name, ratio in ratios.items()} | {COLD: cold_wall},
        "max_rss": peak,
        "targets": {"cpu_ratio": CPU_RATIO, "cpu_again": CPU_LIMIT, "wall_ratio": WALL_RATIO, "max_rss": MEMORY_LIMIT},
    }
    print(json.dumps(figures))


def print_table(measured: dict[str, Measurement]) -> None:
    heads = ("CPU s", "wall s", "peak PSS MB", "anon. MB", "max RSS MB")
    print(f"{'':34}" + " ".join(f"{head:>12}" for head in heads))
    for name, m in measured.items():
        memory = " ".join(f"{size / 1e6:12.0f}" for size in (m.peak_pss, m.peak_anonymous, m.max_rss))
        print(f"{name:34}{m.cpu:12.2f} {m.wall:12.2f} {memory}")


def judged(met: bool, target: str) -> str:
    return f"target {target}: {'met' if met else 'missed'}"


if __name__ == "__main__":
    main()
