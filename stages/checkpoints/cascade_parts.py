"""What Stable Cascade needs beside stage C: the image encoder that makes the latents, and the decoder that makes the pictures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from repro.errors import StageError
from repro.tensorfile import TensorSpec

import torch

from checkpoints.checkpoint import Checkpoint
from checkpoints.diffusers_folder import DiffusersFolder, FolderConfigs, open_folder, read_json
from checkpoints.formula import parse_formula
from checkpoints.layouts import TensorSource, require_configs, write_single_file
from checkpoints.merging import Merge
from checkpoints.metadata import modelspec
from checkpoints.model_family import CASCADE, CASCADE_DECODER, TRANSFORMERS_WEIGHTS
from checkpoints.operands import Operands
from checkpoints.rounding import Precision
from families.effnet import BATCH_COUNT, EfficientNetEncoder, EffnetConfig

ENCODER, DECODER = "effnet", "decoder"
ENCODER_PREFIX = CASCADE.single_file_prefix[ENCODER]
DECODER_FILE = "comfyui-decoder.safetensors"


@dataclass(frozen=True)
class WithBatchCounts:
    """A model by single-file names with the image encoder's counts of seen batches, zeros where it lacks them.

    No use when encoding, but ComfyUI knows the image encoder by one of them (sd.py, class VAE).
    """

    model: TensorSource
    config: EffnetConfig

    @cached_property
    def specs(self) -> Mapping[str, TensorSpec]:
        with torch.device("meta"):
            names = EfficientNetEncoder(self.config).state_dict()
        counts = {f"{ENCODER_PREFIX}{name}": TensorSpec("I64", ()) for name in names if name.endswith(BATCH_COUNT)}
        return {**self.model.specs, **{name: spec for name, spec in counts.items() if name not in self.model.specs}}

    def chunks(self, name: str, part: int = 0, parts: int = 1) -> Iterator[memoryview]:
        return self.model.chunks(name, part, parts) if name in self.model.specs else iter([memoryview(bytes(8))])


@dataclass(frozen=True)
class WithImageEncoder:
    """A model by single-file names with the image encoder of another source in the place of its own."""

    model: TensorSource
    encoder: TensorSource

    @cached_property
    def specs(self) -> Mapping[str, TensorSpec]:
        others = {name: spec for name, spec in self.model.specs.items() if not name.startswith(ENCODER_PREFIX)}
        return others | dict(self.encoder.specs)

    def chunks(self, name: str, part: int = 0, parts: int = 1) -> Iterator[memoryview]:
        source = self.encoder if name.startswith(ENCODER_PREFIX) else self.model
        return source.chunks(name, part, parts)


def whole_base(
    model: Merge, configs: FolderConfigs, image_encoder: Path | None, decoder: Path | None, precision: Precision
) -> tuple[TensorSource, FolderConfigs]:
    """A Stable Cascade with both parts, as a folder's tensors and configs.

    Args:
        image_encoder: file or folder of EfficientNet; a file alone is that of Stability AI's shape. decoder: folder of a
            StableCascadeDecoderPipeline. None: the model's own.
    Raises:
        StageError: a part is neither given nor the model's own, or a given one is not whole or something else.
    """
    source, encoder_config = model, configs.configs.get(ENCODER, EffnetConfig().as_json())
    if image_encoder:
        encoder, encoder_config = _open_encoder(image_encoder)
        source = WithImageEncoder(model, Merge(parse_formula(ENCODER), Operands({ENCODER: encoder}, {}), precision))
    if not any(name.startswith(ENCODER_PREFIX) for name in source.specs):
        raise StageError("base.image_encoder: the formula's models have none; name its file, effnet_encoder.safetensors")
    decoder = decoder or configs.copied.get(DECODER)
    if decoder is None:
        raise StageError(f"base.decoder: {configs.folder} has no {DECODER} folder; name the folder of stage B and stage A")
    _open_decoder(decoder)
    configs = replace(configs, configs={**configs.configs, ENCODER: encoder_config}, copied={**configs.copied, DECODER: decoder})
    configs.family.expected_shapes(configs.configs, str(image_encoder or configs.folder))
    return WithBatchCounts(source, EffnetConfig.from_json(encoder_config)), configs


def _open_decoder(folder: Path) -> DiffusersFolder:
    """Raises:
    StageError: not the folder of a decoder, or its tensors are not those that its configs call for."""
    decoder = open_folder(folder, (CASCADE_DECODER,))
    specs = {part: {name: file.specs[inner] for name, (file, inner) in of.items()} for part, of in decoder.tensors.items()}
    require_configs(decoder.configs, specs, "fetch or make the decoder again")
    return decoder


def _open_encoder(path: Path) -> tuple[Checkpoint, dict]:
    is_folder = path.is_dir()
    encoder = Checkpoint(path / TRANSFORMERS_WEIGHTS if is_folder else path)
    if not all(name.startswith(ENCODER_PREFIX) for name in encoder.specs):
        stranger = next(name for name in encoder.specs if not name.startswith(ENCODER_PREFIX))
        raise StageError(f"base.image_encoder: {encoder.path} holds '{stranger}'; expected an EfficientNet encoder alone")
    return encoder, read_json(path / "config.json") if is_folder else EffnetConfig().as_json()


def write_decoder_file(folder: Path) -> None:
    """Write the decoder that stands in a model's folder as ComfyUI's single file beside it, in its own types."""
    decoder = Checkpoint(_open_decoder(folder / DECODER))
    configs = decoder.configs

    def metadata(data_digest: str) -> dict[str, str]:
        return modelspec(CASCADE_DECODER, DECODER, None, configs.resolution, configs.schedule.modelspec, data_digest, stated={})

    write_single_file(folder / DECODER_FILE, decoder, metadata)
