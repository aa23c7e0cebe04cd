"""params.yaml: one validated model a section, and the reader that knows what a number is.

DVC writes `2e-05` after `dvc exp run -S lr=2e-5`; YAML 1.1 (PyYAML) reads that as text, YAML 1.2
as a number. `read_yaml` gives PyYAML's loader the YAML 1.2 rule, here and nowhere else.
"""

import datetime
import itertools
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from repro.blocked_tags import blocked_words
from repro.errors import StageError

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's core-schema rules for numbers and booleans, refusing doubled keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_YAML_1_1_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("float", "int", "bool", "timestamp")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _YAML_1_1_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def read_yaml(text: str, name: str) -> Any:
    """Parse YAML 1.2 text; `name` stands in the error.

    Raises:
        StageError: not YAML; names the line.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise StageError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None


class Section(BaseModel):
    """Strict: unknown keys refused, no text taken for a number; a whole number may stand for a float."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
TEXT_CHUNK = 75
# Sexualised depictions of minors; a recipe may block more, never less (DESIGN section 8).
ALWAYS_BLOCKED = ("loli", "shota", "toddlercon")
# sd-scripts' default: from here on a tagger's tag is one that the picture has. A tag that must not be trained on counts from
# here on also where captions ask for more, so annotations must have all that reach it.
USUAL_THRESHOLD = 0.35


FamilyName = Literal["sdxl", "cascade"]
Precision = Literal["fp32", "bf16", "fp16"]
Rating = Literal["general", "sensitive", "questionable", "explicit"]
# Ids from here on are those of plain image folders' pictures; the metadata database's stay below.
FIRST_FOLDER_ID = 2**52


def _on_the_calendar(day: str) -> str:
    try:
        datetime.date.fromisoformat(day)
    except ValueError:
        raise ValueError(f"{day} is not a day of the calendar; write it as 2024-05-19") from None
    return day


Date = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_on_the_calendar)]


class Folder(Section):
    """A folder of plain pictures below runtime.image_root: words that open its captions, and the rating of a
    picture whose sidecar names none."""

    custom: list[str] = []
    rating: Rating | None = None


class Ingest(Section):
    """The metadata database, its content digest (null: whichever it is), and what is to be known of the image folders."""

    database: str
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    folders: dict[str, Folder]


class IdRange(Section):
    """Posts with first <= id <= last, or the pictures of one folder; `take` of them, or all where it is null."""

    first: Annotated[int, Field(ge=0, lt=FIRST_FOLDER_ID)] | None = None
    last: Annotated[int, Field(ge=0, lt=FIRST_FOLDER_ID)] | None = None
    folder: str | None = None
    take: Count | None

    @model_validator(mode="after")
    def _ordered(self) -> "IdRange":
        if (self.folder is None) == (self.first is None or self.last is None):
            raise ValueError("a range has either first and last, or folder")
        if self.folder is not None and (self.first is not None or self.last is not None):
            raise ValueError("a range has either first and last, or folder")
        if self.folder is None and self.last < self.first:
            raise ValueError(f"last ({self.last}) is below first ({self.first})")
        return self


def _no_overlap(ranges: list[IdRange]) -> list[IdRange]:
    ordered = sorted((r for r in ranges if r.folder is None), key=lambda r: r.first)
    for a, b in itertools.pairwise(ordered):
        if b.first <= a.last:
            raise ValueError(f"ranges {a.first}..{a.last} and {b.first}..{b.last} overlap")
    folders = [r.folder for r in ranges if r.folder is not None]
    for name in folders:
        if folders.count(name) > 1:
            raise ValueError(f"folder {name} stands twice")
    return ranges


class AtLeast(Section):
    """Posts with `count` or more of these tags."""

    count: Count
    tags: Annotated[list[str], Field(min_length=1)]


class Conditions(Section):
    """Which posts are meant: all that is set must hold. Dates are upload dates, both included."""

    required_tags: list[str] = []
    excluded_tags: list[str] = []
    at_least: AtLeast | None = None
    min_tags: Annotated[int, Field(ge=0)] = 0
    ratings: Annotated[list[Rating], Field(min_length=1)] | None = None
    min_score: int | None = None
    min_favourites: int | None = None
    first_date: Date | None = None
    last_date: Date | None = None

    @model_validator(mode="after")
    def _can_hold(self) -> "Conditions":
        both = sorted(set(self.required_tags) & set(self.excluded_tags))
        if both:
            raise ValueError(f"tag {both[0]} is both required and excluded")
        if self.at_least is not None and self.at_least.count > len(set(self.at_least.tags)):
            raise ValueError(f"at_least.count ({self.at_least.count}) is more than its {len(set(self.at_least.tags))} tags")
        if self.first_date is not None and self.last_date is not None and self.last_date < self.first_date:
            raise ValueError(f"last_date ({self.last_date}) is before first_date ({self.first_date})")
        return self


class Repeat(Conditions):
    """Posts that occur `extra` times more in an epoch."""

    extra: Annotated[int, Field(ge=1, le=1000)]


class Select(Conditions):
    """`draw`: keyed by a hash of the id, or replayed from the reference's stream of draws with replacement."""

    draw: Literal["keyed", "replay"]
    ranges: Annotated[list[IdRange], Field(min_length=1), AfterValidator(_no_overlap)]
    max_per_character: Count | None = None
    max_per_artist: Count | None = None
    repeats: list[Repeat] = []

    @model_validator(mode="after")
    def _replays_what_was(self) -> "Select":
        if self.draw != "replay":
            return self
        unset = Conditions().model_dump() | {"max_per_character": None, "max_per_artist": None}
        if changed := [name for name, value in unset.items() if getattr(self, name) != value]:
            raise ValueError(f"draw: replay draws over all posts of a range, as the reference did; leave {changed[0]} out")
        if any(r.folder is not None for r in self.ranges):
            raise ValueError("draw: replay draws from ids, as the reference did; leave folders out")
        return self


class NearDuplicates(Section):
    """How near two pictures are to be for one to go: bits of dHash64 and of pHash256, and quotient of the aspect ratios."""

    max_dhash: Annotated[int, Field(ge=0, le=16)]
    max_phash: Annotated[int, Field(ge=0, le=256)]
    max_aspect: Annotated[float, Field(ge=1)]


class Filter(Section):
    image_index: str
    blocked_tags: list[str]
    ratings: Annotated[list[Rating], Field(min_length=1)]
    drop_deleted: bool
    drop_banned: bool
    extensions: Annotated[list[str], Field(min_length=1)]
    min_side: Count
    min_pixels: Count
    max_aspect_ratio: Annotated[float, Field(ge=1)]
    near_duplicates: NearDuplicates | None
    max_lost_share: Share

    @model_validator(mode="after")
    def _keeps_the_block_list(self) -> "Filter":
        missing = [tag for tag in ALWAYS_BLOCKED if tag not in self.blocked_tags]
        if missing:
            raise ValueError(f"blocked_tags must contain {', '.join(missing)}: no recipe trains on these")
        return self


class ScoresAbove(Section):
    """Pictures with more than these scores (null: any), each 0..1, as data/annotations has them."""

    aesthetic: Share | None
    quality: Share | None

    @model_validator(mode="after")
    def _asks_for_one(self) -> "ScoresAbove":
        if self.aesthetic is None and self.quality is None:
            raise ValueError("give a score in aesthetic or in quality, or leave the section null")
        return self


class ScoreRepeat(ScoresAbove):
    """Pictures with more than these scores occur `extra` times more in an epoch."""

    extra: Annotated[int, Field(ge=1, le=1000)]


class Caption(Section):
    """`percentiles`: quality words from the profile's own table, or from the percentiles of the kept posts.

    `tags`: those of the metadata, or those of the tagger, which then also tells the rating: general and character tags with
    at least these probabilities. `wording`: what the models say, letter for letter as the scripts of the profile's model wrote
    it, slips included, or clean. `above`: what pictures need to be captioned at all.
    """

    profile: str
    percentiles: Literal["table", "selection"]
    tags: Literal["metadata", "annotations"]
    general_threshold: Share
    character_threshold: Share
    wording: Literal["exact", "clean"]
    above: ScoresAbove | None
    repeats: list[ScoreRepeat]


class Latents(Section):
    """Pixel area and limits of the aspect-ratio buckets, names as in sd-scripts; `dtype` is what the shards hold."""

    resolution: Count
    min_bucket_reso: Count
    max_bucket_reso: Count
    bucket_reso_steps: Count
    bucket_no_upscale: bool
    precision: Precision
    dtype: Literal["fp32", "fp16"]
    shard_megabytes: Count
    max_lost_share: Share

    @model_validator(mode="after")
    def _possible(self) -> "Latents":
        if self.bucket_reso_steps % 8:
            raise ValueError(f"bucket_reso_steps ({self.bucket_reso_steps}) must be a multiple of 8")
        if not self.min_bucket_reso <= self.resolution <= self.max_bucket_reso:
            raise ValueError(
                f"min_bucket_reso ({self.min_bucket_reso}) <= resolution ({self.resolution}) <= max_bucket_reso"
                f" ({self.max_bucket_reso}) does not hold: no bucket is possible"
            )
        if self.resolution < self.bucket_reso_steps:
            raise ValueError(f"resolution ({self.resolution}) is below bucket_reso_steps ({self.bucket_reso_steps})")
        return self


def _patterns(by_name: dict[str, int | None]) -> dict[str, int | None]:
    for pattern in by_name:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
    return by_name


class Lokr(Section):
    """LoKr factor by module class, full matrix always: a weight (out, in) gets about out * in / factor^2 trained numbers.

    `by_name`: factor by a regular expression that the whole of a module's LyCORIS name matches, the first that does; it
    goes before the class, and null leaves the module as it is.
    """

    unet_attention: Count
    unet_feed_forward: Count
    unet_resnet: Count
    unet_projection: Count
    text_attention: Count
    text_mlp: Count
    by_name: Annotated[dict[str, Count | None], AfterValidator(_patterns)]


class Checkpoints(Section):
    """Trained weights to keep of a run's middle: of those after every `every` updates the `keep_last` newest, and those
    whose number of updates is a multiple of `keep_every`."""

    every: Count
    keep_last: Annotated[int, Field(ge=0)]
    keep_every: Count | None

    @model_validator(mode="after")
    def _keeps(self) -> "Checkpoints":
        if self.keep_every is not None and self.keep_every % self.every:
            raise ValueError(f"keep_every ({self.keep_every}) must be a multiple of every ({self.every})")
        if not self.keep_last and self.keep_every is None:
            raise ValueError("keep_last: 0 without keep_every keeps nothing; write `checkpoints:` (null) for that")
        return self


SAMPLERS = ("euler", "euler_ancestral", "ddim", "dpmpp_2m", "dpmpp_2m_karras", "ddpm")
# Samplers that each family's schedule has a table for.
FAMILY_SAMPLERS: dict[FamilyName, tuple[str, ...]] = {"sdxl": SAMPLERS[:-1], "cascade": ("euler", "dpmpp_2m", "ddpm")}
# Settings of drawn pictures that a family has and others have not.
FAMILY_PICTURES: dict[FamilyName, tuple[str, ...]] = {"sdxl": ("original_width", "original_height"), "cascade": ("decoder",)}


class Decoder(Section):
    """Stable Cascade's second sampling, from stage C's latents to the picture, by DDPM steps; a guidance of 1 is none."""

    steps: Annotated[int, Field(ge=1, lt=1000)]
    guidance: Annotated[float, Field(ge=1)]


class SampledPictures(Section):
    """How pictures are sampled; sizes in pixels. The original size is what SDXL is told that the picture had before it
    was scaled: like the training pictures' for the same sharpness. Stable Cascade has `decoder` in its place."""

    negative_prompt: str
    sampler: Literal[SAMPLERS]
    steps: Annotated[int, Field(ge=1, lt=1000)]
    guidance: Positive
    width: Annotated[int, Field(ge=8, multiple_of=8)]
    height: Annotated[int, Field(ge=8, multiple_of=8)]
    original_width: Count | None
    original_height: Count | None
    decoder: Decoder | None


class Pictures(SampledPictures):
    """Pictures from fixed prompts and seeds after every `every` updates, and before the first."""

    every: Count
    prompts: Annotated[list[str], Field(min_length=1)]


class Train(Section):
    """One update is `batch_size` images: virtual_ranks x accumulation micro-batches of micro_batch_size each.

    SDXL's losses are weighted by min_snr_gamma or debiased, or not; Stable Cascade's by P2, or with `adaptive_loss_weight` by
    the inverse of what losses were at like noise.
    """

    precision: Precision
    method: Literal["lokr", "full"]
    lokr: Lokr
    optimizer: Literal["lion8bit", "lion", "adamw8bit", "adamw", "adafactor"]
    betas: Annotated[list[float], Field(min_length=2, max_length=2)]
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["constant", "cosine", "linear"]
    warmup_updates: Annotated[int, Field(ge=0)]
    updates: Count | None
    epochs: Count | None
    batch_size: Count
    micro_batch_size: Count
    virtual_ranks: Count
    max_grad_norm: Positive
    min_snr_gamma: Positive | None
    debiased: bool
    adaptive_loss_weight: bool
    noise_offset: Annotated[float, Field(ge=0)]
    adaptive_noise_offset: float
    max_token_length: Count
    shuffle_tags: bool
    tag_dropout: Share
    caption_dropout: Share
    file_dtype: Literal["fp16", "bf16", "fp32"]
    save_every: Count
    checkpoints: Checkpoints | None
    pictures: Pictures | None

    @property
    def accumulation(self) -> int:
        """Micro-batches that one virtual rank adds up for an update."""
        return self.batch_size // (self.virtual_ranks * self.micro_batch_size)

    @model_validator(mode="after")
    def _possible(self) -> "Train":
        if self.virtual_ranks & (self.virtual_ranks - 1):
            raise ValueError(f"virtual_ranks ({self.virtual_ranks}) must be a power of two")
        if self.batch_size % (self.virtual_ranks * self.micro_batch_size):
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of virtual_ranks x micro_batch_size"
                f" ({self.virtual_ranks} x {self.micro_batch_size})"
            )
        if (self.updates is None) == (self.epochs is None):
            raise ValueError("give either updates or epochs, and leave the other null")
        if self.max_token_length % TEXT_CHUNK:
            raise ValueError(f"max_token_length ({self.max_token_length}) must be a multiple of {TEXT_CHUNK}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas ({self.betas}) must lie in [0, 1)")
        if self.debiased and self.min_snr_gamma is not None:
            raise ValueError("debiased and min_snr_gamma are two weightings of the same loss; set one")
        return self


FORMULA_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
OWN_MODELS = ("base", "trained")


class Models(Section):
    """The published checkpoints that the formulas name: `files` in `folder`, which DVC follows as one."""

    folder: str
    files: dict[Annotated[str, Field(pattern=f"^{FORMULA_NAME}$")], str]

    @model_validator(mode="after")
    def _free_names(self) -> "Models":
        taken = [name for name in OWN_MODELS if name in self.files]
        if taken:
            raise ValueError(f"'{taken[0]}' is this run's own model in merge.formula; choose another name")
        return self


class FormulaSection(Section):
    """A formula (checkpoints/formula.py) and what it may do: see `python stages/merge.py --help`."""

    formula: str
    unmatched: Literal["refuse", "copy", "drop"]
    unchanged: Literal["refuse", "accept"]


class Base(FormulaSection):
    """The model that training starts from, of `models`; written as fp16, Stable Cascade as fp32.

    `prediction` and `zero_terminal_snr` are what it is trained to predict from here on, and its noise schedule; null
    keeps what the formula's first model says. `image_encoder` (EfficientNet's file or folder) and `decoder` (a diffusers
    folder of stage B and stage A) are of Stable Cascade, in models.folder; null where the formula's first model has its own.
    """

    prediction: Literal["epsilon", "v_prediction"] | None
    zero_terminal_snr: bool | None
    image_encoder: str | None
    decoder: str | None


class Merge(FormulaSection):
    """The published model, of `models`, and of what the formula calls base and trained: the files at `base` and `trained`.
    These are the run's own, or, in a recipe that merges published models alone, two of those."""

    base: str
    trained: str
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    dtype: Literal["fp16", "bf16", "fp32", "fp8"]
    fp8_tensors: Literal["all", "linear-and-conv"]
    title: str
    author: str
    date: str
    license: str


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# A file or folder below another, by a path that leads nowhere else.
FILE_PATH = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"


HubId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")]


class HubFolder(Section):
    """A folder of a repository on the Hugging Face hub, at one commit of it (null: nobody has written it down yet, and
    nothing is fetched before); `path` is empty for the whole repository."""

    kind: Literal["model", "dataset"] = "model"
    repo: HubId
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None
    path: Annotated[str, Field(pattern=r"^([A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*)?$")]


class Ccip(Section):
    """The CCIP encoder: a local folder, and where `make ccip` brings it from (null: it is there already).

    `sha256` is what its files must have, by name; what is not named is not checked, but every file from the hub must be.
    """

    folder: str
    hub: HubFolder | None
    sha256: dict[str, Sha256]


class AnnotationModel(Section):
    """A model that describes pictures: its folder within annotate.folder, and where `make taggers` brings that from (null:
    it is there already). `sha256` is what its files must have, by name; what is not named is not checked, but every file
    from the hub must be."""

    path: Annotated[str, Field(pattern=FILE_PATH)]
    hub: HubFolder | None
    sha256: dict[str, Sha256]


class Tagger(AnnotationModel):
    """A WD tagger (ONNX). `preprocess`: as which revision of sd-scripts, or as imgutils, makes its input of a picture.
    Probabilities below `floor` are not kept: neither thresholds of captions can be lower, nor what blocked tags count from."""

    preprocess: Literal["kohya-2024-04", "kohya-2024-07", "kohya-2025-02", "kohya-2026-01", "imgutils"]
    floor: Annotated[float, Field(ge=0, le=USUAL_THRESHOLD)]


class Scorer(AnnotationModel):
    """A picture classifier (shadowlilac/aesthetic-shadow-2): the probability of `label` is the score."""

    label: str


class QualityScorer(AnnotationModel):
    """Waifu Diffusion's aesthetic head, the file `head` of its path, over a CLIP image encoder."""

    head: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")]
    clip: AnnotationModel


class TextReader(AnnotationModel):
    """LLaVA in `precision`, asked `prompt` of the pictures that the metadata or the tagger gives one of `only_tags`; an
    answer and the prompt have `max_length` tokens together, the picture counted as one."""

    precision: Precision
    prompt: str
    max_length: Count
    only_tags: Annotated[list[str], Field(min_length=1)]


class Annotate(Section):
    """The models that describe pictures where no database does, in float32 but for the reader; null: not asked.

    A picture's results may depend in their last bits on `batch_size`, never on which pictures share a batch.
    """

    folder: str
    batch_size: Count
    tags: Tagger | None
    aesthetic: Scorer | None
    quality: QualityScorer | None
    text: TextReader | None


class References(Section):
    """Characters with at least `min_posts` training pictures, the `most_characters` most drawn of them (null: all), each
    with `pictures` reference pictures.

    `source` is a references.json, or a folder of the ingest stage from which they are chosen: of posts that show the
    character alone. They are at least `min_side` pixels wide and high and, with `unseen`, not trained on. For a folder hold
    also: they are of these `ratings`, and core tags are those of the looks that at least `core_tag_share` of the character's
    posts have; of a references.json its author says so.
    """

    source: str
    min_posts: Count
    most_characters: Count | None
    pictures: Count
    unseen: bool
    ratings: Annotated[list[Rating], Field(min_length=1)]
    min_side: Count
    core_tag_share: Share


class Generation(SampledPictures):
    """`pictures` of each character, model and mode, the templates (general tags by name) in turn. A prompt has the order
    of the caption profile; `artists` names an artist who draws the character in training."""

    modes: Annotated[list[Literal["name", "core_tags"]], Field(min_length=1)]
    templates: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], str], Field(min_length=1)]
    rating: Rating
    artists: bool
    pictures: Count
    precision: Precision

    @model_validator(mode="after")
    def _each_mode_once(self) -> "Generation":
        if len(set(self.modes)) != len(self.modes):
            raise ValueError("a mode stands twice in modes")
        return self


class Evaluate(Section):
    """`grid_characters`: of the best, the worst and the most changed each, shown in the report."""

    ccip: Ccip
    references: References
    generation: Generation
    bootstrap_samples: Count
    grid_characters: Count


class Report(Section):
    """What the model card says beside the run's own records.

    `base_models`, `datasets`: ids on the Hugging Face hub. `license_link`: where the text of `merge.license` stands, for one
    that the hub does not know. `cost`: what training took, in words, as `make cost` measured it; null where nobody wrote it
    down. Outputs hold no times, so it stands here.
    """

    title: str
    description: str
    base_models: list[HubId]
    datasets: list[HubId]
    license_link: str | None
    cost: str | None


class Input(Section):
    """A folder of files that a run reads and nobody may put into a repository: where `make fetch` brings them from (null:
    they are the reader's to bring), the sha256 of each file by its name in the folder (null: not known where the recipe was
    written), their licence, and, in `about`, what else is to be known of them."""

    hub: HubFolder | None
    files: dict[Annotated[str, Field(pattern=FILE_PATH)], Sha256 | None]
    license: str
    about: str | None


class Card(Section):
    """What a published model's card states of its own run, for `make plan` to hold its figures against; null: not stated.

    `images` are those trained on, `showings` what an epoch has of them where some are repeated; the last digit that is not
    rounded counts `rounded_to` of them. `lokr_megabytes` is what the LoKr's file stays below. `differs` tells why a plan by
    the recipe does not meet these figures.
    """

    source: str
    images: Count | None
    showings: Count | None
    rounded_to: Count
    updates: Count | None
    lokr_megabytes: Positive | None
    gpus: Count | None
    seconds_per_update: Positive | None
    days: Positive | None
    differs: str | None


class Runtime(Section):
    """What must not change a byte: listed under `params:` by no stage.

    `text_cache_megabytes`: memory for text encoder outputs of captions seen before, where the encoders are not trained.
    `tensorboard`: folder for TensorBoard's files, or null.
    """

    image_root: str
    processes: Count
    gradient_checkpointing: bool
    text_cache_megabytes: Annotated[int, Field(ge=0)]
    tensorboard: str | None


class Params(Section):
    recipe: str
    family: FamilyName
    # Decides bits as the precision does, so it is the recipe's: the CPU's are the same on every machine, a GPU's on its model.
    device: Literal["cpu", "cuda"]
    seed: Annotated[int, Field(ge=0)]
    lr: Positive
    te_lr: Annotated[float, Field(ge=0)]
    models: Models
    base: Base
    ingest: Ingest
    select: Select
    filter: Filter
    annotate: Annotate
    caption: Caption
    latents: Latents
    train: Train
    merge: Merge
    evaluate: Evaluate
    report: Report
    # Of these two no stage knows: what `make fetch` brings, and what `make plan` compares.
    inputs: dict[Annotated[str, Field(pattern=FILE_PATH)], Input]
    card: Card | None
    runtime: Runtime

    @model_validator(mode="after")
    def _fits_the_family(self) -> "Params":
        settings, has = self.train, FAMILY_PICTURES[self.family]
        sampled = {"evaluate.generation": self.evaluate.generation} | (
            {"train.pictures": settings.pictures} if settings.pictures else {}
        )
        for key, pictures in sampled.items():
            if pictures.sampler not in FAMILY_SAMPLERS[self.family]:
                allowed = ", ".join(FAMILY_SAMPLERS[self.family])
                raise ValueError(f"{key}.sampler: {pictures.sampler} is not one of family {self.family}; it has {allowed}")
            if (pictures.decoder is not None) != ("decoder" in has):
                raise ValueError(f"{key}.decoder: family cascade needs it, family sdxl has none; family is {self.family}")
            if {pictures.original_width is None, pictures.original_height is None} != {"original_width" not in has}:
                raise ValueError(f"{key}.original_width, original_height: of family sdxl only; family is {self.family}")
        of_sdxl = {
            "base.prediction": self.base.prediction,
            "base.zero_terminal_snr": self.base.zero_terminal_snr,
            "train.min_snr_gamma": settings.min_snr_gamma,
            "train.debiased": settings.debiased or None,
            "train.noise_offset": settings.noise_offset or None,
            "train.adaptive_noise_offset": settings.adaptive_noise_offset or None,
        }
        of_cascade = {
            "base.image_encoder": self.base.image_encoder,
            "base.decoder": self.base.decoder,
            "train.adaptive_loss_weight": settings.adaptive_loss_weight or None,
        }
        refused: dict[FamilyName, dict[str, Any]] = {"sdxl": of_cascade, "cascade": of_sdxl}
        for key, value in refused[self.family].items():
            if value is not None:
                raise ValueError(f"{key}: family {self.family} has no such setting; leave it null, false or 0")
        return self

    @model_validator(mode="after")
    def _captions_have_their_annotations(self) -> "Params":
        asked, caption = self.annotate, self.caption
        if caption.tags == "annotations":
            if asked.tags is None:
                raise ValueError("caption.tags: annotations needs a tagger in annotate.tags")
            if min(caption.general_threshold, caption.character_threshold) < asked.tags.floor:
                raise ValueError(f"caption's thresholds must not be below annotate.tags.floor ({asked.tags.floor})")
        for key, scores in {"above": [caption.above] if caption.above else [], "repeats": caption.repeats}.items():
            for name in ("aesthetic", "quality"):
                if getattr(asked, name) is None and any(getattr(score, name) is not None for score in scores):
                    raise ValueError(f"caption.{key}: {name} needs a model in annotate.{name}")
        return self

    @model_validator(mode="after")
    def _no_blocked_tag_is_asked_for(self) -> "Params":
        asked = {f"evaluate.generation.templates.{name}": tags for name, tags in self.evaluate.generation.templates.items()}
        if self.train.pictures:
            asked |= {f"train.pictures.prompts.{number}": prompt for number, prompt in enumerate(self.train.pictures.prompts)}
        for key, words in asked.items():
            if tag := blocked_words(words, [*ALWAYS_BLOCKED, *self.filter.blocked_tags]):
                raise ValueError(f"{key}: {words!r} asks for '{tag}', one of filter.blocked_tags")
        return self


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise StageError(f"--set {override}: write it as key=value, e.g. --set train.updates=100")
    *path, last = key.split(".")
    node = values
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise StageError(f"--set {key}: there is no section '{part}' in the parameters")
    if last not in node:
        raise StageError(f"--set {key}: no such key; {'.'.join(path) or 'the top level'} has {', '.join(node)}")
    node[last] = read_yaml(text, f"--set {key}")


def _explain(error: ValidationError, name: str) -> str:
    lines = []
    for item in error.errors()[:2]:
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"{name}: unknown key '{key}' (value {item['input']!r}); a typing error?")
        elif item["type"] == "missing":
            lines.append(f"{name}: key '{key}' is missing")
        else:
            shown = f" (it is {item['input']!r})" if isinstance(item["input"], str | int | float | bool | list | None) else ""
            lines.append(f"{name}: {key}: {item['msg'].removeprefix('Value error, ')}{shown}")
    return "\n".join(lines)


def load_params(path: Path, overrides: list[str] | None = None) -> Params:
    """Read and validate a whole parameter file, with `key=value` overrides applied.

    Raises:
        StageError: missing file, bad YAML, unknown or missing key, wrong type or impossible
            combination; one line naming the key, the value and what is allowed.
    """
    path = Path(path)
    if not path.exists():
        raise StageError(f"{path}: no such parameter file; `make recipe NAME=sample` puts the sample's in place")
    values = read_yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(values, dict):
        raise StageError(f"{path}: expected a mapping of keys to values")
    for override in overrides or []:
        _apply_override(values, override)
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise StageError(_explain(error, str(path))) from None
