"""The files of the models that describe pictures: which ones are read of each folder, and that they are the right ones.

transformers' models have their weights in one file or in shards that an index names; which of these a folder has is looked
up there, in transformers' own order.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from repro.errors import StageError
from repro.hashing import hash_tree
from repro.params import Annotate, AnnotationModel, QualityScorer, Scorer, Tagger, TextReader

from safetensors import SafetensorError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = f"{SAFETENSORS}.index.json"
SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\.safetensors")
WEIGHTS = (SAFETENSORS, INDEX, PICKLED)
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
TAGGER_MODEL, TAGGER_TAGS = "model.onnx", "selected_tags.csv"
# What the libraries raise over files that are not what they should be.
UNREADABLE = (
    OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, RuntimeError, SafetensorError, UnpicklingError
)  # fmt: skip


@dataclass(frozen=True)
class ModelFolder:
    """A model's folder, as a section of the parameters names it.

    Attributes:
        key: that section, for errors. files: what is always read of the folder. where_there: what is read where it is there.
        weights: whether a transformers model's weights are read besides, whatever their files are called.
    """

    key: str
    source: AnnotationModel
    files: tuple[str, ...]
    where_there: tuple[str, ...] = ()
    weights: bool = True

    def read_files(self, models: Path) -> list[str]:
        """Names of all files that are read of the folder below `models`.

        Raises:
            StageError: there is none of the weights' files, their index cannot be read, or the section's sha256 names others
                than those that transformers reads.
        """
        folder = Path(models, self.source.path)
        optional = [name for name in self.where_there if (folder / name).is_file()]
        return [*self.files, *optional, *(self._weight_files(folder) if self.weights else [])]

    def _weight_files(self, folder: Path) -> list[str]:
        for name in WEIGHTS:
            if (folder / name).is_file():
                read = [INDEX, *shard_names(folder / INDEX)] if name == INDEX else [name]
                named = [other for other in self.source.sha256 if other in WEIGHTS or SHARD.fullmatch(other)]
                if named and not set(named) & set(read):
                    raise StageError(
                        f"{folder / name}: these weights would be read, but {self.key}.sha256 names {min(named)}; remove the"
                        " file, or name it there instead if it is meant"
                    )
                return read
        raise self._missing(folder / SAFETENSORS)

    def digests(self, models: Path) -> dict[str, str]:
        """{name: sha256} of the files that are read, checked against the section's sha256.

        Raises:
            StageError: a file that is read, or that the section names, is missing or has another sha256 than it says.
        """
        folder = Path(models, self.source.path)
        read = self.read_files(models)
        found = {}
        for name in dict.fromkeys([*read, *sorted(self.source.sha256)]):
            if not (folder / name).is_file():
                raise self._missing(folder / name)
            found[name] = hash_tree(folder / name)[Path(name).name]
            expected = self.source.sha256.get(name, found[name])
            if found[name] != expected:
                raise StageError(
                    f"{folder / name}: has sha256 {found[name]}, but {self.key}.sha256 names {expected}; fetch it again with"
                    " `make taggers`, or change the parameter if another model is meant"
                )
        return {name: found[name] for name in read}

    def _missing(self, path: Path) -> StageError:
        hub = self.source.hub
        remedy = (
            f"`make taggers` fetches it from {hub.repo}"
            if hub
            else f"put it there, or name its repository as {self.key}.hub for `make taggers`"
        )
        return StageError(f"{path}: no such file; {remedy}")


def tagger_folder(settings: Tagger) -> ModelFolder:
    return ModelFolder("annotate.tags", settings, (TAGGER_MODEL, TAGGER_TAGS), weights=False)


def aesthetic_folder(settings: Scorer) -> ModelFolder:
    return ModelFolder("annotate.aesthetic", settings, (CONFIG, PREPROCESSOR))


def quality_head_folder(settings: QualityScorer) -> ModelFolder:
    return ModelFolder("annotate.quality", settings, (settings.head,), weights=False)


def quality_clip_folder(settings: QualityScorer) -> ModelFolder:
    return ModelFolder("annotate.quality.clip", settings.clip, (CONFIG, PREPROCESSOR))


def text_folder(settings: TextReader) -> ModelFolder:
    files = (CONFIG, PREPROCESSOR, "tokenizer.json", "tokenizer_config.json")
    return ModelFolder("annotate.text", settings, files, where_there=("special_tokens_map.json", "added_tokens.json"))


def model_folders(settings: AnnotationModel) -> list[ModelFolder]:
    """The folders of the model of one section."""
    match settings:
        case Tagger():
            return [tagger_folder(settings)]
        case Scorer():
            return [aesthetic_folder(settings)]
        case QualityScorer():
            return [quality_head_folder(settings), quality_clip_folder(settings)]
        case TextReader():
            return [text_folder(settings)]


def asked_folders(asked: Annotate) -> list[ModelFolder]:
    """The folders of all models that the parameters ask for."""
    sections = (asked.tags, asked.aesthetic, asked.quality, asked.text)
    return [part for settings in sections if settings for part in model_folders(settings)]


def shard_names(index: Path) -> list[str]:
    """Names of the files that a safetensors index says hold the weights, sorted.

    Raises:
        StageError: the index is not JSON, or does not name files of its folder.
    """
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        shards = set()
    if not shards or not all(isinstance(name, str) and SHARD.fullmatch(name) for name in shards):
        raise StageError(
            f"{index}: expected a JSON object with weight_map, {{tensor: .safetensors file of this folder}}; fetch it again"
        )
    return sorted(shards)


@contextmanager
def loading(path: Path, what: str) -> Iterator[None]:
    """Gives the failures of libraries that open `path` as `what` one line that names it.

    Raises:
        StageError: what they raised, in words.
    """
    try:
        yield
    except UNREADABLE as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise StageError(f"{path}: cannot be loaded as {what} ({reason}); expected the published model's files") from error


def load_pretrained(cls: "type[PreTrainedModel]", folder: Path, dtype: "torch.dtype") -> "PreTrainedModel":
    """A transformers model of a local folder, for evaluation, on the CPU; it has every weight from the files.

    Raises:
        StageError: it cannot be loaded as this class, or the files lack weights of it.
    """
    with loading(folder, cls.__name__):
        model, report = cls.from_pretrained(folder, dtype=dtype, local_files_only=True, output_loading_info=True)
    if report["missing_keys"]:
        raise StageError(
            f"{folder}: its weights lack {min(report['missing_keys'])} and so are not a {cls.__name__}'s; expected the published"
            " model's files, all of one revision"
        )
    return model.eval().requires_grad_(False)
