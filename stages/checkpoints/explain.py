"""A merge told in words: which block has which weight, and what is computed for each tensor."""

from collections import Counter
from collections.abc import Iterator

from checkpoints.block_weights import BLOCKS, block_of
from checkpoints.formula import Blocks, Formula, all_nodes, show
from checkpoints.merging import Merge, Plan
from checkpoints.tensor_program import block_weight, for_tensor


def explain(formula: Formula, merge: Merge) -> str:
    """The block table of each function with 20 weights; then each computation and the tensors that it is for, with their
    blocks' weights."""
    functions = [node for node in all_nodes(formula.root) if isinstance(node, Blocks)]
    lines = [f"formula: {formula.text}"]
    for node in functions:
        lines += ["", *_block_table(node, merge)]
    computed: dict[str, list[str]] = {}
    for name, plan in sorted(merge.plans.items()):
        how = f"copied from {plan.first}" if plan.copied else show(for_tensor(formula.root, name, merge.landed))
        computed.setdefault(how, []).append(_tensor_line(name, plan, functions))
    for how, tensors in computed.items():
        lines += ["", f"{len(tensors)} tensor{'s' if len(tensors) > 1 else ''}: {how}", *tensors]
    return "\n".join(lines)


def _block_table(node: Blocks, merge: Merge) -> Iterator[str]:
    counts = Counter(block_of(name, node.table) for name, plan in merge.plans.items() if not plan.copied)
    yield f"{node.function}, blocks={node.table}"
    yield f"{'block':<7}{'weight':>10}{'tensors':>9}"
    for block, weight in zip(BLOCKS, node.weights, strict=True):
        yield f"{block:<7}{weight:>10.6g}{counts[block]:>9}"


def _tensor_line(name: str, plan: Plan, functions: list[Blocks]) -> str:
    weights = "" if plan.copied else "".join(f", {block_of(name, f.table)} {block_weight(f, name):.6g}" for f in functions)
    return f"    {name} {plan.spec.dtype} {list(plan.spec.shape)}{weights}"
