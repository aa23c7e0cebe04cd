"""Formulas as model cards write them, and a caret under the place where one is wrong."""

import ast
import re
from fractions import Fraction
from typing import Any

from repro.errors import StageError

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from check_params import main as check_params
from checkpoints.formula import (
    FUNCTIONS,
    MAX_DEPTH,
    MAX_NESTED_MBW,
    MAX_OPERATIONS,
    AddLokr,
    Binary,
    Blocks,
    Formula,
    Model,
    Negative,
    Node,
    Number,
    RestoreEmbeddings,
    all_nodes,
    complain_of_name,
    parse_formula,
    show,
)

A, B, C = Model("a"), Model("b"), Model("c")
WEIGHTS = "[0, 0.1, 0.1, 0, 0.1, 0.1, 0, 0.1, 0.1, 0, 0, 0, 0, 0, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05]"
VALUES = tuple(float(np.float32(text)) for text in WEIGHTS.strip("[]").split(","))


def grouped(node: Node) -> str:
    """The formula with every operation in parentheses."""
    if isinstance(node, Number):
        return str(np.float32(node.value))
    if isinstance(node, Model):
        return node.name
    if isinstance(node, Negative):
        return f"-{grouped(node.of)}"
    if isinstance(node, AddLokr):
        return f"lokr({grouped(node.base)}, {node.lokr}, {grouped(node.weight)})"
    assert isinstance(node, Binary)
    return f"({grouped(node.left)} {node.operator} {grouped(node.right)})"


def float32(text: str) -> float:
    return float(np.float32(text))


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a", "a"),
        ("a - b - c", "((a - b) - c)"),
        ("a - (b - c)", "(a - (b - c))"),
        ("a + 0.5 * b - c / 2", "((a + (0.5 * b)) - (c / 2.0))"),
        ("2 * a * 3", "((2.0 * a) * 3.0)"),
        ("2 * 3 * a", "(6.0 * a)"),
        ("a * 2 * 3", "((a * 2.0) * 3.0)"),
        ("a / 2 / 4", "((a / 2.0) / 4.0)"),
        ("a * 3 / 4", "((a * 3.0) / 4.0)"),
        ("3 / 4 * a", "(0.75 * a)"),
        ("-a + b", "(-a + b)"),
        ("-a * 2", "(-a * 2.0)"),
        ("a - -b", "(a - -b)"),
        ("--a", "--a"),
        ("-(a + b)", "-(a + b)"),
        ("+a", "a"),
        ("-2 * a", "(-2.0 * a)"),
        ("2 * -a", "(2.0 * -a)"),
        ("a * -2", "(a * -2.0)"),
        ("(a + b) * 0.5", "((a + b) * 0.5)"),
        ("((a))", "a"),
        ("a\n\t+ b\r\n", "(a + b)"),
        ("0.8*(a-b)", "(0.8 * (a - b))"),
        (".5*a+1.*b", "((0.5 * a) + (1.0 * b))"),
        ("1e-2 * a + 1.5E+1 * b", "((0.01 * a) + (15.0 * b))"),
        ("lokr(a, k, 0.5)", "lokr(a, k, 0.5)"),
        ("lokr(a - b, k, 1 / 4) + c", "(lokr((a - b), k, 0.25) + c)"),
        ("weighted_sum(a, b, 0.25)", "((0.75 * a) + (0.25 * b))"),
        ("weighted_sum(a + c, b, 0.5)", "((0.5 * (a + c)) + (0.5 * b))"),
        ("add_difference(a, b, c, 0.8)", "(a + (0.8 * (b - c)))"),
        ("lokr + mbw * 2", "(lokr + (mbw * 2.0))"),
        (
            "beta7 + 0.8 * (anxl3 - anxl2) + 0.5 * (base7 - beta7)",
            "((beta7 + (0.8 * (anxl3 - anxl2))) + (0.5 * (base7 - beta7)))",
        ),
    ],
)
def test_a_formula_is_read_as_it_is_written(text: str, shown: str) -> None:
    assert grouped(parse_formula(text).root) == shown


def test_the_rest_of_a_weighted_sum_is_one_float32_difference() -> None:
    root = parse_formula("weighted_sum(a, b, 0.1)").root
    assert root.left.left.value == float(np.float32(1) - np.float32(0.1)) != 1 - float32("0.1")


def test_functions_with_a_weight_by_block() -> None:
    assert parse_formula(f"mbw(a, b, {WEIGHTS})").root == Blocks("mbw", (A, B), VALUES, "card")
    assert parse_formula(f"weighted_sum(a, b, {WEIGHTS})").root == Blocks("weighted_sum", (A, B), VALUES, "card")
    assert parse_formula(f"add_difference(a, b, c, {WEIGHTS})").root == Blocks("add_difference", (A, B, C), VALUES, "card")
    named = parse_formula(f"add_difference(a, b, c,\n {WEIGHTS}, blocks = supermerger_2025)").root
    assert named == Blocks("add_difference", (A, B, C), VALUES, "supermerger_2025")
    folded = parse_formula("mbw(a, b, [1 / 4, -(2 - 1), " + "0," * 17 + "2 * 3])").root
    assert folded.weights == (0.25, -1.0, *[0.0] * 17, 6.0)


def test_functions_stand_in_functions() -> None:
    root = parse_formula(f"restore_embeddings(mbw(0.5 * a, lokr(b, k, 2), {WEIGHTS}), -c) - a").root
    blocks = Blocks("mbw", (Binary("*", Number(0.5), A), AddLokr(B, "k", Number(2.0))), VALUES, "card")
    assert root == Binary("-", RestoreEmbeddings(blocks, Negative(C)), A)


def test_names_are_listed_in_the_order_of_first_appearance() -> None:
    formula = parse_formula(f"lokr(d, k2, 1) + lokr(mbw(b, a, {WEIGHTS}), k1, 1) + restore_embeddings(d, c) - lokr(b, k2, 1)")
    assert formula.models == ("d", "b", "a", "c")
    assert formula.lokrs == ("k2", "k1")


@pytest.mark.parametrize(
    "text, value",
    [
        ("0.8", float32("0.8")),
        ("1 / 3", float(np.float32(1) / np.float32(3))),
        ("0.1 + 0.2", float(np.float32(0.1) + np.float32(0.2))),
        ("1 - 0.9", float(np.float32(1) - np.float32(0.9))),
        ("0.1 * 0.1 * 0.1", float(np.float32(0.1) * np.float32(0.1) * np.float32(0.1))),
        ("-(2 - 0.5)", -1.5),
        ("16777216 + 1", 16777216.0),
        ("3.4028235e38", float(np.finfo(np.float32).max)),
        ("1e-45", float(np.finfo(np.float32).smallest_subnormal)),
        ("1e-60", 0.0),
    ],
)
def test_numbers_are_float32_and_so_is_arithmetic_among_them(text: str, value: float) -> None:
    root = parse_formula(f"({text}) * a").root
    assert root == Binary("*", Number(value), A)


def nearest_float32(text: str) -> float:
    """The float32 next to a decimal, ties to the even one, found with exact fractions."""
    wanted = Fraction(text)
    guess = np.float32(float(text))
    around = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return float(min(around, key=lambda value: (abs(Fraction(float(value)) - wanted), int(value.view(np.uint32)) & 1)))


decimals = st.builds(
    lambda digits, point, exponent: f"{digits[:point]}.{digits[point:]}{exponent}" if digits else "0",
    st.text("0123456789", min_size=1, max_size=25),
    st.integers(1, 25),
    st.just("") | st.integers(-40, 12).map(lambda n: f"e{n}") | st.integers(0, 12).map(lambda n: f"E+{n}"),
)


@given(decimals)
@example("1.000000059604644775390625")  # a tie
@example("1.000000178813934326171875")
def test_decimals_become_the_nearest_float32(text: str) -> None:
    assert parse_formula(f"{text} * a").root.left.value == nearest_float32(text)


# "^" marks where the caret must be and is not part of the formula.
WRONG = [
    ("^", "expected a model, a number or '(', found the end"),
    ("  \n  ^", "expected a model, a number or '(', found the end"),
    ("a +^", "expected a model, a number or '(', found the end"),
    ("a + ^& b", "'&' has no meaning here"),
    ("^ä", "'ä' has no meaning here"),
    ("a ^= b", "expected an operator or the end, found '='"),
    ("a * ^* b", "expected a model, a number or '(', found '*'"),
    ("a ^b", "expected an operator or the end, found 'b'"),
    ("0.8^a", "expected an operator or the end, found 'a'"),
    ("1.2^.3 * a", "expected an operator or the end, found '.3'"),
    ("(a + b^", "expected ')', found the end"),
    ("a + (b - c^]", "expected ')', found ']'"),
    ("a + b^)", "expected an operator or the end, found ')'"),
    ("(^)", "expected a model, a number or '(', found ')'"),
    ("0.5 * (a^, b)", "expected ')', found ','"),
    ("b + ^nope(a)", "no function 'nope'; there are lokr, mbw, weighted_sum, add_difference, restore_embeddings"),
    ("^a(b + c)", "no function 'a'"),
    ("a ^* b", "'*' of two models"),
    ("0.5 * a ^* (b - c)", "'*' of two models"),
    ("a ^/ b", "'/' of two models"),
    ("a ^+ 1", "'+' of a model and a number"),
    ("1 ^- a", "'-' of a model and a number"),
    ("a + b ^- 2 * 3", "'-' of a model and a number"),
    ("2 ^/ a", "a number divided by a model"),
    ("a ^/ 0", "division by zero"),
    ("a ^/ -0.0", "division by zero"),
    ("a ^/ (1 - 1)", "division by zero"),
    ("a ^/ 1e-60", "division by zero"),
    ("1 ^/ 0 * a", "division by zero"),
    ("^0.5", "a number alone; a formula gives a model"),
    ("  \n\t^0.5 * 2", "a number alone; a formula gives a model"),
    ("^1e39 * a", "1e39 is too large for float32"),
    ("a - ^3.4028236e38 * b", "3.4028236e38 is too large for float32"),
    ("^1e999 * a", "1e999 is too large for float32"),
    ("a * (1e30 ^* 1e30)", "the result is too large for float32"),
    ("a * (1 ^/ 1e-45)", "the result is too large for float32"),
    ("(" * MAX_DEPTH + "^a" + ")" * MAX_DEPTH, "nested more than 100 deep"),
    ("-" * MAX_DEPTH + "^a", "nested more than 100 deep"),
    ("a" + " + a" * MAX_OPERATIONS + " ^- a", "more than 300 operations"),
    ("mbw(a, b, ^[" + "0, " * 18 + "0])", "19 weights; 20 are needed: BASE, IN00 to IN08, M00, OUT00 to OUT08"),
    ("mbw(a, b, ^[" + "0, " * 20 + "0])", "21 weights; 20 are needed"),
    ("mbw(a, b, [" + "0, " * 19 + "0^", "expected ']', found the end"),
    ("mbw(a, b, ^0.5)", "expected '[', found '0.5'"),
    ("mbw(a, b, [^])", "expected a model, a number or '(', found ']'"),
    ("mbw(a, b, [0, ^c, 0])", "a model where a block's weight is meant"),
    (f"mbw(^1, b, {WEIGHTS})", "a number where a model is meant"),
    (f"mbw(a, ^2 * 3, {WEIGHTS})", "a number where a model is meant"),
    (f"mbw(a, b, {WEIGHTS}, ^c)", "expected 'blocks=', found 'c'"),
    (f"mbw(a, b, {WEIGHTS}, blocks^)", "expected '=', found ')'"),
    (f"mbw(a, b, {WEIGHTS}, blocks=^wide)", "expected a table of blocks (card, supermerger_2025), found 'wide'"),
    (f"mbw(a, b, {WEIGHTS}, blocks=card^, c)", "expected ')', found ','"),
    ("weighted_sum(a, b, ^c)", "a model where a number is meant"),
    ("weighted_sum(a, b^)", "expected ',', found ')'"),
    ("add_difference(a, b, ^1, 1)", "a number where a model is meant"),
    (f"add_difference(a, b, {WEIGHTS.replace('[', '^[', 1)})", "expected a model, a number or '(', found '['"),
    ("restore_embeddings(a^)", "expected ',', found ')'"),
    ("restore_embeddings(a, b^, c)", "expected ')', found ','"),
    ("restore_embeddings(a, ^0.5)", "a number where a model is meant"),
    ("lokr(a, ^0.5, 1)", "expected the name of a LoKr file, found '0.5'"),
    ("lokr(a, k^)", "expected ',', found ')'"),
    ("lokr(a, k, ^b)", "a model where a number is meant"),
    ("lokr(a, k, 1) + ^k", "'k' is the LoKr of lokr(...) elsewhere in this formula, and no model"),
    ("^k + lokr(a, k, 1)", "'k' is the LoKr of lokr(...) elsewhere"),
    ("lokr(^k, k, 1)", "'k' is the LoKr of lokr(...) elsewhere"),
    ("a\n+ ^& b\n- c", "'&' has no meaning here"),
    ("a +\n\tb *\t^& c", "'&' has no meaning here"),
    ("\ta\t^* b", "'*' of two models"),
    ("mbw(a,\n    b,\n    ^[0.1])\n+ c", "1 weights; 20 are needed"),
]


def parts_of(message: str) -> tuple[int, str, str, str]:
    """(character, words, line, caret's line) of a complaint, the last two without their indent."""
    head, line, caret = message.split("\n")
    found = re.fullmatch(r"formula, character (\d+): (.*)", head)
    assert found and line.startswith("    ") and caret.startswith("    ")
    return int(found[1]), found[2], line[4:], caret[4:]


@pytest.mark.parametrize("marked, words", WRONG)
def test_a_wrong_formula_is_shown_with_a_caret_under_the_place(marked: str, words: str) -> None:
    text, at = marked.replace("^", ""), marked.index("^")
    with pytest.raises(StageError) as caught:
        parse_formula(text)
    character, said, line, caret = parts_of(str(caught.value))
    before = marked[:at].rpartition("\n")[2]
    assert (character, line) == (at + 1, before + text[at:].partition("\n")[0])
    assert words in said
    assert caret == re.sub(r"[^\t]", " ", before) + "^"


def test_a_complaint_of_a_name_stands_under_its_first_mention() -> None:
    formula = parse_formula("lokr(first, second, 1)\n+ 0.5 * first\n+ lokr(third, second, 1)")
    for name, character, line in (("first", 6, 0), ("second", 13, 0), ("third", 45, 2)):
        with pytest.raises(StageError) as caught:
            complain_of_name(formula, name, "no such file")
        found, said, shown, caret = parts_of(str(caught.value))
        assert (found, said, shown) == (character, "no such file", formula.text.split("\n")[line])
        assert shown[len(caret) - 1 :].startswith(name)


def check_of_parameters(method: str, formula: str) -> str | None:
    """What `make` says of a recipe, before anything is made, where it refuses it."""
    options = ("--params", "recipes/sample.yaml", "--set", f"train.method={method}", "--set", f"merge.formula={formula}")
    try:
        check_params(list(options))
    except StageError as error:
        return str(error)
    return None


def refused_at_the_mark(method: str, other: str, marked: str) -> str:
    """What is said of a formula that is refused for `method`, at ^, and accepted for the `other` one."""
    formula = marked.replace("^", "")
    character, said, line, caret = parts_of(check_of_parameters(method, formula))
    assert (character, line, len(caret)) == (marked.index("^") + 1, formula, character)
    assert f"train.method {method}" in said
    assert check_of_parameters(other, formula) is None
    return said


@pytest.mark.parametrize("marked", ["lokr(base, ^trained, 1.0)", "base + 0.5 * (lokr(base, ^trained, 2) - base)"])
def test_a_model_of_which_all_weights_are_trained_is_no_lokr(marked: str) -> None:
    assert refused_at_the_mark("full", "lokr", marked).endswith("merge.formula: trained")


@pytest.mark.parametrize("marked", ["^trained", "base + 0.5 * (^trained - base)", "restore_embeddings(^trained, base)"])
def test_a_lokr_is_no_model(marked: str) -> None:
    assert refused_at_the_mark("lokr", "full", marked).endswith("merge.formula: lokr(base, trained, 1.0)")


@pytest.mark.parametrize("method", ["lokr", "full"])
def test_a_merge_without_the_trained_model_goes_with_either_method(method: str) -> None:
    assert check_of_parameters(method, "base") is None


def test_the_limits_themselves_are_allowed() -> None:
    assert parse_formula("(" * (MAX_DEPTH - 1) + "a" + ")" * (MAX_DEPTH - 1)).root == A
    assert sum(isinstance(node, Binary) for node in all_nodes(parse_formula("a" + "+a" * MAX_OPERATIONS).root)) == MAX_OPERATIONS
    deepest = f"{'mbw(' * MAX_NESTED_MBW}a{f', b, {WEIGHTS})' * MAX_NESTED_MBW}"
    assert parse_formula(deepest).models == ("a", "b")
    with pytest.raises(StageError, match=f"mbw nested more than {MAX_NESTED_MBW} deep"):
        parse_formula(f"mbw(c, {deepest}, {WEIGHTS})")


LONG = [
    "(" * 50_000,
    "-" * 50_000 + "a",
    "a+" * 50_000 + "a",
    "1+" * 50_000 + "1",
    " " * 200_000,
    " " * 200_000 + "&",
    "9" * 100_000 + "*a",
    "0." + "1" * 100_000 + "*a",
    "1e" + "9" * 100_000 + "*a",
    "a" * 200_000,
    "mbw(" * 20_000,
    "weighted_sum(a,b," * 20_000,
    f"lokr(a,k,{'(' * 50_000}",
    "mbw(a,b,[" + "1," * 50_000 + "1])",
    "a\n" * 50_000,
    "\t" * 50_000 + "a" + "\n" * 50_000 + "&",
]


def parsed_or_refused(text: str) -> None:
    try:
        formula = parse_formula(text)
    except StageError as error:
        character, _, line, caret = parts_of(str(error))
        assert 1 <= character <= len(text) + 1
        assert line in text.split("\n") and 1 <= len(caret) <= len(line) + 1
    else:
        nodes = list(all_nodes(formula.root))
        assert formula.text == text and not isinstance(formula.root, Number)
        assert set(formula.models) == {node.name for node in nodes if isinstance(node, Model)} != set()
        assert all(0 <= node.at < len(text) for node in nodes)


@given(st.text(max_size=200))
def test_any_text_is_a_formula_or_refused_in_words(text: str) -> None:
    parsed_or_refused(text)


TOKENS = [
    *"+-*/()[],=",
    *FUNCTIONS,
    "a",
    "b",
    "k",
    "blocks",
    "card",
    "0",
    "0.5",
    "1e30",
    "1e-30",
    ".",
    "1e",
    " ",
    "\n",
    "\t",
    "&",
    WEIGHTS,
]


@given(st.lists(st.sampled_from(TOKENS), max_size=60), st.integers(1, 40))
def test_the_languages_own_words_in_any_order_are_a_formula_or_refused(words: list[str], times: int) -> None:
    parsed_or_refused("".join(words) * times)


@pytest.mark.parametrize("text", LONG, ids=range(len(LONG)))
def test_long_texts_are_refused_in_words(text: str) -> None:
    if text == "a" * len(text):
        assert parse_formula(text).models == (text,)
    elif text.startswith("0."):
        assert parse_formula(text).root.left.value == float32("0.11111111111")
    else:
        with pytest.raises(StageError):
            parse_formula(text)
    parsed_or_refused(text)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True)
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False).map(Number)
lokr_names = st.from_regex(r"lokr_[0-9]", fullmatch=True)
trees = st.recursive(
    names.filter(lambda name: not name.startswith("lokr_")).map(Model),
    lambda below: (
        st.builds(Negative, below)
        | st.builds(Binary, st.sampled_from("+-"), below, below)
        | st.builds(Binary, st.just("*"), numbers, below)
        | st.builds(Binary, st.just("*"), below, numbers)
        | st.builds(Binary, st.just("/"), below, numbers.filter(lambda number: number.value))
        | st.builds(AddLokr, below, lokr_names, numbers)
    ),
    max_leaves=20,
)


@given(trees)
def test_what_is_shown_of_a_formula_is_that_formula(tree: Node) -> None:
    root = parse_formula(show(tree)).root
    assert root == tree
    assert grouped(root) == grouped(tree)  # the sign of a zero, too


@pytest.mark.parametrize(
    "text, shown",
    [
        ("((a + (0.8*b)) - (c/2))", "a + 0.8 * b - c / 2.0"),
        ("a - (b - c)", "a - (b - c)"),
        ("a + (b + c)", "a + (b + c)"),
        ("2 * (a * 3)", "2.0 * (a * 3.0)"),
        ("(a * 2) / 3", "a * 2.0 / 3.0"),
        ("0.5 * (a + b)", "0.5 * (a + b)"),
        ("-(a * 2) + -b", "-(a * 2.0) + -b"),
        ("-a * 2 - -(b - c)", "-a * 2.0 - -(b - c)"),
        ("-1 * (--a)", "-1.0 * --a"),
        ("lokr((a + b), k, 0.1) * 2", "lokr(a + b, k, 0.1) * 2.0"),
    ],
)
def test_a_formula_is_shown_with_no_more_parentheses_than_it_needs(text: str, shown: str) -> None:
    assert show(parse_formula(text).root) == shown


class Said:
    """A model-valued expression as Python's own parser groups it, in the words of `grouped`."""

    def __init__(self, words: str):
        self.words = words

    def __neg__(self) -> "Said":
        return Said(f"-{self.words}")

    def __pos__(self) -> "Said":
        return self

    def __add__(self, other: Any) -> "Said":
        return self._joined("+", other, isinstance(other, Said))

    def __sub__(self, other: Any) -> "Said":
        return self._joined("-", other, isinstance(other, Said))

    def __mul__(self, other: Any) -> "Said":
        return self._joined("*", other, isinstance(other, Value))

    def __truediv__(self, other: Any) -> "Said":
        return self._joined("/", other, isinstance(other, Value) and other.value != 0)

    def _joined(self, operator: str, other: Any, allowed: bool) -> "Said":
        if not allowed:
            raise ArithmeticError
        return Said(f"({self.words} {operator} {other.words})")


class Value:
    """A float32 that knows no operation with a model but its product."""

    def __init__(self, value: np.float32):
        if not np.isfinite(value):
            raise ArithmeticError
        self.value, self.words = value, str(value)

    def __neg__(self) -> "Value":
        return Value(-self.value)

    def __pos__(self) -> "Value":
        return self

    def __add__(self, other: Any) -> "Value":
        return Value(self.value + self._number(other))

    def __sub__(self, other: Any) -> "Value":
        return Value(self.value - self._number(other))

    def __mul__(self, other: Any) -> "Value | Said":
        if isinstance(other, Said):
            return Said(f"({self.words} * {other.words})")
        return Value(self.value * other.value)

    def __truediv__(self, other: Any) -> "Value":
        if self._number(other) == 0:
            raise ArithmeticError
        return Value(self.value / other.value)

    def _number(self, other: Any) -> np.float32:
        if not isinstance(other, Value):
            raise ArithmeticError
        return other.value


def as_python_reads_it(text: str) -> str | None:
    """What `grouped` should say of an arithmetic formula, by Python's parser and the classes above; None if it is none."""
    spelled = re.sub(r"[a-z]|[0-9.]+", lambda word: f"{'Said' if word[0].isalpha() else 'number'}('{word[0]}')", text)
    try:
        with np.errstate(all="ignore"):
            found = eval(
                compile(ast.parse(f"({spelled})", mode="eval"), "formula", "eval"),
                {"Said": Said, "number": lambda word: Value(np.float32(word))},
            )
    except ArithmeticError:
        return None
    return found.words if isinstance(found, Said) else None


texts = st.recursive(
    st.sampled_from(["a", "b", "c"]) | st.sampled_from(["0.8", "0.5", "2", "3", "0", "0.1"]),
    lambda below: (
        st.tuples(st.sampled_from(["-", "- ", "+"]), below).map("".join)
        | below.map(lambda inner: f"({inner})")
        | st.tuples(below, st.sampled_from(["+", " - ", "*", " / ", " +\n"]), below).map("".join)
    ),
    max_leaves=8,
)


@given(texts)
def test_operators_group_as_in_other_languages(text: str) -> None:
    expected = as_python_reads_it(text)
    try:
        found: str | None = grouped(parse_formula(text).root)
    except StageError:
        found = None
    assert found == expected


def test_a_formula_keeps_its_text() -> None:
    text = "a  +\tb\n"
    assert parse_formula(text) == Formula(text, Binary("+", A, B), ("a", "b"), ())
