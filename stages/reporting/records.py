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


class SelectedRange(Report):
    """A range of ids, or an image folder: its posts, those that meet the conditions, and those that were taken."""

    first: int | None = None
    last: int | None = None
    folder: str | None = None
    posts: int
    matching: int
    taken: int


class Selection(Report):
    """reports/select.json; `repeats` counts a post as often as an epoch has it."""

    metadata: int
    selected: int
    repeats: int
    ranges: list[SelectedRange]


class Captions(Report):
    """reports/captions.json: posts captioned, and how many captions have each quality, date and rating word."""

    posts: int
    posts_with_word: dict[str, int]


class TrainSummary(Report):
    """reports/train.json; the losses are means over the first and the last tenth of the updates."""

    updates: int
    trained_numbers: int
    loss_first_tenth: float | None
    loss_last_tenth: float | None


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


class Figures(Report):
    """One model's means over the characters in one mode.

    rank: place of a picture's own character among all, by CCIP difference, 1 the nearest; diversity: CCIP difference among
    a character's pictures.
    """

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
    rank: float
    diversity: float | None


class Difference(Report):
    """The last model's score minus the first's, paired by character."""

    mean: float
    ci95: Annotated[list[float], Field(min_length=2, max_length=2)]
    wins: int
    ties: int
    losses: int


class Mode(Report):
    """One way of asking for the pictures, over the characters that have it."""

    characters: int
    models: dict[str, Figures]
    difference: Difference


class ReferenceScores(Report):
    """What the reference pictures score themselves; how many there are, and how many of them the model was trained on (null:
    not known)."""

    upbound: float
    ref_self: float | None
    pictures: int
    trained: int | None


class Correlation(Report):
    """Spearman's rank correlation of score and number of training pictures, by model."""

    spearman: dict[str, float | None]


class SkippedCharacter(Report):
    character: str
    reason: str


class Evaluation(Report):
    """reports/ccip.json of two models or more."""

    characters: int
    headline: str
    threshold: float
    models: dict[str, Figures]
    difference: Difference
    modes: dict[str, Mode]
    training_pictures: Correlation
    references: ReferenceScores
    pairs: int
    borderline_pairs: int
    skipped: list[SkippedCharacter]


class EvaluationRun(Report):
    """reports/ccip_run.json: what was scored; `encoder` is sha256 by file, `requests` of a list."""

    encoder: dict[str, str]
    requests: str | None
    ccip_json: str
    characters_csv: str
    models: Annotated[list[str], Field(min_length=2)]


class KeptFiles(Report):
    """MANIFEST.json of a folder: sha256 by file."""

    files: dict[str, str]


@dataclass(frozen=True)
class HistoryRow:
    """One update of the training history."""

    update: int
    loss: float
    lr: float
    te_lr: float


@dataclass(frozen=True)
class CharacterScores:
    """One character's figures by one model in one mode."""

    pictures: int
    score: float
    best_of_m: float
    top1: float
    rank: float


@dataclass(frozen=True)
class CharacterRow:
    """One character: `pictures` training captions name it; `scores` by (model, mode); core tags of its looks."""

    name: str
    series: str
    gender: str
    pictures: int
    references: int
    upbound: float
    scores: dict[tuple[str, str], CharacterScores]
    core_tags: tuple[str, ...]


@dataclass(frozen=True)
class AskedPicture:
    """What a picture was asked for with; the same for every model."""

    mode: str
    character: str
    template: str
    artist: str
    prompt: str


@dataclass(frozen=True)
class TrainedFile:
    """The trained weights: their file's name, size in bytes and sha256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class HashedFile:
    """A file that the report vouches for, and what it is."""

    path: Path
    words: str
    sha256: str


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

    rows: by score of the last model in the headline mode, best first; examples: the first picture of each mode and
    template; asked: pictures that each model drew; plots, grids: by file name; sheets: by character (the file name is
    the tag, with %XX for what file systems refuse); training_sheet: None where the recipe asks for no pictures.
    """

    selection: Selection
    funnel: Funnel
    captions: Captions
    artists: dict[str, int]
    characters: dict[str, int]
    latents: Latents
    history: list[HistoryRow]
    train: TrainSummary
    training_sheet: Path | None
    checkpoints: dict[str, str]
    trained: TrainedFile
    merge: MergeReport
    evaluation: Evaluation
    run: EvaluationRun
    rows: list[CharacterRow]
    examples: list[AskedPicture]
    asked: int
    plots: dict[str, Path]
    grids: dict[str, Path]
    sheets: dict[str, Path]
    hashed: list[HashedFile]

    @property
    def before(self) -> str:
        """The model that the others are compared with."""
        return self.run.models[0]

    @property
    def after(self) -> str:
        """The model of interest."""
        return self.run.models[-1]

    def change(self, row: CharacterRow) -> float:
        """A character's change of score from the first model to the last, in the headline mode."""
        mode = self.evaluation.headline
        return row.scores[self.after, mode].score - row.scores[self.before, mode].score
