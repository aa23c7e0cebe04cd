import argparse
from collections.abc import Mapping
from pathlib import Path

from repro.errors import StageError
from repro.params import FormulaSection, Models

import pytest
import torch
from small_sdxl import write_small_sdxl
from tiny_checkpoints import (
    CONV,
    CONV_BIAS,
    IDS,
    IN_PROJ,
    LINEAR,
    OUT_NORM,
    POSITIONS,
    PROJECTION,
    TEMPERATURE,
    TIME,
    operands_of,
    tiny_tensors,
    uniform,
    write,
    write_models,
)

from checkpoints.checkpoint import Checkpoint
from checkpoints.formula import parse_formula
from checkpoints.formula_command import FormulaJob, add_formula_options, formula_job
from checkpoints.lokr import LokrFile
from checkpoints.model_family import SDXL
from checkpoints.operands import Landed, land_modules, match_tensors

A = tiny_tensors("a")


def checkpoints(folder: Path, *models: Mapping[str, torch.Tensor]) -> dict[str, Checkpoint]:
    """Models a, b, c of these tensors."""
    named = dict(zip("abc", models, strict=False))
    return {name: Checkpoint(path) for name, path in write_models(folder, named).items()}


def without(name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in A.items() if key != name}


def complaint(folder: Path, *models: Mapping[str, torch.Tensor], unmatched: str = "refuse") -> str:
    with pytest.raises(StageError) as error:
        match_tensors(checkpoints(folder, *models), unmatched)
    return str(error.value)


def test_models_of_the_same_tensors_match_whatever_their_float_types(tmp_path: Path) -> None:
    types = (torch.float16, torch.float32, torch.bfloat16)
    models = checkpoints(tmp_path, *(tiny_tensors(n, dtype) for n, dtype in enumerate(types)))
    assert match_tensors(models, "refuse") == dict.fromkeys(A, ("a", "b", "c"))


@pytest.mark.parametrize("unmatched", ["refuse", "copy", "drop"])
@pytest.mark.parametrize(
    "name, shape",
    [
        (CONV, (8, 5, 3, 3)),
        (CONV, (9, 4, 3, 3)),
        (CONV, (8, 4, 3, 1)),
        (CONV, (8, 36)),  # as many elements
        (CONV, (4, 8, 3, 3)),
        (LINEAR, (8, 12)),  # its transpose
        (LINEAR, (12, 8, 1, 1)),
        (LINEAR, (12, 1)),  # the rest would broadcast
        (LINEAR, (1, 8)),
        (LINEAR, (8,)),
        (LINEAR, ()),
        (CONV_BIAS, (1,)),
        (CONV_BIAS, (8, 1)),
        (OUT_NORM, ()),
        (TEMPERATURE, (2,)),
        (TEMPERATURE, (1, 1)),
        (TEMPERATURE, (0,)),
    ],
)
def test_a_tensor_of_another_shape_is_refused(tmp_path: Path, name: str, shape: tuple[int, ...], unmatched: str) -> None:
    text = complaint(tmp_path, A, A | {name: torch.ones(shape).half()}, unmatched=unmatched)
    assert text == f"the models' tensors differ: '{name}' is F16 {list(A[name].shape)} in a and F16 {list(shape)} in b"


def test_one_number_may_stand_with_or_without_a_dimension(tmp_path: Path) -> None:
    one = A | {TEMPERATURE: torch.tensor([4.6]).half()}
    assert match_tensors(checkpoints(tmp_path, A, one, A), "refuse")[TEMPERATURE] == ("a", "b", "c")
    assert match_tensors(checkpoints(tmp_path, one, A), "refuse")[TEMPERATURE] == ("a", "b")


@pytest.mark.parametrize("unmatched", ["refuse", "copy", "drop"])
@pytest.mark.parametrize(
    "change, words",
    [
        ({CONV: torch.ones(8, 4, 3, 3, dtype=torch.int32)}, f"'{CONV}' is F16 [8, 4, 3, 3] in a and I32 [8, 4, 3, 3] in b"),
        ({IDS: torch.ones(1, 7)}, f"'{IDS}' is I64 [1, 7] in a and F32 [1, 7] in b"),
        ({IDS: torch.ones(1, 7, dtype=torch.int32)}, f"'{IDS}' is I64 [1, 7] in a and I32 [1, 7] in b"),
        ({IDS: torch.arange(8)[None]}, f"'{IDS}' is I64 [1, 7] in a and I64 [1, 8] in b"),
    ],
)
def test_integers_and_floats_do_not_match(tmp_path: Path, change: Mapping[str, torch.Tensor], words: str, unmatched: str) -> None:
    assert words in complaint(tmp_path, A, A | change, unmatched=unmatched)


@pytest.mark.parametrize("name", [CONV, TEMPERATURE, POSITIONS])
def test_a_missing_and_an_additional_tensor_are_named_with_where(tmp_path: Path, name: str) -> None:
    hint = "; --unmatched copy takes such tensors from the model that has them, drop leaves them out"
    text = f"the models' tensors differ: '{name}' is in {{}} and not in {{}} ({tmp_path}/{{}}.safetensors){hint}"
    assert complaint(tmp_path, A, without(name)) == text.format("a", "b", "b")
    assert complaint(tmp_path, without(name), A) == text.format("b", "a", "a")
    assert complaint(tmp_path, A, A, without(name)) == text.format("a", "c", "c")


def test_the_first_few_faults_are_listed_and_the_rest_counted(tmp_path: Path) -> None:
    few = {name: A[name] for name in (CONV, IDS)}
    names = sorted(name for name in A if name not in few)
    text = complaint(tmp_path, A, few)
    assert [name for name in names if f"'{name}'" in text] == names[:3]
    assert f"(and {len(names) - 3} more)" in text


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    """An SD-1-wide and a narrower model: every width differs, and the first differing tensors are named."""
    halves = {name: tensor[: max(1, len(tensor) // 2)] if tensor.ndim else tensor for name, tensor in A.items()}
    text = complaint(tmp_path, A, halves)
    names = sorted(name for name in A if A[name].ndim and name != IDS)
    assert text.count(" in a and ") == 3 and f"(and {len(names) - 3} more)" in text


@pytest.mark.parametrize("unmatched, kept", [("copy", True), ("drop", False)])
def test_unmatched_tensors_are_copied_or_dropped(tmp_path: Path, unmatched: str, kept: bool) -> None:
    models = checkpoints(tmp_path, without(CONV), without(LINEAR), A)
    found = match_tensors(models, unmatched)
    whole = {name: ("a", "b", "c") for name in A if name not in (CONV, LINEAR)}
    assert found == (whole | {CONV: ("b", "c"), LINEAR: ("a", "c")} if kept else whole)


@pytest.mark.parametrize("unmatched", ["refuse", "copy", "drop"])
def test_position_ids_may_be_missing_anywhere(tmp_path: Path, unmatched: str) -> None:
    bare = without(IDS)
    assert match_tensors(checkpoints(tmp_path, A, bare), unmatched)[IDS] == ("a",)
    assert match_tensors(checkpoints(tmp_path, bare, A), unmatched)[IDS] == ("b",)
    assert match_tensors(checkpoints(tmp_path, bare, A, A), unmatched)[IDS] == ("b", "c")
    assert IDS not in match_tensors(checkpoints(tmp_path, bare, bare), unmatched)


def test_a_name_without_a_file_is_shown_in_the_formula(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", A)
    formula = "a + 0.5 * (bb - a)"
    with pytest.raises(StageError) as error:
        operands_of(formula, {"a": path})
    message, shown, caret = str(error.value).split("\n")
    assert "no file is given for 'bb' (there are a); add --model bb=FILE" in message
    assert shown.strip() == formula and shown.index("bb") == caret.index("^")
    with pytest.raises(StageError, match="no file is given for 'a' \\(no models are given\\)"):
        operands_of(formula, {})


def test_a_lokr_without_a_file_is_shown_in_the_formula(tmp_path: Path) -> None:
    with pytest.raises(StageError) as error:
        operands_of("lokr(a, trained, 1.0)", {"a": write(tmp_path / "a.safetensors", A)})
    message, shown, caret = str(error.value).split("\n")
    assert "no file is given for 'trained'" in message and shown.index("trained") == caret.index("^")


def lokr_file(folder: Path, **modules: tuple[tuple[int, ...], tuple[int, ...]]) -> Path:
    """A LoKr file of full modules; shapes of w1 and w2 by module."""
    tensors = {}
    for name, (w1, w2) in modules.items():
        tensors |= {f"{name}.lokr_w1": uniform(name, *w1), f"{name}.lokr_w2": uniform(name, *w2)}
    return write(folder / "lokr.safetensors", tensors)


def test_operands_are_in_the_formulas_order_with_their_digests(tmp_path: Path) -> None:
    paths = write_models(tmp_path, {name: tiny_tensors(name) for name in "abc"})
    paths["t"] = lokr_file(tmp_path, lora_unet_conv_in=((2, 2), (4, 2, 3, 3)))
    operands = operands_of("lokr(c, t, 1) + 0.5 * (a - c)", paths)
    assert list(operands.models) == ["c", "a"] and list(operands.lokrs) == ["t"]
    assert operands.hashes == {
        "c": Checkpoint(paths["c"]).sha256,
        "a": Checkpoint(paths["a"]).sha256,
        "t": LokrFile(paths["t"]).sha256,
    }
    assert len(set(operands.hashes.values())) == 3


def test_a_lokr_in_a_models_place_and_a_model_in_a_lokrs(tmp_path: Path) -> None:
    files = {"a": write(tmp_path / "a.safetensors", A), "t": lokr_file(tmp_path, lora_unet_conv_in=((2, 2), (4, 2, 3, 3)))}
    with pytest.raises(
        StageError, match=r"lokr\.safetensors: not an SDXL or Stable Cascade checkpoint: .*lokr\(model, NAME, weight\)"
    ):
        operands_of("0.5 * a + 0.5 * t", files)
    wrong = r"a\.safetensors: '.*' is not a tensor of a plain LoKr file; a whole checkpoint is named as a model$"
    with pytest.raises(StageError, match=wrong):
        operands_of("lokr(t, a, 1)", {"a": files["a"], "t": files["a"]})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return write_small_sdxl(folder / "one", seed=1), write_small_sdxl(folder / "two", seed=2)


def test_configs_are_the_named_or_the_first_folders(folders: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = folders
    single = write(tmp_path / "a.safetensors", A)

    def found(formula: str, files: Mapping[str, Path], named: Path | None = None) -> Path:
        job = FormulaJob(parse_formula(formula), files, "refuse", "refuse", named)
        return job.needed_configs(job.open()).folder

    files = {"two": two, "a": single, "one": one}
    assert found("a + one + two", files) == one
    assert found("two + one", files) == two
    assert found("a + one", files, named=two) == two
    assert found("a", files) == two  # the formula names no folder: the first one listed
    assert found("a", {"a": single}, named=one) == one
    with pytest.raises(StageError, match="add --configs FOLDER"):
        found("a", {"a": single})
    with pytest.raises(StageError, match=r"model_index\.json: missing"):
        found("a", files, named=tmp_path)


def test_configs_of_the_runs_own_base_go_before_those_of_a_listed_folder(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, listed = folders
    trained = write(tmp_path / "trained.safetensors", A)
    parser = argparse.ArgumentParser()
    add_formula_options(parser, "merge")
    args = parser.parse_args(["--model", f"base={base}", "--model", f"trained={trained}"])
    recipe = FormulaSection(formula="trained", unmatched="refuse", unchanged="refuse")
    job = formula_job(args, recipe, Models(folder=str(listed.parent), files={"sdxl": listed.name}))
    assert job.needed_configs(job.open()).folder == base


def landed(folder: Path, **modules: tuple[tuple[int, ...], tuple[int, ...]]) -> dict[str, list[Landed]]:
    specs = Checkpoint(write(folder / "a.safetensors", A)).specs
    return land_modules(LokrFile(lokr_file(folder, **modules)), specs, SDXL)


TE2 = "lora_te2_text_model_encoder_layers_0_self_attn_"


def test_modules_land_on_their_tensors(tmp_path: Path) -> None:
    found = landed(
        tmp_path,
        lora_unet_conv_in=((2, 2), (4, 2, 3, 3)),
        lora_unet_time_embedding_linear_1=((5, 3), (2, 2)),
        lora_te2_text_projection=((2, 4), (3, 2)),  # [6, 8], the transpose of the single file's
        **{f"{TE2}{matrix}_proj": ((2, 2), (4, 4)) for matrix in "vq"},
    )
    assert {name: [(of.module, of.place.part) for of in modules] for name, modules in found.items()} == {
        CONV: [("lora_unet_conv_in", 0)],
        TIME: [("lora_unet_time_embedding_linear_1", 0)],
        PROJECTION: [("lora_te2_text_projection", 0)],
        IN_PROJ: [(f"{TE2}q_proj", 0), (f"{TE2}v_proj", 2)],
    }


@pytest.mark.parametrize(
    "module",
    [
        "lora_unet_conv_inn",
        "lora_unet_mid_block_attentions_0_proj_in",  # SDXL's, but not one of this model's tensors
        "lora_unet_input_blocks_0_0_bias",
        "lora_te1_text_model_final_layer_norm",
        "lora_vae_encoder_conv_in",
        "lycoris_conv_in",
    ],
)
def test_a_module_that_lands_nowhere_is_named(tmp_path: Path, module: str) -> None:
    with pytest.raises(StageError, match=rf"lokr\.safetensors: module '{module}' lands on no weight of this model"):
        landed(tmp_path, **{module: ((2, 2), (4, 2, 3, 3))})


def test_two_spellings_of_one_module_are_both_named(tmp_path: Path) -> None:
    one, two = "lora_unet_conv_in", "lora_unet_input_blocks_0_0"
    with pytest.raises(StageError, match=rf"'{one}' and '{two}' both land on {CONV}"):
        landed(tmp_path, **dict.fromkeys((one, two), ((2, 2), (4, 2, 3, 3))))
    newer = TE2.replace("text_model_", "")
    with pytest.raises(StageError, match=rf"'{newer}k_proj' and '{TE2}k_proj' both land on {IN_PROJ}"):
        landed(tmp_path, **{f"{name}k_proj": ((2, 2), (4, 4)) for name in (newer, TE2)})


@pytest.mark.parametrize(
    "module, w1, w2, needed",
    [
        ("lora_unet_conv_in", (2, 2), (4, 3, 3, 3), [8, 4, 3, 3]),
        ("lora_unet_conv_in", (2, 1), (4, 2, 3, 3), [8, 4, 3, 3]),
        ("lora_unet_conv_in", (2, 2), (4, 2, 1, 1), [8, 4, 3, 3]),
        ("lora_unet_conv_in", (2, 2), (4, 2), [8, 4, 3, 3]),
        ("lora_unet_time_embedding_linear_1", (3, 5), (2, 2), [10, 6]),
        ("lora_te2_text_projection", (4, 2), (2, 3), [6, 8]),
        (f"{TE2}q_proj", (2, 2), (12, 4), [8, 8]),
    ],
)
def test_a_module_of_another_shape_is_named(
    tmp_path: Path, module: str, w1: tuple[int, ...], w2: tuple[int, ...], needed: list[int]
) -> None:
    found = [w1[0] * w2[0], w1[1] * w2[1], *w2[2:]]
    with pytest.raises(StageError) as error:
        landed(tmp_path, **{module: (w1, w2)})
    assert f"module '{module}' gives a change of shape {found}; " in str(error.value)
    assert str(error.value).endswith(f"needs {needed}")


def test_a_convolution_may_come_as_a_matrix(tmp_path: Path) -> None:
    assert list(landed(tmp_path, lora_unet_conv_in=((2, 2), (4, 18)))) == [CONV]
