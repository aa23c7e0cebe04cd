"""What the card and the page both say, computed once from the parameters and the inputs."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.hashing import sha256_json
from repro.params import Params, Select, read_yaml

import yaml

from booru.captioning.profiles import Profile, profile
from booru.captioning.quality import quality_words
from ccip.prompts import spoken
from reporting.records import CharacterRow, Inputs
from reporting.training import training_facts

# A part of a caption, in the words that the published cards use for it.
PART_WORDS = {
    "special": "<1girl/1boy/1other/...>",
    "character": "<character>",
    "copyright": "<series>",
    "artist": "<artists>",
    "general": "<general tags>",
    "meta": "<meta tags>",
    "year": "<year tag>",
    "rating": "<rating tags>",
    "quality": "<quality tag>",
    "aesthetic": "<aesthetic tag>",
    "custom": "<custom tags>",
}
# Kohaku XL Delta's card names these counts: a tag of so many posts "should work", or "can possibly work".
LIST_STEPS = (1000, 500, 100, 10)
LISTED_NAMES = 40
CAVEATS_FILE = Path(__file__).with_name("caveats.yaml")
# (label, key of a model's scores, how it is written)
MEASURES = (
    ("score, mean over characters", "score", "score"),
    ("95 % interval", "ci95", "interval"),
    ("median", "median", "score"),
    ("characters above 0.5", "above_50_percent", "count"),
    ("characters above 0.9", "above_90_percent", "count"),
    ("score over that of the references", "score_over_upbound", "score"),
    ("best picture of each character", "best_of_m", "score"),
    ("top-1: nearest to its own character", "top1", "score"),
    ("mean CCIP difference (lower is better)", "ccip_diff", "score"),
    ("mean cosine", "cosine", "score"),
)


@dataclass(frozen=True)
class NameList:
    """Artists or characters of the training captions, most frequent first, as prompts write them."""

    total: int
    shown: list[tuple[str, int]]
    at_least: list[tuple[int, int]]


def name_list(counts: dict[str, int]) -> NameList:
    reached = [(step, sum(count >= step for count in counts.values())) for step in LIST_STEPS]
    shown = [(spoken(name), count) for name, count in list(counts.items())[:LISTED_NAMES]]
    return NameList(len(counts), shown, [(step, names) for step, names in reached if names])


def caption_format(rules: Profile, custom: bool) -> list[str]:
    """The kept and the general part of a caption, one line each; `custom` whether image folders bring words of their own."""
    shown = [[part for part in parts if custom or part != "custom"] for parts in (rules.keep, rules.general)]
    return [", ".join(PART_WORDS[part] for part in parts) for parts in shown]


def year_words(rules: Profile) -> list[tuple[str, str]]:
    """(word, years) of each date tag; a row that begins at year 0 begins after the rows before it."""
    words = []
    for i, row in enumerate(rules.years):
        first = row.first or max((r.last for r in rules.years[:i]), default=0) + 1
        words.append((row.word, f"{first}-{row.last}" if first > 1 else f"to {row.last}"))
    return words


def score_words(rules: Profile) -> dict[str, list[str]]:
    """{part: its words from the best to the worst} of quality, by favourites or by a model's score, and aesthetics."""
    by_favourites = {"quality": rules.quality} if rules.quality else {}
    return {part: quality_words(words)[::-1] for part, words in (by_favourites | rules.scores).items()}


def selection_conditions(select: Select) -> list[str]:
    """What a post had to meet to be taken, beside its range; and caps and repeats, in the words of the parameters."""
    plain = select.model_dump(mode="json", exclude={"draw", "ranges"}, exclude_defaults=True)
    return [
        f"{key} {yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix(chr(10)).removesuffix('...').strip()}"
        for key, value in plain.items()
    ]


@dataclass(frozen=True)
class Batch:
    """Images of one update and of the whole training."""

    images: int
    seen: int
    epochs: float


def batch_of(params: Params, inputs: Inputs) -> Batch:
    images = params.train.batch_size
    seen = images * inputs.train.updates
    return Batch(images, seen, seen / inputs.latents.images)


def verdict(inputs: Inputs) -> str:
    """One sentence on the interval of the difference."""
    low, high = inputs.evaluation.difference.ci95
    if low > 0:
        return "The interval lies above 0: by this score the merged model draws these characters better than the base."
    if high < 0:
        return "The interval lies below 0: by this score the merged model draws these characters worse than the base."
    return "The interval includes 0: this evaluation shows no difference between base and merged model."


def base_models(params: Params) -> list[str]:
    """The published models that the base is made of, by their names in its formula."""
    return [name for name in params.models.files if re.search(rf"\b{name}\b", params.base.formula)]


def report_facts(params: Params, inputs: Inputs) -> dict[str, Any]:
    """The names that both templates use."""
    rules = profile(params.caption.profile)
    base_name = ", ".join(base_models(params))
    recipe = params.model_dump(mode="json", exclude={"runtime"})
    return training_facts(params) | {
        "params": params,
        "recipe": recipe,
        "recipe_digest": sha256_json(recipe),
        "inputs": inputs,
        "scores": inputs.evaluation,
        "verdict": verdict(inputs),
        "base_name": base_name,
        "model_words": {"base": f"base, {base_name}", "trained": "trained weights"},
        "batch": batch_of(params, inputs),
        "rules": rules,
        "format": caption_format(rules, custom=bool(params.ingest.folders)),
        "years": year_words(rules),
        "score_words": score_words(rules),
        "conditions": selection_conditions(params.select),
        "artists": name_list(inputs.artists),
        "characters": name_list(inputs.characters),
        "any_held_out": any(row.held_out is not None for row in inputs.rows),
        "prompt_name": spoken,
        "measures": MEASURES,
        "caveats": read_yaml(CAVEATS_FILE.read_text(encoding="utf-8"), CAVEATS_FILE.name),
        "recipe_yaml": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=1000),
    }


def extremes(rows: list[CharacterRow], each: int) -> list[CharacterRow]:
    """All rows where there are few; else the `each` best, worst and most changed, in the rows' order."""
    if len(rows) <= 3 * each:
        return rows
    changed = sorted(rows, key=lambda row: (-abs(row.change), row.name))[:each]
    chosen = {row.name for row in (*rows[:each], *rows[-each:], *changed)}
    return [row for row in rows if row.name in chosen]
