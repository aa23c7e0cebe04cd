"""Which model a recipe trains: the configs of a base that is there, or the family's published ones."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from repro.params import Params

from planning.cascade_architecture import write_real_cascade_configs
from planning.sdxl_architecture import write_real_sdxl_configs

# Their vocabulary is smaller, which changes no shape: SDXL's tokenizers have 77 places as these have.
TOKENIZERS = Path("models", "sample-base")
FAMILY_TITLES = {"sdxl": "SDXL", "cascade": "Stable Cascade"}


@contextmanager
def base_configs(params: Params) -> Iterator[tuple[Path, str]]:
    """A diffusers folder with the configs of what is trained, perhaps without weights, and whose they are in words."""
    for file in params.models.files.values():
        folder = Path(params.models.folder, file)
        if (folder / "model_index.json").is_file():
            yield folder, f"of {folder}"
            return
    write = {"sdxl": write_real_sdxl_configs, "cascade": write_real_cascade_configs}[params.family]
    with tempfile.TemporaryDirectory() as scratch:
        folder = write(Path(scratch, "base"), TOKENIZERS)
        yield folder, f"{FAMILY_TITLES[params.family]}'s published ones (nothing of {params.models.folder} is here)"
