"""HakuBooru from PyPI, in a virtual environment of its own: what the data stages are measured against.

Its release 0.0.3 captions as the repository did from 2024-03-20 to 2024-07-29 (revision 1a5db5e is one of that
time): quality words of quality_tag_new up to id 7,100,000, artists whose name contains "banned" left out.
That is what Kohaku XL Epsilon was captioned with.
"""

from pathlib import Path

from peer_environment import python_with

VERSION = "0.0.3"
PROFILE = "kohaku-xl-epsilon"
"""Our profile with the rules of this release."""
# Without webdataset, which only its exporter imports.
PACKAGES = (f"hakubooru=={VERSION}", "peewee==4.5.3", "python-dateutil==4.0.0", "tzdata")


def hakubooru_python(folder: Path) -> Path:
    """The Python of an environment with HakuBooru in `folder`, made unless it is there."""
    return python_with(PACKAGES, folder)
