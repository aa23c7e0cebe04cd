"""A formula evaluated: one float32 operation after another, as written, and for real weights as if exact."""

import operator
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from repro.errors import StageError
from repro.tensorfile import torch_dtypes

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints.formula import (
    MAX_NESTED_MBW,
    AddLokr,
    Binary,
    Blocks,
    InTypeOf,
    Model,
    Negative,
    Node,
    Number,
    RestoreEmbeddings,
    all_nodes,
    parse_formula,
    show,
)
from checkpoints.sdxl_names import EMBEDDINGS
from checkpoints.tensor_program import Program, compile_tensor, for_tensor, run

CARD = "[0, 0.1, 0.1, 0, 0.1, 0.1, 0, 0.1, 0.1, 0, 0, 0, 0, 0, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05]"
EXACT = "[0.25, 0.5, 1, 0, 0.25, 0.5, 1, 0, 0.25, 0.5, 1, 0, 0.25, 0.5, 1, 0, 0.25, 0.5, 1, 0]"
OUT08, IN00, IN02 = (
    f"model.diffusion_model.{name}.weight" for name in ("out.2", "input_blocks.0.0", "input_blocks.2.0.out_layers.3")
)
TOKENS, NORM = EMBEDDINGS[0], "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight"
Arrays = Mapping[str, np.ndarray]
# What the LoKr of a test adds: every tensor's, and the same for each weight.
DELTA = np.array([0.1, -3.0, 0.0, 1e-4, 7.0, 0.3, -0.0, 65504.0], np.float32)


def program_of(formula: str, name: str, landed: Mapping[str, Mapping[str, object]] | None = None) -> Program:
    return compile_tensor(for_tensor(parse_formula(formula).root, name, landed or {}))


def evaluated(program: Program, models: Mapping[str, torch.Tensor], in_place: bool = True) -> torch.Tensor:
    """`run` over whole tensors; the models stay as they were."""
    before = {name: tensor.clone() for name, tensor in models.items()}
    types = {name: tensor.dtype for name, tensor in models.items()}
    steps = program.steps if in_place else [replace(step, last_of=()) for step in program.steps]

    def add_delta(value: torch.Tensor, lokr: str, weight: float) -> torch.Tensor:
        return value.add_(torch.from_numpy(DELTA[: len(value)]).mul(weight))

    def in_type_of(value: torch.Tensor, model: str) -> torch.Tensor:
        return value.to(types[model]).float()

    result = run(steps, lambda name: models[name].to(torch.float32, copy=True), add_delta, in_type_of)
    assert all(same(models[name], tensor) for name, tensor in before.items())
    return result


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit; any NaN is as another."""
    assert a.dtype == b.dtype
    a, b = (torch.where(tensor.isnan(), torch.nan, tensor) for tensor in (a, b))
    return a.contiguous().view(torch.uint8).tolist() == b.contiguous().view(torch.uint8).tolist()


OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def exactly(node: Node, values: Mapping[str, Fraction]) -> Fraction:
    """A formula of decimals as people mean it: rational arithmetic, 0.8 being four fifths."""
    if isinstance(node, Model):
        return values[node.name]
    if isinstance(node, Number):
        return Fraction(str(np.float32(node.value)))
    if isinstance(node, Negative):
        return -exactly(node.of, values)
    assert isinstance(node, Binary)
    left, right = exactly(node.left, values), exactly(node.right, values)
    return OPERATIONS[node.operator](left, right)


def half(value: Fraction) -> float:
    """The float16 next to a fraction, ties to the even one."""
    guess = np.float16(float(value))
    around = [np.nextafter(guess, np.float16(-np.inf)), guess, np.nextafter(guess, np.float16(np.inf))]
    return float(min(around, key=lambda near: (abs(Fraction(float(near)) - value), int(near.view(np.uint16)) & 1)))


CARDS = [
    ("beta7 + 0.8 * (anxl3 - anxl2) + 0.5 * (base7 - beta7)", OUT08),
    ("base8 + 0.8 * (anxl3 - anxl2) + 0.5 * (base7 - beta7)", OUT08),
    ("restore_embeddings(beta7 + 0.8 * (anxl3 - anxl2), sdxl)", NORM),
    ("beta7 - 0.5 * anxl2", OUT08),
    ("base7 - beta7", OUT08),
    ("0.25 * base7 + 0.5 * beta7 + 0.25 * base8", OUT08),
    ("weighted_sum(base7, beta7, 0.25)", OUT08),
    ("weighted_sum(base7, beta7, 0.5)", OUT08),
    ("add_difference(base7, anxl3, anxl2, 0.8)", OUT08),
    ("add_difference(base7, anxl3, anxl2, 1.0)", OUT08),
    (f"mbw(base7, beta7, {EXACT})", IN00),
    (f"mbw(base7, beta7, {EXACT})", IN02),
    (f"mbw(base7, beta7, {EXACT})", "first_stage_model.quant_conv.weight"),
    (f"mbw(base7 + 0.5 * (base8 - beta7), beta7, {EXACT})", IN00),
]


@pytest.mark.parametrize("formula, name", CARDS)
def test_real_weights_come_out_as_by_exact_arithmetic_rounded_once(formula: str, name: str) -> None:
    """Weights of a trained model: float16, near each other, about 0.05 wide."""
    draw = torch.Generator().manual_seed(len(formula))
    node = for_tensor(parse_formula(formula).root, name, {})
    base = torch.randn(400, generator=draw) * 0.05
    names = sorted({leaf.name for leaf in all_nodes(node) if isinstance(leaf, Model)})
    models = {model: (base + torch.randn(400, generator=draw) * 0.004).half() for model in names}
    models |= {model: torch.where(torch.arange(400) % 9 == n, models[names[0]], models[model]) for n, model in enumerate(names)}
    result = evaluated(compile_tensor(node), models).half()
    wanted = [
        half(exactly(node, {model: Fraction(float(values[i])) for model, values in models.items()})) for i in range(len(result))
    ]
    assert result.tolist() == wanted


weights = st.integers(-(1 << 11), 1 << 11).map(lambda n: n / (1 << 13)) | st.integers(-1024, 1024).map(lambda n: n / (1 << 14))


@settings(max_examples=200)
@given(st.lists(weights, min_size=6, max_size=6), st.sampled_from(CARDS))
def test_weights_on_the_lattice_of_float16_make_ties_and_round_as_exact_ones(drawn: list[float], case: tuple[str, str]) -> None:
    node = for_tensor(parse_formula(case[0]).root, case[1], {})
    names = sorted({leaf.name for leaf in all_nodes(node) if isinstance(leaf, Model)})
    values = dict(zip(names, drawn, strict=False))
    result = evaluated(compile_tensor(node), {name: torch.tensor([value]).half() for name, value in values.items()}).half()
    assert result.item() == half(exactly(node, {name: Fraction(value) for name, value in values.items()}))


def step_by_step(node: Node, models: Arrays, types: Mapping[str, str]) -> np.ndarray:
    """The contract: every operation a float32 one of numpy, in the order of the tree; nothing shared, nothing in place."""
    if isinstance(node, Model):
        return models[node.name].astype(np.float32)
    if isinstance(node, Number):
        return np.float32(node.value)
    if isinstance(node, Negative):
        return np.negative(step_by_step(node.of, models, types))
    if isinstance(node, AddLokr):
        base = step_by_step(node.base, models, types)
        return base + DELTA[: len(base)] * np.float32(node.weight.value)
    if isinstance(node, InTypeOf):
        return in_type(step_by_step(node.of, models, types), types[node.model])
    assert isinstance(node, Binary)
    operation = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}[node.operator]
    result = operation(step_by_step(node.left, models, types), step_by_step(node.right, models, types))
    assert result.dtype == np.float32
    return result


def in_type(value: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":  # the upper half of a float32, to nearest even
        word = value.view(np.uint32).astype(np.uint64)
        upper = ((word + 0x7FFF + (word >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
        return np.where(np.isnan(value), value, upper)
    return value.astype({"F16": np.float16, "F32": np.float32}[dtype]).astype(np.float32)


names = st.sampled_from(["a", "b", "c"])
# Few of them, so that subexpressions occur twice.
divisors = st.sampled_from([0.8, 0.5, 1.0, 3.0, -0.05, 1e-30, 1e30, 1 / 3]).map(lambda n: Number(float(np.float32(n))))
numbers = divisors | st.sampled_from([Number(0.0), Number(-0.0)])
leaves = names.map(Model) | st.just(Binary("-", Model("a"), Model("b")))


def arithmetic(below: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return (
        st.builds(Negative, below)
        | st.builds(Binary, st.sampled_from("+-"), below, below)
        | st.builds(Binary, st.just("*"), numbers, below)
        | st.builds(Binary, st.just("*"), below, numbers)
        | st.builds(Binary, st.just("/"), below, divisors)
        | st.builds(AddLokr, below, st.just("k"), numbers)
        | st.builds(InTypeOf, below, names)
    )


def twice(once: Node, more: Node) -> Node:
    """A formula that needs a value again when more has been computed from it."""
    return Binary("-", Binary("+", Binary("*", Number(2.0), once), more), once)


parts = leaves | arithmetic(leaves | arithmetic(leaves | arithmetic(leaves)))
trees = parts | st.builds(twice, parts, parts)
types = st.tuples(*[st.sampled_from(["F16", "BF16", "F32"])] * 3)
SPECIAL = [0.0, -0.0, 2.0**-24, 65504.0, -1.0]


def values_of(seed: int, dtype: str) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(len(DELTA), generator=draw) * 10.0 ** torch.randint(-4, 3, (len(DELTA),), generator=draw)
    values[seed % len(DELTA)] = SPECIAL[seed % len(SPECIAL)]
    return values.to(torch_dtypes()[dtype])


@settings(max_examples=200)
@given(trees, types, st.integers(0, 1000))
def test_any_formula_is_its_tree_step_by_step(tree: Node, drawn: tuple[str, str, str], seed: int) -> None:
    type_of = dict(zip("abc", drawn, strict=True))
    models = {name: values_of(seed + n, dtype) for n, (name, dtype) in enumerate(type_of.items())}
    arrays = {name: model.float().numpy() for name, model in models.items()}
    with np.errstate(all="ignore"):
        wanted = torch.from_numpy(step_by_step(tree, arrays, type_of))
    program = compile_tensor(tree)
    assert same(evaluated(program, models, in_place=False), wanted)
    assert same(evaluated(program, models), wanted)


@given(trees)
def test_equal_parts_are_computed_once_and_the_tree_is_the_program(tree: Node) -> None:
    program = compile_tensor(tree)
    assert len({(step.operation, step.inputs, step.name, str(step.number)) for step in program.steps}) == len(program.steps)
    assert all(i < n for n, step in enumerate(program.steps) for i in step.inputs)
    used = {value for step in program.steps for value in step.inputs}
    assert used == set(range(len(program.steps) - 1))
    nodes = list(all_nodes(tree)) if not any_in_type(tree) else None
    if nodes is not None:
        assert set(program.models) == {node.name for node in nodes if isinstance(node, Model)}
        assert program.lokrs == (("k",) if any(isinstance(node, AddLokr) for node in nodes) else ())


def any_in_type(node: Node) -> bool:
    return "in the type of" in show(node)


def test_each_model_is_read_once() -> None:
    program = program_of("a + 0.8 * (b - c) + 0.5 * (b - c) - a * (1 / 3) + mbw(a, b, [" + "0.5," * 19 + "0.5])", OUT08)
    reads: Counter[str] = Counter()

    def read(name: str) -> torch.Tensor:
        reads[name] += 1
        return torch.full((2,), float(ord(name)))

    run(program.steps, read, lambda value, *_: value, lambda value, _: value)
    assert reads == {"a": 1, "b": 1, "c": 1}
    assert program.models == ("a", "b", "c")
    assert sum(step.operation == "-" and step.inputs == (1, 2) for step in program.steps) == 1


def test_the_steps_of_a_formula() -> None:
    program = program_of("a + 0.5 * (b - a)", OUT08)
    assert [(step.operation, step.inputs) for step in program.steps] == [
        ("read", ()),
        ("read", ()),
        ("-", (1, 0)),
        ("*", (2,)),
        ("+", (0, 3)),
    ]
    assert [step.name for step in program.steps[:2]] == ["a", "b"] and program.steps[3].number == 0.5
    assert (program.models, program.lokrs) == (("a", "b"), ())


@given(trees)
def test_a_value_is_given_up_at_its_last_use(tree: Node) -> None:
    steps = compile_tensor(tree).steps
    for n, step in enumerate(steps):
        needed = {value for later in steps[n + 1 :] for value in later.inputs}
        assert sorted(step.last_of) == sorted(set(step.inputs) - needed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "formula, wanted",
    [
        ("2 * restore_embeddings(m, o) - o", 10.0),
        ("restore_embeddings(m, o) + 0.5 * a - 0.5 * o", 15.0),
        ("lokr(o, k, 10) - o", 1.0),
        ("a - (a - o) - -a", 30.0),
    ],
)
def test_steps_in_place_leave_alone_what_is_needed_later(formula: str, wanted: float, dtype: torch.dtype) -> None:
    program = program_of(formula, TOKENS, {"k": {TOKENS: ()}})
    models = {name: torch.tensor([value]).to(dtype) for name, value in {"m": 1.0, "o": 10.0, "a": 20.0}.items()}
    assert evaluated(program, models).item() == evaluated(program, models, in_place=False).item() == wanted


def test_a_product_with_minus_zero_is_not_one_with_zero() -> None:
    found = evaluated(program_of("-0 * a + -1 * (0 * a)", OUT08), {"a": torch.ones(1)})
    assert found.item() == 0 and found.signbit().item()


def test_nested_functions_stay_small() -> None:
    formula = "a"
    for n in range(MAX_NESTED_MBW):  # each names its first model twice
        formula = f"mbw({formula}, b{n}, {EXACT})"
    assert len(program_of(formula, IN00).steps) == 1 + MAX_NESTED_MBW * 4


FUNCTIONS: list[tuple[str, str, str]] = [
    (f"mbw(a, b, {CARD})", IN00, "a + 0.1 * (b - a)"),
    (f"mbw(a, b, {CARD})", OUT08, "a + 0.05 * (b - a)"),
    (f"mbw(a, b, {CARD})", IN02, "a"),
    (f"mbw(a, b, {CARD})", NORM, "a"),
    (f"mbw(0.5 * a, b, {CARD}) + c", IN02, "0.5 * a + c"),
    (f"mbw(a, b, {CARD})", "model.diffusion_model.time_embed.0.weight", "a"),
    (f"mbw(a, b, {CARD}, blocks=supermerger_2025)", "model.diffusion_model.time_embed.0.weight", "a + 0.1 * (b - a)"),
    (f"weighted_sum(a, b, {CARD})", OUT08, "0.95 * a + 0.05 * b"),
    (f"weighted_sum(a, b, {CARD})", IN02, "a"),
    (f"add_difference(a, b, c, {CARD})", IN00, "a + 0.1 * (b - c)"),
    (f"add_difference(a, b, c, {CARD})", IN02, "a"),
    (f"mbw(mbw(a, b, {CARD}), c, {CARD})", OUT08, "a + 0.05 * (b - a) + 0.05 * (c - (a + 0.05 * (b - a)))"),
    ("lokr(a, k, 0.5) - b", OUT08, "lokr(a, k, 0.5) - b"),
    ("lokr(a, k, 0.5) - b", IN00, "a - b"),
    ("lokr(a, k, 0) - b", OUT08, "a - b"),
    ("lokr(lokr(a, k, 1), other, 2)", OUT08, "lokr(a, k, 1.0)"),
    ("lokr(lokr(a, k, 1), other, 2)", IN00, "lokr(a, other, 2.0)"),
    ("restore_embeddings(a, b)", TOKENS, "(b in the type of a)"),
    ("restore_embeddings(a, b)", EMBEDDINGS[3], "(b in the type of a)"),
    ("restore_embeddings(a, b)", NORM, "a"),
    ("restore_embeddings(a + c, 0.5 * b)", TOKENS, "0.5 * b"),
    ("restore_embeddings(a + c, 0.5 * b)", OUT08, "a + c"),
    (f"-restore_embeddings(mbw(a, b, {CARD}), c) / 2", TOKENS, "-c / 2.0"),
    (f"restore_embeddings(a, mbw(b, c, {EXACT}))", TOKENS, "(b + 0.25 * (c - b) in the type of a)"),
    (f"mbw(restore_embeddings(a, b), -c, {EXACT})", TOKENS, "(b in the type of a) + 0.25 * (-c - (b in the type of a))"),
]


@pytest.mark.parametrize("formula, name, shown", FUNCTIONS)
def test_what_a_function_means_for_a_tensor(formula: str, name: str, shown: str) -> None:
    landed = {"k": {OUT08: ()}, "other": {IN00: ()}}
    node = for_tensor(parse_formula(formula).root, name, landed)
    assert not any(isinstance(below, (Blocks, RestoreEmbeddings)) for below in all_nodes(node))
    assert show(node) == shown
    assert compile_tensor(node).steps


def test_every_embedding_is_restored_and_nothing_else() -> None:
    root = parse_formula("restore_embeddings(a, b)").root
    restored = [name for name in (*EMBEDDINGS, OUT08, IN00, NORM, TOKENS + "x") if for_tensor(root, name, {}) != Model("a")]
    assert restored == list(EMBEDDINGS) and len(restored) == 4


@pytest.mark.parametrize("formula", [f"mbw(a, b, {CARD})", f"a + weighted_sum(a, b, {CARD}, blocks=supermerger_2025)"])
def test_a_tensor_in_no_block_is_refused_by_name(formula: str) -> None:
    root = parse_formula(formula).root
    with pytest.raises(
        StageError, match=r"'model\.diffusion_model\.input_blocks\.9\.0\.op\.weight' is in none of SDXL's 20 blocks"
    ):
        for_tensor(root, "model.diffusion_model.input_blocks.9.0.op.weight", {})


def test_a_formula_that_differs_by_tensor_has_no_program() -> None:
    with pytest.raises(TypeError, match="differs by tensor"):
        compile_tensor(parse_formula("restore_embeddings(a, b)").root)


@pytest.mark.parametrize("sign, operation", [("+", np.add), ("-", np.subtract), ("*", np.multiply), ("/", np.divide)])
@pytest.mark.parametrize("number", ["0.8", "0.1", "3.0", "1e-38", "1e38"])
def test_an_operation_is_one_rounding_for_every_half(sign: str, operation: np.ufunc, number: str) -> None:
    """No reciprocal instead of a division, and no subnormal taken for zero."""
    halves = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(torch.float16)
    other = np.full(len(halves), number, np.float32)
    formula = f"a {sign} {number}" if sign in "*/" else f"a {sign} b"
    with np.errstate(all="ignore"):
        wanted = operation(halves.float().numpy(), other)
    found = evaluated(program_of(formula, OUT08), {"a": halves, "b": torch.from_numpy(other)})
    assert found.isnan().equal(torch.from_numpy(np.isnan(wanted)))
    assert found.nan_to_num().numpy().tobytes() == np.nan_to_num(wanted).tobytes()
