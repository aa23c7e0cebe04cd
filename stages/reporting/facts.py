"""What the card and the page both say, computed once from the parameters and the inputs."""

import re
from dataclasses import dataclass
from typing import Any

from repro.hashing import sha256_json
from repro.params import Params, Select

import yaml

from booru.captioning.profiles import Profile, profile
from booru.captioning.tagger_words import spelled
from reporting.evaluation import SAMPLER_WORDS, evaluation_facts
from reporting.families import FAMILY_WORDS, annotation_models, sampling_words
from reporting.records import Captions, Inputs
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
    "text": 'The text says "<text>"',
}
# Kohaku XL's cards name the first three: tags that work, characters that need no further tags, and those that may work.
LIST_STEPS = (1000, 500, 100, 10)
LISTED_NAMES = 40


@dataclass(frozen=True)
class NameList:
    """Artists or characters of the training captions, most frequent first, as prompts write them."""

    total: int
    shown: list[tuple[str, int]]
    at_least: dict[int, int]


def name_list(counts: dict[str, int]) -> NameList:
    reached = {step: sum(count >= step for count in counts.values()) for step in LIST_STEPS}
    shown = [(spelled(name), count) for name, count in list(counts.items())[:LISTED_NAMES]]
    return NameList(len(counts), shown, reached)


def caption_format(rules: Profile, custom: bool) -> list[str]:
    """The kept and the general part of a caption, one line each, without an empty one; `custom` whether image folders bring
    words of their own."""
    shown = [[part for part in parts if custom or part != "custom"] for parts in (rules.keep, rules.general)]
    return [", ".join(PART_WORDS[part] for part in parts) for parts in shown if parts]


def year_words(rules: Profile) -> list[tuple[str, str]]:
    """(word, years) of each date tag; a row that begins at year 0 begins after the rows before it."""
    words = []
    for i, row in enumerate(rules.years):
        first = row.first or max((r.last for r in rules.years[:i]), default=0) + 1
        words.append((row.word, f"{first}-{row.last}" if first > 1 else f"to {row.last}"))
    return words


@dataclass(frozen=True)
class SpecialWord:
    """A word that captions carry for what a post is, when it does, and how many captions of this training have it."""

    word: str
    rule: str
    captions: int


def special_words(rules: Profile, captions: Captions) -> dict[str, list[SpecialWord]]:
    """{part: its words} of quality and aesthetics from the best to the worst, of ratings, and of dates."""
    parts: dict[str, list[tuple[str, str]]] = {}
    if rules.quality:
        steps = [(step.word, f"favourites above the {step.percentile}th percentile") for step in rules.quality.above]
        parts["quality"] = [*steps, (rules.quality.otherwise, "else")]
    for part, words in rules.scores.items():
        steps = [(step.word, f"score above {step.score:g}") for step in words.above]
        parts[part] = [*steps, (words.otherwise, "else")]
    by_word: dict[str, list[str]] = {}
    for rating, words in rules.ratings.items():
        for word in words:
            by_word.setdefault(word, []).append(rating)
    in_captions = {*rules.keep, *rules.general}
    if "rating" in in_captions:
        parts["rating"] = [(word, f"rated {' or '.join(ratings)}") for word, ratings in by_word.items()]
    if "year" in in_captions:
        parts["date"] = [(word, f"uploaded {years}") for word, years in year_words(rules)]
    return {
        part: [SpecialWord(word, rule, captions.posts_with_word.get(word, 0)) for word, rule in words]
        for part, words in parts.items()
    }


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


def base_models(params: Params) -> list[str]:
    """The published models that the base is made of, by their names in its formula."""
    return [name for name in params.models.files if re.search(rf"\b{name}\b", params.base.formula)]


def report_facts(params: Params, inputs: Inputs) -> dict[str, Any]:
    """The names that both templates use."""
    rules = profile(params.caption.profile)
    base_name = ", ".join(base_models(params))
    recipe = params.model_dump(mode="json", exclude={"runtime", "inputs", "card"})
    asked = params.evaluate.generation
    return (
        training_facts(params)
        | evaluation_facts(inputs)
        | {
            "params": params,
            "recipe_digest": sha256_json(recipe),
            "recipe_yaml": yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=1000),
            "inputs": inputs,
            "base_names": base_models(params),
            "base_name": base_name,
            "batch": batch_of(params, inputs),
            "rules": rules,
            "format": caption_format(rules, custom=bool(params.ingest.folders)),
            "special_words": special_words(rules, inputs.captions),
            "conditions": selection_conditions(params.select),
            "list_steps": LIST_STEPS,
            "artists": name_list(inputs.artists),
            "characters": name_list(inputs.characters),
            "prompt_name": spelled,
            "asked": asked,
            "family": FAMILY_WORDS[params.family],
            "annotations": annotation_models(params.annotate),
            "sampling": sampling_words(SAMPLER_WORDS[asked.sampler], asked),
        }
    )
