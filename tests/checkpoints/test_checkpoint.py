import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from repro.errors import StageError
from repro.hashing import sha256_file, write_manifest
from repro.tensorfile import TensorSpec, spec_of

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_sdxl import write_small_sdxl
from tiny_checkpoints import CONV, IDS, IN_PROJ, IN_PROJ_BIAS, LINEAR, PROJECTION, TEMPERATURE, same_bytes, tiny_tensors, write

from checkpoints.checkpoint import Checkpoint
from checkpoints.model_family import SDXL

QKV = "text_model.encoder.layers.0.self_attn.{}_proj.{}"
VAE_OUT = "first_stage_model.decoder.mid.attn_1.proj_out.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sdxl(tmp_path_factory.mktemp("models") / "base", seed=5)


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "base")


def weights(folder: Path, component: str) -> dict[str, torch.Tensor]:
    return load_file(folder / component / SDXL.weights[component])


def joined(checkpoint: Checkpoint, name: str, part: int = 0, parts: int = 1) -> bytes:
    return b"".join(checkpoint.chunks(name, part, parts))


def whole(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    spec = checkpoint.specs[name]
    return checkpoint.read(name, 0, spec.elements).reshape(spec.shape)


def require_all_runs(checkpoint: Checkpoint, name: str, expected: torch.Tensor, draws: int = 4) -> None:
    """The spec is `expected`'s, and runs have its bytes: between the thirds' ends, their neighbours and `draws` more places."""
    assert checkpoint.specs[name] == spec_of(expected), name
    flat, n = expected.flatten(), expected.numel()
    draw = random.Random(name)
    near_thirds = (n * third // 3 + step for third in range(4) for step in (-1, 0, 1))
    ends = {end for end in near_thirds if 0 <= end <= n} if draws else {0, n}
    ends |= {draw.randrange(n + 1) for _ in range(max(draws, 1))}
    for start in ends:
        for stop in ends:
            if start < stop:
                assert same_bytes(checkpoint.read(name, start, stop), flat[start:stop]), (name, start, stop)
                assert same_bytes(checkpoint.read_float32(name, start, stop), flat[start:stop].float()), (name, start, stop)


def test_every_run_of_tensors_that_change_their_form(original: Path) -> None:
    checkpoint = Checkpoint(original)
    text, vae = weights(original, "text_encoder_2"), weights(original, "vae")
    for name, kind in ((IN_PROJ, "weight"), (IN_PROJ_BIAS, "bias")):
        require_all_runs(checkpoint, name, torch.cat([text[QKV.format(matrix, kind)] for matrix in "qkv"]))
    require_all_runs(checkpoint, PROJECTION, text["text_projection.weight"].T)
    require_all_runs(checkpoint, VAE_OUT, vae["decoder.mid_block.attentions.0.to_out.0.weight"][:, :, None, None])
    require_all_runs(checkpoint, TEMPERATURE, torch.tensor(100.0).log().half())


def test_every_run_of_a_text_projection_that_is_not_square(copy: Path) -> None:
    path = copy / "text_encoder_2" / SDXL.weights["text_encoder_2"]
    matrix = torch.arange(7 * 5).reshape(7, 5).half()
    save_file(load_file(path) | {"text_projection.weight": matrix}, path)
    require_all_runs(Checkpoint(copy), PROJECTION, matrix.T)


def test_every_run_of_every_tensor_is_the_whole_tensors(original: Path) -> None:
    checkpoint = Checkpoint(original)
    assert checkpoint.configs.resolution == 64
    unchanged = 0
    stored = {component: weights(original, component) for component in SDXL.weights}
    for name in checkpoint.specs:
        require_all_runs(checkpoint, name, whole(checkpoint, name), draws=0)
        unchanged += any(same_bytes(whole(checkpoint, name), tensor) for tensor in stored[SDXL.component_of(name)].values())
    # All but in_proj (weight and bias of three layers), text_projection, eight 1x1 convolutions and logit_scale.
    assert unchanged == len(checkpoint.specs) - 6 - 1 - 8 - 1


def test_every_run_of_a_single_files_tensors(tmp_path: Path) -> None:
    tensors = tiny_tensors(1)
    checkpoint = Checkpoint(write(tmp_path / "a.safetensors", tensors))
    assert checkpoint.configs is None and checkpoint.specs.keys() == tensors.keys()
    for name, tensor in tensors.items():
        require_all_runs(checkpoint, name, tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.float8_e4m3fn])
def test_what_is_read_is_a_tensor_of_its_own(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {CONV: torch.arange(30).to(dtype), LINEAR: torch.arange(30, 60).to(dtype)}
    checkpoint = Checkpoint(write(tmp_path / "a.safetensors", tensors))
    first = checkpoint.read_float32(CONV, 3, 20)
    second = checkpoint.read_float32(LINEAR, 0, 30).mul_(0)
    assert torch.equal(first, tensors[CONV][3:20].float()) and not second.any()
    assert torch.equal(checkpoint.read_float32(LINEAR, 0, 30), tensors[LINEAR].float())


@pytest.mark.parametrize("layout", ["folder", "single file"])
def test_chunks_are_a_tensors_bytes_or_a_third_of_its_rows(original: Path, tmp_path: Path, layout: str) -> None:
    folder = Checkpoint(original)
    tensor = whole(folder, IN_PROJ)
    path = write(tmp_path / "a.safetensors", {IN_PROJ: tensor})
    checkpoint = {"folder": folder, "single file": Checkpoint(path)}[layout]
    data = tensor.numpy().tobytes()
    assert joined(checkpoint, IN_PROJ) == data
    thirds = [part.numpy().tobytes() for part in tensor.chunk(3)]
    assert [joined(checkpoint, IN_PROJ, part, 3) for part in range(3)] == thirds


def test_a_tensor_of_several_pieces(tmp_path: Path) -> None:
    tensor = torch.arange(700_001, dtype=torch.int32).view(torch.float32)
    checkpoint = Checkpoint(write(tmp_path / "a.safetensors", {CONV: tensor}))
    assert joined(checkpoint, CONV) == tensor.numpy().tobytes()
    assert len(list(checkpoint.chunks(CONV))) > 1


@pytest.mark.parametrize("kind", ["weight", "bias"])
@pytest.mark.parametrize("wide", ["q", "k", "v"])
def test_q_k_and_v_of_different_types_are_float32_in_every_run(copy: Path, wide: str, kind: str) -> None:
    path = copy / "text_encoder_2" / SDXL.weights["text_encoder_2"]
    tensors = load_file(path)
    changed = QKV.format(wide, kind)
    tensors[changed] = (tensors[changed].float() * 1.0001).to(torch.float32)
    save_file(tensors, path)
    checkpoint = Checkpoint(copy)
    name = {"weight": IN_PROJ, "bias": IN_PROJ_BIAS}[kind]
    expected = torch.cat([tensors[QKV.format(matrix, kind)].float() for matrix in "qkv"])
    require_all_runs(checkpoint, name, expected)
    assert joined(checkpoint, name, 1, 3) == expected.chunk(3)[1].numpy().tobytes()


def test_logit_scale_has_the_second_text_encoders_type(copy: Path) -> None:
    path = copy / "text_encoder_2" / SDXL.weights["text_encoder_2"]
    save_file({name: tensor.float() for name, tensor in load_file(path).items()}, path)
    require_all_runs(Checkpoint(copy), TEMPERATURE, torch.tensor(100.0).log())


def test_shards_and_the_fp16_variant_are_the_same_model(original: Path, copy: Path) -> None:
    unet, name = copy / "unet", SDXL.weights["unet"]
    tensors = load_file(unet / name)
    shards = {f"diffusion_pytorch_model-0000{n + 1}-of-00002.safetensors": sorted(tensors)[n::2] for n in range(2)}
    for shard, names in shards.items():
        save_file({key: tensors[key] for key in names}, unet / shard)
    index = {"metadata": {}, "weight_map": {key: shard for shard, names in shards.items() for key in names}}
    (unet / f"{name}.index.json").write_text(json.dumps(index))
    (unet / name).unlink()
    text = copy / "text_encoder" / SDXL.weights["text_encoder"]
    text.rename(text.with_name("model.fp16.safetensors"))
    ours, theirs = Checkpoint(copy), Checkpoint(original)
    assert ours.specs == theirs.specs
    assert [key for key in ours.specs if not same_bytes(whole(ours, key), whole(theirs, key))] == []
    (unet / next(iter(shards))).unlink()
    with pytest.raises(StageError, match=r"unet/diffusion_pytorch_model-00001-of-00002\.safetensors: no such weight file"):
        Checkpoint(copy)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_a_broken_list_of_shards_is_named(copy: Path, content: str) -> None:
    weights_file = copy / "vae" / SDXL.weights["vae"]
    weights_file.unlink()
    weights_file.with_name(f"{weights_file.name}.index.json").write_text(content)
    with pytest.raises(StageError, match=r"safetensors\.index\.json: no weight_map"):
        Checkpoint(copy)


def test_shards_are_looked_for_in_their_own_folder(copy: Path, tmp_path: Path) -> None:
    vae = copy / "vae" / SDXL.weights["vae"]
    vae.rename(tmp_path / "elsewhere.safetensors")
    vae.with_name(f"{vae.name}.index.json").write_text('{"weight_map": {"a": "../../elsewhere.safetensors"}}')
    with pytest.raises(StageError, match=r"vae/elsewhere\.safetensors: no such weight file"):
        Checkpoint(copy)


def test_the_whole_file_goes_before_its_fp16_variant(original: Path, copy: Path) -> None:
    path = copy / "vae" / SDXL.weights["vae"]
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path.with_suffix(".fp16.safetensors"))
    assert Checkpoint(copy).sha256 == Checkpoint(original).sha256


def test_a_folder_that_is_not_as_its_manifest_says_is_refused(copy: Path) -> None:
    write_manifest(copy, "0")
    assert Checkpoint(copy).sha256
    weights_file = copy / "vae" / SDXL.weights["vae"]
    save_file({name: tensor + 1 for name, tensor in load_file(weights_file).items()}, weights_file)
    with pytest.raises(StageError, match=r"vae/diffusion_pytorch_model\.safetensors: missing, unexpected or changed"):
        Checkpoint(copy)


def test_digest_of_a_single_file_is_of_its_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", tiny_tensors(1))
    assert Checkpoint(path).sha256 == sha256_file(path)


def test_position_ids_of_the_first_text_encoder_alone_have_a_place(copy: Path) -> None:
    for component in ("text_encoder", "text_encoder_2"):
        path = copy / component / SDXL.weights[component]
        save_file(load_file(path) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, path)
    checkpoint = Checkpoint(copy)
    assert [name for name in checkpoint.specs if "position_ids" in name] == [IDS]
    assert checkpoint.specs[IDS] == TensorSpec("I64", (1, 77))
    assert checkpoint.read(IDS, 3, 6).tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    "name, kind",
    [
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "Stable Diffusion 1 or 2"),
        ("conditioner.embedders.0.model.ln_final.bias", "the SDXL refiner"),
        ("model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight", "Stable Diffusion 3"),
        ("model.diffusion_model.double_blocks.0.img_mlp.0.weight", "Flux"),
        ("double_blocks.0.img_mlp.0.weight", "Flux"),
        ("clip_mapper.weight", "Stable Cascade, stage B"),
        ("model.diffusion_model.clip_mapper.weight", "Stable Cascade, stage B"),
        ("down_blocks.0.resnets.0.norm1.weight", "one part of a diffusers folder"),
        ("text_model.final_layer_norm.bias", "one part of a diffusers folder"),
        ("encoder.conv_in.weight", "one part of a diffusers folder"),
        ("lora_unet_input_blocks_4_1_proj_in.lora_up.weight", r"a LoRA or LoKr file; .* lokr\(model, NAME, weight\)"),
        ("lycoris_unet_conv_in.lokr_w1", "a LyCORIS file of a generic network"),
    ],
)
def test_other_models_are_called_by_their_kind(tmp_path: Path, name: str, kind: str) -> None:
    path = write(tmp_path / "a.safetensors", {name: torch.zeros(1), "model.diffusion_model.out.0.bias": torch.zeros(1)})
    with pytest.raises(StageError, match=rf"a\.safetensors: not an SDXL or Stable .*: it holds '{name}' \({kind}"):
        Checkpoint(path)


@pytest.mark.parametrize("names, count", [((), 0), (("a", "unet.conv_in.weight"), 2)])
def test_a_file_with_none_of_sdxls_tensors_is_refused(tmp_path: Path, names: tuple[str, ...], count: int) -> None:
    path = write(tmp_path / "a.safetensors", {name: torch.zeros(1) for name in names})
    with pytest.raises(StageError, match=rf"a\.safetensors: not an SDXL or Stable .*: none of its {count} tensors"):
        Checkpoint(path)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"none\.safetensors: no such weight file"):
        Checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(StageError, match=r"model_index\.json: missing"):
        Checkpoint(tmp_path)


def without(key: str) -> Callable[[dict[str, object]], dict[str, object]]:
    return lambda config: {name: value for name, value in config.items() if name != key}


@pytest.mark.parametrize(
    "component, change, complaint",
    [
        ("unet", without("down_block_types"), r"is not as an SDXL model\'s: KeyError\('down_block_types'\)"),
        ("unet", without("up_block_types"), r"is not as an SDXL model\'s: KeyError\('up_block_types'\)"),
        ("text_encoder_2", without("num_hidden_layers"), r"is not as an SDXL model\'s: KeyError\('num_hidden_layers'\)"),
        ("vae", lambda config: config | {"down_block_types": 3}, r"is not as an SDXL model's"),
        # A config of fewer layers than the weights have.
        ("text_encoder_2", lambda config: config | {"num_hidden_layers": 2}, r"layers\.2\..*' has no place"),
    ],
)
def test_configs_that_do_not_tell_the_architecture(
    copy: Path, component: str, change: Callable[[dict[str, object]], dict[str, object]], complaint: str
) -> None:
    path = copy / component / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(StageError, match=complaint) as error:
        Checkpoint(copy)
    assert str(error.value).startswith(str(copy))


def test_a_tensor_without_a_place_is_named_with_its_folder(copy: Path) -> None:
    path = copy / "vae" / SDXL.weights["vae"]
    save_file(load_file(path) | {"loss.logvar": torch.zeros(1)}, path)
    with pytest.raises(StageError, match=r"base: vae: tensor 'loss\.logvar' has no place"):
        Checkpoint(copy)
