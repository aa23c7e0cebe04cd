"""Stable Cascade's family module on a small random model, against transformers, diffusers' pipelines and its own formulas."""

import itertools
import shutil
from pathlib import Path

from repro.errors import StageError
from repro.numerics import fix_torch
from repro.params import SampledPictures, Train, load_params
from repro.randomness import Stream, seed_for

import pytest
import torch
from diffusers import DDPMWuerstchenScheduler, StableCascadeDecoderPipeline, StableCascadePriorPipeline
from safetensors.torch import load_file, save_file
from small_cascade import write_small_cascade

from families import cascade
from families.cascade import Cascade
from families.cascade_schedule import (
    AdaptiveWeights,
    P2Weights,
    noise_conditions,
    signal_and_noise_scales,
    signal_share,
    time_of_share,
)
from families.family import Batch, family
from families.text_cache import TextCache

CAPTIONS = ["1girl, solo, red hair, smile", "1girl, " * 60]
LENGTH = 225


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_cascade(tmp_path_factory.mktemp("cascade") / "base", seed=1)


@pytest.fixture(scope="module")
def model(folder: Path) -> Cascade:
    fix_torch()
    return cascade.load(folder)


@pytest.fixture(scope="module")
def settings() -> Train:
    return load_params(Path("recipes/sample-cascade.yaml"), [f"train.max_token_length={LENGTH}"]).train


def batch(model: Cascade) -> Batch:
    shape = cascade.latent_shape(cascade.modules_of(model), (64, 96))
    latents, noise = (torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    return Batch([1, 2], latents, noise, torch.tensor([0.15, 0.7], dtype=torch.float64), CAPTIONS, [])


def trained(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return dict(module.requires_grad_(True).named_parameters())


def pictures(**changes: object) -> SampledPictures:
    values = {
        "negative_prompt": "bad", "sampler": "ddpm", "steps": 3, "guidance": 4.0, "width": 64, "height": 96,
        "original_width": None, "original_height": None, "decoder": {"steps": 3, "guidance": 1.0},
    }  # fmt: skip
    return SampledPictures.model_validate(values | changes)


def test_it_is_the_family_of_its_name() -> None:
    assert family("cascade") is cascade
    assert 0.001 <= cascade.draw_timestep(Stream(1, "timestep", 0)) <= 1.0


def test_text_is_the_last_layers_before_its_norm(model: Cascade) -> None:
    ids = model.tokenizer([CAPTIONS[0]], padding="max_length", max_length=77, return_tensors="pt").input_ids
    expected = model.text_encoder(ids, output_hidden_states=True)
    context, pooled = cascade.encode(model, [CAPTIONS[0]], 75)
    assert torch.equal(context, expected.hidden_states[-1]) and torch.equal(pooled, expected.text_embeds)
    assert not torch.allclose(context, expected.last_hidden_state, atol=1e-3)


def test_long_captions_are_joined_of_windows(model: Cascade) -> None:
    context, pooled = cascade.encode(model, CAPTIONS, LENGTH)
    assert context.shape == (2, LENGTH + 2, 64) and pooled.shape == (2, 64)
    first, first_pooled = cascade.encode(model, [CAPTIONS[1]], 75)
    assert torch.allclose(context[1, :76], first[0, :76], atol=1e-5) and torch.allclose(pooled[1], first_pooled[0], atol=1e-5)
    assert not torch.allclose(context[1, 76:151], context[1, 1:76], atol=1e-3)


def test_losses_are_the_errors_of_the_predicted_noise(model: Cascade, settings: Train) -> None:
    """Of the noised latents at their noise condition, with captions and without a picture's embedding."""
    given = batch(model)
    signal, scale = (table.view(2, 1, 1, 1) for table in signal_and_noise_scales(given.timesteps))
    with torch.no_grad():
        context, pooled = cascade.encode(model, given.captions, LENGTH)
        output = model.prior(
            sample=signal * given.latents + scale * given.noise,
            timestep_ratio=noise_conditions(given.timesteps),
            clip_text_pooled=pooled[:, None],
            clip_text=context,
            clip_img=torch.zeros(2, 1, 24),
        ).sample
        losses = cascade.losses(model, given, settings)
    assert torch.equal(losses, (output - given.noise).square().mean(dim=(1, 2, 3)))
    assert losses.dtype == torch.float32


def test_a_text_cache_changes_no_bit_of_later_losses(model: Cascade, settings: Train) -> None:
    plain, caches = cascade.losses(model, batch(model), settings), [TextCache(0), TextCache(10)]
    for cache in caches:
        model.text_cache = cache
        try:
            found = [cascade.losses(model, batch(model), settings) for _ in range(2)]
        finally:
            model.text_cache = None
        assert torch.equal(*found) and torch.allclose(found[0], plain, rtol=1e-5)
    assert caches[1].bytes > 0


def test_gradients_reach_every_weight_and_checkpointing_changes_no_bit(folder: Path, settings: Train) -> None:
    gradients = []
    for checkpoints in (False, True):
        model = cascade.load(folder, draws=False)
        assert model.decoder is None
        if checkpoints:
            cascade.checkpoint_gradients(model)
        weights = {**trained(model.prior), **trained(model.text_encoder)}
        cascade.losses(model, batch(model), settings).sum().backward()
        gradients.append({name: weight.grad for name, weight in weights.items()})
    without = [name for name, gradient in gradients[0].items() if not gradient.abs().max() > 0]
    assert without == ["clip_img_mapper.weight"]  # it maps zeros
    assert all(torch.equal(gradients[0][name], gradient) for name, gradient in gradients[1].items())


def test_half_precision_computes_near(folder: Path, model: Cascade, settings: Train) -> None:
    half = cascade.load(folder, precision="bf16", draws=False)
    with torch.no_grad():
        exact, found = (cascade.losses(one, batch(one), settings) for one in (model, half))
    assert found.dtype == torch.float32 and not torch.equal(found, exact)
    assert torch.allclose(found, exact, rtol=0.05)
    assert all(weight.dtype == torch.float32 for weight in half.prior.parameters())


def test_weights_are_those_of_the_recipe(model: Cascade, settings: Train) -> None:
    adaptive = settings.model_copy(update={"adaptive_loss_weight": True})
    plain = settings.model_copy(update={"adaptive_loss_weight": False})
    assert isinstance(cascade.loss_weights(model, adaptive, model.device), AdaptiveWeights)
    assert isinstance(cascade.loss_weights(model, plain, model.device), P2Weights)
    assert cascade.loss_weights(model, plain, model.device).state is None


def test_empty_modules_are_the_loaded_ones_without_weights(folder: Path, model: Cascade) -> None:
    with torch.device("meta"):
        empty = cascade.empty_modules(folder)
    loaded = cascade.modules_of(model)
    assert set(empty) == set(loaded) == {"prior", "text_encoder", "effnet"} > set(cascade.GROUPS)
    for part, module in empty.items():
        shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (module, loaded[part])]
        assert shapes[0] == shapes[1]
        assert all(weight.is_meta and not weight.requires_grad for weight in module.parameters()) and not module.training
    assert cascade.latent_shape(empty, (64, 128)) == (4, 16, 8) and cascade.latent_scale(empty) == 1.0
    assert cascade.assemble(folder, empty, "fp32").resolution_multiple == model.resolution_multiple


def test_what_no_class_of_lokr_holds(model: Cascade) -> None:
    """Mappers of the conditions, the first and last convolution; a depthwise convolution has groups."""
    inside = {
        f"{path}.{name}".removesuffix(".")
        for path, module in model.prior.named_modules()
        if type(module).__name__ in cascade.LOKR_CLASSES
        for name, _ in module.named_modules()
    }
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    outside = [name for name, module in model.prior.named_modules() if isinstance(module, kinds) and name not in inside]
    assert outside == ["clip_txt_pooled_mapper", "clip_txt_mapper", "clip_img_mapper", "embedding.1", "clf.1"]


def test_pictures_depend_on_seed_prompt_and_guidance_alone(model: Cascade) -> None:
    drawn = cascade.draw_picture(model, "1girl", 3, pictures())
    assert drawn.size == (64, 96) and drawn.mode == "RGB"
    assert drawn.tobytes() == cascade.draw_picture(model, "1girl", 3, pictures()).tobytes()
    others = [
        cascade.draw_picture(model, "1girl", 4, pictures()),
        cascade.draw_picture(model, "1boy", 3, pictures()),
        cascade.draw_picture(model, "1girl", 3, pictures(sampler="euler")),
        cascade.draw_picture(model, "1girl", 3, pictures(guidance=2.0)),
        cascade.draw_picture(model, "1girl", 3, pictures(decoder={"steps": 3, "guidance": 2.0})),
        cascade.draw_picture(model, "1girl, " * 60, 3, pictures()),
    ]
    assert len({picture.tobytes() for picture in (drawn, *others)}) == len(others) + 1


def keyed_scheduler(seed: int) -> DDPMWuerstchenScheduler:
    """diffusers' scheduler with fresh noise of our keys, and the first level at the time that it has."""
    scheduler, numbers = DDPMWuerstchenScheduler(), itertools.count()
    step = scheduler.step

    def set_timesteps(steps: int, device: torch.device) -> None:
        scheduler.timesteps = torch.linspace(1.0, 0.0, steps + 1)
        scheduler.timesteps[0] = time_of_share(signal_share(1.0))

    def keyed_step(generator: None, **arguments: torch.Tensor) -> object:
        draw = torch.Generator().manual_seed(seed_for(seed, "ancestral noise", next(numbers)))
        return step(generator=draw, **arguments)

    scheduler.set_timesteps, scheduler.step = set_timesteps, keyed_step
    return scheduler


def whole_window(model: Cascade, word: str) -> str:
    """A prompt of 75 tokens: diffusers masks padding, which the training does not."""
    prompt = word
    while len(model.tokenizer(prompt).input_ids) < 77:
        prompt += f" {word}"
    assert len(model.tokenizer(prompt).input_ids) == 77
    return prompt


@torch.no_grad()
@pytest.mark.parametrize("decoder_guidance", [1.0, 1.5])
def test_pictures_are_those_of_diffusers_pipelines(model: Cascade, decoder_guidance: float) -> None:
    prompt, negative = whole_window(model, "a"), whole_window(model, "b")
    settings = pictures(negative_prompt=negative, decoder={"steps": 3, "guidance": decoder_guidance})
    prior = StableCascadePriorPipeline(
        model.tokenizer, model.text_encoder, model.prior, keyed_scheduler(5), model.resolution_multiple
    )
    prior.set_progress_bar_config(disable=True)
    latents = cascade.sample_latents(model, prompt, 5, settings)
    first = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    asked = {"height": 96, "width": 64, "num_inference_steps": 3, "guidance_scale": 4.0, "latents": first}
    expected = prior(prompt, negative_prompt=negative, **asked).image_embeddings
    assert float((latents - expected).abs().max() / expected.abs().max()) < 1e-3

    parts, key = model.decoder, seed_for(5, "stage B")
    decoder = StableCascadeDecoderPipeline(
        parts.stage_b, parts.tokenizer, parts.text_encoder, keyed_scheduler(key), parts.stage_a, parts.scale
    )
    decoder.set_progress_bar_config(disable=True)
    sides = [parts.latent_side(side) for side in latents.shape[2:]]
    first = torch.randn(1, 4, *sides, generator=torch.Generator().manual_seed(key))
    asked = {"num_inference_steps": 3, "guidance_scale": decoder_guidance, "latents": first, "output_type": "pt"}
    pixels = decoder(latents, prompt, negative_prompt=negative, **asked).images[0]
    drawn = torch.frombuffer(bytearray(cascade.draw_picture(model, prompt, 5, settings).tobytes()), dtype=torch.uint8)
    difference = drawn.view(96, 64, 3).permute(2, 0, 1) / 255 - pixels
    assert float(difference.abs().max()) < 1 / 255 and float(pixels.std()) > 0.05


def changed(folder: Path, target: Path, part: str, tensor: str, value: float) -> Path:
    shutil.copytree(folder, target)
    path = target / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors[tensor].fill_(value)
    save_file(tensors, path)
    return target


@pytest.mark.parametrize(
    ("part", "tensor", "message"),
    [("prior", "clf.1.bias", "sampling '1girl'"), ("decoder/vqgan", "out_block.0.bias", "decoding '1girl'")],
)
def test_values_that_are_not_finite(tmp_path: Path, folder: Path, part: str, tensor: str, message: str) -> None:
    broken = cascade.load(changed(folder, tmp_path / "broken", part, tensor, float("nan")))
    with pytest.raises(StageError, match=f"{message} gave values that are not finite"):
        cascade.draw_picture(broken, "1girl", 3, pictures())


PARTS = [
    "prior", "text_encoder", "tokenizer", "effnet",
    "decoder/decoder", "decoder/vqgan", "decoder/text_encoder", "decoder/tokenizer", "model_index.json",
]  # fmt: skip


def one_line(failure: pytest.ExceptionInfo[StageError], folder: Path) -> str:
    words = str(failure.value)
    assert len(words.splitlines()) == 1 and words.startswith(f"{folder}") and "huggingface.co" not in words
    return words


@pytest.mark.parametrize("part", PARTS)
def test_missing_parts_are_named(tmp_path: Path, folder: Path, part: str) -> None:
    shutil.copytree(folder, tmp_path / "base")
    path = tmp_path / "base" / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(StageError, match=str(path)) as failure:
        cascade.load(tmp_path / "base")
    one_line(failure, path)


def copied_weights(tmp_path: Path, folder: Path, part: str) -> Path:
    """The weights of a part in a copy of the folder, `base`."""
    shutil.copytree(folder, tmp_path / "base")
    (path,) = (tmp_path / "base" / part).glob("*.safetensors")
    return path


@pytest.mark.parametrize("part", ["prior", "text_encoder", "decoder/decoder", "decoder/vqgan", "decoder/text_encoder"])
def test_a_part_that_lacks_a_tensor_is_refused(tmp_path: Path, folder: Path, part: str) -> None:
    """transformers makes random numbers up in its place."""
    path = copied_weights(tmp_path, folder, part)
    tensors = load_file(path)
    gone = max(name for name in tensors if name.endswith(".weight"))
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, path, {"format": "pt"})
    with pytest.raises(StageError, match=f"tensor '{gone}' of its .* is missing; fetch or make it again$") as failure:
        cascade.load(tmp_path / "base")
    one_line(failure, path.parent)


@pytest.mark.parametrize("part", ["prior", "text_encoder", "decoder/vqgan"])
def test_a_part_of_other_shapes_is_refused(tmp_path: Path, folder: Path, part: str) -> None:
    path = copied_weights(tmp_path, folder, part)
    tensors = load_file(path)
    name = max(name for name in tensors if name.endswith(".weight"))
    save_file(tensors | {name: torch.zeros(3, 3)}, path, {"format": "pt"})
    with pytest.raises(StageError, match=r"shape|size") as failure:
        cascade.load(tmp_path / "base")
    one_line(failure, path.parent)


@pytest.mark.parametrize("part", ["prior", "text_encoder", "decoder/vqgan"])
def test_a_part_that_is_cut_off_is_refused(tmp_path: Path, folder: Path, part: str) -> None:
    path = copied_weights(tmp_path, folder, part)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StageError, match="cannot be loaded as") as failure:
        cascade.load(tmp_path / "base")
    one_line(failure, path.parent)


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt", "tokenizer_config.json"])
@pytest.mark.parametrize("part", ["tokenizer", "decoder/tokenizer"])
def test_a_tokenizer_that_is_broken_is_refused(tmp_path: Path, folder: Path, part: str, file: str) -> None:
    shutil.copytree(folder, tmp_path / "base")
    path = tmp_path / "base" / part / file
    path.write_bytes(b'["rubbish"' if file.endswith("json") else b"\xff\xfe")
    with pytest.raises(StageError, match="cannot be loaded as CLIPTokenizer") as failure:
        cascade.load(tmp_path / "base")
    one_line(failure, path.parent)
    path.unlink()
    if file != "tokenizer_config.json":
        with pytest.raises(StageError, match=f"no {file}; expected a folder with a CLIPTokenizer"):
            cascade.load(tmp_path / "base")


@pytest.mark.parametrize("part", ["prior", "text_encoder", "decoder/vqgan"])
def test_configs_without_a_folder_or_of_another_kind(tmp_path: Path, folder: Path, part: str) -> None:
    def empty(base: Path) -> None:
        cascade.empty_modules(base)
        cascade.empty_drawing_modules(base)

    shutil.copytree(folder, tmp_path / "base")
    path = tmp_path / "base" / part
    (path / "config.json").write_text("[")
    with pytest.raises(StageError, match="cannot be loaded as") as failure:
        empty(tmp_path / "base")
    one_line(failure, path)
    shutil.rmtree(path)
    with pytest.raises(StageError, match="missing; expected a folder with a") as failure:
        empty(tmp_path / "base")
    one_line(failure, path)


def test_the_decoder_leaves_the_model_and_comes_back_with_the_same_bits(model: Cascade) -> None:
    """Where it is put away nothing of it stays on the device; the next picture fetches it."""
    drawn = cascade.draw_picture(model, "1girl", 3, pictures())
    cascade.put_drawing_away(model)
    assert {weight.device.type for module in model.decoder.modules() for weight in module.parameters()} == {"cpu"}
    assert cascade.draw_picture(model, "1girl", 3, pictures()).tobytes() == drawn.tobytes()


def test_an_index_with_another_kind_of_value(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "base")
    index = tmp_path / "base" / "decoder" / "model_index.json"
    index.write_text('{"latent_dim_scale": "large"}')
    with pytest.raises(StageError, match="latent_dim_scale is 'large', expected a number above 0"):
        cascade.load(tmp_path / "base")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(folder: Path) -> None:
    with pytest.raises(StageError, match="finds no GPU here; set device: cpu"):
        cascade.load(folder, "cuda", draws=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("bf16", 0.05)])
def test_the_gpu_gives_the_same_twice_and_is_near_the_cpu(
    folder: Path, model: Cascade, settings: Train, precision: str, limit: float
) -> None:
    there = cascade.load(folder, "cuda", precision)
    weights = list(there.prior.requires_grad_(True).parameters())
    found = []
    for _ in range(2):
        losses = cascade.losses(there, batch(there), settings)
        found.append([losses.detach(), *torch.autograd.grad(losses.sum(), weights)])
    assert all(map(torch.equal, *found))
    assert torch.allclose(found[0][0].cpu(), cascade.losses(model, batch(model), settings), rtol=limit)
    drawn = [cascade.draw_picture(there, "1girl", 3, pictures()).tobytes() for _ in range(2)]
    assert drawn[0] == drawn[1]
