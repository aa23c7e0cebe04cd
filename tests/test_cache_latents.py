"""cache_latents.py as a process: what it writes, from any number of workers, after a kill, and what it refuses."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from repro.errors import StageError
from repro.hashing import check_manifest, write_manifest
from repro.numerics import fix_torch

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_sdxl import write_small_sdxl
from tiny_booru import folder_bytes, make_tar, run_script

from cache_latents import main
from latents.buckets import make_buckets, place
from latents.encode import load_vae, posterior
from latents.resize import fit

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
    """Posts, captions, archives and a base model in a folder."""

    def __init__(self, folder: Path, base: Path):
        self.folder, self.base = folder, base

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
        runtime = [f"runtime.image_root={self.folder / 'images'}", *settings]
        return [
            "--captions", str(self.folder / "captions"), "--posts", str(self.folder / "posts"), "--base", str(self.base),
            "--output", str(output), *(word for setting in runtime for word in ("--set", setting)),
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
    result = inputs.run(output, "latents.max_lost_share=0.1")
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


def test_lost_images_are_listed_with_their_reason(latents: Path) -> None:
    assert pl.read_parquet(latents / "lost.parquet").rows() == [(50_003, "unreadable: not an image file")]


def test_values_sizes_and_crops(latents: Path, base: Path) -> None:
    fix_torch()
    vae = load_vae(base / "vae")
    for row in pl.read_parquet(latents / "index.parquet").sample(8, seed=1).to_dicts():
        image = picture(row["id"])
        placement = place(image.size, BUCKETS)
        assert (row["original_width"], row["original_height"]) == image.size
        assert (row["bucket_width"], row["bucket_height"]) == placement.bucket
        assert (row["crop_left"], row["crop_top"]) == (placement.left, placement.top)
        mean, deviation = posterior(vae, torch.from_numpy(fit(image, placement).copy()))
        shard = load_file(latents / row["shard"])
        assert torch.equal(shard["mean"][row["row"]], mean)
        assert torch.equal(shard["std"][row["row"]], deviation)


def test_one_worker_and_another_folder_give_the_same_bytes(tmp_path: Path, inputs: Inputs, latents: Path) -> None:
    result = inputs.run(tmp_path / "other", "latents.max_lost_share=0.1", "runtime.processes=1")
    assert result.returncode == 0, result.stderr
    assert folder_bytes(tmp_path / "other") == folder_bytes(latents)


def test_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, inputs: Inputs, latents: Path) -> None:
    output, state = tmp_path / "latents", tmp_path / "state"
    command = [sys.executable, "stages/cache_latents.py", *inputs.arguments(output, "latents.max_lost_share=0.1")]
    process = subprocess.Popen(command, env=os.environ | {"STATE_ROOT": str(state)}, stderr=subprocess.DEVNULL)
    while not list(state.rglob("shard-*.safetensors")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    done = {file: file.stat().st_mtime_ns for file in state.rglob("shard-*.safetensors")}
    result = inputs.run(output, "latents.max_lost_share=0.1")
    assert result.returncode == 0, result.stderr
    assert done
    assert folder_bytes(output) == folder_bytes(latents)


@pytest.fixture(autouse=True)
def _state_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.state.STATE_ROOT", tmp_path / "state")


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
    broken = tmp_path / "base"
    for part in ("vae", "unet"):
        (broken / part).mkdir(parents=True)
        (broken / part / "config.json").write_bytes((base / part / "config.json").read_bytes())
    weights = load_file(base / "vae" / "diffusion_pytorch_model.safetensors")
    weights["quant_conv.bias"][0] = float("nan")
    save_file(weights, broken / "vae" / "diffusion_pytorch_model.safetensors")
    inputs = Inputs(tmp_path, broken).write({3: webp(picture(3))})
    assert "weight quant_conv.bias is not finite" in refused(inputs, tmp_path / "latents")


def test_folder_without_a_base_model(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path, tmp_path / "nothing").write({3: webp(picture(3))})
    assert f"{tmp_path / 'nothing' / 'vae'}: not a diffusers AutoencoderKL" in refused(inputs, tmp_path / "latents")


def test_error_of_a_worker_is_one_line(tmp_path: Path, inputs: Inputs) -> None:
    result = inputs.run(tmp_path / "latents", "runtime.image_root=nowhere")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "nowhere: no such folder of image archives" in result.stderr
