"""A formula made into the float32 operations that one tensor needs, and their evaluation over a run of its elements.

The numeric contract: every operation of the formula, in its order, is one separate float32 operation on whole tensors.
Operands in other float types are first converted to float32. No lerp, addcmul or add(alpha=): they fuse a multiplication
and an addition on some CPUs, and weights that lie on float16's lattice make exact ties that a fused step or another order
rounds the other way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from repro.errors import StageError

import torch

from checkpoints import formula as language
from checkpoints.block_weights import BLOCKS, block_of
from checkpoints.formula import AddLokr, Binary, Blocks, InTypeOf, Model, Negative, Node, Number, RestoreEmbeddings
from checkpoints.model_family import EMBEDDINGS

BLOCK_FUNCTIONS: Mapping[str, Callable[..., Node]] = {
    "mbw": language.mbw,
    "weighted_sum": language.weighted_sum,
    "add_difference": language.add_difference,
}


def for_tensor(node: Node, name: str, landed: Mapping[str, Mapping[str, object]]) -> Node:
    """The formula as it is for one tensor: without functions that differ by tensor.

    Args:
        landed: {LoKr: {tensor: modules}}; lokr(...) stays where modules land, and goes where none does or its weight is 0.
    Raises:
        StageError: a tensor in a block that the 20 weights do not know.
    """
    if isinstance(node, (Number, Model)):
        return node
    if isinstance(node, Negative):
        return replace(node, of=for_tensor(node.of, name, landed))
    if isinstance(node, Binary):
        return replace(node, left=for_tensor(node.left, name, landed), right=for_tensor(node.right, name, landed))
    if isinstance(node, AddLokr):
        base = for_tensor(node.base, name, landed)
        return replace(node, base=base) if name in landed[node.lokr] and node.weight.value else base
    if isinstance(node, RestoreEmbeddings):
        if name not in EMBEDDINGS:
            return for_tensor(node.of, name, landed)
        original = for_tensor(node.original, name, landed)
        return InTypeOf(original, node.of.name, node.at) if isinstance(node.of, Model) else original
    weight = block_weight(node, name)
    models = [for_tensor(model, name, landed) for model in node.models]
    return BLOCK_FUNCTIONS[node.function](*models, Number(weight), node.at) if weight else models[0]


def block_weight(node: Blocks, name: str) -> float:
    """Raises:
    StageError: the tensor's block has no weight."""
    block = block_of(name, node.table)
    if block is None:
        raise StageError(f"{node.function}: '{name}' is in none of SDXL's {len(BLOCKS)} blocks; merge without block weights")
    return node.weights[BLOCKS.index(block)]


@dataclass(frozen=True)
class Step:
    """One operation: "read" a model, "+ -" of two values, "* /" of a value and `number`, "negative", "delta" of `name`
    times `number` added, or "type": rounded to the type of model `name`.

    `inputs` are the numbers of earlier steps, of which `last_of` are not needed again.
    """

    operation: str
    inputs: tuple[int, ...] = ()
    name: str = ""
    number: float = 0.0
    last_of: tuple[int, ...] = ()

    @property
    def in_place(self) -> bool:
        """Whether the result may take the place of the first input."""
        return self.inputs[0] in self.last_of


@dataclass(frozen=True)
class Program:
    """Steps of which the last is the result (a node's number is above those of all below it).

    `models` and `lokrs` are what they read, by name, in order.
    """

    steps: tuple[Step, ...]
    models: tuple[str, ...]
    lokrs: tuple[str, ...]

    def is_bare(self, model: str) -> bool:
        """Whether the result is a model's tensor as it is."""
        return len(self.steps) == 1 and self.models == (model,)


def compile_tensor(node: Node) -> Program:
    """The steps of a formula that holds for one tensor (see `for_tensor`); equal subexpressions are computed once."""
    numbers: dict[tuple[Step, str], int] = {}
    _append(node, numbers, {})
    steps = [step for step, _ in numbers]
    last_use = {value: i for i, step in enumerate(steps) for value in step.inputs}
    listed = tuple(
        replace(step, last_of=tuple({value for value in step.inputs if last_use[value] == i})) for i, step in enumerate(steps)
    )
    return Program(
        listed,
        tuple(step.name for step in listed if step.operation == "read"),
        tuple(dict.fromkeys(step.name for step in listed if step.operation == "delta")),
    )


def _append(node: Node, numbers: dict[tuple[Step, str], int], known: dict[int, int]) -> int:
    """Append what computes the node, unless it is there; returns its number.

    Args:
        numbers: of the steps so far; the text tells -0.0 from 0.0. known: numbers of nodes by id, for those that stand in
            several places.
    """
    if id(node) not in known:
        step = _step(node, lambda below: _append(below, numbers, known))
        known[id(node)] = numbers.setdefault((step, str(step.number)), len(numbers))
    return known[id(node)]


def _step(node: Node, number_of: Callable[[Node], int]) -> Step:
    if isinstance(node, Model):
        return Step("read", name=node.name)
    if isinstance(node, Negative):
        return Step("negative", (number_of(node.of),))
    if isinstance(node, InTypeOf):
        return Step("type", (number_of(node.of),), node.model)
    if isinstance(node, AddLokr):
        return Step("delta", (number_of(node.base),), node.lokr, node.weight.value)
    if not isinstance(node, Binary):
        raise TypeError(f"{node}: differs by tensor")
    if isinstance(node.left, Number):
        return Step(node.operator, (number_of(node.right),), number=node.left.value)
    if isinstance(node.right, Number):
        return Step(node.operator, (number_of(node.left),), number=node.right.value)
    return Step(node.operator, (number_of(node.left), number_of(node.right)))


def run(
    steps: Sequence[Step],
    read: Callable[[str], torch.Tensor],
    add_delta: Callable[[torch.Tensor, str, float], torch.Tensor],
    in_type_of: Callable[[torch.Tensor, str], torch.Tensor],
) -> torch.Tensor:
    """Evaluate a program over one run of elements.

    Args:
        read: a model's elements, float32, a tensor of its own. add_delta: adds, in place, weight times a LoKr's delta.
        in_type_of: rounds to a model's type, and gives float32 again, maybe in the same tensor.
    """
    values: list[torch.Tensor | None] = []
    for step in steps:
        if step.operation == "read":
            values.append(read(step.name))
            continue
        first = values[step.inputs[0]]
        out = first if step.in_place else None
        if step.operation == "negative":
            result = torch.neg(first, out=out)
        elif step.operation == "type":
            result = in_type_of(first if step.in_place else first.clone(), step.name)
        elif step.operation == "delta":
            result = add_delta(first if step.in_place else first.clone(), step.name, step.number)
        elif len(step.inputs) == 1:
            result = (torch.mul if step.operation == "*" else torch.div)(first, step.number, out=out)
        else:
            result = (torch.add if step.operation == "+" else torch.sub)(first, values[step.inputs[1]], out=out)
        for value in step.last_of:  # its memory is the next value's, still in the cache
            values[value] = None
        values.append(result)
    return values[-1]
