import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro.errors import StageError
from repro.tensorfile import TensorSpec

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_sdxl import write_small_sdxl
from tiny_checkpoints import IN_PROJ, PROJECTION, TEMPERATURE, VAE_QUERY

from checkpoints.checkpoint import Checkpoint
from checkpoints.diffusers_folder import FolderConfigs, read_configs
from checkpoints.keymap import to_diffusers
from checkpoints.layouts import require_configs, write_diffusers, write_single_file
from checkpoints.model_family import SDXL
from checkpoints.schedule import Schedule

Specs = dict[str, dict[str, TensorSpec]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sdxl(tmp_path_factory.mktemp("models") / "base", seed=6)


@pytest.fixture(scope="module")
def single_file(folder: Path) -> Path:
    path = folder.with_name("base.safetensors")
    write_single_file(path, Checkpoint(folder), lambda digest: {"digest": digest})
    return path


@pytest.fixture
def configs(folder: Path) -> FolderConfigs:
    return copy.deepcopy(read_configs(folder))


@pytest.fixture
def specs(single_file: Path) -> Specs:
    single = Checkpoint(single_file).specs
    models = to_diffusers(single, SDXL.layout_of_names(single.keys()))
    return {component: {name: tensor.spec for name, tensor in tensors.items()} for component, tensors in models.items()}


def test_a_single_file_names_its_datas_digest(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    digest = write_single_file(path, Checkpoint(folder), lambda digest: {"digest": digest})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"digest": digest}


def test_markers_are_written_and_are_no_part_of_the_model(folder: Path, tmp_path: Path) -> None:
    path, schedule = tmp_path / "a.safetensors", Schedule("v_prediction", True)
    source = Checkpoint(folder)
    write_single_file(path, source, lambda _: {}, schedule)
    written = load_file(path)
    assert written.keys() - source.specs.keys() == {"v_pred", "ztsnr"}
    assert all(written[name].shape == (0,) and written[name].dtype == torch.float32 for name in ("v_pred", "ztsnr"))
    back = Checkpoint(path)
    assert back.marked == schedule
    assert back.specs == source.specs


def test_markers_with_a_number_in_them_are_known_too(single_file: Path, tmp_path: Path) -> None:
    save_file(load_file(single_file) | {"v_pred": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert Checkpoint(tmp_path / "a.safetensors").marked == Schedule("v_prediction", False)
    assert Checkpoint(tmp_path / "a.safetensors").specs == Checkpoint(single_file).specs
    assert Checkpoint(single_file).marked is None


def test_forms_of_the_single_file(folder: Path, single_file: Path) -> None:
    single = load_file(single_file)
    text, vae = (
        load_file(folder / c / f"{n}.safetensors") for c, n in (("text_encoder_2", "model"), ("vae", "diffusion_pytorch_model"))
    )
    parts = [text[f"text_model.encoder.layers.0.self_attn.{matrix}_proj.weight"] for matrix in "qkv"]
    assert torch.equal(single[IN_PROJ], torch.cat(parts))
    assert torch.equal(single[PROJECTION], text["text_projection.weight"].T)
    assert torch.equal(single[VAE_QUERY][:, :, 0, 0], vae["encoder.mid_block.attentions.0.to_q.weight"])
    assert single[VAE_QUERY].ndim == 4 and single[TEMPERATURE].shape == ()


def test_a_projection_that_is_not_square_comes_back(single_file: Path, configs: FolderConfigs, tmp_path: Path) -> None:
    matrix = torch.arange(64 * 9).reshape(64, 9).half()  # the single file's is [width, projected]
    save_file(load_file(single_file) | {PROJECTION: matrix}, tmp_path / "a.safetensors")
    configs.configs["text_encoder_2"]["projection_dim"] = 9
    write_diffusers(tmp_path / "out", Checkpoint(tmp_path / "a.safetensors"), configs)
    back = load_file(tmp_path / "out" / "text_encoder_2" / "model.safetensors")["text_projection.weight"]
    assert torch.equal(back, matrix.T)


def test_configs_of_the_model_are_accepted(configs: FolderConfigs, specs: Specs) -> None:
    require_configs(configs, specs)


@pytest.mark.parametrize(
    "component, change, named",
    [
        ("unet", {"block_out_channels": [64, 64, 64]}, r"'add_embedding\.linear_1\.bias' of shape \[256\]; .* shape \[128\]"),
        ("unet", {"block_out_channels": [32, 32, 64]}, r"'down_blocks\.1\..* of shape \[32\]; .* of shape \[64\]"),
        ("unet", {"block_out_channels": [32, 64, 32]}, r"'down_blocks\.2\..* of shape \[32\]; .* of shape \[64\]"),
        ("unet", {"in_channels": 9}, r"'conv_in\.weight' of shape \[32, 9, 3, 3\]; .* of shape \[32, 4, 3, 3\]"),
        ("unet", {"out_channels": 8}, r"'conv_out\.bias' of shape \[8\]; .* of shape \[4\]"),
        ("unet", {"projection_class_embeddings_input_dim": 2816}, r"'add_embedding\.linear_1\.weight' of shape \[128, 2816\]"),
        (
            "unet",
            {"transformer_layers_per_block": [1, 2, 2]},
            r"'down_blocks\.1\.attentions\.0\.transformer_blocks\.1\..*no",
        ),
        (
            "unet",
            {"transformer_layers_per_block": [1, 1, 10]},
            r"'down_blocks\.2\.attentions\.0\.transformer_blocks\.2\..*no",
        ),
        (
            "unet",
            {"transformer_layers_per_block": 1},
            r"for no tensor 'down_blocks\.2\.attentions\.0\.transformer_blocks\.1",
        ),
        ("unet", {"cross_attention_dim": 2048}, r"attn2\.to_k\.weight' of shape \[64, 2048\]; .* of shape \[64, 96\]"),
        ("unet", {"layers_per_block": 1}, r"calls for no tensor 'down_blocks\.0\.resnets\.1\."),
        ("unet", {"layers_per_block": 3}, r"'down_blocks\.0\.resnets\.2\..*; the model has no tensor"),
        ("text_encoder", {"vocab_size": 49408}, r"token_embedding\.weight' of shape \[49408, 32\]; .* of shape \[514, 32\]"),
        ("text_encoder", {"hidden_size": 64}, r"position_embedding\.weight' of shape \[77, 64\]; .* of shape \[77, 32\]"),
        ("text_encoder", {"num_hidden_layers": 3}, r"'text_model\.encoder\.layers\.2\..*; the model has no tensor"),
        ("text_encoder_2", {"num_hidden_layers": 2}, r"calls for no tensor 'text_model\.encoder\.layers\.2\."),
        ("text_encoder_2", {"intermediate_size": 99}, r"mlp\.fc1\.bias' of shape \[99\]"),
        ("text_encoder_2", {"projection_dim": 1280}, r"'text_projection\.weight' of shape \[1280, 64\]; .* of shape \[64, 64\]"),
        ("vae", {"in_channels": 4}, r"'encoder\.conv_in\.weight' of shape \[32, 4, 3, 3\]; .* of shape \[32, 3, 3, 3\]"),
        ("vae", {"latent_channels": 16}, r"'decoder\.conv_in\.weight' of shape \[64, 16, 3, 3\]"),
        ("vae", {"block_out_channels": [32, 32, 32]}, r"'decoder\.conv_in\.bias' of shape \[32\]; .* of shape \[64\]"),
        ("vae", {"layers_per_block": 2}, r"'decoder\.up_blocks\.0\.resnets\.2\..*; the model has no tensor"),
    ],
)
def test_configs_of_another_model_are_refused(
    configs: FolderConfigs, specs: Specs, component: str, change: Mapping[str, Any], named: str
) -> None:
    assert change.keys() <= configs.configs[component].keys()
    configs.configs[component].update(change)
    with pytest.raises(StageError, match=named) as error:
        require_configs(configs, specs)
    assert str(error.value).startswith(f"{configs.folder / component / 'config.json'} calls for ")
    assert "give the configs of this model (--configs)" in str(error.value)


@pytest.mark.parametrize(
    "component, key, value",
    [
        ("unet", "layers_per_block", None),
        ("unet", "block_out_channels", [32]),
        ("unet", "down_block_types", ["DownBlock2D", "CrossAttnDownBlock2D"]),
        ("vae", "latent_channels", None),
        ("vae", "down_block_types", ["DownEncoderBlock2D"] * 2),
    ],
)
def test_configs_that_are_no_sdxls_are_named(configs: FolderConfigs, specs: Specs, component: str, key: str, value: Any) -> None:
    configs.configs[component][key] = value
    if value is None:
        del configs.configs[component][key]
    with pytest.raises(StageError, match=rf"^{configs.folder}: a config\.json is not as an SDXL model's: "):
        require_configs(configs, specs)


def test_configs_of_another_model_write_nothing(single_file: Path, configs: FolderConfigs, tmp_path: Path) -> None:
    configs.configs["unet"]["cross_attention_dim"] = 2048
    with pytest.raises(StageError, match="calls for"):
        write_diffusers(tmp_path / "out", Checkpoint(single_file), configs)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prefix", ["first_stage_model.", "conditioner.embedders.0.", "conditioner.embedders.1.", "model."])
def test_a_checkpoint_without_one_of_its_parts_is_no_folder(
    single_file: Path, configs: FolderConfigs, tmp_path: Path, prefix: str
) -> None:
    save_file({n: t for n, t in load_file(single_file).items() if not n.startswith(prefix)}, tmp_path / "a.safetensors")
    with pytest.raises(StageError, match="the model has no tensor"):
        write_diffusers(tmp_path / "out", Checkpoint(tmp_path / "a.safetensors"), configs)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.golden
def test_a_part_of_a_checkpoint_is_no_folder(golden: Path, configs: FolderConfigs, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"unet/config\.json calls for .* the model has no tensor"):
        write_diffusers(tmp_path / "out", Checkpoint(golden / "merge" / "in_base7.safetensors"), configs)


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.middle_block.0.in_layers.0.weight",
        "model.diffusion_model.output_blocks.3.0.skip_connection.bias",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.layer_norm1.bias",
        "conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_bias",
        "first_stage_model.decoder.conv_out.bias",
    ],
)
def test_a_checkpoint_that_lacks_one_tensor_is_no_folder(
    single_file: Path, configs: FolderConfigs, tmp_path: Path, name: str
) -> None:
    tensors = load_file(single_file)
    del tensors[name]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(StageError):
        write_diffusers(tmp_path / "out", Checkpoint(tmp_path / "a.safetensors"), configs)


def test_a_tensor_that_is_not_sdxls_is_named(single_file: Path, configs: FolderConfigs, tmp_path: Path) -> None:
    save_file(load_file(single_file) | {"model_ema.decay": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(StageError, match=r"'model_ema\.decay' is not one of SDXL's single-file layout"):
        write_diffusers(tmp_path / "out", Checkpoint(tmp_path / "a.safetensors"), configs)
