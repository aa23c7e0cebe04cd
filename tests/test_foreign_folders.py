"""A slip in an output option must not delete somebody's files: no stage replaces a folder that has no manifest.

The scripts refuse before they look at any input, so these need none.
"""

import subprocess
import sys
from pathlib import Path

import pytest

LATENTS = ("--latents", "x", "--captions", "x", "--base", "x", "--output", "x", "--history", "x", "--metrics", "x")
SCRIPTS = {
    "ingest_posts.py": ("--database", "x", "--image-index", "x", "--report", "x", "--output"),
    "select_posts.py": ("--metadata", "x", "--ledger", "x", "--report", "x", "--output"),
    "filter_posts.py": ("--posts", "x", "--image-index", "x", "--funnel", "x", "--ledger", "x", "--output"),
    "annotate_images.py": ("--posts", "x", "--models", "x", "--output"),
    "caption_posts.py": ("--posts", "x", "--artists", "x", "--characters", "x", "--report", "x", "--output"),
    "cache_latents.py": ("--captions", "x", "--posts", "x", "--base", "x", "--output"),
    "train.py checkpoints": (*LATENTS, "--pictures", "x", "--checkpoints"),
    "train.py pictures": (*LATENTS, "--checkpoints", "x", "--pictures"),
    "make_base.py": ("--output",),
    "choose_references.py": (
        "--source", "x", "--captions", "x", "--characters", "x", "--image-index", "x", "--ccip", "x", "--list", "x", "--output",
    ),
    "generate_pictures.py": ("--model", "base=x", "--references", "x", "--output"),
    "index_images.py": ("--images", "x", "--output"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_folder_that_no_stage_wrote_stays(name: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "novel.txt").write_text("years of work")
    command = [sys.executable, f"stages/{name.split()[0]}", "--params", "recipes/sample.yaml", *SCRIPTS[name], str(mine)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, "Traceback" in result.stderr) == (2, False), result.stderr
    assert f"{mine}: it is there, and no MANIFEST.json in it says that a stage wrote it" in result.stderr
    assert (mine / "novel.txt").read_text() == "years of work"
