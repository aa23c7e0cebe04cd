"""What a change did to a run, as Markdown for a comment: outputs, parameters and metrics against a revision of git, and losses.

Tables are DVC's own (`--md`); the curve is a Mermaid chart, which GitHub and GitLab draw without a picture being stored anywhere.
"""

import csv
import io
import itertools
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path

from repro.errors import StageError

from proof.lock import graph_order, parse_lock

HISTORY = "reports/train.csv"
LOCK = "dvc.lock"
POINTS = 30
COLOURS = '%%{init: {"themeVariables": {"xyChart": {"plotColorPalette": "#b5243c, #888888"}}}}%%'
# Of a Markdown table that has no row.
HEAD_LINES = 2


def change_report(folder: Path, base: str) -> str:
    """The run in a repository's folder against the one that is committed at `base`.

    Raises:
        StageError: `base` is no revision, has no dvc.lock, or DVC cannot compare.
    """
    before = committed(folder, base, LOCK)
    if before is None:
        raise StageError(f"{base}: no such revision, or one without {LOCK}; name a commit of a run, such as origin/main")
    lines = [f"## The run against `{base}`", "", *output_lines(before, (folder / LOCK).read_text(encoding="utf-8"))]
    for title, command in (("Parameters", "params"), ("Metrics", "metrics")):
        table = dvc_table(folder, command, base)
        lines += ["", f"### {title}", "", table or "No difference."]
    lines += ["", *loss_chart(committed(folder, base, HISTORY), _text(folder / HISTORY))]
    return "\n".join(lines) + "\n"


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def committed(folder: Path, revision: str, path: str) -> str | None:
    """A file as it is committed, or None where it is not."""
    result = subprocess.run(["git", "show", f"{revision}:{path}"], cwd=folder, capture_output=True)
    return None if result.returncode else result.stdout.decode()


def dvc_table(folder: Path, command: str, base: str) -> str:
    """`dvc params diff` or `dvc metrics diff` as Markdown; empty without a difference.

    Raises:
        StageError: DVC failed; its own words.
    """
    result = subprocess.run(["dvc", command, "diff", "--md", base], cwd=folder, capture_output=True, text=True)
    if result.returncode:
        raise StageError(f"dvc {command} diff: {result.stderr.strip()}")
    lines = result.stdout.strip().splitlines()
    return "\n".join(lines) if len(lines) > HEAD_LINES else ""


def _outputs(lock: str, name: str) -> dict[tuple[str, str], str]:
    return {(stage.name, path): md5 for stage in graph_order(parse_lock(lock, name)) for path, md5 in stage.outputs.items()}


def output_lines(before: str, after: str) -> Iterator[str]:
    """How many outputs are the same bytes, and which are not, by two lock files."""
    old, new = _outputs(before, f"{LOCK} before"), _outputs(after, LOCK)
    names = [*old, *(name for name in new if name not in old)]
    changed = [name for name in names if old.get(name) != new.get(name)]
    yield f"{len(names) - len(changed)} of {len(names)} outputs are the same to the last byte."
    if not changed:
        return
    yield from ("", "| stage | output | |", "|---|---|---|")
    for name in changed:
        verdict = "new" if name not in old else "gone" if name not in new else "changed"
        yield f"| {name[0]} | `{name[1]}` | {verdict} |"


def _losses(history: str | None) -> list[float]:
    return [float(row["loss"]) for row in csv.DictReader(io.StringIO(history))] if history else []


def thinned(losses: list[float], points: int = POINTS) -> list[float]:
    """Means of `points` stretches of equal length, or of fewer where there are fewer losses."""
    points = min(points, len(losses))
    edges = [at * len(losses) // points for at in range(points + 1)] if points else []
    return [math.fsum(losses[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]


def loss_chart(before: str | None, after: str | None) -> list[str]:
    """A Mermaid chart of this run's losses, and of the earlier run's where they differ and are as many (it stretches each line
    over the whole axis); nothing without a history."""
    old, new = _losses(before), _losses(after)
    if len(thinned(new)) < 2:  # a line needs two points
        return []
    lines, words = [thinned(new)], "this run"
    if old == new:
        words = "this run; the same as before"
    elif len(old) == len(new):
        lines, words = [*lines, thinned(old)], "this run red, the one before grey"
    elif old:
        words = f"this run; the one before has {len(old):,} updates"
    values = [value for line in lines for value in line]
    return [
        f"### Training loss ({words})",
        "",
        "```mermaid",
        COLOURS,
        "xychart-beta",
        f'  x-axis "update" 1 --> {len(new)}',
        f'  y-axis "loss" {min(values):.4g} --> {max(values):.4g}',
        *(f"  line [{', '.join(f'{value:.4g}' for value in line)}]" for line in lines),
        "```",
    ]
