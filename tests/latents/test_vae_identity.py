"""Latents know their VAE, and training refuses those of another one."""

from pathlib import Path

from repro.errors import StageError
from repro.tensorfile import write_tensors

import pytest
import torch

from latents.vae_identity import VAE_KEY, latents_vae, refuse_latents_of_another_vae, vae_digest


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
    digest = vae_digest(base)
    (base / "unet").mkdir()
    (base / "unet" / "weights").write_bytes(b"anything")
    assert vae_digest(base) == digest == vae_digest(write_vae(tmp_path / "elsewhere"))
    assert vae_digest(write_vae(tmp_path / "other", b"other weights")) != digest


def test_latents_of_this_vae_pass(tmp_path: Path) -> None:
    base = write_vae(tmp_path / "base")
    latents = write_latents(tmp_path / "latents", vae_digest(base), vae_digest(base))
    assert latents_vae(latents) == vae_digest(base)
    refuse_latents_of_another_vae(latents, base)


def test_latents_of_another_vae_are_refused(tmp_path: Path) -> None:
    latents = write_latents(tmp_path / "latents", vae_digest(write_vae(tmp_path / "other", b"other weights")))
    with pytest.raises(StageError, match=r"encoded by the VAE .* run the cache-latents stage with this base model"):
        refuse_latents_of_another_vae(latents, write_vae(tmp_path / "base"))


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
    base = write_vae(tmp_path / "base").rename(tmp_path / "cascade")
    digest = vae_digest(base)
    (base / "vae").rename(base / "effnet")
    assert vae_digest(base) == digest
    refuse_latents_of_another_vae(write_latents(tmp_path / "latents", digest), base)
    (base / "effnet" / "more").write_bytes(b"another")
    with pytest.raises(StageError, match=r"encoded by the VAE or image encoder .*, but .*effnet is"):
        refuse_latents_of_another_vae(tmp_path / "latents", base)


def test_a_base_without_a_vae(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="vae: missing"):
        vae_digest(tmp_path)
