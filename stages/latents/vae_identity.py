"""What encoded the pictures of a latents folder, so that training refuses the latents of another VAE or image encoder.

SDXL's base model encodes them by its VAE, Stable Cascade's by EfficientNet.
"""

from pathlib import Path

from repro.errors import StageError
from repro.hashing import hash_tree, sha256_json
from repro.params import FamilyName

from safetensors import SafetensorError, safe_open

# The folder of a family's encoder in its diffusers folder.
ENCODER_FOLDERS: dict[FamilyName, str] = {"sdxl": "vae", "cascade": "effnet"}
# The key of a shard's metadata that holds the encoder's digest.
VAE_KEY = "vae"


def vae_digest(base: Path, family: FamilyName) -> str:
    """sha256 over names and contents of the files of the VAE, or of the image encoder, in a family's diffusers folder `base`.

    Raises:
        StageError: there is none.
    """
    return sha256_json(hash_tree(_encoder(base, family)))


def _encoder(base: Path, family: FamilyName) -> Path:
    """Raises:
    StageError: the folder has no encoder with files in it."""
    encoder = Path(base) / ENCODER_FOLDERS[family]
    if not hash_tree(encoder):
        raise StageError(f"{encoder}: missing; {base} must be a diffusers folder, made by stages/make_base.py")
    return encoder


def latents_vae(folder: Path) -> str:
    """The digest of what encoded the shards of a latents folder.

    Raises:
        StageError: no shards, one that cannot be read or names no encoder, or shards of several.
    """
    digests = {}
    for shard in sorted(Path(folder).glob("latents-*.safetensors")):
        try:
            with safe_open(shard, framework="pt") as file:
                digest = (file.metadata() or {}).get(VAE_KEY)
        except SafetensorError as error:
            raise StageError(f"{shard}: not a safetensors file ({error}); run the cache-latents stage again") from None
        if digest is None:
            raise StageError(f"{shard}: does not say which VAE or image encoder encoded it; run the cache-latents stage again")
        digests.setdefault(digest, shard.name)
    if not digests:
        raise StageError(f"{folder}: no latents-*.safetensors; run the cache-latents stage first")
    if len(digests) > 1:
        several = " and ".join(digests.values())
        raise StageError(f"{folder}: {several} come from different VAEs or image encoders; run the cache-latents stage again")
    return next(iter(digests))


def refuse_latents_of_another_vae(latents: Path, base: Path, family: FamilyName) -> None:
    """Raises:
    StageError: the latents were not encoded by the VAE, or image encoder, of the diffusers folder `base`."""
    encoded_by, ours = latents_vae(latents), vae_digest(base, family)
    if encoded_by != ours:
        raise StageError(
            f"{latents}: encoded by the VAE or image encoder {encoded_by[:12]}, but {_encoder(base, family)} is {ours[:12]};"
            " run the cache-latents stage with this base model"
        )
