"""Latents know their VAE, and training refuses those of another one."""

from pathlib import Path
from typing import get_args

from repro.errors import StageError
from repro.params import FamilyName
from repro.tensorfile import write_tensors

import pytest
import torch

from latents.vae_identity import ENCODER_FOLDERS, VAE_KEY, latents_vae, refuse_latents_of_another_vae, vae_digest


def write_vae(base: Path, weights: bytes = b"weights") -> Path:
    (base / "vae").mkdir(parents=True)
    (base / "vae" / "config.json").write_text("{}")
    (base / "vae" / "weights").write_bytes(weights)
    return base


def write_latents(folder: Path, *digests: str | None) -> Path:
    for number, digest in enumerate(digests):
        metadata = {} if digest is None else {VAE_KEY: digest}
        write_tensors(folder / f"latents-{number:05d}.safetensors", {"ids": torch.zeros(1)}, metadata)
    return folder


def test_the_digest_is_of_the_vae_and_of_nothing_else(tmp_path: Path) -> None:
    base = write_vae(tmp_path / "base")
    digest = vae_digest(base, "sdxl")
    (base / "unet").mkdir()
    (base / "unet" / "weights").write_bytes(b"anything")
    assert vae_digest(base, "sdxl") == digest == vae_digest(write_vae(tmp_path / "elsewhere"), "sdxl")
    assert vae_digest(write_vae(tmp_path / "other", b"other weights"), "sdxl") != digest


def test_latents_of_this_vae_pass(tmp_path: Path) -> None:
    base = write_vae(tmp_path / "base")
    latents = write_latents(tmp_path / "latents", vae_digest(base, "sdxl"), vae_digest(base, "sdxl"))
    assert latents_vae(latents) == vae_digest(base, "sdxl")
    refuse_latents_of_another_vae(latents, base, "sdxl")


def test_latents_of_another_vae_are_refused(tmp_path: Path) -> None:
    latents = write_latents(tmp_path / "latents", vae_digest(write_vae(tmp_path / "other", b"other weights"), "sdxl"))
    with pytest.raises(StageError, match=r"encoded by the VAE .* run the cache-latents stage with this base model"):
        refuse_latents_of_another_vae(latents, write_vae(tmp_path / "base"), "sdxl")


@pytest.mark.parametrize(
    ("digests", "words"),
    [
        ([], "no latents-"),
        (["a", None], "latents-00001.safetensors: does not say which VAE"),
        (["a", "a", "b"], "latents-00000.safetensors and latents-00002.safetensors come from different VAEs"),
    ],
)
def test_folders_that_name_no_single_vae(tmp_path: Path, digests: list[str | None], words: str) -> None:
    with pytest.raises(StageError, match=words):
        latents_vae(write_latents(tmp_path, *digests))


def test_a_shard_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "latents-00000.safetensors").write_bytes(b"rubbish")
    with pytest.raises(StageError, match=r"latents-00000\.safetensors: not a safetensors file"):
        latents_vae(tmp_path)


def test_stable_cascades_image_encoder_is_in_the_place_of_the_vae(tmp_path: Path) -> None:
    base = write_vae(tmp_path / "cascade")
    digest = vae_digest(base, "sdxl")
    (base / "vae").rename(base / "effnet")
    assert vae_digest(base, "cascade") == digest
    write_vae(base.with_name("other"), b"other weights").joinpath("vae").rename(base / "vae")
    refuse_latents_of_another_vae(write_latents(tmp_path / "latents", digest), base, "cascade")
    with pytest.raises(StageError, match=r"encoded by the VAE or image encoder .*, but .*vae is"):
        refuse_latents_of_another_vae(tmp_path / "latents", base, "sdxl")


@pytest.mark.parametrize("name", get_args(FamilyName))
def test_a_base_without_the_familys_encoder(tmp_path: Path, name: FamilyName) -> None:
    with pytest.raises(StageError, match=f"{ENCODER_FOLDERS[name]}: missing"):
        vae_digest(write_vae(tmp_path) if name == "cascade" else tmp_path, name)
