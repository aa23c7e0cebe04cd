"""SoteDiffusion's two runs at small size: the base run's merged model is the final run's base, its text encoder frozen there.

make_base.py, train.py and merge.py are processes, and all that they hand on is on the disk; latents and captions are made up."""

from pathlib import Path

from repro.hashing import check_manifest

import pytest
import torch
from safetensors.torch import load_file
from small_cascade import write_small_cascade
from tiny_booru import folder_bytes, run_script
from tiny_checkpoints import same
from tiny_training import Training, write_captions, write_latents, write_params

from latents.vae_identity import vae_digest

PARTS = {"prior": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors"}


def make_and_train(folder: Path, source: Path, te_lr: float) -> Path:
    """One run, from a folder of models to the folder of its merged model."""
    folder.mkdir()
    given = ["--params", "recipes/sample-cascade.yaml", "--set", f"models.folder={source.parent}"]
    base = run_script(
        "make_base.py", *given, "--set", f"models.files={{m: {source.name}}}", "--set", "base.formula=m",
        "--output", folder / "base",
    )  # fmt: skip
    assert base.returncode == 0, base.stderr
    write_captions(folder / "captions", write_latents(folder / "latents", folder / "base"))
    params = write_params(
        folder / "params.yaml", te_lr=te_lr, family="cascade", method="full", optimizer="adafactor", updates=2, save_every=2,
        checkpoints=None, pictures=None,
    )  # fmt: skip
    trained = Training(folder, folder / "run").finish(params)
    merged = run_script(
        "merge.py", *given, "--set", "models.files={}", "--set", "merge.formula=trained",
        "--model", f"base={folder / 'base'}", "--model", f"trained={trained.lokr}",
        "--out", folder / "merged.safetensors", "--layout", "both", "--report", folder / "merge.json",
    )  # fmt: skip
    assert merged.returncode == 0, merged.stderr
    return folder / "merged"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The folders of what was published, of the base run's model and of the final run's."""
    folder = tmp_path_factory.mktemp("chain")
    published = write_small_cascade(folder / "published", seed=4)
    first = make_and_train(folder / "first", published, te_lr=0.001)
    return published, first, make_and_train(folder / "second", first, te_lr=0.0)


def weights(model: Path, part: str) -> dict[str, torch.Tensor]:
    return load_file(model / part / PARTS[part])


def test_the_base_run_trains_stage_c_and_text_encoder_and_the_final_run_stage_c_alone(runs: tuple[Path, Path, Path]) -> None:
    published, first, second = runs
    before, half = weights(published, "text_encoder"), weights(first, "text_encoder")
    learnt = [name for name, tensor in before.items() if not torch.equal(tensor.half(), half[name])]
    assert len(learnt) > len(before) / 2
    assert same(half, weights(second, "text_encoder"))
    one, two = (weights(model, "prior") for model in (first, second))
    assert one.keys() == two.keys()
    assert sum(not torch.equal(tensor, two[name]) for name, tensor in one.items()) > len(one) / 2


def test_what_neither_run_trains_is_handed_on(runs: tuple[Path, Path, Path]) -> None:
    """The image encoder once in the merged model's precision, so that both of its files hold the same; the rest as it is."""
    published, first, second = runs
    check_manifest(second.parent / "base")
    assert vae_digest(first, "cascade") == vae_digest(second, "cascade")
    given, kept = (load_file(model / "effnet" / "model.safetensors") for model in (published, second))
    assert same({name: t.half() if t.is_floating_point() else t for name, t in given.items()}, kept)
    for part in ("decoder", "tokenizer", "scheduler"):
        assert folder_bytes(published / part) == folder_bytes(first / part) == folder_bytes(second / part)


def test_the_single_file_of_the_final_run_holds_both(runs: tuple[Path, Path, Path]) -> None:
    _, first, second = runs
    files = [load_file(model.with_name("merged.safetensors")) for model in (first, second)]
    equal = {name for name, tensor in files[0].items() if torch.equal(tensor, files[1][name])}
    assert any(name.startswith("text_encoder.") for name in equal)
    assert not all(name in equal for name in files[0])
