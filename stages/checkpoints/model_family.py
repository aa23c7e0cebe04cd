"""What differs between the families of models that are read, merged and written here: names, files, shapes and words."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from repro.params import FamilyName

from checkpoints import cascade_names, cascade_shapes, sdxl_names, sdxl_shapes
from checkpoints.keymap import Layout, component_of
from checkpoints.shapes import Shape

DIFFUSERS_WEIGHTS = "diffusion_pytorch_model.safetensors"
TRANSFORMERS_WEIGHTS = "model.safetensors"
Configs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class ModelFamily:
    """A family by its diffusers folder and its single file.

    `weights` is the weight file of each component; an `optional` one may be missing from a folder. `layout` and
    `layout_of_names` give the map of a model by its configs, or by the tensor names of a single file. `marks` are beginnings of
    names by which a single file is told (see `family_of_names`), `beyond_fp8` of those that fp8 cannot hold. `idle` are tensors
    that no program computes with, `passed_through` folders that are copied as they are, `without_a_folder` beginnings of the
    names of a single file's tensors that have no place in a folder. `base_precision`: in which base models are
    written (see `Precision`). `architecture` and `implementation` are ModelSpec's.
    """

    title: str
    pipeline: str
    weights: Mapping[str, str]
    tokenizers: tuple[str, ...]
    layout: Callable[[Configs], Layout]
    layout_of_names: Callable[[Collection[str]], Layout]
    expected_shapes: Callable[[Configs, str], dict[str, dict[str, Shape]]]
    single_file_prefix: Mapping[str, str]
    marks: tuple[str, ...]
    beyond_fp8: tuple[str, ...]
    embeddings: tuple[str, ...]
    idle: tuple[str, ...]
    base_precision: str
    architecture: str
    implementation: str
    optional: tuple[str, ...] = ()
    passed_through: tuple[str, ...] = ()
    without_a_folder: tuple[str, ...] = ()

    def component_of(self, name: str) -> str | None:
        """The component (folder name in diffusers) that a single file's tensor belongs to."""
        return component_of(name, self.single_file_prefix)


SDXL = ModelFamily(
    title="SDXL",
    pipeline="StableDiffusionXLPipeline",
    weights={
        "unet": DIFFUSERS_WEIGHTS,
        "text_encoder": TRANSFORMERS_WEIGHTS,
        "text_encoder_2": TRANSFORMERS_WEIGHTS,
        "vae": DIFFUSERS_WEIGHTS,
    },
    tokenizers=("tokenizer", "tokenizer_2"),
    layout=lambda configs: sdxl_names.sdxl_layout(sdxl_names.Architecture.from_configs(configs)),
    layout_of_names=lambda names: sdxl_names.sdxl_layout(sdxl_names.Architecture.from_names(names)),
    expected_shapes=sdxl_shapes.expected_shapes,
    single_file_prefix=sdxl_names.SINGLE_FILE_PREFIX,
    marks=tuple(sdxl_names.SINGLE_FILE_PREFIX.values()),
    beyond_fp8=(),
    embeddings=sdxl_names.EMBEDDINGS,
    idle=(sdxl_names.LOGIT_SCALE,),
    base_precision="fp16",  # in which SDXL's are published and merged
    architecture="stable-diffusion-xl-v1-base",
    implementation="https://github.com/Stability-AI/generative-models",
)
CASCADE = ModelFamily(
    title="Stable Cascade",
    pipeline="StableCascadePriorPipeline",
    weights={"prior": DIFFUSERS_WEIGHTS, "text_encoder": TRANSFORMERS_WEIGHTS, "effnet": TRANSFORMERS_WEIGHTS},
    tokenizers=("tokenizer",),
    layout=lambda configs: cascade_names.prior_layout(cascade_names.attention_blocks(configs["prior"])),
    layout_of_names=lambda names: cascade_names.prior_layout(cascade_names.attention_blocks_of_names(names)),
    expected_shapes=cascade_shapes.expected_shapes,
    single_file_prefix=cascade_names.PRIOR_PREFIX,
    marks=cascade_names.MARKS,
    beyond_fp8=(cascade_names.PRIOR_PREFIX["effnet"],),  # running variances that are beyond its largest number
    embeddings=cascade_names.EMBEDDINGS,
    idle=(cascade_names.LOGIT_SCALE,),
    base_precision="fp32",  # stage C is trained from float32 weights, and its fp16 gives NaN in some programs
    architecture="stable-cascade-v1-stage-c",  # SwarmUI's name; ModelSpec's own list ends before this family
    implementation="https://github.com/Stability-AI/StableCascade",
    optional=("effnet",),
    passed_through=("decoder",),
    without_a_folder=cascade_names.WITHOUT_A_FOLDER,
)
CASCADE_DECODER = ModelFamily(
    title="Stable Cascade's decoder",
    pipeline="StableCascadeDecoderPipeline",
    weights={"decoder": DIFFUSERS_WEIGHTS, "text_encoder": TRANSFORMERS_WEIGHTS, "vqgan": DIFFUSERS_WEIGHTS},
    tokenizers=("tokenizer",),
    layout=lambda configs: cascade_names.decoder_layout(cascade_names.attention_blocks(configs["decoder"])),
    layout_of_names=lambda names: cascade_names.decoder_layout(cascade_names.attention_blocks_of_names(names)),
    expected_shapes=cascade_shapes.expected_shapes,
    single_file_prefix=cascade_names.DECODER_PREFIX,
    marks=(),  # its single file is written, never read
    beyond_fp8=(),
    embeddings=cascade_names.EMBEDDINGS,
    idle=(cascade_names.LOGIT_SCALE,),
    base_precision="fp32",
    architecture="stable-cascade-v1-stage-b",
    implementation="https://github.com/Stability-AI/StableCascade",
)
# By the parameters' `family`.
MODEL_FAMILIES: dict[FamilyName, ModelFamily] = {"sdxl": SDXL, "cascade": CASCADE}
EMBEDDINGS = frozenset(name for family in MODEL_FAMILIES.values() for name in family.embeddings)


def family_of_names(names: Collection[str]) -> ModelFamily:
    """The family of a single file's tensors, of which it may hold a part.

    Raises:
        LookupError: no name begins with a mark of any family.
    """
    # SDXL comes last: its UNet's mark stands in other families' files too.
    for family in reversed(MODEL_FAMILIES.values()):
        if any(name.startswith(family.marks) for name in names):
            return family
    raise LookupError(f"none of {len(names)} names has a family's mark")
