"""The processes of a run: what they exchange, what they own, what is said when one is lost or missing."""

from collections.abc import Iterator
from pathlib import Path

from repro.errors import StageError
from repro.processes import extra_ranks

import pytest
import rank_exchanges
import torch

from training.ranks import Ranks, join_ranks, launched_ranks


@pytest.fixture(autouse=True)
def no_process_group() -> Iterator[None]:
    yield
    rank_exchanges.leave()


def test_slices_cover_a_buffer_in_rank_order() -> None:
    slices = [Ranks(rank, 4).slice_of(64) for rank in range(4)]
    assert [place for owned in slices for place in owned] == list(range(64))
    assert {len(owned) for owned in slices} == {16}


@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)])
def test_exchanges_give_what_they_must(tmp_path: Path, world_size: int) -> None:
    meeting = tmp_path / "meeting"
    with extra_ranks(rank_exchanges.check_exchanges, world_size, (world_size, meeting)):
        rank_exchanges.check_exchanges(0, world_size, meeting)


@pytest.mark.slow
def test_a_lost_rank_is_told_of(tmp_path: Path) -> None:
    meeting = tmp_path / "meeting"
    text = r"rank 0 lost another rank \(.*\); the same command goes on from the last saved state"
    with pytest.raises(StageError, match=text), extra_ranks(rank_exchanges.lose_a_rank, 2, (2, meeting)):
        rank_exchanges.lose_a_rank(0, 2, meeting)


def test_without_a_launch_there_are_no_launched_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched_ranks("cpu") is None
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched_ranks("cpu") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"device: cuda, but this machine has 0 CUDA GPUs for process 1; set runtime\.processes"):
        join_ranks(0, 1, tmp_path / "meeting", "cuda")
