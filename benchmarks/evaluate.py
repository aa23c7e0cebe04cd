"""Measure scoring: pictures into features against the bare arithmetic of it, and the statistics of thousands of characters.

    python benchmarks/evaluate.py [--ccip models/sample-ccip] [--pictures 64] [--side 1024] [--characters 3600] [--rounds 5]

Encoding, in one process and one thread, each round all sides in turn:

  ours         stages/ccip/features.py: files of pictures to features kept on the disk
  bare         a plain loop over the same files: decode, preprocess, run the model, and nothing else
  decode       of that the decoding by Pillow alone
  preprocess   the making of the model's inputs alone
  model        ONNX Runtime on prepared inputs alone

Statistics: see benchmarks/evaluate_statistics.py; each side in a process of its own, and refused unless all sides find
the same scores. The last line is one JSON object.
"""

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "stages"), str(ROOT / "benchmarks")]

from repro.hashing import sha256_file  # noqa: E402 - stages/ must be on the path

import numpy as np  # noqa: E402
from measure import Measurement, run  # noqa: E402
from PIL import Image  # noqa: E402

from ccip.encoder import FEATURE_MODEL, model_input, open_session  # noqa: E402
from ccip.features import encode_pictures  # noqa: E402
from ccip.sources import PictureSource  # noqa: E402

STATISTICS = ROOT / "benchmarks" / "evaluate_statistics.py"
OVERHEAD_LIMIT = 1.05
CPU_LIMIT, MEMORY_LIMIT = 60, 10**9
REFERENCES, PICTURES, MODELS = 20, 4, 2
Seconds = dict[str, float]


def make_pictures(folder: Path, number: int, side: int) -> list[PictureSource]:
    """PNG files of smooth areas with a little grain: about as many bytes as drawn pictures have."""
    draw = np.random.default_rng(1)
    sources = []
    for i in range(number):
        areas = Image.fromarray(draw.integers(0, 256, (side // 32, side // 32, 3), dtype=np.uint8))
        smooth = np.asarray(areas.resize((side, side), Image.Resampling.BICUBIC)).astype(np.int16)
        grain = draw.integers(-1, 2, (side, side, 1), dtype=np.int16)
        path = folder / f"{i:04}.png"
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(path)
        sources.append(PictureSource(str(path), sha256_file(path), functools.partial(Image.open, path)))
    return sources


def encoding_sides(ccip: Path, sources: list[PictureSource], folder: Path) -> dict[str, Callable[[int], object]]:
    session = open_session(ccip / FEATURE_MODEL)
    decoded = [decode(source) for source in sources]
    inputs = [model_input(image) for image in decoded]
    return {
        "ours": lambda number: encode_pictures(ccip, sources, 1, "pictures", folder / str(number)),
        "bare": lambda number: each(lambda source: session.run(["output"], {"input": model_input(decode(source))}), sources),
        "decode": lambda number: each(decode, sources),
        "preprocess": lambda number: each(model_input, decoded),
        "model": lambda number: each(lambda one: session.run(["output"], {"input": one}), inputs),
    }


def each(work: Callable, items: list) -> None:
    """Do it with each, and keep no result: memory for many costs time by itself."""
    for item in items:
        work(item)


def decode(source: PictureSource) -> Image.Image:
    image = source.open()
    image.load()
    return image


def measure(sides: dict[str, Callable[[int], object]], rounds: int) -> dict[str, Seconds]:
    """Least CPU and wall seconds of each side; the first round warms up."""
    best = {name: {"cpu": float("inf"), "wall": float("inf")} for name in sides}
    for number in range(rounds + 1):
        for name, work in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            work(number)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if number:
                best[name] = {"cpu": min(best[name]["cpu"], cpu), "wall": min(best[name]["wall"], wall)}
    return best


def measure_statistics(characters: int, folder: Path) -> tuple[dict[str, dict], dict[str, Measurement]]:
    """What each side of evaluate_statistics.py wrote, and what its process took."""
    written, processes = {}, {}
    for side in ("nothing", "ours", "numpy", "sdeval", "bootstrap"):
        print(f"statistics: {side}", file=sys.stderr, flush=True)
        target = folder / f"{side}.json"
        environment = os.environ | {"PYTHONPATH": str(ROOT / "stages")}
        processes[side] = run([sys.executable, STATISTICS, side, str(characters), target], env=environment)
        written[side] = json.loads(target.read_text())
    check_scores(written)
    return written, processes


def check_scores(written: dict[str, dict]) -> None:
    """Raises:
    ValueError: a side's scores are not ours but for a few pairs that lie at the threshold in float32.
    """
    for side in ("numpy", "sdeval"):
        for key, scores in written[side]["scores"].items():
            if np.abs(np.array(scores) - written["ours"]["scores"][key][: len(scores)]).mean() > 1e-4:
                raise ValueError(f"{side}: other scores than ours ({key})")


def report_encoding(args: argparse.Namespace, best: dict[str, Seconds], megabytes: float) -> dict:
    ratio = best["ours"]["cpu"] / best["bare"]["cpu"]
    number = args.characters * (REFERENCES + PICTURES * MODELS)
    hours = best["ours"]["cpu"] / args.pictures * number / 3600
    print(f"{args.pictures} PNG files of {args.side} x {args.side}, {megabytes:.2f} MB each; encoder {args.ccip}.\n")
    print(f"{'':12}{'CPU ms a picture':>18}{'wall ms a picture':>19}{'pictures a CPU s':>18}")
    for name, seconds in best.items():
        cpu, wall = (seconds[key] * 1000 / args.pictures for key in ("cpu", "wall"))
        print(f"{name:12}{cpu:18.2f}{wall:19.2f}{1000 / cpu:18.1f}")
    verdict = "met" if ratio <= OVERHEAD_LIMIT else "missed"
    print(f"ours / bare, CPU seconds: {ratio:.3f} (limit {OVERHEAD_LIMIT}: {verdict})")
    print(
        f"{args.characters} characters x ({REFERENCES} references + {PICTURES} pictures x {MODELS} models) = {number} pictures:"
        f" {hours:.2f} core-hours, extrapolated\n"
    )
    return {"seconds": best, "ratio_cpu": ratio, "extrapolated": {"pictures": number, "core_hours": hours}}


def report_statistics(args: argparse.Namespace, written: dict[str, dict], processes: dict[str, Measurement]) -> dict:
    ours, numpy, sdeval = (written[side]["seconds"] for side in ("ours", "numpy", "sdeval"))
    scale = args.characters / written["sdeval"]["characters"]
    all_sdeval = {key: value * scale for key, value in sdeval.items()}
    memory = {side: process.max_rss / 1e6 for side, process in processes.items()}
    print(f"{args.characters} characters, {REFERENCES} references, {PICTURES} pictures by {MODELS} models in two modes.\n")
    print(f"{'':44}{'CPU s':>9}{'wall s':>9}{'peak MB':>9}")
    for name, seconds, side in (
        ("features alone", {"cpu": 0.0, "wall": 0.0}, "nothing"),
        ("ours: all figures, intervals and tables", ours, "ours"),
        ("numpy: scores, places, intervals, in float32", numpy, "numpy"),
        ("sdeval's way: scores alone, extrapolated", all_sdeval, None),
    ):
        peak = f"{memory[side]:9.0f}" if side else f"{'-':>9}"
        print(f"{name:44}{seconds['cpu']:9.1f}{seconds['wall']:9.1f}{peak}")
    own = processes["ours"].max_rss - processes["nothing"].max_rss
    print(f"ours, CPU seconds: {ours['cpu']:.1f} (target {CPU_LIMIT} at most: {'met' if ours['cpu'] <= CPU_LIMIT else 'missed'})")
    reached = processes["ours"].max_rss
    print(
        f"ours, largest process: {reached / 1e6:.0f} MB, {own / 1e6:.0f} MB of it beside the features"
        f" (target {MEMORY_LIMIT / 1e6:.0f} MB at most: {'met' if reached <= MEMORY_LIMIT else 'missed'})"
    )
    print(f"ours / numpy, CPU seconds: {ours['cpu'] / numpy['cpu']:.1f} (no target)")
    one, peer = (written["bootstrap"][side]["cpu"] for side in ("ours", "numpy"))
    print(f"bootstrap, 2000 samples of {args.characters}: ours {one:.2f}, numpy {peer:.2f} CPU s; ratio {one / peer:.1f}")
    return {
        "seconds": {"ours": ours, "numpy": numpy, "sdeval_extrapolated": all_sdeval, "bootstrap": written["bootstrap"]},
        "processes": {side: asdict(process) for side, process in processes.items()},
        "ratios_cpu": {"ours / numpy": ours["cpu"] / numpy["cpu"], "bootstrap: ours / numpy": one / peer},
        "limits": {"cpu": CPU_LIMIT, "max_rss": MEMORY_LIMIT},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ccip", type=Path, default=Path("models/sample-ccip"), help="CCIP folder (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=64, help="how many are encoded (default: %(default)s)")
    parser.add_argument("--side", type=int, default=1024, help="of a picture, pixels (default: %(default)s)")
    parser.add_argument("--characters", type=int, default=3600, help="of the statistics (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of encoding, for each side (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder, "pictures")
        pictures.mkdir()
        sources = make_pictures(pictures, args.pictures, args.side)
        megabytes = sum(Path(source.name).stat().st_size for source in sources) / len(sources) / 1e6
        best = measure(encoding_sides(args.ccip, sources, Path(folder)), args.rounds)
        written, processes = measure_statistics(args.characters, Path(folder))
    encoding = report_encoding(args, best, megabytes)
    statistics = report_statistics(args, written, processes)
    print(json.dumps({"encoding": encoding, "characters": args.characters, "statistics": statistics}))


if __name__ == "__main__":
    main()
