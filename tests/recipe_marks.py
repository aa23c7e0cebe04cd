"""What a recipe's comments say of its keys."""

from pathlib import Path
from typing import Any

import yaml


def marked_keys(path: Path) -> dict[str, bool]:
    """Every key of a parameter file, dotted, and whether the comment of its line, or of the line above, has the word guess."""
    text = path.read_text()
    lines = text.splitlines()
    marked = {}

    def walk(node: yaml.Node, prefix: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            name, line = prefix + key.value, key.start_mark.line
            above = lines[line - 1].strip() if line else ""
            comments = [lines[line].partition("  # ")[2], above if above.startswith("#") else ""]
            marked[name] = any("guess" in comment for comment in comments)
            walk(value, f"{name}.")

    walk(yaml.compose(text), "")
    return marked


def value_at(values: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values
