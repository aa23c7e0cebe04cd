import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from repro.errors import StageError
from repro.hashing import check_manifest, sha256_file
from repro.tensorfile import spec_of, tensor_bytes

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_sdxl import write_small_sdxl
from tiny_checkpoints import same

from checkpoints.diffusers_folder import FolderConfigs, open_folder, read_configs, write_folder
from checkpoints.model_family import SDXL
from checkpoints.schedule import Schedule

Models = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sdxl(tmp_path_factory.mktemp("models") / "base", seed=4)


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "base")


def tensors_of(folder: Path) -> Models:
    return {
        component: {name: file.whole(inner) for name, (file, inner) in tensors.items()}
        for component, tensors in open_folder(folder).tensors.items()
    }


def write(target: Path, configs: FolderConfigs, models: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    specs = {component: {name: spec_of(tensor) for name, tensor in tensors.items()} for component, tensors in models.items()}
    write_folder(target, configs, specs, lambda component, name: [tensor_bytes(models[component][name])])


def test_write_and_read_is_the_identity_on_tensors_and_configs(original: Path, tmp_path: Path) -> None:
    write(tmp_path / "out", read_configs(original), tensors_of(original))
    check_manifest(tmp_path / "out")
    assert open_folder(tmp_path / "out").configs.configs == open_folder(original).configs.configs
    for component, weights in SDXL.weights.items():
        written = load_file(tmp_path / "out" / component / weights)
        assert same(written, load_file(original / component / weights))
        assert same(written, tensors_of(tmp_path / "out")[component])
    write(tmp_path / "out2", read_configs(tmp_path / "out"), tensors_of(tmp_path / "out"))
    files = [sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("out", "out2")]
    assert [a.read_bytes() for a in files[0]] == [b.read_bytes() for b in files[1]]


def test_a_folder_as_if_it_held_other_tensors(original: Path) -> None:
    folder, before, ones = open_folder(original), tensors_of(original), torch.ones(32, 4, 3, 3)
    changed = folder.with_tensors({"unet.conv_in.weight": ones})
    found = {part: {name: file.whole(inner) for name, (file, inner) in of.items()} for part, of in changed.tensors.items()}
    for part, tensors in before.items():
        assert same(found[part], tensors | ({"conv_in.weight": ones} if part == "unet" else {}))
    file, inner = folder.tensors["unet"]["conv_in.weight"]
    assert torch.equal(file.whole(inner), before["unet"]["conv_in.weight"])
    for wrong, words in (("unet.conv_in", "is not there"), ("unet.conv_out.weight", r"is of shape \[4, 32, 3, 3\]")):
        with pytest.raises(StageError, match=rf"base/unet: '.*' {words}; expected shape \[32, 4, 3, 3\]"):
            folder.with_tensors({wrong: ones})


def test_digest_is_of_all_weight_files(original: Path, copy: Path) -> None:
    folder = open_folder(original)
    assert folder.weight_hashes == {f"{part}/{file}": sha256_file(original / part / file) for part, file in SDXL.weights.items()}
    assert open_folder(copy).sha256 == folder.sha256
    weights = copy / "vae" / SDXL.weights["vae"]
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    assert open_folder(copy).sha256 != folder.sha256


def test_resolution_is_the_unets_in_pixels(original: Path) -> None:
    configs = read_configs(original)
    assert configs.resolution == 64
    assert configs.schedule == Schedule("epsilon", False)


def test_folder_names_of_another_machine_are_dropped(copy: Path, tmp_path: Path) -> None:
    named = {"_name_or_path": "/home/someone/model"}
    for file in ("unet/config.json", "text_encoder/config.json", "model_index.json", "scheduler/scheduler_config.json"):
        (copy / file).write_text(json.dumps(json.loads((copy / file).read_text()) | named))
    write(tmp_path / "out", read_configs(copy), tensors_of(copy))
    assert [f for f in (tmp_path / "out").rglob("*.json") if "someone" in f.read_text()] == []


def test_precision_stands_in_the_text_encoders_config(original: Path, tmp_path: Path) -> None:
    wide = {component: {name: t.bfloat16() for name, t in tensors.items()} for component, tensors in tensors_of(original).items()}
    write(tmp_path / "out", read_configs(original), wide)
    for component, before in (("text_encoder", "float16"), ("text_encoder_2", "float16")):
        config = json.loads((original / component / "config.json").read_text())
        assert config["dtype"] == before
        assert json.loads((tmp_path / "out" / component / "config.json").read_text()) == config | {"dtype": "bfloat16"}


def test_text_encoders_of_newer_and_older_transformers(copy: Path, original: Path) -> None:
    first, second = copy / "text_encoder" / "model.safetensors", copy / "text_encoder_2" / "model.safetensors"
    save_file({name.removeprefix("text_model."): tensor for name, tensor in load_file(first).items()}, first)
    save_file(load_file(second) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, second)
    for component in ("text_encoder", "text_encoder_2"):
        assert same(tensors_of(copy)[component], tensors_of(original)[component])


def test_a_tensor_in_both_spellings_is_refused(copy: Path) -> None:
    weights = copy / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {"final_layer_norm.bias": tensors["text_model.final_layer_norm.bias"] + 1}, weights)
    with pytest.raises(StageError, match=r"final_layer_norm\.bias' stands twice in .*text_encoder"):
        open_folder(copy)


@pytest.mark.parametrize(
    "file, content, complaint",
    [
        ("vae/diffusion_pytorch_model.safetensors", lambda data: data[:1000], r"vae/diffusion.*\.safetensors: not a whole"),
        ("vae/diffusion_pytorch_model.safetensors", None, r"vae/diffusion_pytorch_model\.safetensors: missing"),
        ("text_encoder_2/model.safetensors", None, r"text_encoder_2/model\.safetensors: missing"),
        ("vae/config.json", None, r"vae/config\.json: missing"),
        ("scheduler/scheduler_config.json", None, r"scheduler_config\.json: missing"),
        ("tokenizer_2/merges.txt", None, r"tokenizer_2/merges\.txt: missing"),
        ("unet/config.json", lambda _: b"[]", r"unet/config\.json: expected a JSON object"),
        ("unet/config.json", lambda _: b'{"a": "\xff"}', r"unet/config\.json: not valid JSON"),
        ("model_index.json", None, r"model_index\.json: missing"),
        ("model_index.json", lambda _: b"{", r"model_index\.json: not valid JSON"),
        (
            "model_index.json",
            lambda _: b'{"_class_name": "StableDiffusionPipeline"}',
            "says StableDiffusionPipeline; expec",
        ),
    ],
)
def test_missing_broken_and_foreign_folders_are_named(
    copy: Path, file: str, content: Callable[[bytes], bytes] | None, complaint: str
) -> None:
    if content is None:
        (copy / file).unlink()
    else:
        (copy / file).write_bytes(content((copy / file).read_bytes()))
    with pytest.raises(StageError, match=complaint) as error:
        open_folder(copy)
    assert str(error.value).startswith(str(copy))


def test_a_folder_changed_after_it_was_written_is_refused(original: Path, tmp_path: Path) -> None:
    write(tmp_path / "out", read_configs(original), tensors_of(original))
    weights = tmp_path / "out" / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(StageError, match="changed since it was written"):
        open_folder(tmp_path / "out")
    assert read_configs(tmp_path / "out").resolution == 64  # its configs can still be read


def test_a_failed_write_leaves_what_was_there(original: Path, tmp_path: Path) -> None:
    configs, models = read_configs(original), tensors_of(original)
    write(tmp_path / "out", configs, models)
    before = (tmp_path / "out" / "MANIFEST.json").read_bytes()
    specs = {component: {name: spec_of(tensor) for name, tensor in tensors.items()} for component, tensors in models.items()}
    with pytest.raises(ValueError, match="bytes short"):
        write_folder(tmp_path / "out", configs, specs, lambda component, name: [])
    assert (tmp_path / "out" / "MANIFEST.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
