"""Saved states: exact, the two newest kept, the newest taken."""

from pathlib import Path

import torch

from training.resume import Row, load_state, save_state


def rows(count: int) -> list[Row]:
    return [Row(i, 1 / (i + 3), 1e-4 / 3, 5e-5, 0.1 * i) for i in range(count)]


def state(value: float) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return torch.full((300,), value), {
        "codes.0": torch.full((256,), int(value), dtype=torch.uint8),
        "maxima.0": torch.full((1,), value / 3),
        "step.0": torch.tensor(value),
    }


def test_a_new_run_starts_with_an_empty_history(tmp_path: Path) -> None:
    weights, optimizer = state(1.0)
    assert load_state(tmp_path, weights, optimizer) == []
    assert torch.equal(weights, state(1.0)[0])


def test_the_newest_state_comes_back_exactly(tmp_path: Path) -> None:
    for updates in (5, 10, 15):
        save_state(tmp_path, *state(float(updates)), rows(updates))
    weights, optimizer = state(0.0)
    assert load_state(tmp_path, weights, optimizer) == rows(15)
    expected, expected_optimizer = state(15.0)
    assert torch.equal(weights, expected)
    assert all(torch.equal(optimizer[name], tensor) for name, tensor in expected_optimizer.items())
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["update-00000010.safetensors", "update-00000015.safetensors"]


def test_loading_fills_the_given_tensors_in_place(tmp_path: Path) -> None:
    save_state(tmp_path, *state(2.0), rows(1))
    weights, optimizer = state(0.0)
    views = [weights, *optimizer.values()]
    load_state(tmp_path, weights, optimizer)
    assert all(view is now for view, now in zip(views, [weights, *optimizer.values()], strict=True))


def test_what_a_kill_left_half_written_is_ignored(tmp_path: Path) -> None:
    save_state(tmp_path, *state(2.0), rows(1))
    (tmp_path / ".update-00000002.safetensors.partial").write_bytes(b"half")
    weights, optimizer = state(0.0)
    assert len(load_state(tmp_path, weights, optimizer)) == 1
