import hashlib
import json
from pathlib import Path

from repro import numerics
from repro.errors import StageError
from repro.tensorfile import write_tensors

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from lycoris_lokr import FULL_MATRIX_DIM, write_lycoris_lokr
from safetensors.torch import load_file
from small_sdxl import write_small_sdxl

from checkpoints.diffusers_folder import read_folder
from checkpoints.keymap import Architecture, Layout, to_diffusers, to_single_file
from checkpoints.lokr import LokrModule, read_lokr
from checkpoints.merging import Merged, merge_lokr

CONV = "model.diffusion_model.input_blocks.0.0.weight"
IN_PROJ = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
IDS = "conditioner.embedders.0.transformer.text_model.embeddings.position_ids"


def module(name: str, w1: torch.Tensor, w2: torch.Tensor) -> LokrModule:
    return LokrModule(name, {"lokr_w1": w1, "lokr_w2": w2}, 1.0)


def merge(base: dict[str, torch.Tensor], *modules: LokrModule, weight: float = 1.0, dtype: torch.dtype = torch.float16) -> Merged:
    return merge_lokr(base, {m.name: m for m in modules}, weight, dtype, Layout(), "BASE", "LOKR")


def golden_merge(golden: Path, weight: float) -> Merged:
    folder = golden / "merge"
    base = load_file(folder / "exp_delta_pre2.safetensors")
    return merge_lokr(base, read_lokr(folder / "in_lokr.safetensors"), weight, torch.float16, Layout(), "base", "lokr")


@pytest.mark.golden
@pytest.mark.parametrize("weight, name", [(1.0, "exp_lokr_1p0_fp32"), (0.5, "exp_lokr_0p5_fp32")])
def test_reference_merge_bit_for_bit(golden: Path, tmp_path: Path, weight: float, name: str) -> None:
    merged = golden_merge(golden, weight)
    expected = load_file(golden / "merge" / f"{name}.safetensors")
    assert merged.tensors.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(merged.tensors[key], expected[key])] == []
    stated = json.loads((golden / "merge" / "index.json").read_text())["files"][name]
    digest = write_tensors(tmp_path / "out.safetensors", merged.tensors)
    assert f"0x{digest}" == stated["modelspec_hash_sha256"]
    assert hashlib.sha256((tmp_path / "out.safetensors").read_bytes()).hexdigest() == stated["sha256"]


@pytest.mark.golden
@pytest.mark.parametrize("weight, name", [(1.0, "lokr_1p0"), (0.5, "lokr_0p5")])
def test_float32_contract_is_within_the_stated_elements_of_exact_arithmetic(golden: Path, weight: float, name: str) -> None:
    merged = golden_merge(golden, weight)
    expected = load_file(golden / "merge" / f"exp_{name}.safetensors")
    differ = sum(int((merged.tensors[key] != expected[key]).sum()) for key in expected)
    checks = json.loads((golden / "merge" / "index.json").read_text())["checks"]
    assert differ == checks[f"{name}_fp32_vs_fp64"]["differ"]


@pytest.mark.golden
def test_reference_modules_land_where_stated(golden: Path) -> None:
    modules = json.loads((golden / "merge" / "index.json").read_text())["lokr_modules"]
    merged = golden_merge(golden, 1.0)
    assert sum(merged.modules.values()) == len(modules)
    base = load_file(golden / "merge" / "exp_delta_pre2.safetensors")
    changed = {key for key in base if not torch.equal(base[key], merged.tensors[key])}
    assert changed == {entry["key"] for entry in modules}
    assert merged.changed == {"unet": 10, "text_encoder": 2, "text_encoder_2": 2, "vae": 0}


def test_q_k_v_change_their_third_of_in_proj() -> None:
    base = {IN_PROJ: torch.zeros(12, 4)}
    k = module("lora_te2_encoder_layers_0_self_attn_k_proj", torch.ones(2, 2), torch.full((2, 2), 3.0))
    result = merge(base, k).tensors[IN_PROJ]
    assert result[4:8].eq(3).all() and result[:4].eq(0).all() and result[8:].eq(0).all()


def test_integers_are_kept_and_the_base_is_not_written_to() -> None:
    base = {CONV: torch.zeros(4, 4, 3, 3, dtype=torch.float32), IDS: torch.arange(77)[None]}
    merged = merge(base, module("lora_unet_conv_in", torch.ones(2, 2), torch.ones(2, 2, 3, 3)), dtype=torch.float32)
    assert merged.tensors[IDS] is base[IDS]
    assert merged.tensors[CONV].eq(1).all() and base[CONV].eq(0).all()


def test_weight_zero_gives_the_base() -> None:
    base = {CONV: torch.rand(4, 4, 3, 3, generator=torch.Generator().manual_seed(1)).half()}
    merged = merge(base, module("lora_unet_conv_in", torch.ones(2, 2), torch.ones(2, 2, 3, 3)), weight=0.0)
    assert torch.equal(merged.tensors[CONV], base[CONV])


GOOD = module("lora_unet_conv_in", torch.ones(2, 2), torch.ones(2, 2, 3, 3))


@pytest.mark.parametrize(
    "value, modules, complaint",
    [
        (
            0.0,
            [module("lora_unet_conv_inn", torch.ones(2, 2), torch.ones(2, 2))],
            "LOKR: module 'lora_unet_conv_inn' lands on no",
        ),
        (0.0, [GOOD, module("lora_unet_input_blocks_0_0", *GOOD.factors.values())], "'lora_unet_conv_in' and 'lora_unet_input_b"),
        (0.0, [module("lora_unet_conv_in", torch.ones(2, 2), torch.ones(2, 3, 3, 3))], r"shape \[4, 6, 3, 3\]; .*\[4, 4, 3, 3\]"),
        (
            65000.0,
            [module("lora_unet_conv_in", torch.ones(2, 2), torch.full((2, 2, 3, 3), 1000.0))],
            "66000 does not fit float16",
        ),
        (float("nan"), [GOOD], f"BASE: tensor '{CONV}' holds NaN"),
        (1.0, [module("lora_unet_conv_in", torch.ones(2, 2), torch.zeros(2, 2, 3, 3))], "changes no tensor of BASE"),
    ],
)
def test_what_cannot_be_merged_is_named(value: float, modules: list[LokrModule], complaint: str) -> None:
    with pytest.raises(StageError, match=complaint):
        merge({CONV: torch.full((4, 4, 3, 3), value)}, *modules)


def test_base_too_large_for_float16_is_named() -> None:
    base = {CONV: torch.zeros(4, 4, 3, 3), "first_stage_model.quant_conv.bias": torch.tensor([70000.0])}
    with pytest.raises(StageError, match=r"quant_conv\.bias': 70000 does not fit float16"):
        merge(base, GOOD)


@pytest.mark.parametrize("dim", [2, FULL_MATRIX_DIM])
def test_every_module_of_a_float16_file_that_lycoris_wrote(tmp_path: Path, dim: int) -> None:
    numerics.fix_torch()
    folder = write_small_sdxl(tmp_path / "base", seed=6)
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    network = write_lycoris_lokr(pipeline, tmp_path / "lokr.safetensors", seed=7, dim=dim, dtype=torch.float16)
    live = {module.lora_name: module for module in network.loras}
    model = read_folder(folder)
    layout = Layout(Architecture.from_configs(model.configs))
    base = to_single_file(model.models, layout)
    lokr = read_lokr(tmp_path / "lokr.safetensors")
    merged = merge_lokr(base, lokr, 1.0, torch.float32, layout, "base", "lokr")
    assert lokr.keys() == live.keys() and sum(merged.modules.values()) == len(live)
    assert any(module.scale != 1 for module in lokr.values()) == (dim == 2)
    changed = to_diffusers({name: tensor - base[name].float() for name, tensor in merged.tensors.items()}, layout)
    parts = {"lora_unet_": "unet", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
    weights = {
        prefix + name.removesuffix(".weight").replace(".", "_"): tensor
        for prefix, component in parts.items()
        for name, tensor in changed[component].items()
    }
    for name, module in live.items():
        assert torch.allclose(weights[name], module.get_weight(weights[name].shape), atol=2e-4), name
