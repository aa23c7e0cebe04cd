"""All optimizers: the same bits however the buffer is cut, exact continuation, finite numbers."""

from typing import Any

from repro.params import Train

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_updates import OPTIMIZERS, RATE, flat_gradient, flat_weights, optimizer_of, train_settings, updated
from torch.utils._python_dispatch import TorchDispatchMode

from training.flat import CHUNK, FlatWeights
from training.optimizers import Optimizer, make_optimizer
from training.owned import PIECE

OWNERS = 8
# Two groups whose segments begin and end within chunks, with numbers left over at the float32 segments' ends.
SHAPES = [(300, 500), (100,), (7, 3, 3, 3), (64, 65), (5001,), (3, 5)]
RATES = {"text": 3e-4, "unet": 1e-3}


def large_flat() -> FlatWeights:
    return flat_weights(SHAPES, ("text", "unet"), virtual_ranks=OWNERS)


def assembled(optimizers: list[Optimizer]) -> dict[str, torch.Tensor]:
    """The whole run's state from every owner's part, put where `places` says."""
    whole: dict[str, torch.Tensor] = {}
    for optimizer in optimizers:
        assert set(optimizer.places) == set(optimizer.state) == set(optimizers[0].state)
        for name, (first, total) in optimizer.places.items():
            part = optimizer.state[name]
            whole.setdefault(name, torch.full((total,), 255, dtype=part.dtype))[first : first + len(part)] = part
    return whole


def trained(name: str, owners: int, updates: int = 3) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Weights and whole state after some updates by several owners of equal parts of the buffer."""
    flat = large_flat()
    size = len(flat.weights) // owners
    parts = [range(i * size, (i + 1) * size) for i in range(owners)]
    optimizers = [make_optimizer(flat, part, train_settings(name)) for part in parts]
    for update in range(updates):
        gradient = flat_gradient(flat, update)
        for part, optimizer in zip(parts, optimizers, strict=True):
            optimizer.step(gradient[part.start : part.stop], RATES, update)
    return flat.weights, assembled(optimizers)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adafactor"])
def test_bits_do_not_depend_on_who_owns_what(name: str) -> None:
    weights, state = trained(name, 1)
    assert not torch.equal(weights, large_flat().weights)
    for owners in (2, 4, OWNERS):
        assert len(weights) // owners % CHUNK == 0
        cut_weights, cut_state = trained(name, owners)
        assert torch.equal(cut_weights, weights)
        assert {key: value.shape for key, value in cut_state.items()} == {key: value.shape for key, value in state.items()}
        assert all(torch.equal(cut_state[key], state[key]) for key in state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_adafactor_is_replicated(name: str) -> None:
    flat = large_flat()
    optimizer = make_optimizer(flat, range(CHUNK), train_settings(name))
    assert optimizer.replicated is (name == "adafactor")
    held = sum(part.nbytes for part in optimizer.state.values())
    whole = sum(part.nbytes for part in optimizer_of(flat, name).state.values())
    assert held == whole if optimizer.replicated else held < whole


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_is_all_that_continuation_needs(name: str) -> None:
    def run(first: int, last: int, weights: torch.Tensor, state: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict]:
        flat = flat_weights([(64, 64), (33,)])
        flat.weights.copy_(weights)
        optimizer = optimizer_of(flat, name)
        for key, tensor in state.items():
            optimizer.state[key].copy_(tensor)
        for update in range(first, last):
            optimizer.step(flat_gradient(flat, update), {"unet": RATE}, update)
        return flat.weights.clone(), {key: tensor.clone() for key, tensor in optimizer.state.items()}

    start = flat_weights([(64, 64), (33,)]).weights
    whole, whole_state = run(0, 6, start, {})
    cut, cut_state = run(3, 6, *run(0, 3, start, {}))
    assert torch.equal(whole, cut)
    assert all(torch.equal(whole_state[key], cut_state[key]) for key in whole_state)
    if name in ("lion8bit", "adamw8bit"):
        assert not torch.equal(run(3, 6, run(0, 3, start, {})[0], {})[0], whole), "the state matters"


class NewStorages(TorchDispatchMode):
    """The largest memory, in bytes, that any operation's result takes and that was not there before."""

    def __init__(self, known: list[torch.Tensor]):
        super().__init__()
        self.known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self.known:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adafactor"])
def test_temporaries_are_no_larger_than_a_piece(name: str) -> None:
    flat = flat_weights([(1000, 700), (20,)])
    optimizer, gradient = optimizer_of(flat, name), flat_gradient(flat, 0)
    with NewStorages([flat.weights, gradient, *optimizer.state.values()]) as seen:
        optimizer.step(gradient, {"unet": RATE}, 0)
    assert seen.largest <= PIECE["cpu"] * 4 < flat.weights.nbytes // 10


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_padding_never_moves(name: str) -> None:
    flat = large_flat()
    optimizer = optimizer_of(flat, name)
    for update in range(3):
        optimizer.step(flat_gradient(flat, update), RATES, update)
    everything = flat.weights.clone()
    for view in flat.views(flat.weights).values():
        view.zero_()
    assert float(everything.abs().max()) > 0
    assert torch.equal(flat.weights, torch.zeros_like(flat.weights))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_have_their_own_rates(name: str) -> None:
    flat = FlatWeights({group: [(group, torch.nn.Parameter(torch.zeros(8)))] for group in ("text", "unet")})
    gradient = torch.zeros_like(flat.weights)
    for view in flat.views(gradient).values():
        view.fill_(1.0)
    optimizer_of(flat, name, weight_decay=0.0).step(gradient, {"text": 1e-3, "unet": 1e-2}, 0)
    moved = {group: view.abs().mean().item() for group, view in flat.views(flat.weights).items()}
    assert moved == pytest.approx({"text": 1e-3, "unet": 1e-2}, rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rate_of_zero_moves_the_state_only(name: str) -> None:
    flat = flat_weights([(64, 64), (33,)])
    start, optimizer = flat.weights.clone(), optimizer_of(flat, name)
    before = {key: tensor.clone() for key, tensor in optimizer.state.items()}
    optimizer.step(flat_gradient(flat, 0), {"unet": 0.0}, 0)
    assert torch.equal(flat.weights, start)
    assert not all(torch.equal(optimizer.state[key], before[key]) for key in before)


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=25)
@given(data=st.data())
def test_finite_gradients_give_finite_weights(name: str, data: Any) -> None:
    """Clipped gradients of any size, denormal ones and exact zeros too, with long gaps between them."""
    numbers = st.one_of(st.just(0.0), st.floats(-1, 1, width=32), st.sampled_from([2.0**-149, -(2.0**-149), 1e-30, 1.0]))
    flat = flat_weights([(64, 64), (5, 5), (3,)])
    optimizer = optimizer_of(flat, name)
    for update in range(3):
        drawn = torch.tensor(data.draw(st.lists(numbers, min_size=1, max_size=50)))
        gradient = flat_gradient(flat, update, lambda n, _, drawn=drawn: drawn.repeat(-(-n // len(drawn)))[:n])
        optimizer.step(gradient, {"unet": 1e-3}, update)
        assert bool(torch.isfinite(flat.weights).all())
        assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in optimizer.state.values())


def test_small_weights_keep_float32_moments() -> None:
    for name, moments in (("lion8bit", 1), ("adamw8bit", 2)):
        for n, quantised in ((4095, False), (4096, True)):
            kinds = {tensor.dtype for tensor in updated(n, 0, name)[1].state.values()}
            assert (torch.uint8 in kinds) is quantised
            assert len(updated(n, 0, name)[1].state) == moments * (2 if quantised else 1)


def test_every_optimizer_of_the_recipes_is_there() -> None:
    assert set(Train.model_fields["optimizer"].annotation.__args__) == set(OPTIMIZERS)
