"""recipes/kohaku-xl-*.yaml against the models' cards (Delta: civitai, 2024-03-03; Epsilon: the hub, 2024-04-21; Gamma: civitai,
2024-01-28), HakuBooru's script and docs/differences-from-sd-scripts.md.

Each value that decides is the card's, which CARD and its kin write out, or a guess, which the recipe says beside it, or the
program's own, which no published value stands against.
"""

from pathlib import Path
from typing import Any

from repro.params import Params, load_params

import pytest
from recipe_marks import marked_keys, value_at

from checkpoints.formula import parse_formula

RECIPES = Path("recipes")
NAMES = ("delta", "epsilon", "gamma-base7", "gamma-base8", "gamma-rev1", "gamma-rev2")
DECIDING = ("seed", "lr", "te_lr", "base", "select", "filter", "caption", "latents", "train", "merge")

LOKR = {
    "train.method": "lokr", "train.optimizer": "lion8bit", "train.betas": [0.9, 0.95], "train.weight_decay": 0.1,
    "train.schedule": "constant", "train.min_snr_gamma": 5.0, "train.precision": "fp16", "train.epochs": 1,
    "train.shuffle_tags": True, "latents.resolution": 1024, "latents.min_bucket_reso": 256, "latents.max_bucket_reso": 4096,
    "filter.drop_deleted": True, "merge.formula": "lokr(base, trained, 1.0)",
}  # fmt: skip
GAMMA = {
    "train.batch_size": 128, "train.micro_batch_size": 4, "train.virtual_ranks": 2, "train.schedule": "constant",
    "latents.min_bucket_reso": 768, "latents.max_bucket_reso": 1024, "latents.resolution": 1024, "base.formula": "beta7",
}  # fmt: skip
CARD: dict[str, dict[str, Any]] = {
    "delta": LOKR | {
        "lr": 4e-5, "te_lr": 1e-5, "train.batch_size": 128, "train.micro_batch_size": 4, "train.virtual_ranks": 2,
        "train.warmup_updates": 50, "train.tag_dropout": 0.1, "train.noise_offset": 0.0, "caption.profile": "kohaku-xl-delta",
        "select.draw": "replay", "merge.title": "Kohaku XL Delta", "seed": 1,
    },
    "epsilon": LOKR | {
        "lr": 2e-5, "te_lr": 5e-6, "train.batch_size": 256, "train.micro_batch_size": 4, "train.virtual_ranks": 4,
        "train.warmup_updates": 250, "train.tag_dropout": 0.15, "train.noise_offset": 0.0357,
        "caption.profile": "kohaku-xl-epsilon",
    },
    "gamma-base7": GAMMA | {"lr": 8e-6, "te_lr": 2e-6},
    "gamma-base8": GAMMA | {"lr": 5e-6, "te_lr": 1e-6, "train.epochs": 1},
    "gamma-rev1": {"merge.formula": "beta7 + 0.8 * (anxl3 - anxl2) + 0.5 * (base7 - beta7)"},
    "gamma-rev2": {
        "merge.formula": "mbw(beta7 + 1.0 * (anxl3 - anxl2) + 0.25 * (base8 - beta7), anxl3,"
        " [0, 0.1, 0.1, 0, 0.1, 0.1, 0, 0.1, 0.1, 0, 0, 0, 0, 0, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05])"
    },
}  # fmt: skip
EVERYWHERE_GUESSED = {
    "latents.bucket_reso_steps", "latents.bucket_no_upscale", "latents.precision", "latents.dtype", "filter.drop_banned",
    "train.max_grad_norm", "train.max_token_length", "train.caption_dropout", "train.file_dtype", "train.lokr.unet_attention",
    "train.lokr.unet_feed_forward", "train.lokr.unet_resnet", "train.lokr.unet_projection", "train.lokr.text_attention",
    "train.lokr.text_mlp",
}  # fmt: skip
GAMMA_GUESSED = EVERYWHERE_GUESSED | {
    "seed", "select.draw", "filter.drop_deleted", "caption.profile", "train.method", "train.optimizer", "train.betas",
    "train.weight_decay", "train.warmup_updates", "train.min_snr_gamma", "train.noise_offset", "train.shuffle_tags",
    "train.tag_dropout",
}  # fmt: skip
GUESSED = {
    "delta": EVERYWHERE_GUESSED | {"seed", "base.formula"},
    "epsilon": EVERYWHERE_GUESSED | {"seed", "base.formula", "select.draw"},
    "gamma-base7": GAMMA_GUESSED | {"train.epochs"},
    "gamma-base8": GAMMA_GUESSED,
    "gamma-rev1": GAMMA_GUESSED | {"train.epochs"},
    "gamma-rev2": GAMMA_GUESSED,
}
OWN = {
    "base.unmatched", "base.unchanged", "base.prediction", "base.zero_terminal_snr", "base.image_encoder", "base.decoder",
    "select.ranges", "select.required_tags", "select.excluded_tags", "select.at_least", "select.min_tags", "select.ratings",
    "select.min_score", "select.min_favourites", "select.first_date", "select.last_date", "select.max_per_character",
    "select.max_per_artist", "select.repeats", "filter.image_index", "filter.blocked_tags", "filter.ratings",
    "filter.extensions", "filter.min_side", "filter.min_pixels", "filter.max_aspect_ratio", "filter.near_duplicates",
    "filter.max_lost_share", "caption.percentiles", "caption.tags", "caption.general_threshold", "caption.character_threshold",
    "caption.wording", "caption.above", "caption.repeats", "latents.shard_megabytes", "latents.max_lost_share",
    "train.lokr.by_name", "train.updates", "train.debiased", "train.adaptive_loss_weight", "train.adaptive_noise_offset",
    "train.save_every", "train.checkpoints", "train.pictures", "train.precision", "merge.base", "merge.trained", "merge.name",
    "merge.dtype", "merge.fp8_tensors", "merge.unmatched", "merge.unchanged", "merge.title", "merge.author", "merge.date",
    "merge.license", "merge.formula", "draw",
}  # fmt: skip


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def params(name: str) -> Params:
    return load_params(RECIPES / f"kohaku-xl-{name}.yaml")


def test_values_are_the_cards(name: str) -> None:
    values = params(name).model_dump()
    assert {key: value_at(values, key) for key in CARD[name]} == CARD[name]
    assert (values["recipe"], values["merge"]["name"]) == (f"kohaku-xl-{name}", f"kohaku-xl-{name.replace('gamma-base', 'base')}")
    assert (values["merge"]["dtype"], values["merge"]["license"]) == ("fp16", "fair-ai-public-license-1.0-sd")


def test_every_guess_says_so_and_nothing_else_does(name: str) -> None:
    marked = marked_keys(RECIPES / f"kohaku-xl-{name}.yaml")
    assert {key for key, guess in marked.items() if guess} == GUESSED[name]


def test_every_value_that_decides_is_accounted_for(name: str) -> None:
    of_base = {"gamma-rev1": "gamma-base7", "gamma-rev2": "gamma-base8"}
    known = {*CARD[name], *CARD[of_base.get(name, name)], *GUESSED[name], *OWN}
    keys = [key for key in marked_keys(RECIPES / f"kohaku-xl-{name}.yaml") if key.split(".")[0] in DECIDING]
    parents = {key[:at] for key in keys for at in range(len(key)) if key[at] == "."}
    assert [key for key in keys if key not in parents and not any(f"{key}.".startswith(f"{one}.") for one in known)] == []


def test_posts_are_drawn_from_the_cards_ranges() -> None:
    ranges = {n: [(r.first, r.last, r.take) for r in params(n).select.ranges] for n in ("delta", "epsilon")}
    assert ranges["delta"][:2] == [(3_000_000, 4_999_999, 1_000_000), (0, 2_999_999, 1_000_000)]
    assert ranges["epsilon"][:2] == [(0, 1_999_999, 1_000_000), (2_000_000, 4_999_999, 2_000_000)]
    # "Totaling" 4.1 and 5.35 million posts, all of those from id 5,000,000 among them.
    for name, rest in (("delta", 2_100_000), ("epsilon", 2_350_000)):
        first, last, take = ranges[name][2]
        assert (first, last - first + 1, take) == (5_000_000, rest, None)


def test_delta_and_epsilon_start_from_the_same_sum_of_restored_models() -> None:
    for name in ("delta", "epsilon"):
        formula = params(name).base.formula
        assert formula == "weighted_sum(restore_embeddings(gamma_rev2, sdxl), restore_embeddings(beta7, sdxl), 0.5)"


def test_base8_is_base7_at_another_rate_and_rev_have_their_bases_sections() -> None:
    own = {"recipe", "lr", "te_lr", "models", "merge", "report", "inputs", "card"}
    dumps = {n: params(n).model_dump(exclude=own) for n in NAMES if n.startswith("gamma")}
    assert dumps["gamma-base7"] == dumps["gamma-base8"] == dumps["gamma-rev1"] == dumps["gamma-rev2"]


def test_every_file_of_models_is_an_input_and_the_other_way_round(name: str) -> None:
    recipe = params(name)
    folder = recipe.models.folder
    listed = {f"{where}/{file}" for where, one in recipe.inputs.items() for file in one.files}
    for file in recipe.models.files.values():
        assert f"{folder}/{file}" in listed or f"{folder}/{file}" in recipe.inputs
    used = {*recipe.models.files.values()}
    for where in recipe.inputs:
        if where.startswith(folder):
            assert any(file.startswith(where.removeprefix(f"{folder}/")) for file in used), where
    needs_data = not name.startswith("gamma-rev")
    assert (recipe.ingest.database in listed, recipe.runtime.image_root in recipe.inputs) == (needs_data, needs_data)


def test_inputs_state_their_licence_and_a_place_for_each_hash(name: str) -> None:
    for where, one in params(name).inputs.items():
        assert one.license and one.about, where
        assert one.files or one.hub is None, where


def test_merges_name_only_listed_models_and_hang_on_no_training() -> None:
    for name in ("gamma-rev1", "gamma-rev2"):
        recipe = params(name)
        formula = parse_formula(recipe.merge.formula)
        assert {*formula.models} <= {*recipe.models.files} and not formula.lokrs
        paths = {f"{recipe.models.folder}/{file}" for file in recipe.models.files.values()}
        assert {recipe.merge.base, recipe.merge.trained} <= paths


def test_every_recipe_blocks_and_evaluates_generally(name: str) -> None:
    recipe = params(name)
    assert {"loli", "shota", "toddlercon"} <= {*recipe.filter.blocked_tags}
    assert recipe.evaluate.generation.rating == "general" and recipe.evaluate.references.ratings[-1] == "sensitive"
