"""Caption profiles: profiles.yaml, read and checked. What its keys mean stands at its top."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from repro.errors import StageError, first_problem
from repro.params import Caption, Rating, Section, read_yaml

from pydantic import Field, ValidationError, model_validator

PROFILES_FILE = Path(__file__).with_name("profiles.yaml")
TagPart = Literal["special", "character", "copyright", "artist", "general", "meta", "custom"]
ScorePart = Literal["aesthetic", "quality"]
Part = TagPart | ScorePart | Literal["year", "rating", "text"]


class YearWord(Section):
    """`word` for posts of the years first..last, both included."""

    first: int
    last: int
    word: str


class QualityStep(Section):
    """`word` for posts with more favourites than this percentile of their rating."""

    percentile: int
    word: str


class ScoreStep(Section):
    """`word` for posts whose score is above this one."""

    score: float
    word: str


class ScoreWords(Section):
    """Words by the score that a model gave a picture, in this column of the posts; none where there is no score."""

    column: str
    above: list[ScoreStep]
    otherwise: str

    @model_validator(mode="after")
    def _highest_first(self) -> "ScoreWords":
        scores = [step.score for step in self.above]
        if scores != sorted(scores, reverse=True):
            raise ValueError("above must go from the highest score to the lowest")
        return self


class Quality(Section):
    """Words by a post's favourites among those of its rating; none for ids above last_id."""

    last_id: int
    percentiles: dict[Rating, dict[int, int]]
    above: list[QualityStep]
    otherwise: str

    @model_validator(mode="after")
    def _complete(self) -> "Quality":
        if len(self.percentiles) != 4:
            raise ValueError("percentiles must name all four ratings")
        steps = [step.percentile for step in self.above]
        if steps != sorted(steps, reverse=True):
            raise ValueError("above must go from the highest percentile to the lowest")
        for rating, table in self.percentiles.items():
            missing = [p for p in steps if p not in table]
            if missing:
                raise ValueError(f"percentiles.{rating} lacks {missing}")
        return self


class ExactWording(Section):
    """Where `caption.wording: exact` differs: ratings as the tagger names them, of which the words between two commas are
    replaced afterwards."""

    ratings: Annotated[dict[Rating, list[str]], Field(min_length=4)]
    between_commas: dict[str, str]


class Profile(Section):
    source: str
    keep: list[Part]
    general: list[Part]
    special_tags: list[str]
    drop_artists_containing: list[str]
    drop_meta_containing: list[str]
    expand_characters: bool = False
    years: list[YearWord]
    ratings: Annotated[dict[Rating, list[str]], Field(min_length=4)]
    quality: Quality | None = None
    scores: dict[ScorePart, ScoreWords] = Field(default_factory=dict)
    keep_mark: bool
    between_commas: dict[str, str] = Field(default_factory=dict)
    exact: ExactWording | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> "Profile":
        parts = self.keep + self.general
        if self.special_tags and "special" not in parts:
            raise ValueError("special_tags need the part special, else no caption has them")
        if len(set(parts)) != len(parts):
            raise ValueError("a part stands twice in keep and general")
        if "quality" in self.scores and self.quality:
            raise ValueError("quality words come from favourites or from scores, not from both")
        made = set(self.scores) | ({"quality"} if self.quality else set())
        if made != set(parts) & {"aesthetic", "quality"}:
            raise ValueError("aesthetic and quality must stand in keep or general just where quality or scores make them")
        return self


def worded(rules: Profile, caption: Caption) -> Profile:
    """The profile in the wording that the parameters ask for, which differs in what taggers say alone."""
    if caption.wording == "clean" or caption.tags != "annotations" or not rules.exact:
        return rules
    return rules.model_copy(update=rules.exact.model_dump())


@cache
def profiles() -> dict[str, Profile]:
    """All profiles by name.

    Raises:
        StageError: profiles.yaml is not well-formed; names the key.
    """
    values = read_yaml(PROFILES_FILE.read_text(encoding="utf-8"), str(PROFILES_FILE))
    return {name: _checked(name, profile) for name, profile in values["profiles"].items()}


def _checked(name: str, values: dict[str, Any]) -> Profile:
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        raise StageError(f"{PROFILES_FILE}: profile {name}: {first_problem(error)}") from None


def profile(name: str) -> Profile:
    """The profile of this name.

    Raises:
        StageError: there is none; names those that there are.
    """
    if name not in profiles():
        raise StageError(f"caption.profile: there is no profile '{name}'; there are {', '.join(profiles())}")
    return profiles()[name]
