"""Training of the sample's stage B: from the image encoder's latents to the latents of stage A.

The target is the noise, as in stage C, its error weighted as the velocity's would be, up to a limit: at much noise, where a
sampler of few steps starts, a small error in the noise is a large one in the picture. The image latents get some noise of
their own, since those that stage C draws are not quite those of any picture. Stage B is told no text here (its text
weights stay zero), so that it draws characters whose names it never saw as well as any.
"""

from dataclasses import dataclass
from pathlib import Path

from repro.params import Latents
from repro.randomness import Stream, seed_for

import torch
from diffusers import StableCascadeUNet

from families.cascade_schedule import draw_timestep, noise_conditions, signal_and_noise_scales
from families.effnet import load_effnet
from sample.architecture import POOLED_WIDTH
from sample.cascade_architecture import make_stage_a, make_stage_b
from sample.cascade_image_encoder import encoder_input
from sample.cascade_updates import BatchLoss, Settings, train
from sample.vae import Pictures, read_pictures

MOST_HINT_NOISE = 0.4
MOST_WEIGHT = 20.0
GROUP = "stage B"
SETTINGS = Settings(updates=1500, batch=8, rates={GROUP: 1e-3})


def predicted_noise(
    stage_b: StableCascadeUNet, noisy: torch.Tensor, times: torch.Tensor, image_latents: torch.Tensor
) -> torch.Tensor:
    """Stage B's output for noisy latents [n, 6, h, w] at times [n], told image latents [n, 4, h / 4, w / 4] and no text."""
    no_text = torch.zeros(len(noisy), 1, POOLED_WIDTH)
    return stage_b(noisy, noise_conditions(times), no_text, effnet=image_latents, return_dict=False)[0]


@dataclass(frozen=True)
class StageBLesson:
    """Stage B on all pictures of an image index, encoded by the image encoder in the folder `effnet`."""

    index: Path
    images: Path
    latents: Latents
    effnet: Path
    seed: int
    state: Path
    settings: Settings = SETTINGS
    name: str = GROUP

    def pictures(self) -> Pictures:
        return read_pictures(self.index, self.images, self.latents, self.seed)

    def begin(self) -> tuple[dict[str, StableCascadeUNet], BatchLoss]:
        pictures, encoder, stage_a = self.pictures(), load_effnet(self.effnet), make_stage_a()
        stage_b = make_stage_b(self.seed)

        def loss_of(update: int, virtual: int) -> torch.Tensor:
            batch = pictures.batch(self.settings.batch, "stage-b-batch", update, virtual)
            draws = Stream(self.seed, "stage-b-times", update, virtual)
            times = torch.tensor([draw_timestep(draws) for _ in batch], dtype=torch.float64)
            hint_noise = torch.tensor([MOST_HINT_NOISE * draws.uniform() for _ in batch])
            generator = torch.Generator().manual_seed(seed_for(self.seed, "stage-b-noise", update, virtual))
            with torch.no_grad():
                clean = stage_a.encode(batch * 0.5 + 0.5, return_dict=False)[0]
                hint = encoder(encoder_input(batch))
                noise = torch.randn(clean.shape, generator=generator)
                hint = hint + hint_noise.view(-1, 1, 1, 1) * torch.randn(hint.shape, generator=generator)
                signal, scale = (values.view(-1, 1, 1, 1) for values in signal_and_noise_scales(times))
            predicted = predicted_noise(stage_b, signal * clean + scale * noise, times, hint)
            weights = signal.square().reciprocal().clamp(max=MOST_WEIGHT)
            return (weights * (predicted - noise).square()).mean()

        return {GROUP: stage_b}, loss_of


def train_stage_b(lesson: StageBLesson, processes: int) -> StableCascadeUNet:
    modules, _ = train(lesson, processes)
    return modules[GROUP].eval()
