"""What is trained on a small model of each family: the LoKr against its merged weights, both forms, precisions, the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.numerics import fix_torch
from repro.params import FamilyName, Params
from repro.tensorfile import TensorSpec, spec_of, write_tensors

import pytest
import torch
from tiny_training import family_of, family_values

from checkpoints.keymap import to_single_file
from checkpoints.lokr import LokrFile
from checkpoints.model_family import MODEL_FAMILIES
from checkpoints.operands import land_modules
from families.family import Batch, Family, Model, Sizes, family
from training.adapters import Trained, lokr_tensors, make_trained
from training.examples import draw_timesteps
from training.flat import FlatWeights
from training.lokr_layers import LokrLayer
from training.lokr_targets import lokr_targets

fix_torch()
SIZES = [Sizes(192, 160, 0, 3, 64, 48), Sizes(128, 128, 0, 0, 64, 48)]
CAPTIONS = ["1girl, blue hair, smile", "2boys"]


def params_of(inputs: Path, te_lr: float = 0.0005, **train: Any) -> Params:
    """Parameters of the inputs' family with keys of `train` replaced."""
    values = family_values(family_of(inputs / "base"))
    values["te_lr"] = te_lr
    values["train"].update(train)
    return Params.model_validate(values)


def losses(model: Model, params: Params) -> torch.Tensor:
    """Of two fixed pictures of 48x64 pixels."""
    of, draw = family(params.family), torch.Generator().manual_seed(11)
    shape = (2, *of.latent_shape(of.modules_of(model), (48, 64)))
    latents, noise = (torch.randn(shape, generator=draw) for _ in range(2))
    timesteps = draw_timesteps(of, 0, [(0,), (1,)])
    return of.losses(model, Batch([0, 1], latents, noise, timesteps, CAPTIONS, SIZES), params.train)


def load(inputs: Path, params: Params) -> tuple[Family, Model, dict[str, torch.nn.Module]]:
    """The family, the small model, and its components."""
    of = family(params.family)
    model = of.load(inputs / "base", precision=params.train.precision, draws=False)
    return of, model, of.modules_of(model)


def attach(inputs: Path, params: Params) -> tuple[Model, Trained, FlatWeights]:
    """The small model with what is trained on it, every number moved a little away from its start."""
    _, model, _ = load(inputs, params)
    trained = make_trained(model, params)
    flat = FlatWeights(trained.groups)
    for number, (_, view) in enumerate(sorted(flat.views(flat.weights).items())):
        view.add_(torch.randn(view.shape, generator=torch.Generator().manual_seed(number)) * 0.05)
    trained.fold()
    return model, trained, flat


def gradient(model: Model, trained: Trained, flat: FlatWeights, params: Params) -> torch.Tensor:
    buffer = flat.collect_gradients()
    losses(model, params).sum().backward()
    trained.finish_gradients()
    return buffer


@pytest.fixture
def lokr_file(family_inputs: Path, tmp_path: Path) -> tuple[Model, LokrFile, Params]:
    """A model with a random LoKr, and the file of that LoKr."""
    params = params_of(family_inputs)
    model, _, flat = attach(family_inputs, params)
    write_tensors(tmp_path / "lokr.safetensors", lokr_tensors(flat.views(flat.weights), params.train.file_dtype))
    return model, LokrFile(tmp_path / "lokr.safetensors"), params


def single_file_specs(name: FamilyName, modules: Mapping[str, torch.nn.Module]) -> dict[str, TensorSpec]:
    configs = {part: modules[part].config for part in modules if part != "effnet"}
    layout = MODEL_FAMILIES[name].layout({part: dict(getattr(c, "to_dict", lambda c=c: c)()) for part, c in configs.items()})
    specs = {
        part: {name: spec_of(tensor) for name, tensor in module.state_dict().items() if not name.endswith("position_ids")}
        for part, module in modules.items()
    }
    return {name: tensor.spec for name, tensor in to_single_file(specs, layout).items()}


def test_the_loss_is_that_of_the_file_merged_into_the_weights(family_inputs: Path, lokr_file: tuple) -> None:
    model, lokr, params = lokr_file
    _, merged, modules = load(family_inputs, params)
    untouched = losses(merged, params)
    for target in lokr_targets(params.family, modules, params.train.lokr, train_text=True):
        weight = target.layer.weight.data
        weight += lokr.delta(target.name).rows(0, len(weight)).view(weight.shape)
    found, expected = losses(model, params), losses(merged, params)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert ((found - untouched).abs() > 1e-3).all()


def test_the_file_lands_on_the_single_file_with_the_bits_of_the_folded_weights(family_inputs: Path, lokr_file: tuple) -> None:
    """Every module on a weight of its own in the merge stage's tables, and W plus its delta the weight that was trained."""
    model, lokr, params = lokr_file
    of, _, base = load(family_inputs, params)
    specs = single_file_specs(params.family, base)
    family = MODEL_FAMILIES[params.family]
    landed = land_modules(lokr, specs, family)
    targets = lokr_targets(params.family, base, params.train.lokr, train_text=True)
    assert sum(map(len, landed.values())) == len(lokr.modules) == len(targets)
    layout = family.layout_of_names(specs)
    for target in targets:
        place = layout.place(target.component, f"{target.path}.weight")
        assert [one.place for one in landed[place.name] if one.module == target.name] == [place]
        layer = of.modules_of(model)[target.component].get_submodule(target.path)
        weight = target.layer.weight
        delta = lokr.delta(target.name).rows(0, len(weight)).view(weight.shape)
        assert torch.equal(weight + delta, layer.folded)


def test_both_forms_agree_on_the_whole_model(family_inputs: Path) -> None:
    """Losses and all gradients; bf16 chooses the Kronecker form, which then runs in float32 on the same weights."""
    folded_params, params = params_of(family_inputs), params_of(family_inputs, precision="bf16")
    model, trained, flat = attach(family_inputs, params)
    assert not trained.folded_layers
    of, frozen = family(params.family), {}
    for part, module in of.modules_of(model).items():
        frozen |= {f"{part}.{name}": tensor for name, tensor in module.float().state_dict().items()}
    model.precision = "fp32"
    folded_model, folded_trained, folded_flat = attach(family_inputs, folded_params)
    for part, module in of.modules_of(folded_model).items():
        for name, tensor in module.state_dict().items():
            if f"{part}.{name}" in frozen:
                tensor.copy_(frozen[f"{part}.{name}"])
    folded_trained.fold()
    assert len(folded_trained.folded_layers) == len(folded_flat.parameters) / 2
    assert torch.equal(flat.weights, folded_flat.weights)
    torch.testing.assert_close(losses(model, params), losses(folded_model, params), rtol=1e-5, atol=1e-5)
    found, expected = gradient(model, trained, flat, params), gradient(folded_model, folded_trained, folded_flat, params)
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_the_gradient_is_that_of_finite_differences_of_the_loss(family_inputs: Path) -> None:
    params = params_of(family_inputs)
    model, trained, flat = attach(family_inputs, params)
    slope = gradient(model, trained, flat, params)
    direction = slope / slope.norm()
    values = []
    for step in (0.01, -0.02):
        flat.weights.add_(step * direction)
        trained.fold()
        values.append(losses(model, params).sum().item())
    assert (values[0] - values[1]) / 0.02 == pytest.approx(slope.norm().item(), rel=0.02)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_precision_holds_frozen_weights_and_keeps_trained_numbers_float32(family_inputs: Path, precision: str) -> None:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    params, exact = params_of(family_inputs, precision=precision), params_of(family_inputs)
    model, trained, flat = attach(family_inputs, params)
    of = family(params.family)
    for part in of.GROUPS:
        for module in of.modules_of(model)[part].modules():
            if isinstance(module, LokrLayer):
                assert module.folded is None and module.weight.dtype == dtype
                assert module.w1.dtype == module.w2.dtype == torch.float32
            elif parameters := list(module.parameters(recurse=False)):
                held = dtype if isinstance(module, torch.nn.Linear | torch.nn.Conv2d) else torch.float32
                assert {parameter.dtype for parameter in parameters} == {held}
    other_model, other_trained, other_flat = attach(family_inputs, exact)
    assert torch.equal(flat.weights, other_flat.weights)
    allowed = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(losses(model, params), losses(other_model, exact), rtol=allowed, atol=0)
    found, expected = gradient(model, trained, flat, params), gradient(other_model, other_trained, other_flat, exact)
    assert found.dtype == torch.float32 and (found - expected).norm() < allowed * expected.norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_gives_the_same_bits(family_inputs: Path, precision: str) -> None:
    params = params_of(family_inputs, precision=precision)
    model, trained, flat = attach(family_inputs, params)
    plain = gradient(model, trained, flat, params)
    family(params.family).checkpoint_gradients(model)
    assert plain.any() and torch.equal(gradient(model, trained, flat, params), plain)


def test_an_untrained_lokr_leaves_the_loss_as_it_is(family_inputs: Path) -> None:
    params = params_of(family_inputs)
    (_, base, _), (_, model, _) = load(family_inputs, params), load(family_inputs, params)
    expected = losses(base, params)
    make_trained(model, params).fold()
    torch.testing.assert_close(losses(model, params), expected, rtol=1e-6, atol=0)


def test_every_number_starts_by_its_name_alone(family_inputs: Path) -> None:
    """Whether text encoders are trained, and which layers beside it are, changes no layer's draw."""

    def groups(params: Params) -> dict[str, list[tuple[str, torch.nn.Parameter]]]:
        return make_trained(load(family_inputs, params)[1], params).groups

    both = groups(params_of(family_inputs))
    assert list(both) == ["text", "unet"]
    lokr = params_of(family_inputs).train.lokr.model_dump() | {"by_name": {".*_attn(1|_to)_.*": None}}
    unet = groups(params_of(family_inputs, te_lr=0.0, lokr=lokr))
    assert list(unet) == ["unet"] and 0 < len(unet["unet"]) < len(both["unet"])
    whole = dict(both["unet"])
    assert all(torch.equal(parameter, whole[name]) for name, parameter in unet["unet"])
    w1s = [parameter for name, parameter in both["unet"] if name.endswith("w1") and parameter.shape == (2, 2)]
    assert len({tuple(w1.flatten().tolist()) for w1 in w1s}) == len(w1s) > 10
    assert not any(parameter.any() for name, parameter in both["text"] if name.endswith("w2"))


def test_text_encoders_at_rate_zero_have_no_lokr(family_inputs: Path) -> None:
    params = params_of(family_inputs, te_lr=0.0)
    of, model, modules = load(family_inputs, params)
    make_trained(model, params)
    for part in (modules[part] for part, group in of.GROUPS.items() if group == "text"):
        assert not any(isinstance(module, LokrLayer) for module in part.modules())
        assert not any(parameter.requires_grad for parameter in part.parameters())


def test_nothing_to_train_is_refused(family_inputs: Path) -> None:
    lokr = params_of(family_inputs).train.lokr.model_dump() | {"by_name": {"lora_(prior_)?unet_.*": None}}
    params = params_of(family_inputs, lokr=lokr)
    with pytest.raises(StageError, match=r"found nothing to train in the (unet|prior)$"):
        make_trained(load(family_inputs, params)[1], params)


@pytest.mark.parametrize("te_lr", [0.0, 0.001])
def test_full_training_trains_every_weight_in_float32(family_inputs: Path, te_lr: float) -> None:
    params = params_of(family_inputs, te_lr=te_lr, method="full", precision="bf16")
    of, model, modules = load(family_inputs, params)
    trained = make_trained(model, params)
    names: dict[str, list[str]] = {}
    for part, group in of.GROUPS.items():
        if te_lr or group == "unet":
            names.setdefault(group, []).extend(f"{part}.{name}" for name, _ in modules[part].named_parameters())
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
