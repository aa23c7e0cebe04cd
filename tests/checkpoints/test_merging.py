"""Merges: the reference's answers bit for bit, the formulas of the model cards, float types, pieces, and what is refused."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repro import numerics
from repro.errors import StageError

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from lycoris_lokr import FULL_MATRIX_DIM, write_lycoris_lokr
from safetensors.torch import load_file
from small_sdxl import write_small_sdxl
from tiny_checkpoints import (
    CLIP_L_MLP,
    CONV,
    CONV_3X3,
    CONV_BIAS,
    IDS,
    IN_PROJ,
    IN_PROJ_BIAS,
    LINEAR,
    OUT_NORM,
    POSITIONS,
    POSITIONS_2,
    PROJECTION,
    TEMPERATURE,
    TIME,
    TOKENS,
    TOKENS_2,
    VAE_QUERY,
    merged,
    merged_tensors,
    open_merge,
    same,
    same_bytes,
    tiny_tensors,
    uniform,
    write,
    write_models,
    write_tiny_models,
)

from checkpoints import merging
from checkpoints.checkpoint import Checkpoint
from checkpoints.diffusers_folder import read_configs
from checkpoints.layouts import write_diffusers, write_single_file
from checkpoints.lokr import LokrFile
from checkpoints.model_family import SDXL
from checkpoints.rounding import Precision
from checkpoints.sdxl_names import EMBEDDINGS

Tensors = dict[str, torch.Tensor]

GAMMA_REV1 = "beta7 + 0.8 * (anxl3 - anxl2) + 0.5 * (base7 - beta7)"
GAMMA_REV2_BEFORE_BLOCKS = "beta7 + 1.0 * (anxl3 - anxl2) + 0.25 * (base8 - beta7)"
CARDS_WEIGHTS = "[0,0.1,0.1,0,0.1,0.1,0,0.1,0.1,0,0,0,0,0,0.05,0.05,0.05,0.05,0.05,0.05]"
GAMMA_REV2 = f"mbw({GAMMA_REV2_BEFORE_BLOCKS}, anxl3, {CARDS_WEIGHTS})"
DELTA_PRE2 = "0.5 * restore_embeddings(gamma_rev2, sdxl) + 0.5 * restore_embeddings(beta7, sdxl)"
FINAL = "lokr(base, trained, 1.0)"

GOLDEN = {
    "exp_gamma_rev1": GAMMA_REV1,
    "exp_gamma_rev2": GAMMA_REV2_BEFORE_BLOCKS,
    "exp_mbw_diff": f"mbw(gamma_rev2, anxl3, {CARDS_WEIGHTS})",
    "exp_mbw_time_in00": f"mbw(gamma_rev2, anxl3, {CARDS_WEIGHTS}, blocks=supermerger_2025)",
    "exp_mbw_onepass": GAMMA_REV2,
    "exp_delta_pre2": DELTA_PRE2,
    "exp_delta_pre2_onlygamma": "0.5 * restore_embeddings(gamma_rev2, sdxl) + 0.5 * beta7",
    "exp_lokr_1p0_fp32": "lokr(delta_pre2, lokr, 1.0)",
    "exp_lokr_0p5_fp32": "lokr(delta_pre2, lokr, 0.5)",
}
GOLDEN_INPUTS = ("sdxl", "beta7", "base7", "base8", "anxl2", "anxl3", "lokr")
GOLDEN_STEPS = ("gamma_rev2", "delta_pre2")


def golden_files(golden: Path) -> dict[str, Path]:
    inputs = {name: golden / "merge" / f"in_{name}.safetensors" for name in GOLDEN_INPUTS}
    return inputs | {name: golden / "merge" / f"exp_{name}.safetensors" for name in GOLDEN_STEPS}


def golden_index(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "merge" / "index.json").read_text())


def golden_answer(golden: Path, name: str) -> Tensors:
    return load_file(golden / "merge" / f"{name}.safetensors")


@pytest.mark.golden
@pytest.mark.parametrize("name", GOLDEN)
def test_reference_merges_bit_for_bit(golden: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "out.safetensors"
    digest = write_single_file(path, open_merge(GOLDEN[name], golden_files(golden)), lambda _: {})
    expected = golden_answer(golden, name)
    ours = load_file(path)
    assert ours.keys() == expected.keys() and len(ours) == 81
    assert [key for key in expected if not same_bytes(ours[key], expected[key])] == []
    stated = golden_index(golden)["files"][name]
    assert f"0x{digest}" == stated["modelspec_hash_sha256"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == stated["sha256"]


@pytest.mark.golden
def test_reference_merge_in_fp8_bit_for_bit(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    merge = open_merge(GAMMA_REV2_BEFORE_BLOCKS, golden_files(golden), Precision("fp8"))
    digest = write_single_file(path, merge, lambda _: {})
    expected, ours, half = golden_answer(golden, "exp_gamma_rev2_fp8"), load_file(path), golden_answer(golden, "exp_gamma_rev2")
    assert f"0x{digest}" == golden_index(golden)["files"]["exp_gamma_rev2_fp8"]["modelspec_hash_sha256"]
    # There logit_scale has lost its dimension; the bytes are the same.
    assert [key for key in expected if ours[key].shape != expected[key].shape] == [TEMPERATURE]
    assert [key for key in expected if not same_bytes(ours[key].flatten(), expected[key].flatten())] == []
    floats = [key for key in half if half[key].is_floating_point()]
    saturated = sum(int((half[key].abs() > 448).sum()) for key in floats)
    assert saturated == golden_index(golden)["checks"]["fp8_saturated"]
    assert all(ours[key].float()[half[key] > 448].eq(448).all() for key in floats)


@pytest.mark.golden
def test_weighted_sum_in_float32_is_within_a_step_of_exact_arithmetic(golden: Path, tmp_path: Path) -> None:
    """(1 - w) * a + w * b: 0.9 and 0.1 are no float32 numbers, so one rounding is not as good as exact arithmetic here."""
    formula = f"weighted_sum(gamma_rev2, anxl3, {CARDS_WEIGHTS})"
    ours = merged_tensors(formula, golden_files(golden), tmp_path / "out.safetensors")
    expected = golden_answer(golden, "exp_mbw_ws")
    assert ours.keys() == expected.keys()
    differing = 0
    for name in expected:
        if expected[name].is_floating_point():
            steps = (fp16_steps(ours[name]) - fp16_steps(expected[name])).abs()
            assert steps.max() <= 1
            differing += int(steps.sum())
    assert differing == 783


def fp16_steps(half: torch.Tensor) -> torch.Tensor:
    """float16 numbers counted from zero, so that neighbours differ by one."""
    bits = half.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


@pytest.mark.golden
def test_the_two_forms_of_block_weights_differ_where_stated(golden: Path, tmp_path: Path) -> None:
    ours = merged_tensors(GOLDEN["exp_mbw_diff"], golden_files(golden), tmp_path / "out.safetensors")
    assert differing(ours, golden_answer(golden, "exp_mbw_ws")) == golden_index(golden)["checks"]["mbw_diff_vs_ws"]["differ"]


@pytest.mark.golden
@pytest.mark.parametrize("name", ["lokr_1p0", "lokr_0p5"])
def test_float32_contract_is_within_the_stated_elements_of_exact_arithmetic(golden: Path, tmp_path: Path, name: str) -> None:
    ours = merged_tensors(GOLDEN[f"exp_{name}_fp32"], golden_files(golden), tmp_path / "out.safetensors")
    stated = golden_index(golden)["checks"][f"{name}_fp32_vs_fp64"]["differ"]
    assert stated and differing(ours, golden_answer(golden, f"exp_{name}")) == stated


def differing(ours: Tensors, theirs: Tensors) -> int:
    return sum(int((ours[name] != theirs[name]).sum()) for name in theirs)


@pytest.mark.golden
def test_reference_modules_land_where_stated(golden: Path, tmp_path: Path) -> None:
    modules = golden_index(golden)["lokr_modules"]
    merge = merged(GOLDEN["exp_lokr_1p0_fp32"], golden_files(golden), tmp_path / "out.safetensors")
    landed = {}
    for key, of_tensor in merge.landed["lokr"].items():
        for of in of_tensor:
            height = merge.specs[key].shape[0] // 3
            rows = [of.place.part * height, (of.place.part + 1) * height] if of.place.form == "rows" else None
            landed[of.module] = (key, rows)
    assert landed == {entry["module"]: (entry["key"], entry["rows"]) for entry in modules}
    base, ours = golden_answer(golden, "exp_delta_pre2"), load_file(tmp_path / "out.safetensors")
    assert {key for key in base if not torch.equal(base[key], ours[key])} == {entry["key"] for entry in modules}
    assert {component: counts["changed"] for component, counts in merge.changes.items()} == {
        "unet": 10, "text_encoder": 2, "text_encoder_2": 2, "vae": 0,
    }  # fmt: skip
    assert sum(counts["lokr_modules"] for counts in merge.changes.values()) == len(modules)
    assert sum(counts["tensors"] for counts in merge.changes.values()) == 81


@pytest.mark.golden
def test_restored_embeddings_are_the_originals(golden: Path, tmp_path: Path) -> None:
    ours = merged_tensors(DELTA_PRE2, golden_files(golden), tmp_path / "out.safetensors")
    original = golden_answer(golden, "in_sdxl")
    assert list(EMBEDDINGS) == golden_index(golden)["restored_embeddings"]
    assert all(same_bytes(ours[name], original[name].half()) for name in EMBEDDINGS)


@pytest.mark.golden
def test_block_weights_change_the_blocks_that_have_them(golden: Path, tmp_path: Path) -> None:
    index = golden_index(golden)
    merge = merged(GOLDEN["exp_mbw_diff"], golden_files(golden), tmp_path / "out.safetensors")
    before, ours = golden_answer(golden, "exp_gamma_rev2"), load_file(tmp_path / "out.safetensors")
    changed = {name for name in before if not torch.equal(ours[name], before[name])}
    assert changed == {name for name, block in index["mbw_blocks"].items() if index["mbw_weights"][block]}
    assert merge.changes["unet"]["changed"] == len(changed)


# Every formula of the cards once more, on dense numbers and against torch's own operations. What follows is their
# weights of the tiny checkpoint's tensors by block (IN00, IN04, OUT08); the others' blocks have 0.
CARDS_WEIGHT = {CONV: 0.1, CONV_BIAS: 0.1, LINEAR: 0.1, OUT_NORM: 0.05}
LOKR = {
    "lora_unet_conv_in.lokr_w1": uniform("conv w1", 2, 2),
    "lora_unet_conv_in.lokr_w2": uniform("conv w2", 4, 2, 3, 3),
    "lora_unet_input_blocks_4_1_proj_in.lokr_w1": uniform("linear w1", 4, 2),
    "lora_unet_input_blocks_4_1_proj_in.lokr_w2": uniform("linear w2", 3, 4),
    "lora_unet_input_blocks_4_1_proj_in.alpha": torch.tensor(float("inf")),
    "lora_unet_mid_block_resnets_1_conv2.lokr_w1": uniform("low rank w1", 2, 2),
    "lora_unet_mid_block_resnets_1_conv2.lokr_w2_a": uniform("low rank a", 3, 2),
    "lora_unet_mid_block_resnets_1_conv2.lokr_w2_b": uniform("low rank b", 2, 4 * 9),
    "lora_unet_mid_block_resnets_1_conv2.alpha": torch.tensor(0.5),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.lokr_w1": uniform("fc1 w1", 3, 2),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.lokr_w2": uniform("fc1 w2", 4, 3),
    "lora_te2_text_projection.lokr_w1": uniform("projection w1", 3, 2),
    "lora_te2_text_projection.lokr_w2": uniform("projection w2", 2, 4),
    **{
        f"lora_te2_text_model_encoder_layers_0_self_attn_{matrix}_proj.lokr_w{n}": uniform(f"{matrix} w{n}", *shape)
        for matrix in "qv"
        for n, shape in ((1, (4, 2)), (2, (2, 4)))
    },
}


def full_delta(module: str) -> torch.Tensor:
    w1, w2 = LOKR[f"{module}.lokr_w1"], LOKR[f"{module}.lokr_w2"]
    return torch.kron(w1.reshape(*w1.shape, *[1] * (w2.ndim - 2)), w2)


def lokr_deltas() -> Tensors:
    """What LOKR means for each tensor, worked out here."""
    te2, low = "lora_te2_text_model_encoder_layers_0_self_attn_", "lora_unet_mid_block_resnets_1_conv2"
    a, b = LOKR[f"{low}.lokr_w2_a"], LOKR[f"{low}.lokr_w2_b"]
    w2 = (a[:, :1] * b[:1] + a[:, 1:] * b[1:]).reshape(3, 4, 3, 3)
    return {
        CONV: full_delta("lora_unet_conv_in"),
        LINEAR: full_delta("lora_unet_input_blocks_4_1_proj_in"),
        CONV_3X3: torch.kron(LOKR[f"{low}.lokr_w1"][:, :, None, None], w2) * 0.25,
        CLIP_L_MLP: full_delta("lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        PROJECTION: full_delta("lora_te2_text_projection").T,
        IN_PROJ: torch.cat([full_delta(f"{te2}q_proj"), torch.zeros(8, 8), full_delta(f"{te2}v_proj")]),
    }


def card_rev1(m: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return (m["beta7"] + 0.8 * (m["anxl3"] - m["anxl2"])) + 0.5 * (m["base7"] - m["beta7"])


def card_rev2(m: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    value = (m["beta7"] + 1.0 * (m["anxl3"] - m["anxl2"])) + 0.25 * (m["base8"] - m["beta7"])
    return value + CARDS_WEIGHT[name] * (m["anxl3"] - value) if name in CARDS_WEIGHT else value


def card_delta_pre2(m: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name in (TOKENS, POSITIONS, TOKENS_2, POSITIONS_2):
        return m["sdxl"].half().float()
    return 0.5 * m["gamma_rev2"] + 0.5 * m["beta7"]


def card_final(m: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return m["base"] + lokr_deltas()[name] if name in lokr_deltas() else m["base"]


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize(
    "formula, reference",
    [(GAMMA_REV1, card_rev1), (GAMMA_REV2, card_rev2), (DELTA_PRE2, card_delta_pre2), (FINAL, card_final)],
    ids=["gamma-rev1", "gamma-rev2", "delta-pre2", "delta and epsilon"],
)
def test_formulas_of_the_cards(
    tmp_path: Path, formula: str, reference: Callable[[Tensors, str], torch.Tensor], dtype: str
) -> None:
    names = [name for name in ("beta7", "base7", "base8", "anxl2", "anxl3", "gamma_rev2", "base") if name in formula]
    models = {name: tiny_tensors(name) for name in names}
    if "sdxl" in formula:  # published in float32, with numbers that float16 does not have
        models["sdxl"] = {k: t.float() * 1.0001 if t.is_floating_point() else t for k, t in tiny_tensors("sdxl").items()}
    files = write_models(tmp_path, models) | {"trained": write(tmp_path / "lokr.safetensors", LOKR)}
    ours = merged_tensors(formula, files, tmp_path / "out.safetensors", Precision(dtype))
    expected = evaluated(models, reference, {"fp16": torch.float16, "fp32": torch.float32}[dtype])
    assert [name for name in expected if not same_bytes(ours[name], expected[name])] == []


def evaluated(models: Mapping[str, Tensors], reference: Callable[[Tensors, str], torch.Tensor], dtype: torch.dtype) -> Tensors:
    """`reference` of each tensor's float32 values, rounded to `dtype`; integers as in the first model."""
    first = next(iter(models.values()))
    return {
        name: reference({model: tensors[name].float() for model, tensors in models.items()}, name).to(dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }


SUM = "a + 0.8 * (b - c) / 3"


def plain_sum(m: Tensors, name: str) -> torch.Tensor:
    return m["a"] + (0.8 * (m["b"] - m["c"])) / 3


TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
OUTPUTS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def in_types(seed: str, *dtypes: torch.dtype) -> Tensors:
    """Numbers with more digits than float32 has, each next tensor in the next of these types."""
    tensors = {name: uniform(f"{seed} {name}", *t.shape).double() for name, t in tiny_tensors(seed).items() if name != IDS}
    typed = {name: (t * (1 + 2**-26)).to(dtypes[i % len(dtypes)]) for i, (name, t) in enumerate(tensors.items())}
    return typed | {IDS: torch.arange(7)[None]}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(
    "types",
    [*((name,) * 3 for name in TYPES), ("F16", "F32", "BF16"), ("F8_E4M3", "F16", "F64"), ("BF16", "F8_E5M2", "F16")],
    ids=" ".join,
)
def test_operands_of_any_float_types(tmp_path: Path, types: tuple[str, ...], output: str) -> None:
    models = {name: in_types(name, TYPES[kind]) for name, kind in zip("abc", types, strict=True)}
    ours = merged_tensors(SUM, write_models(tmp_path, models), tmp_path / "out.safetensors", Precision(output))
    assert same(ours, evaluated(models, plain_sum, OUTPUTS[output]))


@pytest.mark.parametrize("output", OUTPUTS)
def test_operands_whose_tensors_are_of_different_types(tmp_path: Path, output: str) -> None:
    orders = {"a": list(TYPES.values()), "b": list(reversed(TYPES.values())), "c": list(TYPES.values())[2:]}
    models = {name: in_types(name, *dtypes) for name, dtypes in orders.items()}
    files = write_models(tmp_path, models)
    ours = merged_tensors(SUM, files, tmp_path / "out.safetensors", Precision(output), unchanged="accept")
    assert same(ours, evaluated(models, plain_sum, OUTPUTS[output]))


@pytest.mark.parametrize("model", ["a", "b"])
@pytest.mark.parametrize("output", ["fp32", "bf16", "fp16"])
def test_a_formula_of_one_name_converts(tmp_path: Path, model: str, output: str) -> None:
    tensors = in_types(model, *TYPES.values())
    ours = merged_tensors(model, write_models(tmp_path, {model: tensors}), tmp_path / "out.safetensors", Precision(output))
    assert same(ours, evaluated({model: tensors}, lambda m, _: m[model], OUTPUTS[output]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: write_small_sdxl(folder / name, seed) for seed, name in enumerate("abc")}


@pytest.fixture(scope="module")
def single_files(folders: dict[str, Path]) -> dict[str, Path]:
    """The same models as single files."""
    paths = {name: folder.with_name(f"{name}.safetensors") for name, folder in folders.items()}
    for name, path in paths.items():
        write_single_file(path, Checkpoint(folders[name]), lambda _: {})
    return paths


@pytest.mark.parametrize("of_folders", ["abc", "a", "bc", ""])
def test_folders_and_single_files_mix(
    folders: dict[str, Path], single_files: dict[str, Path], tmp_path: Path, of_folders: str
) -> None:
    files = {name: (folders if name in of_folders else single_files)[name] for name in "abc"}
    ours = merged_tensors(SUM, files, tmp_path / "out.safetensors", unchanged="accept")
    models = {name: load_file(path) for name, path in single_files.items()}
    assert same(ours, evaluated(models, plain_sum, torch.float16))


def test_a_folder_written_at_once_is_that_of_the_single_file(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged(SUM, folders, tmp_path / "out.safetensors", unchanged="accept")
    configs = read_configs(folders["a"])
    write_diffusers(tmp_path / "of file", Checkpoint(tmp_path / "out.safetensors"), configs)
    write_diffusers(tmp_path / "at once", open_merge(SUM, folders, unchanged="accept"), configs)
    set_pieces(monkeypatch, (9_999, 3))
    write_diffusers(tmp_path / "in pieces", open_merge(SUM, folders, unchanged="accept"), configs)
    trees = [{f.name: f.read_bytes() for f in (tmp_path / n).rglob("*.*")} for n in ("of file", "at once", "in pieces")]
    assert trees[0] == trees[1] == trees[2] and len(trees[0]) > 4


@pytest.mark.parametrize("first, expected", [("a", 10), ("b", 20)])
def test_integers_are_the_first_models(tmp_path: Path, first: str, expected: int) -> None:
    models = {name: tiny_tensors(name) | {IDS: torch.arange(start, start + 7)[None]} for name, start in (("a", 10), ("b", 20))}
    files = write_models(tmp_path, models)
    formula = {"a": "a + 0.5 * (b - a)", "b": "b - 0.5 * a"}[first]
    for precision in (Precision("fp16"), Precision("fp8")):
        ours = merged_tensors(formula, files, tmp_path / "out.safetensors", precision)
        assert same_bytes(ours[IDS], torch.arange(expected, expected + 7)[None])
    write(files[first], {name: tensor for name, tensor in models[first].items() if name != IDS})
    other = merged_tensors(formula, files, tmp_path / "out.safetensors")[IDS]
    assert same_bytes(other, models[{"a": "b", "b": "a"}[first]][IDS])


def test_a_tensor_takes_the_first_models_shape(tmp_path: Path) -> None:
    one = tiny_tensors("b")
    files = write_models(tmp_path, {"a": tiny_tensors("a"), "b": one | {TEMPERATURE: one[TEMPERATURE].reshape(1)}})
    assert merged_tensors("a + 0.5 * b", files, tmp_path / "out.safetensors")[TEMPERATURE].shape == ()
    assert merged_tensors("b + 0.5 * a", files, tmp_path / "out.safetensors")[TEMPERATURE].shape == (1,)


@pytest.mark.parametrize("unmatched", ["copy", "drop"])
def test_unmatched_tensors_are_copied_or_dropped(tmp_path: Path, unmatched: str) -> None:
    models = {name: tiny_tensors(name) for name in "ab"}
    only_a, only_b = models["b"].pop(LINEAR) * 0 + models["a"][LINEAR], models["b"][TIME]
    del models["a"][TIME]
    ours = merged_tensors("a + 0.5 * (b - a)", write_models(tmp_path, models), tmp_path / "out.safetensors", unmatched=unmatched)
    if unmatched == "copy":
        assert same_bytes(ours.pop(LINEAR), only_a) and same_bytes(ours.pop(TIME), only_b)
    both = {model: {n: t for n, t in tensors.items() if n not in (LINEAR, TIME)} for model, tensors in models.items()}
    assert same(ours, evaluated(both, lambda m, _: m["a"] + 0.5 * (m["b"] - m["a"]), torch.float16))


def test_a_module_of_a_tensor_that_is_only_copied_is_named(tmp_path: Path) -> None:
    models = {name: tiny_tensors(name) for name in "ab"}
    del models["b"][CONV]
    files = write_models(tmp_path, models) | {"t": write(tmp_path / "t.safetensors", LOKR)}
    with pytest.raises(StageError, match=rf"t\.safetensors: module 'lora_unet_conv_in' changes '{CONV}', which is only copied"):
        open_merge("lokr(a + b, t, 1)", files, unmatched="copy")
    with pytest.raises(StageError, match=r"module 'lora_unet_conv_in' lands on no weight"):
        open_merge("lokr(a + b, t, 1)", files, unmatched="drop")


@pytest.mark.parametrize("layers_only", [False, True])
def test_fp8_is_a_cast_of_the_fp16_file(tmp_path: Path, layers_only: bool) -> None:
    files = write_tiny_models(tmp_path, "ab", torch.float32)
    large = load_file(files["a"])
    large[LINEAR][0, :4] = torch.tensor([500.0, -60000.0, 463.0, 465.0])
    write(files["a"], large)
    formula = "a + 0.3 * (b - a)"
    half = merged_tensors(formula, files, tmp_path / "out.safetensors")
    ours = merged_tensors(formula, files, tmp_path / "out.safetensors", Precision("fp8", layers_only))
    bare = {CONV_BIAS, OUT_NORM, TOKENS, POSITIONS, TOKENS_2, POSITIONS_2, PROJECTION, IN_PROJ, IN_PROJ_BIAS, TEMPERATURE}
    narrow = {n: t.float().clamp(-448, 448).to(torch.float8_e4m3fn) for n, t in half.items() if n != IDS}
    assert same(ours, half | {name: t for name, t in narrow.items() if not (layers_only and name in bare)})
    assert ours[LINEAR][0, :2].tolist() == [352.0, -448.0]
    assert {ours[name].dtype for name in (CONV, TIME, CLIP_L_MLP, VAE_QUERY)} == {torch.float8_e4m3fn}


PIECES = [(1, 1), (1, 5), (7, 2), (13, 1), (24, 1), (24, 4), (100, 1)]
WHOLE = (merging.PIECE, merging.PIECES_OF_A_BLOCK)


def set_pieces(monkeypatch: pytest.MonkeyPatch, pieces: tuple[int, int]) -> None:
    """Let merges compute so many elements at once, and write so many of such pieces at once."""
    monkeypatch.setattr(merging, "PIECE", pieces[0])
    monkeypatch.setattr(merging, "PIECES_OF_A_BLOCK", pieces[1])


EVERYTHING = f"lokr(mbw({SUM}, b, [0.3{', 0.2' * 19}]), t, 0.7)"


@pytest.mark.parametrize("pieces", PIECES)
def test_results_do_not_depend_on_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: tuple[int, int]) -> None:
    files = write_tiny_models(tmp_path, "abc") | {"t": write(tmp_path / "t.safetensors", LOKR)}
    whole = merged_tensors(EVERYTHING, files, tmp_path / "whole.safetensors", Precision("fp32"))
    set_pieces(monkeypatch, pieces)
    in_pieces = merged_tensors(EVERYTHING, files, tmp_path / "pieces.safetensors", Precision("fp32"))
    assert same(in_pieces, whole)
    assert len(list(open_merge(EVERYTHING, files).chunks(IN_PROJ))) > 1


@pytest.mark.parametrize("pieces", [*PIECES, WHOLE])
@pytest.mark.parametrize("weight", [1.0, 0.7])
def test_lokr_is_added_to_whatever_piece(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pieces: tuple[int, int],
    weight: float,
) -> None:
    files = write_tiny_models(tmp_path, "a") | {"t": write(tmp_path / "t.safetensors", LOKR)}
    set_pieces(monkeypatch, pieces)
    ours = merged_tensors(f"lokr(a, t, {weight})", files, tmp_path / "out.safetensors", Precision("fp32"))
    deltas = lokr_deltas()
    expected = evaluated(
        {"a": load_file(files["a"])},
        lambda m, name: m["a"] + deltas[name] * weight if name in deltas else m["a"],
        torch.float32,
    )
    assert same(ours, expected)


@pytest.mark.parametrize("pieces", [(5, 1), (5, 3), (24, 1), WHOLE])
@pytest.mark.parametrize("parts, name", [(3, IN_PROJ), (3, IN_PROJ_BIAS), (2, LINEAR), (4, CONV)])
def test_parts_of_a_tensor_are_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: tuple[int, int], parts: int, name: str
) -> None:
    files = write_tiny_models(tmp_path, "abc") | {"t": write(tmp_path / "t.safetensors", LOKR)}
    whole = merged_tensors(EVERYTHING, files, tmp_path / "whole.safetensors")[name]
    set_pieces(monkeypatch, pieces)
    merge = open_merge(EVERYTHING, files)
    found = [b"".join(merge.chunks(name, part, parts)) for part in range(parts)]
    assert found == [rows.numpy().tobytes() for rows in whole.chunk(parts)]


@pytest.mark.parametrize("shape, w1, w2", [((2000, 300), (2, 3), (1000, 100)), ((2, 300_000), (2, 2), (1, 150_000))])
def test_a_tensor_larger_than_a_piece(tmp_path: Path, shape: tuple[int, int], w1: tuple[int, int], w2: tuple[int, int]) -> None:
    factors = {f"lora_unet_time_embedding_linear_1.lokr_w{n}": uniform(n, *size) for n, size in ((1, w1), (2, w2))}
    tensor = uniform("large", *shape)
    files = {"a": write(tmp_path / "a.safetensors", {TIME: tensor}), "t": write(tmp_path / "t.safetensors", factors)}
    merge = merged("lokr(a, t, 0.5)", files, tmp_path / "out.safetensors", Precision("fp32"))
    assert tensor.numel() > merging.PIECE * merging.PIECES_OF_A_BLOCK and len(list(merge.chunks(TIME))) > 1
    assert torch.equal(load_file(tmp_path / "out.safetensors")[TIME], tensor + torch.kron(*factors.values()) * 0.5)


def test_two_lokrs_and_one_on_a_part_of_the_formula(tmp_path: Path) -> None:
    second = {name.replace("conv_in", "input_blocks_0_0"): t * 0.5 for name, t in LOKR.items() if "conv_in" in name}
    files = write_tiny_models(tmp_path, "ab") | write_models(tmp_path, {"t": LOKR, "u": second})
    ours = merged_tensors("lokr(a, t, 0.5) + 0.5 * lokr(b, u, 2) - lokr(a, t, 1)", files, tmp_path / "out.safetensors")
    a, b = (load_file(files[name])[CONV].float() for name in "ab")
    delta = lokr_deltas()[CONV]
    expected = ((a + delta * 0.5) + 0.5 * (b + full_delta("lora_unet_conv_in") * 0.25 * 2.0)) - (a + delta)
    assert same_bytes(ours[CONV], expected.half())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("model", ["a", "b", "c"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_number_that_is_not_finite_is_named_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, value: float, place: int
) -> None:
    set_pieces(monkeypatch, (50, 2))
    models = {name: tiny_tensors(name) for name in "abc"}
    models[model][IN_PROJ].view(-1)[place] = value
    files = write_models(tmp_path, models)
    for precision in (Precision("fp16"), Precision("fp32"), Precision("bf16"), Precision("fp8")):
        with pytest.raises(StageError, match=rf"/{model}\.safetensors: tensor '{IN_PROJ}' holds NaN or inf"):
            merged(SUM, files, tmp_path / "out.safetensors", precision)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors", "c.safetensors"]


def test_what_the_formula_does_not_read_may_be_anything(tmp_path: Path) -> None:
    models = {name: tiny_tensors(name) for name in "ab"}
    models["b"][TIME][0, 0] = float("nan")  # of block BASE, which has weight 0
    files = write_models(tmp_path, models)
    ours = merged_tensors(f"mbw(a, b, {CARDS_WEIGHTS})", files, tmp_path / "out.safetensors")
    assert same_bytes(ours[TIME], models["a"][TIME])


@pytest.mark.parametrize(
    "precision, fits, too_large",
    [
        (Precision("fp16"), 65519.0, 65520.0),
        (Precision("fp8"), 65519.0, 65520.0),
        (Precision("bf16"), 3.38e38, 3.4e38),
        (Precision("fp32"), 3.4e38, None),
    ],
)
def test_a_result_too_large_for_the_precision_is_named(
    tmp_path: Path, precision: Precision, fits: float, too_large: float | None
) -> None:
    path = tmp_path / "a.safetensors"
    write(path, {CONV: torch.tensor([-fits, 0.0])})
    assert merged_tensors("a", {"a": path}, tmp_path / "out.safetensors", precision)[CONV].float().isfinite().all()
    if too_large:
        write(path, {CONV: torch.tensor([0.0, -too_large])})
    stored = precision.dtype_of(CONV, Checkpoint(path).specs[CONV])
    with pytest.raises(StageError, match=rf"^tensor '{CONV}': the formula gives numbers too large for {stored}"):
        merged("a" if too_large else "a * 3", {"a": path}, tmp_path / "out.safetensors", precision)


def test_a_lokr_too_large_for_the_precision_is_named(tmp_path: Path) -> None:
    factors = {
        "lora_unet_conv_in.lokr_w1": torch.full((2, 2), 300.0),
        "lora_unet_conv_in.lokr_w2": torch.full((4, 2, 3, 3), 300.0),
    }
    files = write_tiny_models(tmp_path, "a") | {"t": write(tmp_path / "t.safetensors", factors)}
    with pytest.raises(StageError, match=rf"^tensor '{CONV}': the formula gives numbers too large for F16"):
        merged("lokr(a, t, 1)", files, tmp_path / "out.safetensors")


def test_restoring_embeddings_where_there_are_none(tmp_path: Path) -> None:
    files = write_models(tmp_path, {name: {CONV: uniform(name, *(8, 4, 3, 3))} for name in "ab"})
    with pytest.raises(StageError, match=rf"restore_embeddings: .*no text encoder's embeddings \({EMBEDDINGS[0]}"):
        merged("restore_embeddings(a, b)", files, tmp_path / "out.safetensors")


@pytest.mark.parametrize("of, expected_type", [("a", torch.bfloat16), ("1 * a", torch.float32)])
def test_restored_embeddings_are_in_the_files_type(tmp_path: Path, of: str, expected_type: torch.dtype) -> None:
    models = {"a": tiny_tensors("a", torch.bfloat16), "b": in_types("b", torch.float32)}
    files = write_models(tmp_path, models)
    ours = merged_tensors(f"restore_embeddings({of}, b)", files, tmp_path / "out.safetensors", Precision("fp32"))
    for name, tensor in ours.items():
        source = models["b"][name].to(expected_type) if name in EMBEDDINGS else models["a"][name]
        assert torch.equal(tensor, source.float() if source.is_floating_point() else source)


NEAR = 1 + 2**-10  # the float16 number after 1


def ones(value: float = 1.0, **changes: torch.Tensor) -> Tensors:
    return {name: torch.full_like(t, value) if t.is_floating_point() else t for name, t in tiny_tensors("").items()} | changes


@pytest.mark.parametrize("pieces", [(5, 1), (5, 3), WHOLE])
def test_a_tensor_that_should_change_and_does_not_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pieces: tuple[int, int],
) -> None:
    set_pieces(monkeypatch, pieces)
    other = ones(2.0)
    other[IN_PROJ] = torch.ones(24, 8).half()
    other[IN_PROJ][23, 7] = NEAR  # so near that a tenth of the way rounds back
    files = write_models(tmp_path, {"a": ones(), "b": other})
    with pytest.raises(StageError) as error:
        merged("a + 0.1 * (b - a)", files, tmp_path / "out.safetensors")
    words = f"the formula leaves '{IN_PROJ}' as it is in a, though a and b differ there; --unchanged accept (merge.unchanged)"
    assert words in str(error.value)
    assert not (tmp_path / "out.safetensors").exists()
    merge = merged("a + 0.1 * (b - a)", files, tmp_path / "out.safetensors", unchanged="accept")
    assert torch.equal(load_file(tmp_path / "out.safetensors")[IN_PROJ], torch.ones(24, 8).half())
    assert merge.changes["text_encoder_2"] == {"tensors": 6, "lokr_modules": 0, "changed": 5}
    assert merged_tensors("a + 0.6 * (b - a)", files, tmp_path / "out.safetensors")[IN_PROJ][23, 7] == NEAR


def test_a_tensor_that_the_models_share_need_not_change(tmp_path: Path) -> None:
    files = write_models(tmp_path, {"a": ones(), "b": ones(2.0, **{CONV: ones()[CONV]})})
    merge = merged("a + 0.5 * (b - a)", files, tmp_path / "out.safetensors")
    assert merge.changes["unet"] == {"tensors": 6, "lokr_modules": 0, "changed": 5}


@pytest.mark.parametrize("pieces", [(5, 1), (5, 3), WHOLE])
def test_one_changed_number_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: tuple[int, int]) -> None:
    set_pieces(monkeypatch, pieces)
    for place in (0, 100, -1):
        other = ones()
        other[IN_PROJ].view(-1)[place] = 2
        merge = merged("a + 0.5 * (b - a)", write_models(tmp_path, {"a": ones(), "b": other}), tmp_path / "out.safetensors")
        assert {part: counts["changed"] for part, counts in merge.changes.items()} == {
            "unet": 0, "text_encoder": 0, "text_encoder_2": 1, "vae": 0,
        }  # fmt: skip


def lokr_of(module: str, w1: float, w2: float) -> Tensors:
    shapes = {"lora_unet_conv_in": ((2, 2), (4, 2, 3, 3)), "lora_unet_time_embedding_linear_1": ((2, 2), (5, 3))}
    return {
        f"{module}.lokr_w{n}": torch.full(shape, value) for n, shape, value in zip((1, 2), shapes[module], (w1, w2), strict=True)
    }


def test_a_lokr_that_should_change_a_tensor_and_does_not_is_named(tmp_path: Path) -> None:
    lokr = lokr_of("lora_unet_conv_in", 1.0, 2.0**-13) | lokr_of("lora_unet_time_embedding_linear_1", 1.0, 1.0)
    files = write_models(tmp_path, {"a": ones(), "t": lokr})
    with pytest.raises(StageError, match=rf"leaves '{CONV}' as it is in a, though modules of t change it"):
        merged("lokr(a, t, 1)", files, tmp_path / "out.safetensors")
    merged("lokr(a, t, 1)", files, tmp_path / "out.safetensors", unchanged="accept")


@pytest.mark.parametrize("w1, w2", [(0.0, 1.0), (1.0, 0.0)])
def test_a_module_of_zeros_need_not_change_its_tensor(tmp_path: Path, w1: float, w2: float) -> None:
    """A new LoKr's w2 is zero; a layer without gradient keeps it."""
    lokr = lokr_of("lora_unet_conv_in", w1, w2) | lokr_of("lora_unet_time_embedding_linear_1", 1.0, 1.0)
    files = write_models(tmp_path, {"a": ones(), "t": lokr})
    merge = merged("lokr(a, t, 1)", files, tmp_path / "out.safetensors")
    assert merge.changes["unet"] == {"tensors": 6, "lokr_modules": 2, "changed": 1}


def test_what_is_left_out_is_no_part_of_the_merge(tmp_path: Path) -> None:
    """Else it would wait for ever for tensors that nobody asks for, and never tell that none has changed."""
    files = write_models(tmp_path, {"a": ones(), "b": ones()})
    names = open_merge("0.5 * a + 0.5 * b", files).specs
    gone = min(names)
    merge = open_merge("0.5 * a + 0.5 * b", files, left_out=(gone,))
    assert merge.specs.keys() == names.keys() - {name for name in names if name.startswith(gone)}
    with pytest.raises(StageError, match=NOTHING_CHANGED):
        for name in merge.specs:
            list(merge.chunks(name))


NOTHING_CHANGED = re.escape("the formula changes no tensor of a (") + r".*/a(\.safetensors)?\); --unchanged accept"


@pytest.mark.parametrize(
    "formula",
    [
        "lokr(a, zero, 1)",
        "lokr(a, t, 0)",
        f"mbw(a, b, [0{', 0' * 19}])",
        f"weighted_sum(a, b, [0{', 0' * 19}])",
        f"add_difference(a, b, twin, [0{', 0' * 19}])",
        "a + 0.5 * (twin - a)",
        "mbw(a, twin, [1" + ", 1" * 19 + "])",
        "restore_embeddings(a, twin)",
    ],
)
def test_a_formula_that_changes_nothing_is_refused(tmp_path: Path, formula: str) -> None:
    zero, change = lokr_of("lora_unet_conv_in", 1.0, 0.0), lokr_of("lora_unet_conv_in", 1.0, 1.0)
    files = write_models(tmp_path, {"a": ones(), "twin": ones(), "b": ones(2.0), "zero": zero, "t": change})
    with pytest.raises(StageError, match=NOTHING_CHANGED):
        merged(formula, files, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert same(merged_tensors(formula, files, tmp_path / "out.safetensors", unchanged="accept"), ones())


@pytest.mark.parametrize("formula", ["lokr(a, t, 0)", f"mbw(a, b, [0{', 0' * 19}])"])
def test_a_folder_in_which_nothing_changed_is_refused(folders: dict[str, Path], tmp_path: Path, formula: str) -> None:
    factors = {"lora_unet_conv_in.lokr_w1": torch.ones(2, 2), "lora_unet_conv_in.lokr_w2": torch.ones(16, 2, 3, 3)}
    files = folders | {"t": write(tmp_path / "t.safetensors", factors)}
    with pytest.raises(StageError, match=NOTHING_CHANGED):
        write_diffusers(tmp_path / "out", open_merge(formula, files), read_configs(folders["a"]))
    assert not (tmp_path / "out").exists()


def test_a_conversion_changes_nothing_and_passes(tmp_path: Path) -> None:
    files = write_tiny_models(tmp_path, "a")
    assert same(merged_tensors("a", files, tmp_path / "out.safetensors"), load_file(files["a"]))


@pytest.mark.parametrize("dim", [2, FULL_MATRIX_DIM])
def test_every_module_of_a_float16_file_that_lycoris_wrote(folders: dict[str, Path], tmp_path: Path, dim: int) -> None:
    numerics.fix_torch()
    pipeline = StableDiffusionXLPipeline.from_pretrained(folders["a"], local_files_only=True, torch_dtype=torch.float32)
    network = write_lycoris_lokr(pipeline, tmp_path / "lokr.safetensors", seed=7, dim=dim, dtype=torch.float16)
    live = {module.lora_name: module for module in network.loras}
    lokr = LokrFile(tmp_path / "lokr.safetensors")
    assert lokr.modules.keys() == live.keys()
    assert any(lokr.delta(module).scale != 1 for module in lokr.modules) == (dim == 2)
    merge = open_merge("lokr(a, t, 1.0)", {"a": folders["a"], "t": lokr.path}, Precision("fp32"))
    write_diffusers(tmp_path / "out", merge, read_configs(folders["a"]))
    assert sum(counts["lokr_modules"] for counts in merge.changes.values()) == len(live)
    parts = {"lora_unet_": "unet", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
    changes = {}
    for prefix, component in parts.items():
        before, after = (load_file(folder / component / SDXL.weights[component]) for folder in (folders["a"], tmp_path / "out"))
        for name, tensor in after.items():
            changes[prefix + name.removesuffix(".weight").replace(".", "_")] = tensor - before[name].float()
    for name, module in live.items():
        assert torch.allclose(changes[name], module.get_weight(changes[name].shape), atol=2e-4), name
    assert [name for name, change in changes.items() if change.any() and name not in live] == []
