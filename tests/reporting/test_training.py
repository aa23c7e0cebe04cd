from pathlib import Path
from typing import get_args

from repro.params import Base, FamilyName, Params, Train, load_params

import pytest

from families.family import family
from reporting.families import FAMILY_WORDS
from reporting.training import (
    DEBIASED,
    MIN_SNR,
    OPTIMIZER_PAPERS,
    OPTIMIZER_WORDS,
    PREDICTION_WORDS,
    epoch_words,
    factor_words,
    noise_words,
    schedule_words,
    target_words,
    training_facts,
    weighting,
)


def params(**train) -> Params:
    sample = load_params(Path("recipes/sample.yaml"))
    return sample.model_copy(update={"train": sample.train.model_copy(update=train)})


def test_every_optimizer_and_prediction_has_words():
    optimizers = set(get_args(Train.model_fields["optimizer"].annotation))
    assert set(OPTIMIZER_WORDS) == set(OPTIMIZER_PAPERS) == optimizers
    predictions = Base.model_fields["prediction"].annotation
    assert set(PREDICTION_WORDS) == set(get_args(get_args(predictions)[0]))


@pytest.mark.parametrize(
    ("schedule", "warmup", "words"),
    [("constant", 0, "constant"), ("constant", 10, "constant with warm-up"), ("cosine", 1, "cosine with warm-up")],
)
def test_a_warm_up_is_told_where_there_is_one(schedule, warmup, words):
    assert schedule_words(params(schedule=schedule, warmup_updates=warmup).train) == words


def test_the_losss_weighting_is_one_of_three_or_stable_cascades():
    assert weighting(params(min_snr_gamma=5.0).train, "sdxl") == ("min-SNR, gamma 5", MIN_SNR)
    assert weighting(params(min_snr_gamma=None, debiased=True).train, "sdxl") == ("debiased", DEBIASED)
    assert weighting(params(min_snr_gamma=None).train, "sdxl") == ("none", None)
    words, paper = weighting(params(min_snr_gamma=None).train, "cascade")
    assert words == "P2, 1 / (1 + SNR)" and paper.startswith("Choi")
    words, paper = weighting(params(min_snr_gamma=None, adaptive_loss_weight=True).train, "cascade")
    assert words.startswith("adaptive") and paper is None


def test_the_weighting_of_a_family_without_words_is_not_anothers():
    with pytest.raises(KeyError, match="third"):
        weighting(params(min_snr_gamma=None).train, "third")


def test_noise_offset_and_what_the_latent_adds():
    assert noise_words(params(noise_offset=0.0357).train) == "0.0357"
    assert noise_words(params(noise_offset=0.0).train) == "none"
    adaptive = params(noise_offset=0.05, adaptive_noise_offset=0.01).train
    assert noise_words(adaptive) == "0.05 + 0.01 x |mean of the latent's channel|"


def test_the_target_is_told_where_the_recipe_sets_it():
    base = params().base
    assert target_words(base) is None
    assert target_words(base.model_copy(update={"zero_terminal_snr": False})) == "no zero-terminal SNR"
    velocity = base.model_copy(update={"prediction": "v_prediction", "zero_terminal_snr": True})
    assert target_words(velocity) == "velocity (v-prediction), zero-terminal SNR"


def test_factors_by_name_come_behind_those_by_class():
    lokr = params().train.lokr
    sdxl = "UNet attention 2, feed-forward 2, resnet 2, projections 2; text encoder attention 2, MLP 2"
    assert factor_words(lokr, "sdxl") == sdxl
    assert factor_words(lokr, "cascade") == sdxl.replace("UNet", "stage C prior").replace("feed-forward 2, ", "")
    named = lokr.model_copy(update={"by_name": {"lora_unet_.*_ff_net_2": 4, "lora_te1_.*": None}})
    assert factor_words(named, "sdxl").endswith("MLP 2; by name: lora_unet_.*_ff_net_2 4, lora_te1_.* untrained")


@pytest.mark.parametrize("name", get_args(FamilyName))
def test_factors_are_told_of_the_classes_that_the_family_has(name):
    told = {setting for settings in FAMILY_WORDS[name].lokr for setting in settings}
    assert told == set(family(name).LOKR_CLASSES.values())


def test_epochs_are_told_where_they_were_asked_for():
    assert epoch_words(params().train) is None
    assert epoch_words(params(updates=None, epochs=1).train) == "1 epoch asked for"
    assert epoch_words(params(updates=None, epochs=16).train) == "16 epochs asked for"


def test_arithmetic_sizes_and_papers_follow_the_recipe():
    facts = training_facts(params(precision="bf16", optimizer="adafactor", method="full").model_copy(update={"device": "cuda"}))
    assert facts["arithmetic"] == "bf16 on a GPU"
    assert "steps of 16; latents encoded in fp32 and kept as fp32" in facts["bucket_rule"]
    assert [paper.split(" (")[0] for paper in facts["papers"]] == ["Podell et al.", "Hang et al.", "Shazeer and Stern"]
    sample = params()
    latents = sample.latents.model_copy(update={"bucket_no_upscale": True})
    assert "not enlarged" in training_facts(sample.model_copy(update={"latents": latents}))["bucket_rule"]
