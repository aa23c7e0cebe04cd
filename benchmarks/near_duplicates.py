"""Measure the search for near-duplicates among millions of hashes, against its limits and comparing all pairs.

    python benchmarks/near_duplicates.py [--hashes 6000000] [--max-dhash 4] [--seed 1]

Makes hashes (unrelated ones, planted versions, pictures that share a few dhashes, dhashes of white pictures), runs
the search in a process of its own, and refuses its answer unless each dropped picture has a partner that stays and
comes first, and of each planted pair of partners one is dropped. Comparing all pairs is timed over a slice. The
last line is one JSON object.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
from measure import Measurement, run
from picture_hashes import make_hashes

ROOT = Path(__file__).resolve().parent.parent
JOIN = ROOT / "benchmarks" / "near_duplicates_join.py"
MAX_PHASH = 32
ASPECT = (105, 100)
WALL_LIMIT, MEMORY_LIMIT = 900, 2 * 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hashes", type=int, default=6_000_000)
    parser.add_argument("--max-dhash", type=int, default=4, metavar="BITS")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        source, found, rate = (Path(folder) / name for name in ("images.parquet", "dropped.parquet", "rate.json"))
        print(f"making {args.hashes} hashes", file=sys.stderr, flush=True)
        images, planted = make_hashes(args.hashes, args.seed)
        images.write_parquet(source, compression="uncompressed")
        environment = os.environ | {"PYTHONPATH": str(ROOT / "stages")}
        print("searching", file=sys.stderr, flush=True)
        bounds = [str(args.max_dhash), str(MAX_PHASH), str(ASPECT[0] / ASPECT[1])]
        measured = run([sys.executable, JOIN, source, found, *bounds], env=environment)
        print("comparing all pairs of a slice", file=sys.stderr, flush=True)
        run([sys.executable, JOIN, source, rate, bounds[0]], env=environment)
        partners = check_answer(images, planted, pl.read_parquet(found), args.max_dhash)
        dropped = pl.read_parquet(found, columns=["id"]).height
        report(args, measured, json.loads(rate.read_text()), dropped, partners)


def are_partners(images: pl.DataFrame, one: np.ndarray, other: np.ndarray, max_dhash: int) -> np.ndarray:
    """The rule itself, for pairs of rows."""
    dhash, width, height = (images[name].to_numpy() for name in ("dhash", "width", "height"))
    phash = [np.frombuffer(b"".join(images["phash"].gather(rows).to_list()), np.uint64).reshape(-1, 4) for rows in (one, other)]
    a = width[one].astype(np.int64) * height[other]
    b = width[other].astype(np.int64) * height[one]
    return (
        (np.bitwise_count(dhash[one] ^ dhash[other]) <= max_dhash)
        & (np.bitwise_count(phash[0] ^ phash[1]).sum(axis=1) <= MAX_PHASH)
        & (np.maximum(a, b) * ASPECT[1] <= np.minimum(a, b) * ASPECT[0])
    )


def check_answer(images: pl.DataFrame, planted: np.ndarray, found: pl.DataFrame, max_dhash: int) -> int:
    """The number of planted pairs of partners.

    Raises:
        ValueError: a picture is dropped without reason, or a planted pair was not found.
    """
    area = images["width"].to_numpy().astype(np.int64) * images["height"].to_numpy()
    dropped, kept = found["id"].to_numpy() - 1, found["kept"].to_numpy() - 1
    gone = np.zeros(len(area), dtype=bool)
    gone[dropped] = True
    comes_first = (area[kept] > area[dropped]) | ((area[kept] == area[dropped]) & (kept < dropped))
    if not (comes_first & ~gone[kept] & are_partners(images, dropped, kept, max_dhash)).all():
        raise ValueError("a picture was dropped for one that goes as well, that comes later, or that is no partner")
    partners = planted[are_partners(images, *planted.T, max_dhash)]
    if not gone[partners].any(axis=1).all():
        raise ValueError("of a planted pair of partners both stayed")
    return len(partners)


def report(args: argparse.Namespace, measured: Measurement, rate: dict, dropped: int, partners: int) -> None:
    pairs = args.hashes * (args.hashes - 1) // 2
    all_pairs = pairs * rate["cpu"] / rate["pairs"]
    rows = [
        ("search, whole process", measured.wall, measured.cpu, f"{measured.max_rss / 1e6:.0f}"),
        ("all pairs of dhashes, extrapolated", all_pairs, all_pairs, "-"),
        ("limit", WALL_LIMIT, float("nan"), f"{MEMORY_LIMIT / 1e6:.0f}"),
    ]
    print(f"{args.hashes} hashes; bounds: dhash {args.max_dhash} bits, phash {MAX_PHASH} bits, aspect {ASPECT[0]}:{ASPECT[1]}.")
    print(f"{dropped} pictures dropped; all {partners} planted pairs of partners found. {os.cpu_count()} cores.\n")
    print(f"{'':36}{'wall s':>12}{'CPU s':>12}{'peak MB':>10}")
    for name, wall, cpu, memory in rows:
        print(f"{name:36}{wall:12.1f}{cpu:12.1f}{memory:>10}".replace("nan", "  -"))
    print(f"\nall pairs / search, CPU seconds: {all_pairs / measured.cpu:.0f}")
    figures = {
        "hashes": args.hashes,
        "max_dhash": args.max_dhash,
        "dropped": dropped,
        "planted_partners": partners,
        "search": asdict(measured),
        "all_pairs": {
            "pairs_per_cpu_second": rate["pairs"] / rate["cpu"],
            "cpu": all_pairs,
            "ratio_cpu": all_pairs / measured.cpu,
        },
        "limits": {"wall": WALL_LIMIT, "max_rss": MEMORY_LIMIT},
        "ratios_to_limits": {"wall": measured.wall / WALL_LIMIT, "max_rss": measured.max_rss / MEMORY_LIMIT},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
