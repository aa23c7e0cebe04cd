"""How the model was trained, in words: what the parameters of the trainer mean to a reader of the card."""

from repro.params import Base, FamilyName, Latents, Lokr, Params, Train

from reporting.families import FAMILY_WORDS

OPTIMIZER_WORDS = {
    "lion8bit": "Lion8bit", "lion": "Lion", "adamw8bit": "AdamW8bit", "adamw": "AdamW", "adafactor": "Adafactor",
}  # fmt: skip
DEVICE_WORDS = {"cpu": "the CPU", "cuda": "a GPU"}
PREDICTION_WORDS = {"epsilon": "noise (epsilon)", "v_prediction": "velocity (v-prediction)"}
MIN_SNR = "Hang et al. (2023), Efficient Diffusion Training via Min-SNR Weighting Strategy, arXiv:2303.09556"
DEBIASED = "Yu et al. (2024), Debias the Training of Diffusion Models, arXiv:2310.08442"
LION = "Chen et al. (2023), Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675"
EIGHT_BIT = "Dettmers et al. (2022), 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861"
ADAMW = "Loshchilov and Hutter (2019), Decoupled Weight Decay Regularization, arXiv:1711.05101"
ADAFACTOR = "Shazeer and Stern (2018), Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, arXiv:1804.04235"
OPTIMIZER_PAPERS = {
    "lion8bit": [LION, EIGHT_BIT], "lion": [LION], "adamw8bit": [ADAMW, EIGHT_BIT], "adamw": [ADAMW], "adafactor": [ADAFACTOR],
}  # fmt: skip


def schedule_words(train: Train) -> str:
    return f"{train.schedule} with warm-up" if train.warmup_updates else train.schedule


def factor_words(lokr: Lokr, family: FamilyName) -> str:
    """The LoKr factors by module class, of those that the family has, and what differs by name."""
    words = FAMILY_WORDS[family]
    by_class = "; ".join(
        f"{part} {', '.join(f'{name} {getattr(lokr, setting)}' for setting, name in settings.items())}"
        for part, settings in zip((words.denoiser, "text encoder"), words.lokr, strict=True)
    )
    by_name = [f"{name} {'untrained' if factor is None else factor}" for name, factor in lokr.by_name.items()]
    return "; by name: ".join([by_class, *([", ".join(by_name)] if by_name else [])])


def epoch_words(train: Train) -> str | None:
    """The epochs that were asked for; None where updates were."""
    return None if train.epochs is None else f"{train.epochs:,} epoch{'s' if train.epochs > 1 else ''} asked for"


def weighting(train: Train, family: FamilyName) -> tuple[str, str | None]:
    """How the loss is weighted by timestep, and whose paper that is."""
    if train.adaptive_loss_weight:
        return "adaptive, by the inverse of what losses were at like noise", None
    if train.debiased:
        return "debiased", DEBIASED
    if train.min_snr_gamma is not None:
        return f"min-SNR, gamma {train.min_snr_gamma:g}", MIN_SNR
    words = FAMILY_WORDS[family]
    return words.weighting, words.weighting_paper


def noise_words(train: Train) -> str:
    """The noise offset, and what each channel's mean adds to it."""
    adaptive = f" + {train.adaptive_noise_offset:g} x |mean of the latent's channel|" if train.adaptive_noise_offset else ""
    return f"{train.noise_offset:g}{adaptive}" if train.noise_offset or adaptive else "none"


def target_words(base: Base) -> str | None:
    """What the model learns to predict, where the recipe says it."""
    prediction = PREDICTION_WORDS[base.prediction] if base.prediction else None
    if base.zero_terminal_snr is None:
        return prediction
    schedule = f"{'' if base.zero_terminal_snr else 'no '}zero-terminal SNR"
    return f"{prediction}, {schedule}" if prediction else schedule


def bucket_words(latents: Latents) -> str:
    """Which sizes the pictures were brought to, and how their latents were made."""
    area = f"Pixel area {latents.resolution}x{latents.resolution}"
    if latents.bucket_no_upscale:
        sides = f"smaller pictures not enlarged, sides cut to multiples of {latents.bucket_reso_steps}"
    else:
        sides = f"sides from {latents.min_bucket_reso} to {latents.max_bucket_reso} in steps of {latents.bucket_reso_steps}"
    return f"{area}, {sides}; latents encoded in {latents.precision} and kept as {latents.dtype}."


def method_papers(params: Params) -> list[str]:
    """The papers of what this recipe uses, that of the architecture first."""
    train, papers = params.train, [FAMILY_WORDS[params.family].paper]
    if train.method == "lokr":
        papers.append(
            "Yeh et al. (2024), Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation,"
            " arXiv:2309.14859"
        )
    if weighting_paper := weighting(train, params.family)[1]:
        papers.append(weighting_paper)
    if params.base.prediction == "v_prediction":
        papers.append("Salimans and Ho (2022), Progressive Distillation for Fast Sampling of Diffusion Models, arXiv:2202.00512")
    if params.base.zero_terminal_snr:
        papers.append("Lin et al. (2024), Common Diffusion Noise Schedules and Sample Steps are Flawed, arXiv:2305.08891")
    return papers + OPTIMIZER_PAPERS[train.optimizer]


def training_facts(params: Params) -> dict[str, str | list[str] | bool | None]:
    """The names of this module's words in both templates."""
    train = params.train
    return {
        "optimizer": OPTIMIZER_WORDS[train.optimizer],
        "schedule": schedule_words(train),
        "factors": factor_words(train.lokr, params.family),
        "epochs_asked": epoch_words(train),
        "weighting": weighting(train, params.family)[0],
        "noise": noise_words(train),
        "target": target_words(params.base),
        "arithmetic": f"{train.precision} on {DEVICE_WORDS[params.device]}",
        "bucket_rule": bucket_words(params.latents),
        "text_trained": params.te_lr > 0,
        "papers": method_papers(params),
    }
