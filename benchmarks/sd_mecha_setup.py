"""sd-mecha from PyPI, in a virtual environment of its own: what merging is measured against.

The environment also sees the packages of the running one (torch, numpy, safetensors, PyYAML), behind its own, so
that both sides run the same torch.
"""

import sysconfig
from pathlib import Path

import yaml
from peer_environment import python_with

VERSION = "1.1.8"
PACKAGES = (
    f"sd-mecha=={VERSION}",
    "scipy==1.17.1",
    "click==8.5.1",
    "tqdm==4.70.1",
    "fuzzywuzzy==0.18.0",
    "python-Levenshtein==0.27.5",
    "Levenshtein==0.27.5",
    "rapidfuzz==3.14.6",
)


def sd_mecha_python(folder: Path) -> Path:
    """The Python of an environment with sd-mecha in `folder`, made unless it is there."""
    python = python_with(PACKAGES, folder)
    (_site_packages(folder) / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def sdxl_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """{tensor: shape} that an SDXL file must have, as the sd-mecha of the environment lists them."""
    path = _site_packages(folder) / "sd_mecha" / "extensions" / "builtin" / "model_configs" / "sdxl-sgm.yaml"
    config = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    tensors = (tensor for component in config["components"].values() for tensor in component.items())
    return {name: tuple(told["shape"]) for name, told in tensors if not told.get("optional")}


def _site_packages(folder: Path) -> Path:
    return Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder), "platbase": str(folder)}))
