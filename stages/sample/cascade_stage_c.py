"""Training of the sample's stage C and its text encoder, from cached latents and captions.

The trainer itself (stages/train.py) does as the published model's did, with the weights of losses that suit a model of
billions. A small one has to be told where to look. Text decides what a picture shows while there is more noise than signal
(what is left of a picture then shows the rest), so times are drawn there more often, and the noise's error counts as the
velocity's would, up to a limit.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from repro.params import Params

import torch
from torch import nn

from families import cascade
from families.cascade_schedule import signal_share
from sample.cascade_updates import BatchLoss, Settings, train
from training.examples import Examples
from training.order import DataOrder

MOST_WEIGHT = 50.0


def loss_weight(time: float) -> float:
    """Of the error of the predicted noise at a time of the schedule."""
    return min(1.0 / signal_share(time), MOST_WEIGHT)


def towards_noise(times: torch.Tensor) -> torch.Tensor:
    """Even draws of 0..1 as times of which 63 in 100, not 50, lie where there is more noise than signal."""
    return 1.0 - (1.0 - times) ** 1.5


@dataclass(frozen=True)
class StageCLesson:
    """Stage C and text encoder of the folder `base` on the latents and captions of the pipeline's stages, by a recipe's
    seed and its `train` section."""

    base: Path
    latents: Path
    captions: Path
    params: Params
    state: Path
    name: str = "stage C"

    @property
    def settings(self) -> Settings:
        recipe, rates = self.params.train, {"text_encoder": self.params.te_lr, "prior": self.params.lr}
        return Settings(
            recipe.updates, recipe.micro_batch_size, rates, recipe.virtual_ranks, recipe.warmup_updates,
            tuple(recipe.betas), recipe.weight_decay, recipe.max_grad_norm, recipe.save_every,
        )  # fmt: skip

    def begin(self) -> tuple[dict[str, nn.Module], BatchLoss]:
        model = cascade.load(self.base, draws=False)
        modules = {part: cascade.modules_of(model)[part] for part in cascade.GROUPS}
        examples = Examples(self.latents, self.captions, self.params, cascade.latent_scale(cascade.modules_of(model)))
        recipe = self.params.train
        order = DataOrder(examples.buckets(), recipe.micro_batch_size, 1, 1, self.params.seed)

        def loss_of(update: int, virtual: int) -> torch.Tensor:
            number = update * recipe.virtual_ranks + virtual
            ((entries,),) = order.update(number)
            batch = examples.batch(entries, order.epoch_of(number))
            batch = replace(batch, timesteps=towards_noise(batch.timesteps))
            weights = torch.tensor([loss_weight(time) for time in batch.timesteps.tolist()])
            return (weights * cascade.losses(model, batch, recipe)).mean()

        return modules, loss_of


def train_stage_c(lesson: StageCLesson, processes: int) -> dict[str, torch.Tensor]:
    """The trained tensors by component and name, `<component>.<name>`."""
    modules, _ = train(lesson, processes)
    return {f"{part}.{name}": tensor for part, module in modules.items() for name, tensor in module.state_dict().items()}
