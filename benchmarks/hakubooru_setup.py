"""HakuBooru from PyPI, in a virtual environment of its own: what the data stages are measured against.

Its release 0.0.3 captions as the repository did from 2024-03-20 to 2024-07-29 (revision 1a5db5e is one of that
time): quality words of quality_tag_new up to id 7,100,000, artists whose name contains "banned" left out.
That is what Kohaku XL Epsilon was captioned with.
"""

import subprocess
import sys
from pathlib import Path

VERSION = "0.0.3"
PROFILE = "kohaku-xl-epsilon"
"""Our profile with the rules of this release."""
# Without webdataset, which only its exporter imports.
PACKAGES = (f"hakubooru=={VERSION}", "peewee==4.5.3", "python-dateutil==4.0.0", "tzdata")


def hakubooru_python(folder: Path) -> Path:
    """The Python of an environment with HakuBooru in `folder`, made unless it is there."""
    python = folder / "bin" / "python"
    done = folder / "packages.txt"
    if not done.exists() or done.read_text(encoding="utf-8").split() != list(PACKAGES):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", "--no-deps", *PACKAGES], check=True)
        done.write_text("\n".join(PACKAGES) + "\n", encoding="utf-8")
    return python
