"""recipes/sotediffusion-{base,final}.yaml against the model's card (SoteDiffusion Wuerstchen3, civitai, 2024-06-10).

Each value that decides what is captioned, encoded and trained is the card's or a published script's, which CARD and its kin
write out, or a guess, which the recipe says beside it, or the program's own, which no published value stands against.
"""

from itertools import pairwise
from pathlib import Path

from repro.params import Params, load_params

import pytest
from recipe_marks import marked_keys, value_at

from training.order import updates_per_epoch

RECIPES = Path("recipes")
DECIDING = ("seed", "lr", "te_lr", "select", "filter", "annotate", "caption", "latents", "train")

# "weights fp32, amp bf16, save weights fp16, resolution 1024x1024, effective batch size 128, optimizer Adafactor"; the command
# line of the tagger; "Smallest size is 1280x600 / 768.000 pixels"; "random tag order"; 8 cards.
CARD = {
    "filter.min_side": 600,
    "filter.min_pixels": 768_000,
    "annotate.tags.path": "wd-swinv2-tagger-v3",
    "annotate.aesthetic.path": "aesthetic-shadow-2",
    "annotate.quality.path": "waifu-diffusion-v1-4",
    "annotate.quality.head": "aes-B32-v0.pth",
    "annotate.text.path": "llava-1.5-7b-hf",
    "caption.profile": "sotediffusion",
    "caption.tags": "annotations",
    "caption.general_threshold": 0.35,
    "caption.character_threshold": 0.5,
    "latents.resolution": 1024,
    "train.precision": "bf16",
    "train.method": "full",
    "train.optimizer": "adafactor",
    "train.batch_size": 128,
    "train.virtual_ranks": 8,
    "train.shuffle_tags": True,
    "train.file_dtype": "fp16",
}
CARD_OF_RUN = {
    "base": {"lr": 1e-5, "te_lr": 4e-6, "train.epochs": 3, "caption.above": None},
    "final": {"lr": 4e-6, "te_lr": 0.0, "train.epochs": 16, "caption.repeats": []},
}
# Disty0's dataset-helpers, sd-scripts at the time, and the models' own files.
SCRIPTS = {
    "annotate.tags.preprocess": "kohya-2024-04",
    "annotate.aesthetic.label": "hq",
    "annotate.quality.clip.path": "clip-vit-base-patch32",
    "annotate.text.precision": "fp16",
    "annotate.text.prompt": "<image>\nuser: what does the text say?\nassistant:",
    "annotate.text.max_length": 64,
    "caption.wording": "exact",
}
GUESSED = {
    "seed", "select.ranges", "filter.drop_deleted", "filter.drop_banned", "filter.max_aspect_ratio", "filter.near_duplicates",
    "annotate.text.only_tags", "latents.min_bucket_reso", "latents.max_bucket_reso", "latents.bucket_reso_steps",
    "latents.bucket_no_upscale", "latents.precision", "latents.dtype", "train.weight_decay", "train.schedule",
    "train.warmup_updates", "train.micro_batch_size", "train.max_grad_norm", "train.adaptive_loss_weight",
    "train.max_token_length", "train.tag_dropout", "train.caption_dropout",
}  # fmt: skip
GUESSED_OF_RUN = {"base": {"caption.repeats"}, "final": {"caption.above"}}
# Where the files are brought from; what asks or changes nothing here; what keeps the run safe.
OWN = {
    "select.draw", "select.required_tags", "select.excluded_tags", "select.at_least", "select.min_tags", "select.ratings",
    "select.min_score", "select.min_favourites", "select.first_date", "select.last_date", "select.max_per_character",
    "select.max_per_artist", "select.repeats", "filter.image_index", "filter.blocked_tags", "filter.ratings", "filter.extensions",
    "filter.max_lost_share", "annotate.folder", "annotate.batch_size", "annotate.tags.hub", "annotate.tags.sha256",
    "annotate.tags.floor", "annotate.aesthetic.hub", "annotate.aesthetic.sha256", "annotate.quality.hub",
    "annotate.quality.sha256", "annotate.quality.clip.hub", "annotate.quality.clip.sha256", "annotate.text.hub",
    "annotate.text.sha256", "caption.percentiles", "latents.shard_megabytes", "latents.max_lost_share", "train.lokr",
    "train.betas", "train.updates",
    "train.min_snr_gamma", "train.debiased", "train.noise_offset", "train.adaptive_noise_offset", "train.save_every",
    "train.checkpoints", "train.pictures",
}  # fmt: skip
# Images by date and source, as its table counts them.
IMAGES = {
    "oldest": 160_000, "early": 566_000, "mid": 993_000, "recent": 1_380_000, "newest": 1_850_000, "pixiv": 344_000,
    "visual-novel-cg": 231_000, "anime-wallpaper": 105_000,
}  # fmt: skip
TOTAL, BEST = 5_628_499, 120_000


@pytest.fixture(params=["base", "final"])
def run(request: pytest.FixtureRequest) -> str:
    return request.param


def recipe(run: str) -> Path:
    return RECIPES / f"sotediffusion-{run}.yaml"


def params(run: str) -> Params:
    return load_params(recipe(run))


def test_values_are_the_cards_or_the_scripts(run: str) -> None:
    values = params(run).model_dump()
    published = CARD | SCRIPTS | CARD_OF_RUN[run]
    assert {key: value_at(values, key) for key in published} == published
    assert values["family"] == "cascade"
    assert values["merge"]["dtype"] == "fp16" and values["merge"]["license"] == "fair-ai-public-license-1.0-sd"


def test_every_guess_says_so_and_nothing_else_does(run: str) -> None:
    marked = marked_keys(recipe(run))
    assert {key for key, guess in marked.items() if guess} == GUESSED | GUESSED_OF_RUN[run]


def test_every_value_that_decides_is_accounted_for(run: str) -> None:
    known = {*CARD, *SCRIPTS, *CARD_OF_RUN[run], *GUESSED, *GUESSED_OF_RUN[run], *OWN}
    keys = [key for key in marked_keys(recipe(run)) if key.split(".")[0] in DECIDING]
    parents = {key[:at] for key in keys for at in range(len(key)) if key[at] == "."}
    unknown = [key for key in keys if key not in parents and not any((key + ".").startswith(f"{one}.") for one in known)]
    assert unknown == []


def test_images_are_taken_by_date_and_source_as_the_card_counts_them(run: str) -> None:
    ranges = params(run).model_dump()["select"]["ranges"]
    assert [one["take"] for one in ranges] == list(IMAGES.values())
    assert [one.get("folder") for one in ranges if one.get("folder")] == list(IMAGES)[5:]
    by_id = [(one["first"], one["last"]) for one in ranges if not one.get("folder")]
    assert all(last + 1 == first for (_, last), (first, _) in pairwise(by_id))
    # The table is rounded to thousands; the total is not.
    assert sum(IMAGES.values()) == pytest.approx(TOTAL, abs=500 * len(IMAGES))


def test_the_final_run_has_the_pictures_that_the_base_run_repeats_and_its_model() -> None:
    base, final = params("base"), params("final")
    (best,) = base.caption.repeats
    assert (best.aesthetic, best.quality) == (final.caption.above.aesthetic, final.caption.above.quality)
    assert best.extra == 5
    assert TOTAL + best.extra * BEST == pytest.approx(6_200_000, abs=50_000)
    assert final.models.folder == f"models/{base.merge.name}"
    changed = {"recipe", "lr", "te_lr", "models", "base", "caption", "train", "merge", "report", "inputs", "card"}
    assert base.model_dump(exclude=changed) == final.model_dump(exclude=changed)
    assert base.train.model_copy(update={"epochs": 16}) == final.train


def test_updates_are_those_of_the_cards_epochs() -> None:
    """Its heading says 50,000 steps, which are 6.4 million showings, about one epoch: three have 145,983."""
    for run, shown, in_all in (("base", TOTAL + 5 * BEST, 145_983), ("final", BEST, 15_008)):
        settings = params(run).train
        per_epoch = updates_per_epoch([(1024, 1024)] * shown, settings.micro_batch_size, settings.accumulation * 8)
        assert settings.epochs * per_epoch == in_all
    showings_of_heading = 50_000 * 128
    assert showings_of_heading == pytest.approx(TOTAL + 5 * BEST, rel=0.03)


def test_pictures_are_drawn_as_the_card_says(run: str) -> None:
    drawn = params(run).evaluate.generation
    assert (drawn.sampler, drawn.steps, drawn.guidance, drawn.width, drawn.height) == ("ddpm", 30, 7.0, 1024, 1536)
    assert (drawn.decoder.steps, drawn.decoder.guidance) == (10, 1.0)
    assert drawn.negative_prompt == "very displeasing, worst quality, monochrome, realistic, oldest, loli"
