"""What is trained on a small SDXL: the LoKr against its merged weights, both forms, precisions, the file."""

from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.numerics import fix_torch
from repro.params import Params
from repro.tensorfile import TensorSpec, spec_of, write_tensors

import pytest
import torch
from tiny_training import sample_values

from checkpoints.keymap import Architecture, Layout, to_single_file
from checkpoints.lokr import LokrFile
from checkpoints.operands import land_modules
from families.sdxl import Sdxl, Sizes, denoising_losses, load_sdxl
from training.adapters import COMPONENTS, Trained, lokr_tensors, make_trained
from training.flat import FlatWeights
from training.lokr_layers import LokrLayer
from training.lokr_targets import lokr_targets

fix_torch()
SIZES = [Sizes(192, 160, 0, 3, 64, 48), Sizes(128, 128, 0, 0, 64, 48)]
CAPTIONS = ["1girl, blue hair, smile", "2boys"]


def params_of(te_lr: float = 0.0005, **train: Any) -> Params:
    """The sample recipe's parameters with keys of `train` replaced."""
    values = sample_values()
    values["te_lr"] = te_lr
    values["train"].update(train)
    return Params.model_validate(values)


def losses(model: Sdxl, params: Params) -> torch.Tensor:
    """Of two fixed pictures of 48x64 pixels."""
    draw = torch.Generator().manual_seed(11)
    latents, noise = (torch.randn(2, 4, 16, 12, generator=draw) for _ in range(2))
    return denoising_losses(model, latents, noise, torch.tensor([40, 700]), CAPTIONS, SIZES, params.train)


def attach(inputs: Path, params: Params) -> tuple[Sdxl, Trained, FlatWeights]:
    """The small model with what is trained on it, every number moved a little away from its start."""
    model = load_sdxl(inputs / "base", precision=params.train.precision)
    trained = make_trained(model, params)
    flat = FlatWeights(trained.groups)
    for number, (_, view) in enumerate(sorted(flat.views(flat.weights).items())):
        view.add_(torch.randn(view.shape, generator=torch.Generator().manual_seed(number)) * 0.05)
    trained.fold()
    return model, trained, flat


def gradient(model: Sdxl, trained: Trained, flat: FlatWeights, params: Params) -> torch.Tensor:
    buffer = flat.collect_gradients()
    losses(model, params).sum().backward()
    trained.finish_gradients()
    return buffer


@pytest.fixture
def lokr_file(training_inputs: Path, tmp_path: Path) -> tuple[Sdxl, LokrFile, Params]:
    """A model with a random LoKr, and the file of that LoKr."""
    params = params_of()
    model, _, flat = attach(training_inputs, params)
    write_tensors(tmp_path / "lokr.safetensors", lokr_tensors(flat.views(flat.weights), params.train.file_dtype))
    return model, LokrFile(tmp_path / "lokr.safetensors"), params


def single_file_specs(model: Sdxl) -> dict[str, TensorSpec]:
    models = {part: getattr(model, part) for part in COMPONENTS}
    configs = {part: models[part].config for part in ("unet", "vae")} | {"text_encoder_2": model.text_encoder_2.config.to_dict()}
    specs = {
        part: {name: spec_of(tensor) for name, tensor in module.state_dict().items() if not name.endswith("position_ids")}
        for part, module in models.items()
    }
    single = to_single_file(specs, Layout(Architecture.from_configs(configs)))
    return {name: tensor.spec for name, tensor in single.items()}


def test_the_loss_is_that_of_the_file_merged_into_the_weights(training_inputs: Path, lokr_file: tuple) -> None:
    model, lokr, params = lokr_file
    merged = load_sdxl(training_inputs / "base")
    untouched = losses(merged, params)
    for target in lokr_targets({part: getattr(merged, part) for part in COMPONENTS}, params.train.lokr, train_text=True):
        weight = target.layer.weight.data
        weight += lokr.delta(target.name).rows(0, len(weight)).view(weight.shape)
    found, expected = losses(model, params), losses(merged, params)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert ((found - untouched).abs() > 1e-3).all()


def test_the_file_lands_on_the_single_file_with_the_bits_of_the_folded_weights(training_inputs: Path, lokr_file: tuple) -> None:
    """Every module on a weight of its own in the merge stage's tables, and W plus its delta the weight that was trained."""
    model, lokr, params = lokr_file
    base = load_sdxl(training_inputs / "base")
    landed = land_modules(lokr, single_file_specs(base))
    targets = lokr_targets({part: getattr(base, part) for part in COMPONENTS}, params.train.lokr, train_text=True)
    assert sum(map(len, landed.values())) == len(lokr.modules) == len(targets)
    layout = Layout(Architecture.from_names(single_file_specs(base)))
    for target in targets:
        place = layout.place(target.component, f"{target.path}.weight")
        assert [one.place for one in landed[place.name] if one.module == target.name] == [place]
        layer = getattr(model, target.component).get_submodule(target.path)
        weight = target.layer.weight
        delta = lokr.delta(target.name).rows(0, len(weight)).view(weight.shape)
        assert torch.equal(weight + delta, layer.folded)


def test_both_forms_agree_on_the_whole_model(training_inputs: Path) -> None:
    """Losses and all gradients; bf16 chooses the Kronecker form, which then runs in float32 on the same weights."""
    folded_params, params = params_of(), params_of(precision="bf16")
    model, trained, flat = attach(training_inputs, params)
    assert not trained.folded_layers
    frozen: dict[str, torch.Tensor] = {}
    for part in COMPONENTS:
        getattr(model, part).float()
        frozen |= {f"{part}.{name}": tensor for name, tensor in getattr(model, part).state_dict().items()}
    model.precision = "fp32"
    folded_model, folded_trained, folded_flat = attach(training_inputs, folded_params)
    for part in COMPONENTS:
        for name, tensor in getattr(folded_model, part).state_dict().items():
            if f"{part}.{name}" in frozen:
                tensor.copy_(frozen[f"{part}.{name}"])
    folded_trained.fold()
    assert len(folded_trained.folded_layers) == len(folded_flat.parameters) / 2
    assert torch.equal(flat.weights, folded_flat.weights)
    torch.testing.assert_close(losses(model, params), losses(folded_model, params), rtol=1e-5, atol=1e-5)
    found, expected = gradient(model, trained, flat, params), gradient(folded_model, folded_trained, folded_flat, params)
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_the_gradient_is_that_of_finite_differences_of_the_loss(training_inputs: Path) -> None:
    params = params_of()
    model, trained, flat = attach(training_inputs, params)
    slope = gradient(model, trained, flat, params)
    direction = slope / slope.norm()
    values = []
    for step in (0.01, -0.02):
        flat.weights.add_(step * direction)
        trained.fold()
        values.append(losses(model, params).sum().item())
    assert (values[0] - values[1]) / 0.02 == pytest.approx(slope.norm().item(), rel=0.02)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_precision_holds_frozen_weights_and_keeps_trained_numbers_float32(training_inputs: Path, precision: str) -> None:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    params, exact = params_of(precision=precision), params_of()
    model, trained, flat = attach(training_inputs, params)
    for part in ("unet", "text_encoder", "text_encoder_2"):
        for module in getattr(model, part).modules():
            if isinstance(module, LokrLayer):
                assert module.folded is None and module.weight.dtype == dtype
                assert module.w1.dtype == module.w2.dtype == torch.float32
            elif parameters := list(module.parameters(recurse=False)):
                held = dtype if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) else torch.float32
                assert {parameter.dtype for parameter in parameters} == {held}
    other_model, other_trained, other_flat = attach(training_inputs, exact)
    assert torch.equal(flat.weights, other_flat.weights)
    allowed = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(losses(model, params), losses(other_model, exact), rtol=allowed, atol=0)
    found, expected = gradient(model, trained, flat, params), gradient(other_model, other_trained, other_flat, exact)
    assert found.dtype == torch.float32 and (found - expected).norm() < allowed * expected.norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_gives_the_same_bits(training_inputs: Path, precision: str) -> None:
    params = params_of(precision=precision)
    model, trained, flat = attach(training_inputs, params)
    plain = gradient(model, trained, flat, params)
    model.unet.enable_gradient_checkpointing()
    assert plain.any() and torch.equal(gradient(model, trained, flat, params), plain)


def test_an_untrained_lokr_leaves_the_loss_as_it_is(training_inputs: Path) -> None:
    params = params_of()
    expected = losses(load_sdxl(training_inputs / "base"), params)
    model = load_sdxl(training_inputs / "base")
    make_trained(model, params).fold()
    torch.testing.assert_close(losses(model, params), expected, rtol=1e-6, atol=0)


def test_every_number_starts_by_its_name_alone(training_inputs: Path) -> None:
    """Whether text encoders are trained, and which layers beside it are, changes no layer's draw."""
    both = make_trained(load_sdxl(training_inputs / "base"), params_of()).groups
    assert list(both) == ["text", "unet"]
    lokr = params_of().train.lokr.model_dump() | {"by_name": {".*_attn1_.*": None}}
    unet = make_trained(load_sdxl(training_inputs / "base"), params_of(te_lr=0.0, lokr=lokr)).groups
    assert list(unet) == ["unet"] and 0 < len(unet["unet"]) < len(both["unet"])
    whole = dict(both["unet"])
    assert all(torch.equal(parameter, whole[name]) for name, parameter in unet["unet"])
    w1s = [parameter for name, parameter in both["unet"] if name.endswith("w1") and parameter.shape == (2, 2)]
    assert len({tuple(w1.flatten().tolist()) for w1 in w1s}) == len(w1s) > 10
    assert not any(parameter.any() for name, parameter in both["text"] if name.endswith("w2"))


def test_text_encoders_at_rate_zero_have_no_lokr(training_inputs: Path) -> None:
    model = load_sdxl(training_inputs / "base")
    make_trained(model, params_of(te_lr=0.0))
    for part in (model.text_encoder, model.text_encoder_2):
        assert not any(isinstance(module, LokrLayer) for module in part.modules())
        assert not any(parameter.requires_grad for parameter in part.parameters())


def test_nothing_to_train_is_refused(training_inputs: Path) -> None:
    lokr = params_of().train.lokr.model_dump() | {"by_name": {"lora_unet_.*": None}}
    with pytest.raises(StageError, match="found nothing to train in this UNet"):
        make_trained(load_sdxl(training_inputs / "base"), params_of(lokr=lokr))


@pytest.mark.parametrize("te_lr", [0.0, 0.001])
def test_full_training_trains_every_weight_in_float32(training_inputs: Path, te_lr: float) -> None:
    params = params_of(te_lr=te_lr, method="full", precision="bf16")
    model = load_sdxl(training_inputs / "base", precision="bf16")
    trained = make_trained(model, params)
    expected = {"unet": ["unet"]} if te_lr == 0 else {"text": ["text_encoder", "text_encoder_2"], "unet": ["unet"]}
    names = {
        group: [f"{part}.{name}" for part in parts for name, _ in getattr(model, part).named_parameters()]
        for group, parts in expected.items()
    }
    assert {group: [name for name, _ in parameters] for group, parameters in trained.groups.items()} == names
    flat = FlatWeights(trained.groups)
    before = flat.weights.clone()
    trained.fold()
    found = gradient(model, trained, flat, params)
    assert found.any() and torch.equal(flat.weights, before)
    assert {parameter.dtype for parameter in flat.parameters.values()} == {torch.float32}


@pytest.mark.parametrize("file_dtype", ["fp32", "bf16", "fp16"])
def test_the_file_has_an_alpha_of_one_and_the_recipes_type(file_dtype: str) -> None:
    trained = {"lora_unet_x.lokr_w1": torch.full((2, 2), 0.1), "lora_unet_x.lokr_w2": torch.full((3, 3), 0.2)}
    tensors = lokr_tensors(trained, file_dtype)
    assert list(tensors) == ["lora_unet_x.lokr_w1", "lora_unet_x.lokr_w2", "lora_unet_x.alpha"]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[file_dtype]
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    assert tensors["lora_unet_x.alpha"].shape == () and tensors["lora_unet_x.alpha"] == 1
    assert torch.equal(tensors["lora_unet_x.lokr_w1"], trained["lora_unet_x.lokr_w1"].to(dtype))
    tensors["lora_unet_x.lokr_w1"].zero_()
    assert trained["lora_unet_x.lokr_w1"].all()
