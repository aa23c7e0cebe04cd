"""The commands that README and docs/ tell readers to type."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

PAGES = [Path("README.md"), Path("recipes/README.md"), *sorted(Path("docs").glob("*.md"))]
PROGRAMS = ("make", "python", "dvc", "accelerate", "git", "mkdir", "for", "srun", "sbatch", "rsync", "pip", "pre-commit", ".")


@dataclass(frozen=True)
class Command:
    """One command of a page, by its words; comments are gone and continued lines joined."""

    page: Path
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def blocks(page: Path) -> list[str]:
    """The page's fenced blocks that have no language: commands, or what they print."""
    found, block, fence = [], None, ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            if block is not None:
                found += ["\n".join(block)] if fence == "```" else []
                block = None
            else:
                block, fence = [], line.strip()
        elif block is not None:
            block.append(line)
    return found


def commands_of(page: Path) -> list[Command]:
    """All commands in a page's blocks that begin with a program; of `a && b; c` each."""
    commands = []
    for block in blocks(page):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            bare = re.sub(r"\s#\s.*$|\s{2,}#.*$", "", line).strip()
            if bare.split(" ")[0] in PROGRAMS:
                commands += [Command(page, part.strip()) for part in re.split(r"\s*(?:&&|;)\s+", bare) if part.strip()]
    return commands


def all_commands() -> list[Command]:
    return [command for page in PAGES for command in commands_of(page)]
