"""What a run keeps on its way: the rule of checkpoints, and folders that are published whole."""

import hashlib
import json
from pathlib import Path

from repro.errors import StageError
from repro.hashing import check_manifest
from repro.params import Checkpoints, Pictures

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_disks import tiny_file_system

from training.milestones import (
    CHECKPOINTS,
    checkpoint_name,
    drop_checkpoints,
    kept_checkpoints,
    picture_name,
    picture_updates,
    publish,
)

RULES = st.builds(
    lambda every, last, multiple: Checkpoints(
        every=every, keep_last=last if multiple else max(last, 1), keep_every=every * multiple if multiple else None
    ),
    st.integers(1, 7),
    st.integers(0, 4),
    st.integers(0, 3),
)


def walked(updates: int, rule: Checkpoints) -> list[int]:
    """The rule as a run meets it: one update after the other."""
    there: list[int] = []
    for done in range(1, updates + 1):
        if done % rule.every == 0:
            there.append(done)
        rare = [update for update in there if rule.keep_every is not None and update % rule.keep_every == 0]
        newest = sorted(there)[len(there) - min(rule.keep_last, len(there)) :]
        there = sorted({*rare, *newest})
    return there


@given(updates=st.integers(0, 60), rule=RULES)
def test_the_kept_checkpoints_are_those_of_a_run_that_walks(updates: int, rule: Checkpoints) -> None:
    assert kept_checkpoints(updates, rule) == walked(updates, rule)


def test_no_rule_keeps_none() -> None:
    assert kept_checkpoints(100, None) == []


def test_dropping_leaves_what_the_rule_keeps_and_other_files(tmp_path: Path) -> None:
    rule = Checkpoints(every=2, keep_last=1, keep_every=4)
    folder = tmp_path / CHECKPOINTS
    folder.mkdir()
    for update in range(2, 16, 2):
        (folder / checkpoint_name(update)).write_bytes(b"weights")
        drop_checkpoints(tmp_path, update, rule)
    (folder / "notes.txt").write_text("mine")
    drop_checkpoints(tmp_path, 14, rule)
    kept = ["notes.txt", *(checkpoint_name(update) for update in (4, 8, 12, 14))]
    assert sorted(file.name for file in folder.iterdir()) == kept


def test_pictures_are_drawn_before_the_first_update_and_after_every_so_many() -> None:
    settings = Pictures(
        every=4,
        prompts=["a"],
        negative_prompt="",
        sampler="euler",
        steps=1,
        guidance=1.0,
        width=8,
        height=8,
        original_width=8,
        original_height=8,
        decoder=None,
    )
    assert [picture_updates(updates, settings) for updates in (0, 3, 4, 11)] == [[0], [0], [0, 4], [0, 4, 8]]
    assert picture_updates(11, None) == []


def test_names_sort_as_the_updates_do() -> None:
    updates = [0, 9, 10, 99_999, 100_000]
    assert sorted(map(checkpoint_name, reversed(updates))) == list(map(checkpoint_name, updates))
    assert picture_name(10, 3) == "update-00000010-03.png"


def test_a_published_folder_is_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    made, folder = tmp_path / "made", tmp_path / "published"
    made.mkdir()
    for name in "abc":
        (made / name).write_text(name)
    publish(folder, made, ["c"])
    publish(folder, made, ["a", "b"])
    assert sorted(file.name for file in folder.iterdir()) == ["MANIFEST.json", "a", "b"]
    assert check_manifest(folder)["files"] == {name: hashlib.sha256(name.encode()).hexdigest() for name in "ab"}


def test_published_files_are_those_of_the_state_which_keeps_them(tmp_path: Path) -> None:
    """A run that dies before all its outputs stand finds its files again; and none is written twice."""
    made = tmp_path / "made"
    made.mkdir()
    (made / "a").write_text("weights")
    for folder in (tmp_path / "published", tmp_path / "again"):
        publish(folder, made, ["a"])
        assert (folder / "a").samefile(made / "a")
        check_manifest(folder)
    (made / "a").unlink()
    assert (tmp_path / "published" / "a").read_text() == "weights"


def test_a_state_on_another_file_system_is_copied(tmp_path: Path) -> None:
    with tiny_file_system(tmp_path / "disk", kilobytes=64) as made:
        (made / "a").write_text("weights")
        publish(tmp_path / "published", made, ["a"])
        assert (made / "a").exists()
    assert (tmp_path / "published" / "a").read_text() == "weights"
    check_manifest(tmp_path / "published")


def test_the_content_digest_is_of_the_files_digests(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    (made / "a").write_text("weights")
    publish(tmp_path / "published", made, ["a"])
    digests = json.dumps({"a": hashlib.sha256(b"weights").hexdigest()}, indent=2) + "\n"
    manifest = json.loads((tmp_path / "published" / "MANIFEST.json").read_text())
    assert manifest["content"] == hashlib.sha256(digests.encode()).hexdigest()


def test_an_empty_published_folder_has_its_manifest(tmp_path: Path) -> None:
    publish(tmp_path / "published", tmp_path / "never made", [])
    assert json.loads((tmp_path / "published" / "MANIFEST.json").read_text())["files"] == {}


def test_what_was_removed_from_the_state_is_named_and_nothing_published(tmp_path: Path) -> None:
    (tmp_path / "state" / CHECKPOINTS).mkdir(parents=True)
    name = checkpoint_name(5)
    with pytest.raises(
        StageError, match=rf"{name}: missing; it was made by this run and removed since\. Remove .*state to begin"
    ):
        publish(tmp_path / "published", tmp_path / "state" / CHECKPOINTS, [name])
    assert not (tmp_path / "published").exists()
