"""show_cost.py adds up the last lines of runs and says it as model cards do."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from repro.cost import measured
from repro.errors import StageError

import pytest
from hypothesis import given
from hypothesis import strategies as st

import show_cost

TWO_3090 = "2 x NVIDIA GeForce RTX 3090"
DELTA = {"stage": "train", "recipe": "kohaku-xl-delta", "job": "0badcafe", "unit": "updates", "processes": 2, "device": TWO_3090}


def line(run: str, done: int, wall_s: float, cpu_s: float | None = 1.0, **changes: Any) -> str:
    return json.dumps({"run": run, "done": done, "wall_s": wall_s, "cpu_s": cpu_s} | DELTA | changes)


def write_log(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{text}\n" for text in lines))
    return path


def shown(log: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    show_cost.main(["--log", str(log)])
    return capsys.readouterr().out.splitlines()


def test_the_last_line_of_each_run_counts_and_the_sentence_is_the_cards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kohaku-XL Delta's own figures, as three runs of which two were killed."""
    log = write_log(
        tmp_path / "cost.jsonl",
        line("a", 1000, 51_200.0),
        line("a", 10_000, 520_000.0, 700_000.0),
        line("b", 8_638, 442_265.6, 700_000.0),
        line("c", 9_000, 460_000.0),
        line("c", 10_000, 504_000.0, 112_000.0),
    )
    header, row, _, heading, sentence = shown(log, capsys)
    assert header.split() == ["stage", "recipe", "job", "runs", "done", "time", "CPU", "time", "device"]
    cells = ["train", "kohaku-xl-delta", "0badcafe", "3", "28,638 updates", "17.0 days", "17.5 days", TWO_3090]
    assert re.split(" {2,}", row) == cells
    assert heading == "for report.cost:"
    sum_up = f"{TWO_3090}, 17.0 days, 51.2 s an update (28,638 updates in 3 runs)"
    assert sentence == f"  train kohaku-xl-delta 0badcafe: {sum_up}"


def test_jobs_are_kept_apart_in_the_order_of_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(
        tmp_path / "cost.jsonl",
        line("a", 4, 40.0),
        line("b", 4, 40.0, job="deadbeef"),
        line("c", 600, 60.0, stage="generate", unit="pictures"),
        line("d", 1, 10.0),
        line("e", 4, 40.0, recipe="kohaku-xl-epsilon"),
    )
    sentences = shown(log, capsys)[-4:]
    assert [text.strip().split(": ")[0] for text in sentences] == [
        "train kohaku-xl-delta 0badcafe", "train kohaku-xl-delta deadbeef", "generate kohaku-xl-delta 0badcafe",
        "train kohaku-xl-epsilon 0badcafe",
    ]  # fmt: skip
    assert sentences[0].endswith(f": {TWO_3090}, 50.0 s, 10 s an update (5 updates in 2 runs)")
    assert sentences[2].endswith("60.0 s, 0.1 s a picture (600 pictures in 1 run)")


def test_devices_of_one_job_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(
        tmp_path / "cost.jsonl", line("a", 100, 7200.0), line("b", 100, 3600.0, None, device="4 x RTX 4090"), line("c", 1, 30.0)
    )
    _, row, *_, sentence = shown(log, capsys)
    assert row.endswith(f"  -         {TWO_3090}; 4 x RTX 4090")
    assert sentence.endswith(f"{TWO_3090}, 2.0 hours; 4 x RTX 4090, 60.0 minutes, 53.9 s an update (201 updates in 3 runs)")


def test_runs_that_got_nothing_done_cost_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "cost.jsonl", line("a", 0, 90.0))
    assert shown(log, capsys)[-1].endswith(f"{TWO_3090}, 90.0 s (0 updates in 1 run)")
    write_log(log, line("a", 0, 90.0), line("b", 1, 10.0))
    assert shown(log, capsys)[-1].endswith("100.0 s, 100 s an update (1 update in 2 runs)")


@pytest.mark.parametrize(
    "broken",
    ['{"run": "a", "do', "[]", "7", "", '{"run": "a"}', line("a", 9, 1.0, device=None), line("a", "9", 1.0), line("a", 9, "1")],
)
def test_a_broken_line_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], broken: str) -> None:
    log = write_log(tmp_path / "cost.jsonl", line("a", 3, 30.0), broken, line("b", 2, 20.0))
    show_cost.main(["--log", str(log)])
    output = capsys.readouterr()
    assert output.err == f"{log}: line 2 is not whole and left out\n"
    assert output.out.endswith("50.0 s, 10 s an update (5 updates in 2 runs)\n")


def test_a_line_cut_within_a_letter_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "cost.jsonl", line("a", 3, 30.0))
    with open(log, "ab") as file:
        file.write('{"recipe": "é'.encode()[:-1])
    show_cost.main(["--log", str(log)])
    assert "line 2 is not whole" in capsys.readouterr().err


def test_what_runs_wrote_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COST_LOG", str(tmp_path / "logs" / "cost.jsonl"))
    for done in (3, 4):
        with measured("train", "small é", "0badcafe", "updates", 2, gpu="H200") as cost:
            cost.note(1)
            cost.note(done)
    show_cost.main([])
    assert capsys.readouterr().out.rstrip().endswith("an update (7 updates in 2 runs)")


def test_no_log_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    command = [sys.executable, "stages/show_cost.py", "--log", str(tmp_path / "cost.jsonl")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and not result.stdout
    (text,) = result.stderr.splitlines()
    assert text.startswith(f"show_cost.py: {tmp_path}/cost.jsonl: not there")


def test_a_log_of_broken_lines_only_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no whole line in it"):
        show_cost.main(["--log", str(write_log(tmp_path / "cost.jsonl", "{"))])


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from("xy"), st.integers(0, 10**6), st.floats(0, 1e7, allow_nan=False)),
        min_size=1,
    )
)
def test_sums_are_those_of_the_last_lines(tmp_path_factory: pytest.TempPathFactory, entries: list[tuple]) -> None:
    """Whatever lines of whatever runs lie between each other."""
    log = tmp_path_factory.mktemp("log") / "cost.jsonl"
    write_log(log, *(line(run + job, done, wall, job=job) for run, job, done, wall in entries))
    last = {(run, job): (done, wall) for run, job, done, wall in entries}
    jobs = show_cost.jobs_of(show_cost.read_runs(log))
    assert len(jobs) == len({job for _, job in last})
    for runs in jobs:
        mine = [of for (_, job), of in last.items() if job == runs[0].job]
        assert sum(run.done for run in runs) == sum(done for done, _ in mine)
        times = show_cost.time_by_device(runs)
        assert times[TWO_3090] == pytest.approx(math.fsum(wall for _, wall in mine))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (119.9, "119.9 s"), (120, "2.0 minutes"), (7199, "120.0 minutes"), (7200, "2.0 hours"),
     (172_799, "48.0 hours"), (172_800, "2.0 days"), (1_466_266, "17.0 days"), (86_400 * 1234.5, "1,234.5 days")],
)  # fmt: skip
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert show_cost.span(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(51.23, "51.2 s"), (5.129, "5.13 s"), (0.1, "0.1 s"), (0.0123, "12.3 ms"), (99.99, "100 s"), (1234.4, "1,234 s")],
)
def test_paces(seconds: float, text: str) -> None:
    assert show_cost.pace(seconds) == text
