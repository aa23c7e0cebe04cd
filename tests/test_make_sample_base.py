"""make_sample_base.py refuses what it cannot make, and loses no bit of what was trained; making it is `make sample-models`."""

from pathlib import Path

from repro.errors import StageError
from repro.numerics import fix_torch
from repro.params import load_params

import pytest
import torch
from tiny_booru import folder_bytes
from tiny_checkpoints import same

from checkpoints.diffusers_folder import open_folder
from make_sample_base import MERGES_FILE, main, trained_tensors
from sample.architecture import make_text_encoders, make_unet, make_vae
from sample.base_model import write_start, write_trained
from training.weight_file import write_weights

ART = Path("data/art")
RECIPE = ("--params", "recipes/sample-base.yaml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--params", "params.yaml"), "train.method is lokr; a model from nothing needs full"),
        ((*RECIPE, "--set", "train.updates=3"), "edit that"),
        ((*RECIPE, "--art", "tests"), r"no bpe_simple_vocab_16e6\.txt\.gz in it"),
    ],
)
def test_refusals(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(StageError, match=words):
        main([*arguments, "--output", str(tmp_path / "base")])


def test_the_trained_tensors_come_back_from_their_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    fix_torch()
    start, file = tmp_path / "start", tmp_path / "trained.safetensors"
    write_start(start, make_vae(5), ART / MERGES_FILE, 5)
    models = dict(zip(("text_encoder", "text_encoder_2"), make_text_encoders(6), strict=True)) | {"unet": make_unet(6)}
    trained = {f"{part}.{name}": tensor for part, model in models.items() for name, tensor in model.named_parameters()}
    trained = {name: tensor.detach() for name, tensor in trained.items()}
    write_weights(file, trained, load_params(Path("recipes/sample-base.yaml")), start)
    found = trained_tensors(file, start)
    assert same({name: found[name] for name in trained}, trained)
    vae = {f"vae.{name}": file.whole(inner).float() for name, (file, inner) in open_folder(start).tensors["vae"].items()}
    assert same({name: tensor for name, tensor in found.items() if name not in trained}, vae)
    for folder, tensors in (("of what was trained", trained), ("of the file", found)):
        write_trained(tmp_path / folder, start, tensors, unseen_token_scale=2.5)
    assert folder_bytes(tmp_path / "of the file") == folder_bytes(tmp_path / "of what was trained")
    assert not torch.equal(trained["unet.conv_in.weight"], make_unet(5).conv_in.weight)
