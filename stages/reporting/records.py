"""What the other stages' reports hold, as far as the card and the page use it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Report(BaseModel):
    """A stage's JSON: the keys that the report needs; others may stand beside them."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class ListedTag(Report):
    """An entry of reports/artists.json or characters.json: posts captioned with the tag, and the card's class of it."""

    posts: int


class FunnelStep(Report):
    reason: str
    dropped: int
    left: int


class Funnel(Report):
    """reports/filter.json: the metadata's revision, posts selected, and what each rule left of them."""

    revision: str
    selected: int
    kept: int
    steps: list[FunnelStep]


class TrainSummary(Report):
    """reports/train.json; the losses are means over the first and the last tenth of the updates."""

    updates: int
    trained_numbers: int
    loss_first_tenth: float
    loss_last_tenth: float


class SingleFile(Report):
    """The published checkpoint; autov2 is the short digest by which WebUI and Civitai name it."""

    sha256: str
    autov2: str
    data_sha256: str
    bytes: int
    tensors: int


class MergeInputs(Report):
    """sha256 of the formula's models, by name."""

    sha256: dict[str, str]


class Component(Report):
    tensors: int
    lokr_modules: int
    changed: int


class MergeReport(Report):
    """reports/merge.json."""

    name: str
    formula: str
    dtype: str
    inputs: MergeInputs
    single_file: SingleFile
    components: dict[str, Component]


class ModelScores(Report):
    """One model's means over the characters (the CCIP score counts reference pictures judged alike)."""

    score: float
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)]
    median: float
    above_50_percent: int
    above_90_percent: int
    score_over_upbound: float | None
    best_of_m: float
    ccip_diff: float
    cosine: float
    top1: float


class Models(Report):
    base: ModelScores
    merged: ModelScores


class Difference(Report):
    """Merged minus base, paired by character."""

    mean: float
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)]
    wins: int
    ties: int
    losses: int


class ReferenceScores(Report):
    upbound: float
    ref_self: float | None


class HeldOutModel(Report):
    score: float | None


class HeldOut(Report):
    """Characters drawn in the style of artists who never drew them in the training data."""

    pairs: int
    base: HeldOutModel
    merged: HeldOutModel


class SkippedCharacter(Report):
    character: str
    reason: str


class Evaluation(Report):
    """reports/ccip.json."""

    models: Models
    difference: Difference
    characters: int
    references: ReferenceScores
    held_out: HeldOut
    threshold: float
    borderline_pairs: int
    skipped: list[SkippedCharacter]


@dataclass(frozen=True)
class HistoryRow:
    """One update of the training history."""

    update: int
    loss: float
    lr: float
    te_lr: float
    grad_norm: float


@dataclass(frozen=True)
class CharacterRow:
    """One character's scores before and after; `pictures` is how many training captions name it."""

    name: str
    series: str
    pictures: int
    base: float
    merged: float
    top1: float
    upbound: float
    held_out: float | None

    @property
    def change(self) -> float:
        return self.merged - self.base


@dataclass(frozen=True)
class Bucket:
    """Images whose latents share a size, in pixels."""

    width: int
    height: int
    images: int


@dataclass(frozen=True)
class Latents:
    """Counts of the latents folder."""

    buckets: list[Bucket]
    lost: dict[str, int]

    @property
    def images(self) -> int:
        return sum(bucket.images for bucket in self.buckets)


@dataclass(frozen=True)
class Inputs:
    """Everything the card and the page say, apart from the parameters.

    rows: by score of the merged model, best first; sheets: picture sheet by character (its file name is the
    tag, with %XX for what file systems refuse).
    """

    funnel: Funnel
    artists: dict[str, int]
    characters: dict[str, int]
    latents: Latents
    history: list[HistoryRow]
    train: TrainSummary
    merge: MergeReport
    evaluation: Evaluation
    rows: list[CharacterRow]
    plots: dict[str, Path]
    grid: Path
    sheets: dict[str, Path]
    example_prompt: str
    digests: dict[str, str]
