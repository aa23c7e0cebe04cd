"""Training of the parts of the small Stable Cascade: learning, exact continuation, any number of processes."""

import dataclasses
from pathlib import Path

from repro.numerics import fix_torch
from repro.params import load_params

import numpy as np
import pytest
import torch
from small_cascade import write_small_cascade
from tiny_dump import write_dump
from tiny_training import write_captions, write_latents, write_params

from families.cascade import load, modules_of
from families.cascade_schedule import signal_share, time_of_share
from families.effnet import load_effnet
from sample.architecture import POOLED_WIDTH
from sample.cascade_architecture import EFFNET, make_stage_a
from sample.cascade_decoder import StageBLesson, predicted_noise
from sample.cascade_image_encoder import ImageEncoderLesson, encoder_input, settle_latents, settle_norms, train_image_encoder
from sample.cascade_model import write_image_encoder
from sample.cascade_stage_c import StageCLesson, loss_weight, towards_noise, train_stage_c
from sample.cascade_updates import Lesson, Settings, rate_factor, run_updates, train
from training.ranks import Ranks

SMALL = Settings(updates=3, batch=1, rates={"image encoder": 1e-3, "stage B": 1e-3}, warmup=2, save_every=2)


@pytest.fixture(scope="module")
def encoder_lesson(tmp_path_factory: pytest.TempPathFactory) -> ImageEncoderLesson:
    fix_torch()
    folder = tmp_path_factory.mktemp("pictures")
    index, images = write_dump(folder)
    latents = load_params(Path("recipes/sample-cascade-base.yaml")).latents
    return ImageEncoderLesson(index, images, latents, 11, folder / "state", SMALL)


@pytest.fixture(scope="module")
def stage_b_lesson(encoder_lesson: ImageEncoderLesson, tmp_path_factory: pytest.TempPathFactory) -> StageBLesson:
    folder = tmp_path_factory.mktemp("stage-b")
    lesson = dataclasses.replace(encoder_lesson, state=folder / "encoder")
    write_image_encoder(folder / "effnet", train_image_encoder(lesson, 1).encoder)
    return StageBLesson(lesson.index, lesson.images, lesson.latents, folder / "effnet", 11, folder / "state", SMALL)


@pytest.fixture(scope="module")
def stage_c_lesson(tmp_path_factory: pytest.TempPathFactory) -> StageCLesson:
    """13 and 6 pictures in micro-batches of 2: 10 of them are an epoch, two of these with one picture."""
    folder = tmp_path_factory.mktemp("stage-c")
    base = write_small_cascade(folder / "base", 3)
    latents = write_latents(folder / "latents", base)
    captions = write_captions(folder / "captions", latents)
    params = load_params(
        write_params(folder / "params.yaml", family="cascade", updates=6, virtual_ranks=2, batch_size=4, save_every=3)
    )
    return StageCLesson(base, latents, captions, params, folder / "state")


@pytest.fixture(params=["encoder_lesson", "stage_b_lesson", "stage_c_lesson"])
def lesson(request: pytest.FixtureRequest, tmp_path: Path) -> Lesson:
    return in_folder(request.getfixturevalue(request.param), tmp_path / "whole")


def in_folder(lesson: Lesson, folder: Path) -> Lesson:
    folder.mkdir()
    return dataclasses.replace(lesson, state=folder)


def equal(one: dict[str, torch.nn.Module], other: dict[str, torch.nn.Module]) -> bool:
    tensors = [torch.nn.ModuleDict(modules).state_dict() for modules in (one, other)]
    return tensors[0].keys() == tensors[1].keys() and all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_rate_rises_then_falls_to_zero() -> None:
    settings = dataclasses.replace(SMALL, updates=20, warmup=4)
    factors = [rate_factor(update, settings) for update in range(20)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert 0 < factors[-1] < 1 / 50


def test_any_way_of_running_gives_the_same_weights(lesson: Lesson, tmp_path: Path) -> None:
    """In one go, killed in the middle, and in two processes."""
    whole, history = run_updates(lesson, Ranks(0, 1))
    cut = in_folder(lesson, tmp_path / "cut")
    run_updates(cut, Ranks(0, 1))
    max(cut.state.glob("update-*.safetensors")).unlink()
    again, rows = run_updates(cut, Ranks(0, 1))
    assert [row.update for row in rows] == list(range(cut.settings.updates))
    assert equal(again, whole)
    in_two, rows = train(in_folder(lesson, tmp_path / "two"), processes=2)
    assert rows == history
    assert equal(in_two, whole)


def test_the_image_encoder_learns_and_its_latents_have_one_deviation(encoder_lesson: ImageEncoderLesson, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, updates=36, batch=3, rates={"image encoder": 3e-3})
    lesson = dataclasses.replace(encoder_lesson, state=tmp_path, settings=settings)
    modules, history = run_updates(lesson, Ranks(0, 1))
    module = modules["image encoder"]
    assert sum(row.loss for row in history[-5:]) < 0.8 * sum(row.loss for row in history[:5])
    pictures = lesson.pictures()
    settle_norms(module.encoder, pictures)
    settle_latents(module.encoder, pictures)
    everything = torch.cat(
        [module.encoder(encoder_input(pictures.batch(64, "test", i))).movedim(1, -1).flatten(0, 2) for i in range(8)]
    )
    assert float(everything.mean(dim=0).abs().max()) < 0.25
    assert everything.std(dim=0).numpy() == pytest.approx(np.ones(EFFNET.latent_channels), rel=0.2)


def test_the_written_encoder_is_the_trained_one_in_half_precision(encoder_lesson: ImageEncoderLesson, tmp_path: Path) -> None:
    encoder = train_image_encoder(dataclasses.replace(encoder_lesson, state=tmp_path / "state"), 1).encoder
    expected = {name: tensor.half().float() for name, tensor in encoder.state_dict().items()}
    write_image_encoder(tmp_path / "effnet", encoder)
    found = load_effnet(tmp_path / "effnet").state_dict()
    assert all(torch.equal(found[name].float(), tensor) for name, tensor in expected.items())


def test_stage_b_learns_and_is_told_no_text(stage_b_lesson: StageBLesson, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, updates=12, rates={"stage B": 2e-3})
    modules, history = run_updates(dataclasses.replace(stage_b_lesson, state=tmp_path, settings=settings), Ranks(0, 1))
    stage_b = modules["stage B"]
    assert sum(row.loss for row in history[-5:]) < 0.8 * sum(row.loss for row in history[:5])
    assert not stage_b.clip_txt_pooled_mapper.weight.any()
    pictures = stage_b_lesson.pictures().batch(2, "test") * 0.5 + 0.5
    noisy, times = make_stage_a().encode(pictures, return_dict=False)[0], torch.tensor([0.5, 0.5])
    hint = torch.zeros(2, EFFNET.latent_channels, *(side // 4 for side in noisy.shape[2:]))
    told = stage_b(noisy, times, torch.randn(2, 1, POOLED_WIDTH), effnet=hint, return_dict=False)[0]
    assert torch.allclose(told, predicted_noise(stage_b, noisy, times, hint), atol=1e-5)


def test_losses_of_stage_c_count_as_the_velocitys() -> None:
    assert loss_weight(time_of_share(0.5)) == pytest.approx(2.0)
    assert loss_weight(time_of_share(0.025)) == pytest.approx(40.0)
    assert loss_weight(1.0) == 50.0


def test_times_of_stage_c_lie_where_noise_is() -> None:
    even = torch.arange(1, 1001) / 1000
    times = towards_noise(even)
    assert (times[0], times[-1]) == (pytest.approx(0.0015, abs=1e-4), 1.0)
    more_noise = torch.tensor([signal_share(time) < 0.5 for time in times.tolist()])
    assert more_noise.float().mean() == pytest.approx(0.63, abs=0.01)


def test_stage_c_trains_text_encoder_and_prior_at_their_rates(stage_c_lesson: StageCLesson, tmp_path: Path) -> None:
    before = {f"{part}.{name}": tensor for part, module in modules_of(load(stage_c_lesson.base, draws=False)).items()
              for name, tensor in module.state_dict().items()}  # fmt: skip
    still = stage_c_lesson.params.model_copy(update={"te_lr": 0.0})
    for params, moves in ((stage_c_lesson.params, True), (still, False)):
        lesson = dataclasses.replace(stage_c_lesson, params=params, state=tmp_path / str(moves))
        trained = train_stage_c(lesson, 1)
        changed = {name.split(".")[0] for name, tensor in trained.items() if not torch.equal(tensor, before[name])}
        assert changed == ({"text_encoder", "prior"} if moves else {"prior"})
