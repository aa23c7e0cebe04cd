from pathlib import Path

from repro.errors import StageError

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import uniform

from checkpoints.lokr import LokrFile, matrix_product, tucker_product

Tensors = dict[str, torch.Tensor]


def drawn(*shape: int) -> torch.Tensor:
    return uniform(shape, *shape)


FULL = {"m.lokr_w1": drawn(2, 3), "m.lokr_w2": drawn(4, 5), "m.alpha": torch.tensor(float("inf"))}
FULL_CONV = {"m.lokr_w1": drawn(3, 2), "m.lokr_w2": drawn(2, 4, 3, 3)}
LOW_RANK_CONV = {
    "m.lokr_w1": drawn(2, 3),
    "m.lokr_w2_a": drawn(4, 2),
    "m.lokr_w2_b": drawn(2, 5 * 9),
    "m.alpha": torch.tensor([1.0]),
}
TUCKER = {
    "m.lokr_w1": drawn(2, 3),
    "m.lokr_t2": drawn(2, 3, 3, 3),
    "m.lokr_w2_a": drawn(2, 4),
    "m.lokr_w2_b": drawn(3, 5),
    "m.alpha": torch.tensor(3.0),
}
BOTH_LOW_RANK = {
    "m.lokr_w1_a": drawn(4, 2),
    "m.lokr_w1_b": drawn(2, 3),
    "m.lokr_w2_a": drawn(5, 2),
    "m.lokr_w2_b": drawn(2, 4),
    "m.alpha": torch.tensor(1.0),
}


def lokr(tmp_path: Path, tensors: Tensors) -> LokrFile:
    path = tmp_path / "lokr.safetensors"
    save_file(tensors, path)
    return LokrFile(path)


def kron(w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    """As LyCORIS multiplies them, as a matrix of rows."""
    return torch.kron(w1.reshape(*w1.shape, *[1] * (w2.ndim - 2)), w2.contiguous()).flatten(1)


def low_rank_w2(tensors: Tensors) -> torch.Tensor:
    return matrix_product(tensors["m.lokr_w2_a"], tensors["m.lokr_w2_b"])


EXPECTED = [
    (FULL, (8, 15), kron(FULL["m.lokr_w1"], FULL["m.lokr_w2"])),
    (FULL_CONV, (6, 8, 3, 3), kron(FULL_CONV["m.lokr_w1"], FULL_CONV["m.lokr_w2"])),
    (LOW_RANK_CONV, (8, 135), kron(LOW_RANK_CONV["m.lokr_w1"], low_rank_w2(LOW_RANK_CONV).reshape(4, 5, 3, 3)) * 0.5),
    (
        TUCKER,
        (8, 15, 3, 3),
        kron(TUCKER["m.lokr_w1"], tucker_product(*(TUCKER[f"m.lokr_{part}"] for part in ("t2", "w2_a", "w2_b")))) * 1.5,
    ),
    (
        BOTH_LOW_RANK,
        (20, 12),
        kron(matrix_product(BOTH_LOW_RANK["m.lokr_w1_a"], BOTH_LOW_RANK["m.lokr_w1_b"]), low_rank_w2(BOTH_LOW_RANK)) * 0.5,
    ),
]


@pytest.mark.parametrize("tensors, shape, expected", EXPECTED, ids=["full", "conv", "low-rank", "tucker", "both"])
def test_every_range_of_rows_is_the_kronecker_products(
    tmp_path: Path, tensors: Tensors, shape: tuple[int, ...], expected: torch.Tensor
) -> None:
    file = lokr(tmp_path, tensors)
    assert list(file.modules) == ["m"] and file.shape("m") == shape
    delta = file.delta("m")
    for start in range(shape[0]):
        for stop in range(start + 1, shape[0] + 1):
            assert torch.equal(delta.rows(start, stop), expected[start:stop])


@pytest.mark.parametrize("tensors", [FULL, BOTH_LOW_RANK], ids=["full", "both"])
def test_every_range_of_rows_of_the_transposed_change(tmp_path: Path, tensors: Tensors) -> None:
    file = lokr(tmp_path, tensors)
    delta, expected = file.delta("m", "transposed"), file.delta("m").rows(0, file.shape("m")[0]).T
    for start in range(expected.shape[0]):
        for stop in range(start + 1, expected.shape[0] + 1):
            assert torch.equal(delta.rows(start, stop), expected[start:stop])


def test_rows_are_the_callers_to_write_to(tmp_path: Path) -> None:
    delta = lokr(tmp_path, FULL).delta("m")
    before = delta.rows(0, 8).clone()
    delta.rows(0, 4).zero_()
    delta.rows(0, 8).zero_()
    assert torch.equal(delta.rows(0, 8), before)


@pytest.mark.parametrize("alpha", [float("inf"), float("nan"), 0.0, 1e10, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_alpha_means_nothing_where_both_matrices_are_full(tmp_path: Path, alpha: float, dtype: torch.dtype) -> None:
    tensors = {key: tensor.to(dtype) for key, tensor in (FULL | {"m.alpha": torch.tensor(alpha)}).items()}
    delta = lokr(tmp_path, tensors).delta("m")
    assert delta.scale == 1.0
    assert torch.equal(delta.rows(0, 8), torch.kron(FULL["m.lokr_w1"], FULL["m.lokr_w2"]))


def test_low_rank_is_scaled_once_by_alpha_over_rank(tmp_path: Path) -> None:
    delta = lokr(tmp_path, LOW_RANK_CONV).delta("m")
    assert delta.scale == 0.5
    w2 = LOW_RANK_CONV["m.lokr_w2_a"].double() @ LOW_RANK_CONV["m.lokr_w2_b"].double()
    expected = torch.kron(LOW_RANK_CONV["m.lokr_w1"].double(), w2) * 0.5
    assert torch.allclose(delta.rows(0, 8).double(), expected, atol=1e-7)


def test_low_rank_without_alpha_has_scale_one(tmp_path: Path) -> None:
    tensors = {key: tensor for key, tensor in LOW_RANK_CONV.items() if key != "m.alpha"}
    assert lokr(tmp_path, tensors).delta("m").scale == 1.0


def test_a_change_is_zero_where_either_factor_is(tmp_path: Path) -> None:
    assert not lokr(tmp_path, FULL).delta("m").is_zero
    for part in ("m.lokr_w1", "m.lokr_w2"):
        assert lokr(tmp_path, FULL | {part: torch.zeros_like(FULL[part])}).delta("m").is_zero


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
            parameter.copy_(drawn(*parameter.shape))
    file = lokr(tmp_path, {f"m.{key}": tensor.detach().contiguous() for key, tensor in live.custom_state_dict().items()})
    delta = file.delta("m")
    assert delta.scale == scale
    expected = live.get_weight(layer.weight.shape)
    assert torch.allclose(delta.rows(0, expected.shape[0]).reshape(expected.shape), expected, atol=1e-6)


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
        ({"m.hada_w1_a": torch.ones(2, 2)}, r"m\.hada_w1_a"),
        ({"m.lokr_w2": None}, r"module 'm' has lokr_w1: not a whole"),
        ({"m.lokr_w1": None, "m.lokr_w2": None}, r"module 'm' has no factors: not a whole"),
        ({"m.lokr_w2_a": torch.ones(4, 2)}, r"not a whole LoKr module"),
        ({"m.lokr_w1_a": torch.ones(2, 1), "m.lokr_w1_b": torch.ones(1, 3)}, r"not a whole LoKr module"),
        ({"m.lokr_t2": torch.ones(1, 1, 3, 3)}, r"not a whole LoKr module"),
        ({"m.lokr_w1": torch.ones(2, 3, 1)}, r"do not fit each other: .*lokr_w1 \[2, 3, 1\]"),
        ({"m.lokr_w2": torch.ones(2, 3, 3)}, r"do not fit each other: .*lokr_w2 \[2, 3, 3\]"),
        ({"m.lokr_w1": torch.ones(0, 3)}, r"do not fit each other: .*lokr_w1 \[0, 3\]"),
        ({"m.lokr_w1": torch.ones(2, 3, dtype=torch.int32)}, r"'m\.lokr_w1' is of type I32; expected a float"),
        ({"m.alpha": torch.ones(2)}, r"'m\.alpha' has shape \[2\]; expected one number"),
    ],
)
def test_a_bad_file_is_explained(tmp_path: Path, change: dict[str, torch.Tensor | None], complaint: str) -> None:
    tensors = {key: tensor for key, tensor in (FULL | change).items() if tensor is not None}
    with pytest.raises(StageError, match=complaint) as error:
        lokr(tmp_path, tensors)
    assert "lokr.safetensors" in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", ["lokr_w1", "lokr_w2_b"])
def test_a_factor_that_is_not_finite_is_named(tmp_path: Path, part: str, value: float) -> None:
    factor = LOW_RANK_CONV[f"m.{part}"].clone()
    factor[-1, -1] = value
    file = lokr(tmp_path, LOW_RANK_CONV | {f"m.{part}": factor})
    with pytest.raises(StageError, match=rf"lokr\.safetensors: 'm\.{part}' holds NaN or inf"):
        file.delta("m")


@pytest.mark.parametrize("alpha", [float("inf"), float("nan"), 0.0])
def test_a_low_rank_module_needs_a_usable_alpha(tmp_path: Path, alpha: float) -> None:
    file = lokr(tmp_path, LOW_RANK_CONV | {"m.alpha": torch.tensor(alpha)})
    with pytest.raises(StageError, match=r"lokr\.safetensors: 'm\.alpha' is"):
        file.delta("m")


@pytest.mark.parametrize(
    "tensors, change, complaint",
    [
        (LOW_RANK_CONV, {"m.lokr_w2_b": drawn(3, 45)}, r"lokr_w2_b \[3, 45\]"),
        (BOTH_LOW_RANK, {"m.lokr_w1_a": drawn(4, 1)}, r"lokr_w1_a \[4, 1\]"),
        (TUCKER, {"m.lokr_w2_a": drawn(3, 4)}, r"lokr_w2_a \[3, 4\]"),
        (TUCKER, {"m.lokr_t2": drawn(2, 3, 3)}, r"lokr_t2 \[2, 3, 3\]"),
    ],
)
def test_ranks_that_do_not_fit(tmp_path: Path, tensors: Tensors, change: Tensors, complaint: str) -> None:
    with pytest.raises(StageError, match=f"do not fit each other: .*{complaint}"):
        lokr(tmp_path, tensors | change)


def test_missing_truncated_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no such weight file"):
        LokrFile(tmp_path / "none.safetensors")
    path = lokr(tmp_path, FULL).path
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(StageError, match="not a whole safetensors file"):
        LokrFile(path)
    with pytest.raises(StageError, match="no LoKr module"):
        lokr(tmp_path, {})
