"""What the evaluation says, in words and rows: measures, modes, the ends of the ranking, plots and caveats."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.params import read_yaml

from reporting.records import CharacterRow, Difference, Inputs, Mode, SkippedCharacter

CAVEATS_FILE = Path(__file__).with_name("caveats.yaml")
# (label, key of a model's figures, how it is written)
MEASURES = (
    ("score, mean over characters", "score", "score"),
    ("95 % interval", "ci95", "interval"),
    ("median", "median", "score"),
    ("characters above 0.5", "above_50_percent", "count"),
    ("characters above 0.9", "above_90_percent", "count"),
    ("score over that of the references", "score_over_upbound", "score"),
    ("best picture of each character", "best_of_m", "score"),
    ("top-1: nearest to its own character", "top1", "score"),
    ("place of its own character among all (1 is best)", "rank", "place"),
    ("mean CCIP difference (lower is better)", "ccip_diff", "score"),
    ("mean cosine", "cosine", "score"),
    ("CCIP difference among a character's own pictures", "diversity", "score"),
)
# What the evaluation's plots show, by file name without ending, in the order of the page; others come after, by name.
PLOT_WORDS = {
    "rank": "Scores from the best character to the worst, one line a model",
    "training_pictures": "Score against the number of training pictures, with the counts that Kohaku XL's cards name",
    "scatter": "Each character's score before and after; above the diagonal the trained model is better",
    "histogram": "CCIP differences of picture pairs; left of the threshold a pair counts as one character",
    "modes": "Each character's score by name against its score in the other ways of asking; what core tags add is what the name"
    " alone does not carry",
}
GRID_WORDS = {"best.png": "Best", "worst.png": "Worst", "changed.png": "Most changed"}
SAMPLER_WORDS = {
    "euler": "Euler", "euler_ancestral": "Euler ancestral", "ddim": "DDIM", "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras", "ddpm": "DDPM",
}  # fmt: skip
# Skipped characters that the card names; the page has all of them.
NAMED_SKIPPED = 40


def verdict(difference: Difference, before: str, after: str) -> str:
    """One sentence on the interval of the difference."""
    low, high = difference.ci95
    if low > 0:
        return f"The interval lies above 0: by this score {after} draws these characters better than {before}."
    if high < 0:
        return f"The interval lies below 0: by this score {after} draws these characters worse than {before}."
    return f"The interval includes 0: this evaluation shows no difference between {before} and {after}."


def mode_lines(inputs: Inputs) -> list[tuple[str, Mode]]:
    """All modes with their figures, the headline first, then as the generation has them."""
    e = inputs.evaluation
    order = {example.mode: place for place, example in enumerate(inputs.examples)}
    others = sorted(e.modes.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))
    return [(e.headline, Mode(characters=e.characters, models=e.models, difference=e.difference)), *others]


def extremes(rows: list[CharacterRow], each: int, change: Callable[[CharacterRow], float]) -> list[CharacterRow]:
    """All rows where there are few; else the `each` best, worst and most changed, in the rows' order."""
    if len(rows) <= 3 * each:
        return rows
    changed = sorted(rows, key=lambda row: (-abs(change(row)), row.name))[:each]
    chosen = {row.name for row in (*rows[:each], *rows[-each:], *changed)}
    return [row for row in rows if row.name in chosen]


@dataclass(frozen=True)
class Plot:
    """A plot of the evaluation in the formats that there are, and what it shows."""

    text: str
    png: Path
    svg: Path | None


def plots_in_order(files: dict[str, Path]) -> list[Plot]:
    """The known plots in the order of PLOT_WORDS, then the others."""
    stems = [Path(name).stem for name in files if name.endswith(".png")]
    ordered = [stem for stem in PLOT_WORDS if stem in stems] + [stem for stem in stems if stem not in PLOT_WORDS]
    return [Plot(PLOT_WORDS.get(stem, stem), files[f"{stem}.png"], files.get(f"{stem}.svg")) for stem in ordered]


def named_skipped(skipped: Sequence[SkippedCharacter]) -> tuple[Sequence[SkippedCharacter], int]:
    """Those whom the card names, and how many more there are."""
    return skipped[:NAMED_SKIPPED], max(len(skipped) - NAMED_SKIPPED, 0)


def evaluation_facts(inputs: Inputs) -> dict[str, Any]:
    """The names of this module's rows and words in both templates."""
    lines = mode_lines(inputs)
    return {
        "scores": inputs.evaluation,
        "models": inputs.run.models,
        "before": inputs.before,
        "after": inputs.after,
        "headline": inputs.evaluation.headline,
        "verdict": verdict(inputs.evaluation.difference, f"the {inputs.before} model", f"the {inputs.after} model"),
        "mode_lines": lines,
        "most_references": max(row.references for row in inputs.rows),
        "other_modes": [name for name, _ in lines[1:]],
        "measures": MEASURES,
        "caveats": read_yaml(CAVEATS_FILE.read_text(encoding="utf-8"), CAVEATS_FILE.name),
    }
