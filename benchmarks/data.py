"""Measure captioning of a booru's metadata against HakuBooru: equal posts, equal text, whole processes.

    python benchmarks/data.py [--posts 300000] [--large-posts 1000000] [--work DIR]

Makes databases like danbooru2023 (reused from DIR), captions the smaller one with HakuBooru's KohakuCaptioner
and with ours, refuses to go on unless both wrote the same text for every post, and prints posts a second and
the ratios. Ours also runs over the larger database, for its memory and for what the whole booru would take.
Files are read once beforehand, so that nobody pays for the disk. The last line is one JSON object.
"""

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from booru_database import make_database
from caption_files import read_captions, require_equal
from hakubooru_setup import PROFILE, VERSION, hakubooru_python
from measure import Measurement, best_of, run

ROOT = Path(__file__).resolve().parent.parent
RUNS = 3
FULL_POSTS = 8_000_000
MEMORY_LIMIT = 10**9
DIRECT, INGEST = "SQLite -> captions and text", "SQLite -> shards"
STAGE, CAPTION = "shards -> captions", "shards -> captions and text"
TARGETS = {DIRECT: 50, STAGE: 80}
"""How many times HakuBooru's posts a CPU-second are asked for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--posts", type=int, default=300_000, help="captioned by both sides")
    parser.add_argument("--large-posts", type=int, default=1_000_000, help="captioned by ours alone")
    parser.add_argument("--work", type=Path, default=ROOT / "state" / "bench-data", metavar="DIR")
    parser.add_argument("--profile", default=PROFILE, help="our profile with the rules of HakuBooru's release")
    parser.add_argument("--stages", type=Path, default=ROOT / "stages", help="the stages to measure")
    args = parser.parse_args()
    if args.large_posts <= args.posts:
        parser.error("--large-posts must be more than --posts")
    work = args.work.resolve()

    small, large = (database_of(work, posts) for posts in (args.posts, args.large_posts))
    theirs = run_hakubooru(small, work)
    ours = {
        posts: run_ours(args.stages.resolve(), database, work / f"ours-{posts}", args.profile)
        for posts, database in ((args.posts, small), (args.large_posts, large))
    }
    expected = read_captions(work / "hakubooru.jsonl")
    for name in (DIRECT, CAPTION):
        require_equal(expected, read_captions(output_of(work / f"ours-{args.posts}", name)), f"ours, {name}")
    if len(expected) != args.posts:
        raise ValueError(f"HakuBooru captioned {len(expected)} of {args.posts} posts")
    report(args.posts, theirs, ours, args.profile)


def database_of(work: Path, posts: int) -> Path:
    """The database of so many posts, made unless it is there."""
    path = work / f"posts-{posts}.db"
    if not path.exists():
        print(f"making {path.name}", file=sys.stderr, flush=True)
        make_database(path, posts)
    return path


def read_once(path: Path) -> None:
    """Bring the file into the page cache."""
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass


def run_hakubooru(database: Path, work: Path) -> Measurement:
    python = hakubooru_python(work / f"hakubooru-{VERSION}")
    print(f"HakuBooru {VERSION}", file=sys.stderr, flush=True)
    read_once(database)
    return run([python, ROOT / "benchmarks" / "hakubooru_captions.py", database, work / "hakubooru.jsonl"])


def output_of(work: Path, name: str) -> Path:
    return work / {DIRECT: "direct", INGEST: "shards", STAGE: "stage", CAPTION: "captions"}[name]


def run_ours(stages: Path, database: Path, work: Path, profile: str) -> dict[str, Measurement]:
    """Each step's best of three runs."""
    as_lines = ["--profile", profile, "--format", "jsonl"]  # the form in which HakuBooru's captions are written here, too
    shards = output_of(work, INGEST)
    steps = {
        DIRECT: ["caption_posts.py", "--database", database, *as_lines, "--out", output_of(work, DIRECT)],
        INGEST: ["ingest_posts.py", "--database", database, "--output", shards, "--set", "ingest.revision=null"],
        # As the pipeline runs it: words in shards, without the text that both sides write in the other runs.
        STAGE: ["caption_posts.py", "--posts", shards, "--profile", profile, "--out", output_of(work, STAGE)],
        CAPTION: ["caption_posts.py", "--posts", shards, *as_lines, "--out", output_of(work, CAPTION)],
    }
    read_once(database)
    measured = {}
    for name, (script, *arguments) in steps.items():
        print(f"ours: {database.name}: {name}", file=sys.stderr, flush=True)
        measured[name] = best_of(
            RUNS,
            [sys.executable, stages / script, *arguments],
            before=lambda name=name: shutil.rmtree(output_of(work, name), ignore_errors=True),
            cwd=stages.parent,
        )
    return measured


def report(posts: int, theirs: Measurement, ours: dict[int, dict[str, Measurement]], profile: str) -> None:
    small, large = ours
    rows = [(f"HakuBooru {VERSION}, one thread", posts, theirs)]
    rows += [(f"ours, {name}", n, m) for n, steps in ours.items() for name, m in steps.items()]
    ratios = {name: theirs.cpu / ours[small][name].cpu for name in (DIRECT, STAGE, CAPTION)}
    full = {name: extrapolated(small, ours[small][name], large, ours[large][name]) for name in ours[small]}
    peak = max(m.peak_pss for steps in ours.values() for m in steps.values())

    print(f"Captions of both sides are equal for all {posts} posts (profile {profile}). Whole processes, files in the page")
    print(f"cache, {os.cpu_count()} cores. HakuBooru: one run; ours: least wall and CPU seconds, most memory of {RUNS}.\n")
    print_table(rows)
    for name, ratio in ratios.items():
        told = judged(ratio >= TARGETS[name], f"{TARGETS[name]}") if name in TARGETS else "no target"
        print(f"ours / HakuBooru, posts a CPU-second, {name}: {ratio:.1f} ({told})")
    print(f"ours, peak memory: {peak / 1e6:.0f} MB ({judged(peak <= MEMORY_LIMIT, f'{MEMORY_LIMIT / 1e6:.0f} MB at most')})")
    print(f"\n{FULL_POSTS} posts, extrapolated linearly from {small} and {large}:")
    for name, seconds in full.items():
        print(f"ours, {name:26} {seconds['cpu']:8.1f} CPU s {seconds['wall']:8.1f} wall s")
    figures = {
        "profile": profile,
        "cores": os.cpu_count(),
        "hakubooru": {"version": VERSION, "posts": posts} | figures_of(posts, theirs),
        "ours": {str(n): {name: figures_of(n, m) for name, m in steps.items()} for n, steps in ours.items()},
        "ratios_cpu": ratios,
        "ratios_wall": {name: theirs.wall / ours[small][name].wall for name in ratios},
        "targets_cpu": TARGETS,
        "peak_memory": peak,
        "memory_limit": MEMORY_LIMIT,
        "extrapolated": {"posts": FULL_POSTS} | full,
    }
    print(json.dumps(figures))


def extrapolated(small: int, at_small: Measurement, large: int, at_large: Measurement) -> dict[str, float]:
    """CPU and wall seconds of the full size on the straight line through two sizes.

    Wall seconds of a busy machine can be on no such line; they are at least the CPU seconds shared by all cores.
    Memory is not extrapolated: a process holds one block of some 100,000 posts, however many blocks there are.
    """
    scale = (FULL_POSTS - large) / (large - small)
    cpu = at_large.cpu + (at_large.cpu - at_small.cpu) * scale
    wall = at_large.wall + (at_large.wall - at_small.wall) * scale
    return {"cpu": cpu, "wall": max(cpu / os.cpu_count(), wall)}


def figures_of(posts: int, measured: Measurement) -> dict[str, float]:
    return asdict(measured) | {"posts_per_cpu_second": posts / measured.cpu, "posts_per_wall_second": posts / measured.wall}


def print_table(rows: list[tuple[str, int, Measurement]]) -> None:
    heads = ("CPU s", "wall s", "posts/CPU s", "posts/wall s", "peak MB", "anon. MB")
    print(f"{'':32} {'posts':>8} " + " ".join(f"{head:>12}" for head in heads))
    for name, posts, m in rows:
        seconds, speeds = f"{m.cpu:12.2f} {m.wall:12.2f}", f"{posts / m.cpu:12.0f} {posts / m.wall:12.0f}"
        print(f"{name:32} {posts:8} {seconds} {speeds} {m.peak_pss / 1e6:12.0f} {m.peak_anonymous / 1e6:12.0f}")


def judged(met: bool, target: str) -> str:
    return f"target {target}: {'met' if met else 'missed'}"


if __name__ == "__main__":
    main()
