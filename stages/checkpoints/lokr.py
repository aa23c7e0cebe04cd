"""LoKr files: what stands in them, and the weight change that a module means.

LoKr (Yeh et al. 2023, arXiv 2309.14859; LyCORIS 4.1.3): the change of a weight [a*b, c*d, k, k] is the Kronecker
product of w1 [a, c] and w2 [b, d, k, k], each either full or a product of low-rank factors. Tensors of a module:
`<name>.lokr_w1` or `.lokr_w1_a` [a, r] and `.lokr_w1_b` [r, c]; `.lokr_w2` or `.lokr_w2_a` [b, r] and
`.lokr_w2_b` [r, d*k*k], or, Tucker-decomposed, `.lokr_t2` [r, r, k, k] with `.lokr_w2_a` [r, b] and `.lokr_w2_b` [r, d];
`.alpha`. The change is scaled once by alpha / r where a factor is low-rank; where both are full, alpha means nothing
(LyCORIS stores 1e10 there, which is inf in a float16 file).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from repro.errors import StageError
from repro.hashing import remembered_sha256
from repro.tensorfile import TensorSpec

import torch

from checkpoints.keymap import Form
from checkpoints.model_family import MODEL_FAMILIES
from checkpoints.tensor_reader import TensorFile

FACTORS = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
SHAPES_OF_W1 = ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"})
SHAPES_OF_W2 = ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"}, {"lokr_t2", "lokr_w2_a", "lokr_w2_b"})
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Delta:
    """A module's weight change, not yet multiplied out: `scale` * kron(w1, w2), both float32, w1 [a, c], w2 [b, d*k*k]."""

    w1: torch.Tensor
    w2: torch.Tensor
    scale: float

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows start to stop, [stop - start, c*d*k*k]: a product, then times `scale`, each rounded once; nothing is fused."""
        height = self.w2.shape[0]
        blocks = []
        for i in range(start // height, (stop - 1) // height + 1):
            part = self.w2[max(start - i * height, 0) : min(stop - i * height, height)]
            # kron's row: each number of w1's row times the whole row of w2, one after the other.
            blocks.append((part[:, None, :] * self.w1[i][None, :, None]).flatten(1))
        delta = blocks[0] if len(blocks) == 1 else torch.cat(blocks)
        return delta if self.scale == 1.0 else delta.mul_(self.scale)

    @property
    def is_zero(self) -> bool:
        return not (self.w1.any() and self.w2.any())


class LokrFile:
    """A LoKr file open for reading: `modules` by name, sorted, factors on demand.

    Raises:
        StageError: missing or broken file; a tensor that is not a LoKr's (another adapter type, DoRA); a module
            with missing, doubled or misshapen factors.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._file = TensorFile(path)
        modules: dict[str, dict[str, TensorSpec]] = {}
        for key in sorted(self._file.specs):
            name, _, part = key.partition(".")
            if part != "alpha" and part not in FACTORS:
                is_checkpoint = any(family.component_of(key) for family in MODEL_FAMILIES.values())
                hint = "a whole checkpoint is named as a model" if is_checkpoint else "only LoKr can be merged here"
                raise StageError(f"{path}: '{key}' is not a tensor of a plain LoKr file; {hint}")
            modules.setdefault(name, {})[part] = self._file.specs[key]
        if not modules:
            raise StageError(f"{path}: holds no LoKr module")
        self.modules = {name: self._checked(name, parts) for name, parts in modules.items()}

    @property
    def sha256(self) -> str:
        return remembered_sha256(self.path)

    def shape(self, module: str) -> tuple[int, ...]:
        """Of the change: [a*b, c*d, k, k] where w2 is stored four-dimensional, else [a*b, c*d*k*k]."""
        shapes = self.modules[module]
        rows, columns = _shape_of_w1(shapes)
        height, width, *kernel = _shape_of_w2(shapes)
        return (rows * height, columns * width, *kernel)

    def delta(self, module: str, form: Form = "same") -> Delta:
        """Read a module's factors; for a place of form "transposed" the transposed change.

        Raises:
            StageError: NaN or inf in a factor, or an unusable alpha.
        """
        factors = {part: self._factor(module, part) for part in self.modules[module]}
        w1, w2 = _w1(factors), _w2(factors)
        w2 = w2.flatten(1)
        if form == "transposed":
            w1, w2 = w1.T, w2.T
        return Delta(w1, w2.contiguous(), self._scale(module))

    def _factor(self, module: str, part: str) -> torch.Tensor:
        factor = self._file.whole(f"{module}.{part}").float()
        if not torch.isfinite(factor).all():
            raise StageError(f"{self.path}: '{module}.{part}' holds NaN or inf; this training went wrong and cannot be merged")
        return factor

    def _scale(self, module: str) -> float:
        rank = _rank(self.modules[module])
        key = f"{module}.alpha"
        if rank is None or key not in self._file.specs:
            return 1.0
        alpha = self._file.read(key, 0, 1).float().item()
        if not math.isfinite(alpha) or alpha == 0:
            raise StageError(f"{self.path}: '{key}' is {alpha}; a low-rank module needs a finite number other than 0")
        return alpha / rank

    def _checked(self, name: str, parts: Mapping[str, TensorSpec]) -> Shapes:
        """The shapes of a module's factors."""
        shapes = {part: spec.shape for part, spec in parts.items() if part != "alpha"}
        of_w1 = {part for part in shapes if part.startswith("lokr_w1")}
        if of_w1 not in SHAPES_OF_W1 or set(shapes) - of_w1 not in SHAPES_OF_W2:
            found = ", ".join(sorted(shapes)) or "no factors"
            raise StageError(f"{self.path}: module '{name}' has {found}: not a whole LoKr module")
        if "alpha" in parts and parts["alpha"].elements != 1:
            raise StageError(f"{self.path}: '{name}.alpha' has shape {list(parts['alpha'].shape)}; expected one number")
        not_float = next((part for part, spec in parts.items() if not spec.is_float), None)
        if not_float:
            raise StageError(f"{self.path}: '{name}.{not_float}' is of type {parts[not_float].dtype}; expected a float type")
        if not _fit(shapes):
            listed = ", ".join(f"{part} {list(shape)}" for part, shape in shapes.items())
            raise StageError(f"{self.path}: the factors of module '{name}' do not fit each other: {listed}")
        return shapes


def _w1(factors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return factors["lokr_w1"] if "lokr_w1" in factors else matrix_product(factors["lokr_w1_a"], factors["lokr_w1_b"])


def _w2(factors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if "lokr_w2" in factors:
        return factors["lokr_w2"]
    if "lokr_t2" in factors:
        return tucker_product(factors["lokr_t2"], factors["lokr_w2_a"], factors["lokr_w2_b"])
    return matrix_product(factors["lokr_w2_a"], factors["lokr_w2_b"])


def matrix_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a [n, r] times b [r, m] summed in rank order, one multiplication and one addition at a time.

    A library's matmul chooses its own order and fuses; this has the same bits everywhere.
    """
    total = a[:, 0:1] * b[0:1, :]
    for r in range(1, a.shape[1]):
        total = total + a[:, r : r + 1] * b[r : r + 1, :]
    return total


def tucker_product(core: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """core [r, r, k, k] with a [r, n] and b [r, m] to [n, m, k, k], summed over core's axes in order, as `matrix_product`."""
    total = None
    for i in range(core.shape[0]):
        for j in range(core.shape[1]):
            outer = (a[i][:, None] * b[j][None, :]).reshape(a.shape[1], b.shape[1], *[1] * (core.ndim - 2))
            term = outer * core[i, j]
            total = term if total is None else total + term
    return total


def _shape_of_w1(shapes: Shapes) -> tuple[int, int]:
    if "lokr_w1" in shapes:
        return shapes["lokr_w1"]
    return shapes["lokr_w1_a"][0], shapes["lokr_w1_b"][1]


def _shape_of_w2(shapes: Shapes) -> tuple[int, ...]:
    if "lokr_w2" in shapes:
        return shapes["lokr_w2"]
    if "lokr_t2" in shapes:
        return shapes["lokr_w2_a"][1], shapes["lokr_w2_b"][1], *shapes["lokr_t2"][2:]
    return shapes["lokr_w2_a"][0], shapes["lokr_w2_b"][1]


def _rank(shapes: Shapes) -> int | None:
    """The rank that alpha is divided by, or None where both factors are full."""
    if "lokr_w1_a" in shapes:
        return shapes["lokr_w1_a"][1]
    if "lokr_w2_a" in shapes:
        return shapes["lokr_w2_a"][0 if "lokr_t2" in shapes else 1]
    return None


def _fit(shapes: Shapes) -> bool:
    matrices = all(len(shape) == 2 for part, shape in shapes.items() if part not in ("lokr_w2", "lokr_t2"))
    if not matrices or len(shapes.get("lokr_w2", (1, 1))) not in (2, 4) or len(shapes.get("lokr_t2", (1,) * 4)) != 4:
        return False
    if not all(math.prod(shape) for shape in shapes.values()):
        return False
    if "lokr_w1_a" in shapes and shapes["lokr_w1_a"][1] != shapes["lokr_w1_b"][0]:
        return False
    if "lokr_t2" in shapes:
        return shapes["lokr_t2"][:2] == (shapes["lokr_w2_a"][0], shapes["lokr_w2_b"][0])
    return "lokr_w2_a" not in shapes or shapes["lokr_w2_a"][1] == shapes["lokr_w2_b"][0]
