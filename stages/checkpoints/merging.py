"""A merge: a formula over checkpoints and LoKr files, evaluated tensor by tensor and piece by piece, never held whole."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from repro.errors import StageError
from repro.progress import Progress
from repro.tensorfile import TensorSpec, tensor_bytes, torch_dtypes

import torch

from checkpoints.formula import Blocks, Formula, Model, RestoreEmbeddings, all_nodes
from checkpoints.lokr import Delta
from checkpoints.model_family import SDXL
from checkpoints.operands import Landed, Operands, Unmatched, land_modules, match_tensors
from checkpoints.rounding import FP8, Precision, fp8, is_finite, narrow_dtype
from checkpoints.tensor_program import Program, compile_tensor, for_tensor, run
from checkpoints.tensor_reader import runs

Unchanged = Literal["refuse", "accept"]
# Elements of a piece: the float32 values of a few operands stay in a core's second-level cache.
PIECE = 1 << 17
# What is hashed and written at once.
PIECES_OF_A_BLOCK = 4
MEGABYTE = 10**6
# q, k and v of one fused tensor.
KEPT_DELTAS = 3
ACCEPT = "--unchanged accept (merge.unchanged)"


@dataclass(frozen=True)
class Plan:
    """How one tensor comes about: `spec` in the output; a `program`, or None for integers, which are copied from `first`.

    `first` is the first of the formula's models that has the tensor; the result is compared with it. `copied`: as it is there.
    """

    spec: TensorSpec
    first: str
    program: Program | None
    copied: bool = False


class Merge:
    """A merge with its headers checked. `plans` is by single-file name of the `family`; `chunks` gives each tensor's bytes once.

    Args:
        unmatched: see `match_tensors`. unchanged: whether a tensor that the formula leaves as it is in the first model,
            though other models differ there, is an error. left_out: beginnings of the names of
            tensors that nobody will ask for; they are no part of the merge. show_progress: tell of bytes made on stderr.
    Raises:
        StageError: tensors that do not match; a LoKr module that lands nowhere, twice or in another shape; embeddings to
            restore where there are none; block weights for a family without them.
    """

    def __init__(
        self,
        formula: Formula,
        operands: Operands,
        precision: Precision,
        unmatched: Unmatched = "refuse",
        unchanged: Unchanged = "refuse",
        left_out: tuple[str, ...] = (),
        show_progress: bool = False,
    ):
        self._formula, self._operands, self._unchanged = formula, operands, unchanged
        self.family = operands.family
        holders = match_tensors(operands.models, unmatched)
        holders = {name: having for name, having in holders.items() if not name.startswith(left_out)}
        specs = {name: operands.models[having[0]].specs[name] for name, having in holders.items()}
        for node in all_nodes(formula.root):
            if isinstance(node, RestoreEmbeddings) and not specs.keys() & set(self.family.embeddings):
                shown = self.family.embeddings[0]
                raise StageError(f"restore_embeddings: the models have no text encoder's embeddings ({shown}, ...)")
            if isinstance(node, Blocks) and self.family is not SDXL:
                raise StageError(f"{node.function}: the 20 weights are of SDXL's blocks; {self.family.title} has none of them")
        self.landed = {name: land_modules(lokr, specs, self.family) for name, lokr in operands.lokrs.items()}
        self.plans = {name: self._plan(name, specs[name], having, precision) for name, having in holders.items()}
        self._left = {name: plan.spec.elements for name, plan in self.plans.items()}
        self._moved = dict.fromkeys(self.plans, False)
        self._deltas: dict[tuple[str, str], Delta] = {}
        self._progress = Progress("merge", self.byte_count, "MB", per=MEGABYTE) if show_progress else None

    def _plan(self, name: str, spec: TensorSpec, having: tuple[str, ...], precision: Precision) -> Plan:
        out = TensorSpec(precision.dtype_of(name, spec, self.family.beyond_fp8), spec.shape)
        if not spec.is_float:
            return Plan(out, having[0], None, copied=True)
        if len(having) < len(self._operands.models):
            for lokr, landed in self.landed.items():
                if name in landed:
                    module = landed[name][0].module
                    raise StageError(
                        f"{self._operands.lokrs[lokr].path}: module '{module}' changes '{name}', which is only copied"
                    )
            return Plan(out, having[0], compile_tensor(Model(having[0])), copied=True)
        return Plan(out, having[0], compile_tensor(for_tensor(self._formula.root, name, self.landed)))

    @property
    def specs(self) -> dict[str, TensorSpec]:
        return {name: plan.spec for name, plan in self.plans.items()}

    @property
    def byte_count(self) -> int:
        """Of all tensors of the output."""
        return sum(plan.spec.byte_count for plan in self.plans.values())

    @property
    def changes(self) -> dict[str, dict[str, int]]:
        """By component: tensors, LoKr modules, and how many tensors came out different from the first model's, rounded alike.

        Complete once every tensor is made.
        """
        modules = Counter(
            self.family.component_of(name) for landed in self.landed.values() for name, of in landed.items() for _ in of
        )
        return {
            component: {
                "tensors": sum(name.startswith(prefix) for name in self.plans),
                "lokr_modules": modules[component],
                "changed": sum(moved and name.startswith(prefix) for name, moved in self._moved.items()),
            }
            for component, prefix in self.family.single_file_prefix.items()
        }

    def chunks(self, name: str, part: int = 0, parts: int = 1) -> Iterator[memoryview]:
        """The bytes of a tensor, or of one of `parts` equal runs of its rows, in pieces.

        Raises:
            StageError: NaN or inf, in an operand or as the result; a tensor that should have changed; or, once the last
                tensor is made, that none has.
        """
        plan = self.plans[name]
        size = plan.spec.elements // parts
        block = _piece(plan.spec) * PIECES_OF_A_BLOCK
        for begin, end in runs(size, block):
            start, stop = part * size + begin, part * size + end
            value = self._copied(plan, name, start, stop) if plan.program is None else self._computed(plan, name, start, stop)
            if self._progress:
                self._progress.advance(value.numel() * value.element_size())
            self._left[name] -= stop - start
            if not self._left[name]:
                self._require_change(name, plan)
            yield tensor_bytes(value)

    def _copied(self, plan: Plan, name: str, start: int, stop: int) -> torch.Tensor:
        return self._operands.models[plan.first].read(name, start, stop)

    def _computed(self, plan: Plan, name: str, start: int, stop: int) -> torch.Tensor:
        narrow = torch.empty(stop - start, dtype=narrow_dtype(plan.spec.dtype))
        for begin, end in runs(stop - start, _piece(plan.spec)):
            narrow[begin:end] = self._piece_computed(plan, name, start + begin, start + end)
        if not is_finite(narrow):
            raise self._explain_not_finite(plan, name, start, stop)
        if not self._moved[name] and not plan.program.is_bare(plan.first):
            before = self._operands.models[plan.first].read_float32(name, start, stop).to(narrow.dtype)
            self._moved[name] = not torch.equal(before, narrow)
        return fp8(narrow) if plan.spec.dtype == FP8 else narrow

    def _piece_computed(self, plan: Plan, name: str, start: int, stop: int) -> torch.Tensor:
        def read(model: str) -> torch.Tensor:
            return self._operands.models[model].read_float32(name, start, stop)

        def add_delta(value: torch.Tensor, lokr: str, weight: float) -> torch.Tensor:
            return self._with_delta(value, name, plan.spec, (start, stop), lokr, weight)

        def in_type_of(value: torch.Tensor, model: str) -> torch.Tensor:
            return value.to(torch_dtypes()[self._operands.models[model].specs[name].dtype]).float()

        return run(plan.program.steps, read, add_delta, in_type_of)

    def _with_delta(
        self, value: torch.Tensor, name: str, spec: TensorSpec, run_of: tuple[int, int], lokr: str, weight: float
    ) -> torch.Tensor:
        """value + weight * delta, `value` being the elements `run_of` (start, stop) of the tensor."""
        start, stop = run_of
        row = spec.elements // spec.shape[0]
        for landed in self.landed[lokr][name]:
            height = landed.place.shape_in_folder(spec.shape)[0] if landed.place.form == "rows" else spec.shape[0]
            top = landed.place.part * height
            first, last = max(start // row, top), min(-(-stop // row), top + height)
            if first >= last:
                continue
            delta = self._delta(lokr, landed).rows(first - top, last - top)
            if weight != 1.0:
                delta = delta.mul_(weight)
            begin, end = max(start, first * row), min(stop, last * row)
            here = value[begin - start : end - start]
            here.add_(delta.flatten()[begin - first * row : end - first * row])
        return value

    def _delta(self, lokr: str, landed: Landed) -> Delta:
        key = (lokr, landed.module)
        if key not in self._deltas:
            if len(self._deltas) >= KEPT_DELTAS:
                self._deltas.clear()
            self._deltas[key] = self._operands.lokrs[lokr].delta(landed.module, landed.place.form)
        return self._deltas[key]

    def _explain_not_finite(self, plan: Plan, name: str, start: int, stop: int) -> StageError:
        for model in plan.program.models:
            checkpoint = self._operands.models[model]
            if not torch.isfinite(checkpoint.read_float32(name, start, stop)).all():
                return StageError(f"{checkpoint.path}: tensor '{name}' holds NaN or inf; nothing was written")
        return StageError(
            f"tensor '{name}': the formula gives numbers too large for {plan.spec.dtype} there; take another precision"
            " (merge.dtype, train.file_dtype) or formula"
        )

    def _require_change(self, name: str, plan: Plan) -> None:
        """Called when a tensor is complete.

        Raises:
            StageError: it is as in the first model though the models differ, or it is the last and nothing has changed.
        """
        if self._unchanged == "accept":
            return
        if plan.program is not None and not self._moved[name] and name not in self.family.idle:
            differing = self._differing(plan.program, name, plan.spec)
            if differing:
                raise StageError(
                    f"the formula leaves '{name}' as it is in {plan.first}, though {differing}; {ACCEPT} if that is meant"
                )
        merges = len(self._operands.models) + len(self._operands.lokrs) > 1
        complete = not any(left for tensor, left in self._left.items() if tensor not in self.family.idle)
        if merges and complete and not any(self._moved.values()):
            first, checkpoint = next(iter(self._operands.models.items()))
            raise StageError(f"the formula changes no tensor of {first} ({checkpoint.path}); {ACCEPT} if that is meant")

    def _differing(self, program: Program, name: str, spec: TensorSpec) -> str | None:
        """In words, which operand should have moved a tensor; None where all models have the same numbers."""
        for lokr in program.lokrs:
            if any(not self._delta(lokr, landed).is_zero for landed in self.landed[lokr][name]):
                return f"modules of {lokr} change it"
        first, *others = (self._operands.models[model] for model in program.models)
        for model, other in zip(program.models[1:], others, strict=True):
            for start, stop in runs(spec.elements, PIECE):
                if not torch.equal(first.read_float32(name, start, stop), other.read_float32(name, start, stop)):
                    return f"{program.models[0]} and {model} differ there"
        return None


def _piece(spec: TensorSpec) -> int:
    """How many elements are computed at once: whole rows where they are short enough."""
    row = spec.elements // spec.shape[0] if spec.shape and spec.shape[0] else 1
    return PIECE // row * row if 0 < row <= PIECE else PIECE
