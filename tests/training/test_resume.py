"""Saved states: exact, the two newest kept, the newest taken, what does not fit refused."""

from pathlib import Path

from repro.errors import StageError
from repro.tensorfile import write_tensors

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_updates import OPTIMIZERS, RATE, flat_gradient, flat_weights, optimizer_of

from training.flat import FlatWeights
from training.loss_scale import LossScale
from training.optimizers import Optimizer
from training.ranks import Ranks
from training.resume import Row, RunState, load_state, save_state

ALONE = Ranks(0, 1)
SHAPES = [(80, 64), (30,), (7, 3)]


def rows(count: int) -> list[Row]:
    return [Row(i, 1 / (i + 3), 1e-4 / 3, 5e-5, None if i == 2 else 0.1 * i) for i in range(count)]


def after(updates: int, name: str = "lion8bit") -> tuple[FlatWeights, Optimizer]:
    flat = flat_weights(SHAPES)
    optimizer = optimizer_of(flat, name)
    for update in range(updates):
        optimizer.step(flat_gradient(flat, update), {"unet": RATE}, update)
    return flat, optimizer


def save(folder: Path, updates: int, name: str = "lion8bit") -> tuple[FlatWeights, Optimizer]:
    flat, optimizer = after(updates, name)
    save_state(folder, ALONE, flat, optimizer, RunState(rows(updates), updates, LossScale(8.0, 3)))
    return flat, optimizer


def test_a_new_run_finds_none(tmp_path: Path) -> None:
    flat, optimizer = after(0)
    before = flat.weights.clone()
    assert load_state(tmp_path, ALONE, flat, optimizer) is None
    assert torch.equal(flat.weights, before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_newest_state_comes_back_exactly_into_the_tensors_that_are_there(tmp_path: Path, name: str) -> None:
    for updates in (1, 2, 4):
        expected, expected_optimizer = save(tmp_path, updates, name)
    flat, optimizer = after(0, name)
    places = [flat.weights.data_ptr(), *(tensor.data_ptr() for tensor in optimizer.state.values())]
    assert load_state(tmp_path, ALONE, flat, optimizer) == RunState(rows(4), 4, LossScale(8.0, 3))
    assert torch.equal(flat.weights, expected.weights)
    assert all(torch.equal(optimizer.state[key], tensor) for key, tensor in expected_optimizer.state.items())
    assert places == [flat.weights.data_ptr(), *(tensor.data_ptr() for tensor in optimizer.state.values())]
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["update-00000002.safetensors", "update-00000004.safetensors"]
    for one, other in ((flat, optimizer), (expected, expected_optimizer)):
        other.step(flat_gradient(one, 4), {"unet": RATE}, 4)
    assert torch.equal(flat.weights, expected.weights), "the next update is the same"


numbers = st.floats(allow_nan=False, allow_infinity=False)
histories = st.lists(st.builds(Row, st.integers(0, 10**9), numbers, numbers, numbers, st.none() | numbers), max_size=4)


@given(
    state=st.builds(RunState, histories, st.integers(0, 10**9), st.none() | st.builds(LossScale, numbers, st.integers(0, 2000)))
)
def test_counts_come_back_from_text_as_they_were(state: RunState) -> None:
    assert RunState.from_json(state.to_json()) == state


def test_loss_weights_that_follow_come_back_and_are_asked_for(tmp_path: Path) -> None:
    flat, optimizer = after(1)
    followed = torch.rand(300, generator=torch.Generator().manual_seed(2))
    save_state(tmp_path, ALONE, flat, optimizer, RunState(rows(1), 1), followed)
    found = torch.ones(300)
    assert load_state(tmp_path, ALONE, flat, optimizer, found) == RunState(rows(1), 1)
    assert torch.equal(found, followed)
    with pytest.raises(StageError, match="its tensors are not those of this run"):
        load_state(tmp_path, ALONE, flat, optimizer)
    save_state(tmp_path, ALONE, flat, optimizer, RunState(rows(2), 2))
    with pytest.raises(StageError, match="its tensors are not those of this run"):
        load_state(tmp_path, ALONE, flat, optimizer, found)


def test_what_a_kill_left_half_written_is_ignored(tmp_path: Path) -> None:
    (tmp_path / ".update-00000002.safetensors.partial").write_bytes(b"half")
    assert load_state(tmp_path, ALONE, *after(0)) is None
    save(tmp_path, 1)
    assert len(load_state(tmp_path, ALONE, *after(0)).history) == 1


@pytest.mark.parametrize("length", [0, 7, 300, -1])
def test_a_cut_file_is_refused_by_name(tmp_path: Path, length: int) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    newest = tmp_path / "update-00000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:length])
    with pytest.raises(StageError, match=r"update-00000002\.safetensors: not a whole saved state .* go on from the one before"):
        load_state(tmp_path, ALONE, *after(0))
    newest.unlink()
    assert len(load_state(tmp_path, ALONE, *after(0)).history) == 1, "as it says"


def test_a_state_whose_tensors_do_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "update-00000003.safetensors"
    save(tmp_path, 3)
    tensors = load_file(file)
    codes = next(name for name in tensors if name.endswith("codes"))
    broken = [
        {**tensors, "weights": tensors["weights"][:-256]},
        {name: tensor for name, tensor in tensors.items() if name != codes},
        {**tensors, "optimizer.more": torch.zeros(1)},
        {name: tensor for name, tensor in tensors.items() if name != "counts"},
    ]
    for contents in broken:
        write_tensors(file, contents)
        flat, optimizer = after(0)
        before = flat.weights.clone()
        with pytest.raises(StageError, match=r"update-00000003\.safetensors: its tensors are not those of this run"):
            load_state(tmp_path, ALONE, flat, optimizer)
        assert torch.equal(flat.weights, before)
    write_tensors(file, tensors)
    assert load_state(tmp_path, ALONE, *after(0)) is not None


@pytest.mark.parametrize("other", [name for name in OPTIMIZERS if name != "lion8bit"])
def test_a_state_of_another_optimizer_is_refused(tmp_path: Path, other: str) -> None:
    save(tmp_path, 2)
    with pytest.raises(StageError, match="its tensors are not those of this run"):
        load_state(tmp_path, ALONE, *after(0, other))
