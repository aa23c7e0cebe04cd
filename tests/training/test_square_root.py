"""Square roots: correctly rounded, whatever torch's own are on this machine."""

import math

import repro  # noqa: F401 - fixes the numeric environment

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.square_root import inverse_square_root, square_root, square_root_

DRAWN = 200_000


def drawn_float32() -> torch.Tensor:
    """Positive float32 numbers of all sizes, subnormal ones too."""
    draw = torch.Generator().manual_seed(3)
    return torch.randint(1, 0x7F800000, (DRAWN,), generator=draw, dtype=torch.int32).view(torch.float32)


def test_float32_roots_are_those_of_float64_rounded() -> None:
    values = drawn_float32()
    exact = [math.sqrt(value) for value in values.tolist()]
    assert torch.equal(square_root(values), torch.tensor(exact, dtype=torch.float64).float())


def test_float64_roots_are_the_instruction_s() -> None:
    """torch.sqrt has others in one case of seventy on a CPU whose torch is built with MKL."""
    values = drawn_float32().double() * (1 + 2.0**-40)
    exact = torch.tensor([math.sqrt(value) for value in values.tolist()], dtype=torch.float64)
    assert torch.equal(square_root_(values), exact)
    assert torch.equal(values, exact), "in its own place"


def test_inverse_roots_are_rounded_once() -> None:
    values = drawn_float32()
    before = values.clone()
    exact = torch.tensor([1 / math.sqrt(value) for value in values.tolist()], dtype=torch.float64).float()
    found = inverse_square_root(values)
    assert torch.equal(found, exact)
    assert torch.equal(values, before)
    assert not torch.equal(found, square_root(values).reciprocal()), "which is rounded twice"


@given(value=st.floats(0, 1e300))
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_single_number_has_a_root_in_any_shape(shape: tuple[int, ...], value: float) -> None:
    assert (
        square_root_(torch.full(shape, value, dtype=torch.float64)).tolist()
        == torch.full(shape, math.sqrt(value), dtype=torch.float64).tolist()
    )


def test_zero_has_no_inverse_but_infinity() -> None:
    assert inverse_square_root(torch.zeros(2)).tolist() == [math.inf, math.inf]
