"""SDXL: what it reads from its folder, its conditioning, its losses and its sampler against diffusers'."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.params import FAMILY_SAMPLERS, SampledPictures, Train, load_params

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from small_sdxl import ADDITION_TIME_DIM, TEXT_WIDTHS, write_small_sdxl
from tiny_training import REPOSITORY

from families.family import Batch, Sizes
from families.noise import Prediction
from families.sdxl import (
    Sdxl,
    draw_picture,
    encode_captions,
    load,
    loss_weights,
    losses,
    sample_latents,
    time_ids,
)
from families.text_cache import TextCache, encode_training_captions
from families.tokens import token_windows
from planning.sdxl_architecture import real_sdxl_configs

SIZES = [Sizes(128, 192, 5, 10, 64, 64), Sizes(80, 48, 0, 0, 64, 64)]
CAPTIONS = ["1girl, solo", "1boy, " + "tag, " * 90]
SAMPLED = SampledPictures(
    negative_prompt="bad", sampler="euler", steps=5, guidance=4.0, width=48, height=64, original_width=90, original_height=100,
    decoder=None,
)  # fmt: skip
SCHEDULES = [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sdxl(tmp_path_factory.mktemp("sdxl") / "model", seed=8)


@pytest.fixture(scope="module")
def model(folder: Path) -> Sdxl:
    return load(folder)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def settings() -> Train:
    overrides = ["train.min_snr_gamma=", "train.debiased=false", "train.max_token_length=75"]
    return load_params(REPOSITORY / "recipes" / "sample.yaml", overrides).train


def with_schedule(folder: Path, target: Path, **entries: Any) -> Path:
    shutil.copytree(folder, target)
    path = target / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return target


def as_trained_for(model: Sdxl, prediction: Prediction, zero_terminal_snr: bool = False) -> Sdxl:
    return replace(model, prediction=prediction, zero_terminal_snr=zero_terminal_snr)


def batch_of(timesteps: list[int]) -> Batch:
    """Two pictures at these timesteps."""
    return Batch([0, 1], drawn(1), drawn(2), torch.tensor(timesteps), CAPTIONS, SIZES)


def drawn(seed: int, images: int = 2) -> torch.Tensor:
    return torch.randn(images, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("entries", "read"),
    [
        ({}, ("epsilon", False)),
        ({"prediction_type": "v_prediction"}, ("v_prediction", False)),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, ("v_prediction", True)),
    ],
)
def test_prediction_and_schedule_are_the_folders(folder: Path, tmp_path: Path, entries: dict, read: tuple[str, bool]) -> None:
    model = load(with_schedule(folder, tmp_path / "model", **entries))
    assert (model.prediction, model.zero_terminal_snr) == read
    assert (model.device, model.precision, model.text_cache) == (torch.device("cpu"), "fp32", None)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"prediction_type": "sample"}, "prediction_type 'sample'.*expected epsilon or v_prediction"),
        ({"rescale_betas_zero_snr": "yes"}, "rescale_betas_zero_snr 'yes'.*true or false"),
    ],
)
def test_a_schedule_that_is_not_known_is_refused(folder: Path, tmp_path: Path, entries: dict, words: str) -> None:
    with pytest.raises(StageError, match=rf"scheduler_config\.json: .*{words}"):
        load(with_schedule(folder, tmp_path / "model", **entries))


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_scheduler_config_that_cannot_be_read_is_named(folder: Path, tmp_path: Path, content: str | None) -> None:
    path = with_schedule(folder, tmp_path / "model") / "scheduler" / "scheduler_config.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(StageError, match=r"scheduler_config\.json: cannot be read"):
        load(tmp_path / "model")


def test_missing_and_broken_components_are_named(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "model")
    (copy / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(StageError, match="model/vae: cannot be loaded as AutoencoderKL"):
        load(copy)
    shutil.rmtree(copy / "unet")
    with pytest.raises(StageError, match="no folder 'unet'"):
        load(copy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told(folder: Path) -> None:
    with pytest.raises(StageError, match=r"device: cuda.*finds no GPU here; set device: cpu"):
        load(folder, "cuda")


@pytest.mark.golden
def test_size_embeddings_are_sd_scripts(golden: Path) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(real_sdxl_configs()["unet"])
    for case in json.loads((golden / "train" / "size_embeddings.json").read_text())["cases"]:
        sizes = Sizes(*case["original_size_hw"], *case["crop_top_left"], *case["target_size_hw"])
        embedding = unet.add_time_proj(torch.tensor(time_ids(sizes), dtype=torch.float32)).flatten()
        assert torch.allclose(embedding, torch.tensor(case["embedding_1536"]), rtol=0, atol=2e-4)


def test_the_unet_is_told_pooled_text_and_sizes(model: Sdxl, settings: Train) -> None:
    told = []
    hook = model.unet.add_embedding.register_forward_pre_hook(lambda _, inputs: told.append(inputs[0]))
    losses(model, batch_of([5, 500]), settings)
    hook.remove()
    assert told[0].shape == (2, TEXT_WIDTHS[1] + 6 * ADDITION_TIME_DIM)
    assert torch.equal(told[0][:, : TEXT_WIDTHS[1]], encode_captions(model, CAPTIONS, 75)[1])
    half = ADDITION_TIME_DIM // 2
    numbers = [one.original_height for one in SIZES], [one.target_width for one in SIZES]
    for place, values in ((0, numbers[0]), (5, numbers[1])):
        start = TEXT_WIDTHS[1] + place * ADDITION_TIME_DIM
        for i in (0, 3):
            angles = [value * 10000 ** (-i / half) for value in values]
            assert told[0][:, start + i].tolist() == pytest.approx(list(map(math.cos, angles)), abs=1e-4)
            assert told[0][:, start + half + i].tolist() == pytest.approx(list(map(math.sin, angles)), abs=1e-4)


def test_captions_of_one_window_are_encoded_as_diffusers_does(model: Sdxl, pipeline: StableDiffusionXLPipeline) -> None:
    context, pooled = encode_captions(model, CAPTIONS, 75)
    theirs, _, their_pooled, _ = pipeline.encode_prompt(CAPTIONS, device="cpu", do_classifier_free_guidance=False)
    assert torch.allclose(context, theirs, rtol=0, atol=1e-5)
    assert torch.allclose(pooled, their_pooled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [150, 225])
def test_longer_captions_are_windows_joined_at_their_marks(model: Sdxl, length: int) -> None:
    caption = " ".join("abcdefghij"[i % 10] + "klmnopqrs"[i % 9] for i in range(length // 2))
    context, pooled = encode_captions(model, [caption], length)
    assert context.shape == (1, length + 2, sum(TEXT_WIDTHS))
    first = 0
    for tokenizer, encoder in ((model.tokenizer, model.text_encoder), (model.tokenizer_2, model.text_encoder_2)):
        windows = token_windows(tokenizer, [caption], length)[0]
        outputs = [encoder(ids[None], output_hidden_states=True) for ids in windows]
        states = [output.hidden_states[-2][0] for output in outputs]
        expected = torch.cat([states[0][:1], *(state[1:-1] for state in states), states[-1][-1:]])
        assert torch.allclose(context[0, :, first : first + expected.shape[1]], expected, rtol=0, atol=1e-5)
        first += expected.shape[1]
    assert torch.allclose(pooled, outputs[0].text_embeds, rtol=0, atol=1e-5)
    assert not torch.allclose(pooled, outputs[1].text_embeds, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("prediction", "zero_terminal"), SCHEDULES)
def test_losses_are_of_diffusers_noising_and_target(model: Sdxl, settings: Train, prediction: str, zero_terminal: bool) -> None:
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DDPMScheduler(**schedule, prediction_type=prediction, rescale_betas_zero_snr=zero_terminal)
    batch = batch_of([20, 999])
    latents, noise, timesteps = batch.latents, batch.noise, batch.timesteps
    context, pooled = encode_captions(model, CAPTIONS, 75)
    conditions = {"text_embeds": pooled, "time_ids": torch.tensor([time_ids(one) for one in SIZES], dtype=torch.float32)}
    noisy = scheduler.add_noise(latents, noise, timesteps)
    predicted = model.unet(noisy, timesteps, context, added_cond_kwargs=conditions).sample
    target = noise if prediction == "epsilon" else scheduler.get_velocity(latents, noise, timesteps)
    expected = (predicted - target).square().mean(dim=(1, 2, 3))
    trained_for = as_trained_for(model, prediction, zero_terminal)
    found = losses(trained_for, batch, settings)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=1e-4)


def test_weights_follow_from_the_settings(model: Sdxl, settings: Train) -> None:
    """Of timesteps 0 and 400 (SNR 1175 and 1.12), of each weighting; no loss changes them."""
    timesteps = torch.tensor([0, 400])
    for changed, expected in (
        ({"min_snr_gamma": 5.0}, [0.0042537, 1.0]),
        ({"debiased": True}, [1000**-0.5, None]),
        ({}, [1.0, 1.0]),
    ):
        weights = loss_weights(model, settings.model_copy(update=changed), torch.device("cpu"))
        assert weights.state is None
        assert weights.of(timesteps).dtype == torch.float32
        for found, value in zip(weights.of(timesteps).tolist(), expected, strict=True):
            assert value is None or found == pytest.approx(value, rel=1e-4), changed


@pytest.mark.parametrize(("precision", "error"), [("bf16", 0.05), ("fp16", 0.01)])
def test_mixed_precision_is_near_and_trains_float32_weights(folder: Path, settings: Train, precision: str, error: float) -> None:
    exact, mixed = load(folder), load(folder, precision=precision)
    batch = batch_of([20, 700])
    expected = losses(exact, batch, settings)
    mixed.unet.requires_grad_(True)
    mixed.text_encoder.requires_grad_(True)
    found = losses(mixed, batch, settings)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected), "computed in float32"
    assert torch.allclose(found, expected, rtol=error)
    found.sum().backward()
    for weight in (mixed.unet.conv_in.weight, mixed.text_encoder.text_model.embeddings.token_embedding.weight):
        assert weight.dtype == weight.grad.dtype == torch.float32
        assert float(weight.grad.abs().max()) > 0


WORDS = [f"tag {i}" for i in range(14)]


@pytest.fixture(scope="module")
def alone(folder: Path) -> Mapping[str, tuple[torch.Tensor, torch.Tensor]]:
    """Each word encoded by itself, without a cache, in 227 states: 87 kB, so that a megabyte holds eleven."""
    model = load(folder)
    return {word: encode_captions(model, [word], 225) for word in WORDS}


@hypothesis_settings(max_examples=12)
@given(
    batches=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=5), max_size=4), megabytes=st.sampled_from([0, 1, 9])
)
def test_cached_text_is_the_same_bits_in_any_batch_after_any_other(
    model: Sdxl, alone: Mapping[str, tuple[torch.Tensor, torch.Tensor]], batches: list[list[str]], megabytes: int
) -> None:
    cached = replace(model, text_cache=TextCache(megabytes))
    for batch in [*batches, WORDS, WORDS[-3:]]:
        context, pooled = encode_training_captions(cached.text_cache, batch, 225, partial(encode_captions, cached))
        assert torch.equal(context, torch.cat([alone[word][0] for word in batch]))
        assert torch.equal(pooled, torch.cat([alone[word][1] for word in batch]))
    assert cached.text_cache.bytes <= megabytes * 10**6
    assert (cached.text_cache.bytes > 0) == (megabytes > 0)


def test_cached_text_takes_no_gradients_and_gives_the_same_losses(folder: Path, settings: Train) -> None:
    model = load(folder)
    model.unet.requires_grad_(True)
    batch = batch_of([20, 700])
    expected = losses(model, batch, settings)
    model.text_cache = TextCache(1)
    model.text_encoder.requires_grad_(True)
    missed = losses(model, batch, settings)
    assert torch.allclose(missed, expected, rtol=1e-5)
    hit = losses(model, batch, settings)
    assert torch.equal(hit, missed)
    hit.sum().backward()
    assert model.unet.conv_in.weight.grad is not None
    assert model.text_encoder.text_model.embeddings.token_embedding.weight.grad is None


@pytest.mark.parametrize(("prediction", "zero_terminal"), SCHEDULES)
def test_pictures_are_those_of_diffusers_euler_sampler(
    model: Sdxl, pipeline: StableDiffusionXLPipeline, prediction: str, zero_terminal: bool
) -> None:
    spacing = {"timestep_spacing": "trailing"} if zero_terminal else {"timestep_spacing": "leading", "steps_offset": 1}
    pipeline.scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **spacing,
        prediction_type=prediction, rescale_betas_zero_snr=zero_terminal,
    )  # fmt: skip
    theirs = pipeline(
        "1girl, solo", negative_prompt="bad", num_inference_steps=5, guidance_scale=4.0, height=64, width=48,
        original_size=(100, 90), crops_coords_top_left=(0, 0), target_size=(64, 48), output_type="latent",
        latents=torch.randn((1, 4, 16, 12), generator=torch.Generator().manual_seed(3)),
    ).images  # fmt: skip
    ours = sample_latents(as_trained_for(model, prediction, zero_terminal), "1girl, solo", 3, SAMPLED)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, rtol=0, atol=2e-3 * float(theirs.abs().max()))
    assert draw_picture(model, "1girl, solo", 3, SAMPLED).size == (48, 64)


@pytest.mark.parametrize("sampler", FAMILY_SAMPLERS["sdxl"])
def test_a_picture_of_any_sampler_follows_from_its_seed(model: Sdxl, sampler: str) -> None:
    settings = SAMPLED.model_copy(update={"sampler": sampler})
    state = torch.get_rng_state()
    first, again, other = (sample_latents(model, "1girl, solo", seed, settings) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    assert first.isfinite().all()
    assert torch.equal(torch.get_rng_state(), state), "and takes no draw of anybody else"


def windows_seen(model: Sdxl, prompt: str, settings: SampledPictures) -> int:
    """How many windows the UNet's context had, which must be the same at every step."""
    lengths = []
    hook = model.unet.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[2].shape[1]))
    sample_latents(model, prompt, 3, settings)
    hook.remove()
    (length,) = set(lengths)
    return (length - 2) // 75


def test_long_prompts_get_the_windows_that_they_need(model: Sdxl) -> None:
    """The test's tokens are letters."""
    once = SAMPLED.model_copy(update={"steps": 1})
    assert [windows_seen(model, "a" * letters, once) for letters in (1, 75, 76, 150, 151)] == [1, 1, 2, 2, 3]
    assert windows_seen(model, "a", once.model_copy(update={"negative_prompt": "b" * 76})) == 2, "the negative prompt's too"
    assert windows_seen(model, "", once.model_copy(update={"negative_prompt": ""})) == 1
    ends = [sample_latents(model, "a" * 80 + end, 3, once) for end in "xy"]
    assert not torch.equal(*ends), "the end of a long prompt is heard"
