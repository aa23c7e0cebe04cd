"""cache_latents.py as a process: what it writes, from any number of workers, after a kill, and what it refuses."""

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from repro.errors import StageError
from repro.hashing import check_manifest, write_manifest
from repro.numerics import fix_torch
from repro.params import load_params

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_cascade import write_small_cascade
from small_sdxl import write_small_sdxl
from tiny_booru import folder_bytes, make_tar, run_script

from cache_latents import coarsest_cell, determining_parts, main
from families.effnet import EfficientNetEncoder, EffnetConfig, EffnetStage, write_effnet
from latents.buckets import make_buckets, place
from latents.encoders import load_encoder
from latents.resize import fit
from latents.vae_identity import latents_vae, vae_digest

SIZES = [(96, 128), (128, 96), (100, 100), (64, 64), (80, 48), (90, 60), (33, 47)]
BUCKETS = make_buckets((64, 64), 48, 96, 16)
IDS = [1000 * (7 * i % 40) + 3 for i in range(40)]


def picture(post_id: int) -> Image.Image:
    width, height = SIZES[post_id // 1000 % len(SIZES)]
    draw = np.random.Generator(np.random.PCG64(post_id))
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))


def webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


class Inputs:
    """Posts, captions, archives and a base model in a folder, and the recipe that is run on them."""

    def __init__(self, folder: Path, base: Path, recipe: str = "sample"):
        self.folder, self.base, self.recipe = folder, base, recipe

    def write(self, files: dict[int, bytes]) -> "Inputs":
        """`files` = {post id: image file}; all ids end in 003, so that one archive holds them."""
        ids = sorted(files)
        make_tar(self.folder / "images" / "data-0003.tar", {f"{i}.webp": files[i] for i in ids})
        offset, rows = 0, []
        for i in ids:
            rows.append((i, "data-0003.tar", offset + 512, len(files[i]), hashlib.sha256(files[i]).hexdigest()))
            offset += 512 + -(-len(files[i]) // 512) * 512
        columns = ["id", "archive", "offset", "size", "sha256"]
        self._write_frame("posts", pl.DataFrame(rows, schema=columns, orient="row"))
        self._write_frame("captions", pl.DataFrame({"id": ids, "caption": ["1girl"] * len(ids)}))
        return self

    def _write_frame(self, name: str, frame: pl.DataFrame) -> None:
        folder = self.folder / name
        folder.mkdir(parents=True)
        frame.write_parquet(folder / f"{name}-00000.parquet")
        write_manifest(folder, "of this test")

    def arguments(self, output: Path, *settings: str) -> list[str]:
        runtime = [f"runtime.image_root={self.folder / 'images'}", "runtime.processes=1", *settings]
        return [
            "--captions", str(self.folder / "captions"), "--posts", str(self.folder / "posts"), "--base", str(self.base),
            "--output", str(output), "--params", f"recipes/{self.recipe}.yaml",
            *(word for setting in runtime for word in ("--set", setting)),
        ]  # fmt: skip

    def run(self, output: Path, *settings: str) -> subprocess.CompletedProcess[str]:
        return run_script("cache_latents.py", *self.arguments(output, *settings), STATE_ROOT=str(output.parent / "state"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_sdxl(tmp_path_factory.mktemp("base") / "base", seed=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Inputs:
    """40 readable images and one that is not an image, for which the sample's limit of 2 % is raised."""
    files = {i: webp(picture(i)) for i in IDS} | {50_003: b"not an image"}
    return Inputs(tmp_path_factory.mktemp("inputs"), base).write(files)


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory, inputs: Inputs) -> Path:
    output = tmp_path_factory.mktemp("latents") / "latents"
    result = inputs.run(output, "latents.max_lost_share=0.1", "runtime.processes=2")
    assert result.returncode == 0, result.stderr
    return output


def test_index_and_shards_hold_each_image_once(latents: Path) -> None:
    check_manifest(latents)
    index = pl.read_parquet(latents / "index.parquet")
    assert index["id"].to_list() == sorted(IDS)
    for (name,), rows in index.group_by("shard", maintain_order=True):
        tensors = load_file(latents / name)
        assert rows["bucket_width"].n_unique() == rows["bucket_height"].n_unique() == 1
        width, height = rows.row(0, named=True)["bucket_width"], rows.row(0, named=True)["bucket_height"]
        assert tensors["mean"].shape == tensors["std"].shape == (len(rows), 4, height // 4, width // 4)
        assert tensors["ids"].tolist() == rows.sort("row")["id"].to_list() == sorted(rows["id"])
        assert rows["row"].sort().to_list() == list(range(len(rows)))


def test_index_and_shards_say_what_was_encoded_by_which_vae(latents: Path, base: Path) -> None:
    index = pl.read_parquet(latents / "index.parquet")
    digests = {i: hashlib.sha256(webp(picture(i))).hexdigest() for i in IDS}
    assert dict(zip(index["id"], index["sha256"], strict=True)) == digests
    assert latents_vae(latents) == vae_digest(base, "sdxl")


def test_lost_images_are_listed_with_their_reason(latents: Path) -> None:
    assert pl.read_parquet(latents / "lost.parquet").rows() == [(50_003, "unreadable: not an image file")]


def test_values_sizes_and_crops(latents: Path, base: Path) -> None:
    fix_torch()
    encoder = load_encoder("sdxl", base / "vae")
    for row in pl.read_parquet(latents / "index.parquet").sample(8, seed=1).to_dicts():
        image = picture(row["id"])
        placement = place(image.size, BUCKETS)
        assert (row["original_width"], row["original_height"]) == image.size
        assert (row["bucket_width"], row["bucket_height"]) == placement.bucket
        assert (row["crop_left"], row["crop_top"]) == (placement.left, placement.top)
        mean, deviation = encoder.encode(torch.from_numpy(fit(image, placement).copy()), "fp32")
        shard = load_file(latents / row["shard"])
        assert torch.equal(shard["mean"][row["row"]], mean)
        assert torch.equal(shard["std"][row["row"]], deviation)


def test_one_worker_and_another_folder_give_the_same_bytes(tmp_path: Path, inputs: Inputs, latents: Path) -> None:
    main(inputs.arguments(tmp_path / "other", "latents.max_lost_share=0.1"))
    assert folder_bytes(tmp_path / "other") == folder_bytes(latents)


def test_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, inputs: Inputs, latents: Path) -> None:
    """Two workers are killed with their parent; one process goes on."""
    output, state = tmp_path / "latents", tmp_path / "state"
    command = [
        sys.executable,
        "stages/cache_latents.py",
        *inputs.arguments(output, "latents.max_lost_share=0.1", "runtime.processes=2"),
    ]
    process = subprocess.Popen(command, env=os.environ | {"STATE_ROOT": str(state)}, stderr=subprocess.DEVNULL)
    while not (encoded := list(state.rglob("encoded/*/[!.]*.safetensors"))):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    main(inputs.arguments(output, "latents.max_lost_share=0.1"))
    assert encoded
    assert folder_bytes(output) == folder_bytes(latents)
    assert not list(state.rglob("*.safetensors"))


def test_machines_with_a_share_each_give_the_same_bytes(tmp_path: Path, inputs: Inputs, latents: Path) -> None:
    """Two machines have states of their own; what they leave there is copied to a third."""
    settings, states = ("latents.max_lost_share=0.1",), []
    for share in ("1/2", "2/2"):
        place = tmp_path / f"machine {share[0]}"
        arguments = [*inputs.arguments(place / "latents", *settings), "--share", share]
        result = run_script("cache_latents.py", *arguments, STATE_ROOT=str(place / "state"))
        assert result.returncode == 0, result.stderr
        assert f"cache-latents: share {share[0]} of 2 is done" in result.stdout and not (place / "latents").exists()
        states.append({path.name for path in (place / "state").rglob("encoded/*/*.safetensors")})
        shutil.copytree(place / "state", tmp_path / "state", dirs_exist_ok=True)
    assert all(states) and not states[0] & states[1]
    encoded = finished_portions(tmp_path / "state")
    result = inputs.run(tmp_path / "latents", *settings)
    assert result.returncode == 0, result.stderr
    assert sum(path.suffix == ".safetensors" for path in encoded) == len(states[0] | states[1])
    assert folder_bytes(tmp_path / "latents") == folder_bytes(latents)


def finished_portions(folder: Path) -> dict[Path, int]:
    """{file of the state: when it was written}."""
    files = [*folder.rglob("measured/*/*.json"), *folder.rglob("encoded/*/*.safetensors")]
    return {file: file.stat().st_mtime_ns for file in files}


def copy_of_configs(base: Path, folder: Path) -> Path:
    """A base model without weights."""
    for part in ("vae", "unet"):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_bytes((base / part / "config.json").read_bytes())
    return folder


@pytest.fixture(autouse=True)
def _state_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.state.STATE_ROOT", tmp_path / "state")


def test_another_selection_does_again_only_what_is_new(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two runs cannot write their output, and so leave their state."""
    files = {i: webp(picture(i)) for i in range(3, 100_000, 1000)}
    before = Inputs(tmp_path / "before", base).write({i: file for i, file in files.items() if i != 7003})
    after = Inputs(tmp_path / "after", base).write({i: file for i, file in files.items() if i != 41_003})
    (tmp_path / "file").touch()
    portions = []
    for inputs in (before, after):
        with pytest.raises(OSError):
            main(inputs.arguments(tmp_path / "file" / "latents"))
        portions.append(finished_portions(tmp_path / "state"))
    assert portions[0].items() <= portions[1].items()
    assert len(portions[0]) >= 8
    # Of each kind one, or two, for the image that came, and for the one that went.
    assert 1 <= len(portions[1]) - len(portions[0]) <= 6
    main(after.arguments(tmp_path / "continued"))
    assert not finished_portions(tmp_path / "state")
    monkeypatch.setattr("repro.state.STATE_ROOT", tmp_path / "another state")
    main(after.arguments(tmp_path / "from nothing"))
    assert folder_bytes(tmp_path / "continued") == folder_bytes(tmp_path / "from nothing")


def test_fp16_shards_hold_the_rounded_values(tmp_path: Path, inputs: Inputs, latents: Path) -> None:
    main(inputs.arguments(tmp_path / "half", "latents.max_lost_share=0.1", "latents.dtype=fp16"))
    assert (tmp_path / "half" / "index.parquet").read_bytes() == (latents / "index.parquet").read_bytes()
    for file in latents.glob("*.safetensors"):
        full, half = load_file(file), load_file(tmp_path / "half" / file.name)
        assert torch.equal(half["ids"], full["ids"])
        assert all(torch.equal(half[name], full[name].half()) for name in ("mean", "std"))


def test_without_enlarging_the_image_decides_and_tiny_ones_are_lost(tmp_path: Path, base: Path) -> None:
    sizes = {3: (40, 50), 1003: (15, 60), 2003: (200, 130), 3003: (64, 64)}
    files = {i: webp(Image.new("RGB", size, (i % 256, 90, 200))) for i, size in sizes.items()}
    inputs, output = Inputs(tmp_path / "inputs", base).write(files), tmp_path / "latents"
    main(inputs.arguments(output, "latents.bucket_no_upscale=true", "latents.max_lost_share=0.3"))
    reason = "too small: 15x60 has not 16 pixels a side for a bucket"
    assert pl.read_parquet(output / "lost.parquet").rows() == [(1003, reason)]
    index = pl.read_parquet(output / "index.parquet")
    placed = index.select("id", "bucket_width", "bucket_height", "crop_left", "crop_top").rows()
    assert placed == [(3, 32, 48, 4, 1), (2003, 64, 48, 5, 0), (3003, 64, 64, 0, 0)]


def test_a_folder_may_be_empty_where_the_recipe_allows_it(tmp_path: Path, base: Path) -> None:
    inputs = Inputs(tmp_path / "inputs", base).write({3: b"not an image"})
    main(inputs.arguments(tmp_path / "latents", "latents.max_lost_share=1.0"))
    assert pl.read_parquet(tmp_path / "latents" / "index.parquet").is_empty()


def refused(inputs: Inputs, output: Path, *settings: str) -> str:
    with pytest.raises(StageError) as error:
        main(inputs.arguments(output, *settings))
    assert not output.exists()
    return str(error.value)


def test_too_many_lost_images(tmp_path: Path, inputs: Inputs) -> None:
    message = refused(inputs, tmp_path / "latents")
    assert "1 of 41 images are lost, more than latents.max_lost_share (0.02) allows" in message
    assert "post 50003: unreadable: not an image file" in message


def test_buckets_that_the_model_cannot_take(tmp_path: Path, inputs: Inputs) -> None:
    message = refused(inputs, tmp_path / "latents", "latents.bucket_reso_steps=8")
    assert "this base model needs multiples of 16" in message
    message = refused(inputs, tmp_path / "latents", "latents.bucket_reso_steps=8", "latents.bucket_no_upscale=true")
    assert "this base model needs multiples of 16" in message


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path, inputs: Inputs) -> None:
    assert "device: cuda, but torch sees no GPU here" in refused(inputs, tmp_path / "latents", "device=cuda")


def test_latents_that_fp16_cannot_hold(tmp_path: Path, base: Path) -> None:
    large = copy_of_configs(base, tmp_path / "base")
    weights = {n: w.float() for n, w in load_file(base / "vae" / "diffusion_pytorch_model.safetensors").items()}
    weights["quant_conv.bias"][0] = 1e5
    save_file(weights, large / "vae" / "diffusion_pytorch_model.safetensors")
    inputs = Inputs(tmp_path, large).write({3: webp(picture(3))})
    reason = "post 3: latents beyond the range of fp16: set latents.dtype to fp32"
    assert reason in refused(inputs, tmp_path / "latents", "latents.dtype=fp16")


def test_archive_with_other_bytes(tmp_path: Path, base: Path) -> None:
    inputs = Inputs(tmp_path, base).write({3: webp(picture(3))})
    archive = tmp_path / "images" / "data-0003.tar"
    data = bytearray(archive.read_bytes())
    data[600] ^= 1
    archive.write_bytes(data)
    assert "the image of post 3 is not the one that was indexed" in refused(inputs, tmp_path / "latents")


def test_caption_without_post(tmp_path: Path, base: Path) -> None:
    inputs = Inputs(tmp_path, base).write({3: webp(picture(3))})
    captions = tmp_path / "captions"
    pl.DataFrame({"id": [3, 8003]}).write_parquet(captions / "captions-00000.parquet")
    write_manifest(captions, "of this test")
    assert "post 8003" in refused(inputs, tmp_path / "latents")


def test_vae_weights_that_are_not_finite(tmp_path: Path, base: Path) -> None:
    broken = copy_of_configs(base, tmp_path / "base")
    weights = load_file(base / "vae" / "diffusion_pytorch_model.safetensors")
    weights["quant_conv.bias"][0] = float("nan")
    save_file(weights, broken / "vae" / "diffusion_pytorch_model.safetensors")
    inputs = Inputs(tmp_path, broken).write({3: webp(picture(3))})
    assert "weight quant_conv.bias is not finite" in refused(inputs, tmp_path / "latents")


def test_folder_without_a_base_model(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path, tmp_path / "nothing").write({3: webp(picture(3))})
    assert f"{tmp_path / 'nothing' / 'vae'}: missing" in refused(inputs, tmp_path / "latents")


def test_folder_whose_vae_is_none(tmp_path: Path, base: Path) -> None:
    broken = copy_of_configs(base, tmp_path / "base")
    inputs = Inputs(tmp_path, broken).write({3: webp(picture(3))})
    assert f"{broken / 'vae'}: not a diffusers AutoencoderKL" in refused(inputs, tmp_path / "latents")


def test_error_of_a_worker_is_one_line(tmp_path: Path, inputs: Inputs) -> None:
    result = inputs.run(tmp_path / "latents", "runtime.image_root=nowhere", "runtime.processes=2")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "nowhere: no such folder of image archives" in result.stderr


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory, inputs: Inputs) -> Inputs:
    """The same images for a Stable Cascade."""
    base = write_small_cascade(tmp_path_factory.mktemp("cascade") / "base", seed=1)
    return Inputs(inputs.folder, base, "sample-cascade")


def test_stable_cascade_latents_are_those_of_its_image_encoder(tmp_path: Path, cascade: Inputs) -> None:
    output = tmp_path / "latents"
    result = cascade.run(output, "latents.max_lost_share=0.1", "runtime.processes=2")
    assert result.returncode == 0, result.stderr
    check_manifest(output)
    fix_torch()
    encoder = load_encoder("cascade", cascade.base / "effnet")
    index = pl.read_parquet(output / "index.parquet")
    assert index["id"].to_list() == sorted(IDS)
    for row in index.to_dicts():
        image = picture(row["id"])
        shard = load_file(output / row["shard"])
        (latents,) = encoder.encode(torch.from_numpy(fit(image, place(image.size, BUCKETS)).copy()), "fp32")
        assert set(shard) == {"ids", "mean"}
        assert torch.equal(shard["mean"][row["row"]], latents)
    main(cascade.arguments(tmp_path / "other", "latents.max_lost_share=0.1"))
    assert folder_bytes(tmp_path / "other") == folder_bytes(output)


def test_code_of_the_image_encoder_determines_stable_cascades_latents_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    monkeypatch.setattr("cache_latents.code_digest", lambda *paths: hashed.append({path.name for path in paths}))
    for recipe in ("sample", "sample-cascade"):
        determining_parts(load_params(Path(f"recipes/{recipe}.yaml")), "vae")
    assert hashed[1] - hashed[0] == {"effnet.py"} and hashed[0] < hashed[1]


def test_a_name_that_is_no_familys_is_not_taken_for_one(base: Path) -> None:
    with pytest.raises(KeyError, match="third"):
        coarsest_cell(base, "third")
    with pytest.raises(KeyError, match="third"):
        determining_parts(load_params(Path("recipes/sample.yaml")).model_copy(update={"family": "third"}), "vae")


def test_a_shard_of_stable_cascade_is_as_large_as_asked(tmp_path: Path, cascade: Inputs) -> None:
    """A megabyte holds twice the images that it would hold if there were deviations."""
    base = write_small_cascade(tmp_path / "base", seed=1)
    wide = EfficientNetEncoder(EffnetConfig(4, (EffnetStage("fused", 1, 1, 4, 1),), 4, 256)).eval()
    write_effnet(base / "effnet", wide)
    main(Inputs(cascade.folder, base, "sample-cascade").arguments(
        tmp_path / "latents", "latents.max_lost_share=0.1", "latents.shard_megabytes=2"
    ))  # fmt: skip
    index = pl.read_parquet(tmp_path / "latents" / "index.parquet")
    square = index.filter(bucket_width=64, bucket_height=64)["shard"].value_counts()["count"]
    assert max(square) == 2  # of 32x32x256 floats each


def test_buckets_that_the_image_encoder_cannot_take(tmp_path: Path, cascade: Inputs) -> None:
    wide = write_small_cascade(tmp_path / "base", seed=1)
    stages = (EffnetStage("fused", 1, 2, 4, 1), EffnetStage("depthwise", 2, 2, 4, 1), EffnetStage("fused", 2, 2, 4, 1))
    write_effnet(wide / "effnet", EfficientNetEncoder(EffnetConfig(4, (*stages, stages[0]), 4, 4)))
    message = refused(Inputs(cascade.folder, wide, "sample-cascade"), tmp_path / "latents")
    assert "this base model needs multiples of 32" in message


def test_a_folder_of_another_family_has_no_image_encoder(tmp_path: Path, inputs: Inputs) -> None:
    other = Inputs(inputs.folder, inputs.base, "sample-cascade")
    assert f"{inputs.base / 'effnet'}" in refused(other, tmp_path / "latents")
