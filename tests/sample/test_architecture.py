"""The sample model's parts: size, connections, initialisation."""

from repro.numerics import fix_torch

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sample.architecture import (
    TEXT_1,
    TEXT_2,
    TEXT_WIDTHS,
    UNET,
    VAE,
    initialise,
    make_scheduler,
    make_text_encoders,
    make_unet,
    make_vae,
)


@pytest.fixture(scope="module", autouse=True)
def _torch() -> None:
    fix_torch()


@pytest.fixture(scope="module")
def models() -> dict[str, torch.nn.Module]:
    first, second = make_text_encoders(7)
    return {"vae": make_vae(7), "unet": make_unet(7), "text_encoder": first, "text_encoder_2": second}


def fresh(name: str) -> torch.nn.Module:
    """The same architecture with its library's own initialisation."""
    return {
        "vae": lambda: AutoencoderKL(**VAE),
        "unet": lambda: UNet2DConditionModel(**UNET),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**TEXT_1)),
        "text_encoder_2": lambda: CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2)),
    }[name]()


def test_committed_size(models: dict[str, torch.nn.Module]) -> None:
    assert sum(p.numel() for model in models.values() for p in model.parameters()) < 8_500_000


def test_parts_fit_together(models: dict[str, torch.nn.Module]) -> None:
    with torch.no_grad():
        latents = models["vae"].encode(torch.zeros(1, 3, 80, 48)).latent_dist.mean
        ids = torch.tensor([[49406, 320, 49407] + [0] * 74])
        states = [models[name](ids, output_hidden_states=True) for name in ("text_encoder", "text_encoder_2")]
        context = torch.cat([output.hidden_states[-2] for output in states], dim=-1)
        noise = models["unet"](
            latents, torch.tensor([500]), context,
            added_cond_kwargs={"text_embeds": states[1].text_embeds, "time_ids": torch.zeros(1, 6)},
        ).sample  # fmt: skip
        picture = models["vae"].decode(noise).sample
    assert context.shape == (1, 77, sum(TEXT_WIDTHS))
    assert latents.shape == noise.shape == (1, 4, 20, 12)
    assert picture.shape == (1, 3, 80, 48)


def test_weights_depend_on_seed_and_name_only(models: dict[str, torch.nn.Module]) -> None:
    torch.manual_seed(1)
    again = make_unet(7).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in models["unet"].state_dict().items())
    other = make_unet(8).state_dict()
    assert not torch.equal(again["conv_in.weight"], other["conv_in.weight"])


@pytest.mark.parametrize("name", ["vae", "unet", "text_encoder", "text_encoder_2"])
def test_distributions_are_those_of_the_modules(name: str) -> None:
    drawn = dict(initialise(fresh(name), 3, name).named_parameters())
    for key, parameter in fresh(name).named_parameters():
        mean, spread = parameter.detach().mean(), parameter.detach().std()
        if parameter.numel() >= 1000:
            assert float(drawn[key].std() / spread) == pytest.approx(1, abs=0.12), key
        elif float(spread) == 0:
            assert torch.equal(drawn[key], parameter), key
        assert float(drawn[key].detach().mean() - mean) == pytest.approx(0, abs=0.2), key


def test_untrained_vae_lets_colours_through() -> None:
    vae = make_vae(7)
    colours = torch.tensor([[0.8, -0.6, 0.1], [-0.7, 0.5, 0.9]])
    pictures = torch.ones(2, 3, 32, 32) * -0.2
    pictures[:, :, 8:24, 8:24] = colours[:, :, None, None]
    with torch.no_grad():
        restored = vae.decode(vae.encode(pictures).latent_dist.mean).sample
    inside, given = restored[:, :, 14:18, 14:18].mean(dim=(2, 3)), colours
    assert float(torch.corrcoef(torch.stack([inside.flatten(), given.flatten()]))[0, 1]) > 0.9


def test_schedule_is_sdxl_s() -> None:
    config = make_scheduler().config
    assert (config.beta_schedule, config.beta_start, config.beta_end) == ("scaled_linear", 0.00085, 0.012)
    assert (config.num_train_timesteps, config.prediction_type) == (1000, "epsilon")
    assert not config.get("clip_sample", False)
