"""What the report says of each model family: names of its parts, its paper, and how the hub tags it."""

from collections.abc import Mapping
from dataclasses import dataclass

from repro.params import Annotate, FamilyName, SampledPictures


@dataclass(frozen=True)
class FamilyWords:
    """`denoiser`: what `lr` trains; `encoders`: what `te_lr` trains; `paper`: of the architecture; `weighting`: of the loss by
    timestep, where no setting of `train` asks for another; `weighting_paper`: whose that is; `hub_tag`: of the card;
    `lokr`: the settings of train.lokr that its classes of modules have, in words: of the denoiser, and of the encoders."""

    denoiser: str
    encoders: str
    paper: str
    weighting: str
    weighting_paper: str | None
    hub_tag: str
    lokr: tuple[Mapping[str, str], Mapping[str, str]]


ATTENTION, RESNET, PROJECTIONS = {"unet_attention": "attention"}, {"unet_resnet": "resnet"}, {"unet_projection": "projections"}
LOKR_OF_ENCODERS = {"text_attention": "attention", "text_mlp": "MLP"}

FAMILY_WORDS: dict[FamilyName, FamilyWords] = {
    "sdxl": FamilyWords(
        denoiser="UNet",
        encoders="text encoders",
        paper="Podell et al. (2023), SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis,"
        " arXiv:2307.01952",
        weighting="none",
        weighting_paper=None,
        hub_tag="stable-diffusion-xl",
        lokr=(ATTENTION | {"unet_feed_forward": "feed-forward"} | RESNET | PROJECTIONS, LOKR_OF_ENCODERS),
    ),
    "cascade": FamilyWords(
        denoiser="stage C prior",
        encoders="text encoder",
        paper="Pernias et al. (2023), Wuerstchen: An Efficient Architecture for Large-Scale Text-to-Image Diffusion Models,"
        " arXiv:2306.00637",
        weighting="P2, 1 / (1 + SNR)",
        weighting_paper="Choi et al. (2022), Perception Prioritized Training of Diffusion Models, arXiv:2204.00227",
        hub_tag="stable-cascade",
        lokr=(ATTENTION | RESNET | PROJECTIONS, LOKR_OF_ENCODERS),
    ),
}
ANNOTATION_WORDS = {
    "tags": "tags and rating",
    "aesthetic": "aesthetic score",
    "quality": "quality score",
    "text": "text in the picture",
}


def sampling_words(sampler: str, asked: SampledPictures) -> str:
    """Sampler, steps and guidance, Stable Cascade's second sampling with it."""
    words = f"{sampler}, {asked.steps} steps, guidance {asked.guidance:g}"
    if asked.decoder is None:
        return words
    return f"{words}; decoder {asked.decoder.steps} steps, guidance {asked.decoder.guidance:g}"


def annotation_models(annotate: Annotate) -> list[tuple[str, str]]:
    """(what it tells, model) of each model that describes pictures: its repository and revision where they are known."""
    told = []
    for name, words in ANNOTATION_WORDS.items():
        if model := getattr(annotate, name):
            known = model.hub is not None and model.hub.revision is not None
            told.append((words, f"{model.hub.repo} at {model.hub.revision[:12]}" if known else model.path))
    return told
