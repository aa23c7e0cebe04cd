"""TensorBoard's files, read back by TensorBoard's own reader."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.resume import Row
from training.tensorboard import LossCurves

NAMES = ["gradient norm", "loss", "rate/text", "rate/unet"]


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{name: [(update, value), ...]} of all files of a folder."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {name: [(e.step, e.value) for e in accumulator.Scalars(name)] for name in accumulator.Tags()["scalars"]}


def row(update: int, norm: float | None = 2.0) -> Row:
    return Row(update, 1 + update / 8, update / 16, update / 32, norm)


def write(folder: Path, updates: range, close: bool = True) -> LossCurves:
    curves = LossCurves(folder, updates.start)
    for update in updates:
        curves.add(row(update))
    if close:
        curves.close()
    return curves


def test_every_update_is_there_once(tmp_path: Path) -> None:
    write(tmp_path, range(5))
    curves = read(tmp_path)
    assert sorted(curves) == NAMES
    assert curves["loss"] == [(update, 1 + update / 8) for update in range(5)]
    assert curves["rate/unet"] == [(update, update / 16) for update in range(5)]


def test_a_continued_run_takes_back_what_its_state_does_not_know(tmp_path: Path) -> None:
    """Killed after update 7, the state saved after 4 updates: 4 to 7 are computed and written again."""
    killed = write(tmp_path, range(8), close=False)
    killed.flush()
    write(tmp_path, range(4, 10))
    assert [update for update, _ in read(tmp_path)["loss"]] == list(range(10))
    killed.close()


def test_a_skipped_update_has_no_gradient_norm(tmp_path: Path) -> None:
    curves = LossCurves(tmp_path, 0)
    curves.add(row(0, norm=None))
    curves.add(row(1))
    curves.close()
    assert [update for update, _ in read(tmp_path)["gradient norm"]] == [1]
    assert [update for update, _ in read(tmp_path)["loss"]] == [0, 1]


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    curves = LossCurves(None, 0)
    curves.add(row(0))
    curves.close()
    assert list(tmp_path.iterdir()) == []
