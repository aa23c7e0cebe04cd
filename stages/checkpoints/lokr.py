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

import torch

from checkpoints.files import read_tensors

FACTORS = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
SHAPES_OF_W1 = ({"lokr_w1"}, {"lokr_w1_a", "lokr_w1_b"})
SHAPES_OF_W2 = ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"}, {"lokr_t2", "lokr_w2_a", "lokr_w2_b"})


@dataclass(frozen=True)
class LokrModule:
    """One module of a LoKr file; `factors` are float32, keyed as in `FACTORS`; `scale` is 1 for full matrices."""

    name: str
    factors: Mapping[str, torch.Tensor]
    scale: float

    def delta(self) -> torch.Tensor:
        """The weight change, float32: kron(w1, w2), then times `scale`, each rounded once; no fused operations.

        Shape [a*b, c*d, k, k] where w2 is four-dimensional, else [a*b, c*d*k*k].
        """
        w1, w2 = self._w1(), self._w2()
        delta = torch.kron(w1.reshape(*w1.shape, *[1] * (w2.ndim - 2)), w2.contiguous())
        return delta if self.scale == 1.0 else delta * self.scale

    def _w1(self) -> torch.Tensor:
        f = self.factors
        return f["lokr_w1"] if "lokr_w1" in f else matrix_product(f["lokr_w1_a"], f["lokr_w1_b"])

    def _w2(self) -> torch.Tensor:
        f = self.factors
        if "lokr_w2" in f:
            return f["lokr_w2"]
        if "lokr_t2" in f:
            return tucker_product(f["lokr_t2"], f["lokr_w2_a"], f["lokr_w2_b"])
        return matrix_product(f["lokr_w2_a"], f["lokr_w2_b"])


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


def read_lokr(path: Path) -> dict[str, LokrModule]:
    """Read a LoKr file whole: {module name: module}, sorted by name.

    Raises:
        StageError: missing or broken file; a tensor that is not a LoKr's (another adapter type, DoRA); a module
            with missing, doubled or misshapen factors, an unusable alpha, or NaN or inf in a factor.
    """
    tensors = read_tensors(path)
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for key in sorted(tensors):
        name, _, part = key.partition(".")
        if part != "alpha" and part not in FACTORS:
            raise StageError(f"{path}: '{key}' is not a tensor of a plain LoKr file; only LoKr can be merged here")
        modules.setdefault(name, {})[part] = tensors[key]
    if not modules:
        raise StageError(f"{path}: holds no LoKr module")
    return {name: _module(path, name, parts) for name, parts in modules.items()}


def _module(path: Path, name: str, parts: dict[str, torch.Tensor]) -> LokrModule:
    factors = {part: tensor.float() for part, tensor in parts.items() if part != "alpha"}
    of_w1 = {part for part in factors if part.startswith("lokr_w1")}
    of_w2 = set(factors) - of_w1
    if of_w1 not in SHAPES_OF_W1 or of_w2 not in SHAPES_OF_W2:
        raise StageError(f"{path}: module '{name}' has {', '.join(sorted(factors)) or 'no factors'}: not a whole LoKr module")
    for part, tensor in factors.items():
        if not torch.isfinite(tensor).all():
            raise StageError(f"{path}: '{name}.{part}' holds NaN or inf; this training run went wrong and cannot be merged")
    _check_shapes(path, name, factors)
    rank = _rank(factors)
    if rank is None:
        return LokrModule(name, factors, 1.0)
    alpha = parts.get("alpha", torch.tensor(float(rank)))
    if alpha.numel() != 1 or not math.isfinite(alpha.item()) or alpha.item() == 0:
        raise StageError(f"{path}: '{name}.alpha' is {alpha.tolist()}; a low-rank module needs one finite number other than 0")
    return LokrModule(name, factors, alpha.item() / rank)


def _rank(factors: Mapping[str, torch.Tensor]) -> int | None:
    """The rank that alpha is divided by, or None where both factors are full."""
    if "lokr_w1_a" in factors:
        return factors["lokr_w1_a"].shape[1]
    if "lokr_w2_a" in factors:
        return factors["lokr_w2_a"].shape[0 if "lokr_t2" in factors else 1]
    return None


def _check_shapes(path: Path, name: str, factors: Mapping[str, torch.Tensor]) -> None:
    dims = {part: tensor.ndim for part, tensor in factors.items()}
    fits = all(n == 2 for part, n in dims.items() if part not in ("lokr_w2", "lokr_t2"))
    fits = fits and dims.get("lokr_w2", 2) in (2, 4) and dims.get("lokr_t2", 4) == 4
    fits = fits and all(tensor.numel() > 0 for tensor in factors.values())
    if fits and "lokr_w1_a" in factors:
        fits = factors["lokr_w1_a"].shape[1] == factors["lokr_w1_b"].shape[0]
    if fits and "lokr_t2" in factors:
        core = factors["lokr_t2"].shape
        fits = core[0] == factors["lokr_w2_a"].shape[0] and core[1] == factors["lokr_w2_b"].shape[0]
    elif fits and "lokr_w2_a" in factors:
        fits = factors["lokr_w2_a"].shape[1] == factors["lokr_w2_b"].shape[0]
    if not fits:
        shapes = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in factors.items())
        raise StageError(f"{path}: the factors of module '{name}' do not fit each other: {shapes}")
