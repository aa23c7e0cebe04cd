"""Fixtures shared by all tests; importing `repro` first fixes the numeric environment."""

import os
from pathlib import Path

import repro  # noqa: F401

import pytest


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference programs' answers; GOLDEN names another set of the same layout."""
    return Path(os.environ.get("GOLDEN", Path(__file__).parent / "golden"))
