"""How a single file's family is told by the names of its tensors."""

from dataclasses import replace

import pytest

from checkpoints.model_family import CASCADE, MODEL_FAMILIES, SDXL, ModelFamily, family_of_names

UNET = "model.diffusion_model."


@pytest.mark.parametrize(
    ("names", "family"),
    [
        ([f"{UNET}input_blocks.0.0.weight"], SDXL),
        (["conditioner.embedders.1.model.ln_final.bias"], SDXL),
        (["position_ids", "first_stage_model.quant_conv.bias"], SDXL),
        ([f"{UNET}clf.1.weight", f"{UNET}clip_txt_mapper.weight"], CASCADE),
        (["text_encoder.clip_g.logit_scale"], CASCADE),
        (["vae.encoder.mapper.0.weight"], CASCADE),
    ],
)
def test_a_part_of_a_file_tells_its_family(names: list[str], family: ModelFamily) -> None:
    assert family_of_names(names) is family


def test_names_of_no_family_are_not_taken_for_sdxls() -> None:
    with pytest.raises(LookupError, match="none of 2 names"):
        family_of_names(["net.blocks.0.weight", "vae.decoder.conv1.weight"])


def test_a_third_family_is_told_by_its_own_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    third = replace(SDXL, title="Third", marks=(f"{UNET}third_blocks.",))
    monkeypatch.setitem(MODEL_FAMILIES, "third", third)
    assert family_of_names([f"{UNET}out.weight", f"{UNET}third_blocks.0.weight"]) is third
    assert family_of_names([f"{UNET}out.weight"]) is SDXL
