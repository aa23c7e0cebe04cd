from pathlib import Path

from repro.errors import StageError

import pytest
import torch
from safetensors.torch import save_file

from checkpoints.lokr import matrix_product, read_lokr, tucker_product


def uniform(*shape: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    return torch.rand(shape, generator=draw) - 0.5


FULL = {"m.lokr_w1": uniform(2, 3), "m.lokr_w2": uniform(4, 5), "m.alpha": torch.tensor(float("inf"))}
LOW_RANK_CONV = {
    "m.lokr_w1": uniform(2, 3),
    "m.lokr_w2_a": uniform(4, 2),
    "m.lokr_w2_b": uniform(2, 5 * 9),
    "m.alpha": torch.tensor([1.0]),
}


def written(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "lokr.safetensors"
    save_file(tensors, path)
    return path


def test_alpha_means_nothing_where_both_matrices_are_full(tmp_path: Path) -> None:
    module = read_lokr(written(tmp_path, FULL))["m"]
    assert torch.equal(module.delta(), torch.kron(FULL["m.lokr_w1"], FULL["m.lokr_w2"]))


def test_low_rank_is_scaled_once_by_alpha_over_rank(tmp_path: Path) -> None:
    module = read_lokr(written(tmp_path, LOW_RANK_CONV))["m"]
    assert module.scale == 0.5
    w2 = LOW_RANK_CONV["m.lokr_w2_a"].double() @ LOW_RANK_CONV["m.lokr_w2_b"].double()
    expected = torch.kron(LOW_RANK_CONV["m.lokr_w1"].double(), w2) * 0.5
    assert torch.allclose(module.delta().double(), expected, atol=1e-7)


def test_low_rank_without_alpha_has_scale_one(tmp_path: Path) -> None:
    tensors = {key: tensor for key, tensor in LOW_RANK_CONV.items() if key != "m.alpha"}
    assert read_lokr(written(tmp_path, tensors))["m"].scale == 1.0


@pytest.mark.parametrize(
    "layer, options, scale",
    [
        (torch.nn.Linear(12, 10), {"full_matrix": True}, 1.0),
        (torch.nn.Conv2d(12, 10, 3), {"full_matrix": True}, 1.0),
        (torch.nn.Linear(12, 24), {"factor": 4}, 1.5),
        (torch.nn.Conv2d(12, 24, 3), {"factor": 4}, 1.5),
        (torch.nn.Linear(64, 64), {"factor": 8, "decompose_both": True}, 1.5),
        (torch.nn.Conv2d(16, 24, 3), {"factor": 2, "use_tucker": True}, 1.5),
    ],
)
def test_delta_is_what_lycoris_adds_while_it_trains(
    tmp_path: Path, layer: torch.nn.Module, options: dict[str, object], scale: float
) -> None:
    from lycoris.modules.lokr import LokrModule as LycorisModule

    live = LycorisModule("m", layer, lora_dim=2, alpha=3, bypass_mode=False, **options)
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.copy_(uniform(*parameter.shape))
    module = read_lokr(written(tmp_path, {f"m.{key}": t.detach() for key, t in live.custom_state_dict().items()}))["m"]
    assert module.scale == scale
    expected = live.get_weight(layer.weight.shape)
    assert torch.allclose(module.delta().reshape(expected.shape), expected, atol=1e-6)


def test_products_add_in_rank_order() -> None:
    a, b = torch.tensor([[1e8, 1.0, -1e8]]), torch.ones(3, 1)
    assert matrix_product(a, b).item() == 0.0  # (1e8 + 1) - 1e8 in float32
    core = torch.tensor([1e8, 1.0, -1e8, 0.0]).reshape(2, 2, 1, 1)
    assert tucker_product(core, torch.ones(2, 1), torch.ones(2, 1)).item() == 0.0


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"m.lora_up.weight": torch.ones(2, 2)}, r"m\.lora_up\.weight.*only LoKr"),
        ({"m.dora_scale": torch.ones(2, 2)}, r"m\.dora_scale"),
        ({"m.lokr_w2": None}, r"module 'm' has lokr_w1: not a whole"),
        ({"m.lokr_w2_a": torch.ones(4, 2)}, r"not a whole LoKr module"),
        ({"m.lokr_w1": torch.full((2, 3), float("nan"))}, r"'m\.lokr_w1' holds NaN or inf"),
        ({"m.lokr_w1": torch.ones(2, 3, 1)}, r"do not fit each other: .*lokr_w1 \[2, 3, 1\]"),
    ],
)
def test_a_bad_file_is_explained(tmp_path: Path, change: dict[str, torch.Tensor | None], complaint: str) -> None:
    tensors = {key: tensor for key, tensor in (FULL | change).items() if tensor is not None}
    with pytest.raises(StageError, match=complaint) as error:
        read_lokr(written(tmp_path, tensors))
    assert "lokr.safetensors" in str(error.value)


@pytest.mark.parametrize("alpha", [float("inf"), float("nan"), 0.0])
def test_a_low_rank_module_needs_a_usable_alpha(tmp_path: Path, alpha: float) -> None:
    with pytest.raises(StageError, match=r"'m\.alpha' is"):
        read_lokr(written(tmp_path, LOW_RANK_CONV | {"m.alpha": torch.tensor(alpha)}))


def test_rank_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"lokr_w2_b \[3, 45\]"):
        read_lokr(written(tmp_path, LOW_RANK_CONV | {"m.lokr_w2_b": uniform(3, 45)}))


def test_missing_truncated_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no such weight file"):
        read_lokr(tmp_path / "none.safetensors")
    path = written(tmp_path, FULL)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(StageError, match="not a whole safetensors file"):
        read_lokr(path)
    with pytest.raises(StageError, match="no LoKr module"):
        read_lokr(written(tmp_path, {}))
