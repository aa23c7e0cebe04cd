"""The commands that README and docs/ tell readers to type."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

PAGES = [Path("README.md"), Path("recipes/README.md"), *sorted(Path("docs").glob("*.md"))]
PROGRAMS = ("make", "python", "dvc", "accelerate", "git", "mkdir", "for", "srun", "sbatch", "rsync", "pip", "pre-commit", ".")


@dataclass(frozen=True)
class Command:
    """One command of a page; comments are gone, continued lines joined, and words have one space between them."""

    page: Path
    text: str

    @property
    def words(self) -> list[str]:
        """The program and what it is given."""
        return shlex.split(without_settings(self.text))

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def blocks(page: Path, language: str = "") -> list[str]:
    """The page's fenced blocks of a language; those that have none are commands, or what they print."""
    found, block, fence = [], None, ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            if block is not None:
                found += ["\n".join(block)] if fence == f"```{language}" else []
                block = None
            else:
                block, fence = [], line.strip()
        elif block is not None:
            block.append(line)
    return found


def without_settings(text: str) -> str:
    """A command without the variables that are set for it alone."""
    return re.sub(r"^([A-Z_]+=\S* )+", "", text)


def parts_of(line: str) -> list[str]:
    """Of `a && b; c` each command; a loop is one, and what stands in quotes is not looked at."""
    if line.startswith("for "):
        return [line]
    even_quotes_follow = r'(?=(?:[^"]*"[^"]*")*[^"]*$)'
    return re.split(rf"\s*(?:&&|;)\s+{even_quotes_follow}", line)


def commands_of(page: Path) -> list[Command]:
    """All commands in a page's blocks that begin with a program."""
    commands = []
    for block in blocks(page):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            bare = re.sub(r"\s#\s.*$|\s{2,}#.*$", "", line).strip()
            if without_settings(bare).split(" ")[0] in PROGRAMS:
                commands += [Command(page, " ".join(part.split())) for part in parts_of(bare) if part.strip()]
    return commands


def all_commands() -> list[Command]:
    return [command for page in PAGES for command in commands_of(page)]
