"""The language of merge formulas, as model cards write them.

    beta7 + 0.8 * (anxl3 - anxl2) + 0.5 * (base7 - beta7)

Names of models, decimals, + - * /, parentheses and the minus sign, with the usual precedence, from left to right. A number may
stand before or after what it multiplies, and divides from behind. Functions:

    lokr(x, trained, w)              x + w * the change that the LoKr file `trained` means
    mbw(a, b, [20 numbers])          a + w * (b - a), w by block; where w is 0, a as it is
    weighted_sum(a, b, w)            (1 - w) * a + w * b                       (WebUI and supermerger: "Weight sum")
    add_difference(a, b, c, w)       a + w * (b - c)                           (WebUI and supermerger: "Add difference")
    restore_embeddings(x, original)  x, but token and position embeddings of both text encoders from `original`; where x is
                                     the name of a model, in that file's type

In weighted_sum and add_difference w may be 20 numbers, too; the functions with 20 numbers take `blocks=supermerger_2025` as
last argument to give blocks as that program does since 2025 (see block_weights.py). ComfyUI's merge nodes are not among
them: their ratio is the first model's share.

Numbers are float32, and so is arithmetic among them: `1 / 3` is one rounded division.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from repro.errors import StageError
from repro.params import FORMULA_NAME, OWN_MODELS, Params

import numpy as np

from checkpoints.block_weights import BLOCKS, TABLES

MAX_DEPTH = 100
MAX_OPERATIONS = 300
# Each mbw has its first model in two places.
MAX_NESTED_MBW = 10
Operator = Literal["+", "-", "*", "/"]


@dataclass(frozen=True)
class Number:
    """A float32."""

    value: float
    at: int = field(compare=False, default=0)


@dataclass(frozen=True)
class Model:
    """A checkpoint by name. `at` of every node is its place in the formula, for errors."""

    name: str
    at: int = field(compare=False, default=0)


@dataclass(frozen=True)
class Negative:
    of: "Node"
    at: int = field(compare=False, default=0)


@dataclass(frozen=True)
class Binary:
    """Two models added or subtracted, or a model multiplied or divided by a number (`*` has it on either side)."""

    operator: Operator
    left: "Node"
    right: "Node"
    at: int = field(compare=False, default=0)


@dataclass(frozen=True)
class AddLokr:
    base: "Node"
    lokr: str
    weight: Number
    at: int = field(compare=False, default=0)
    lokr_at: int = field(compare=False, default=0)


@dataclass(frozen=True)
class Blocks:
    """One of the functions with a weight by block: `weights` has 20 numbers in the order of `BLOCKS`."""

    function: Literal["mbw", "weighted_sum", "add_difference"]
    models: tuple["Node", ...]
    weights: tuple[float, ...]
    table: str
    at: int = field(compare=False, default=0)


@dataclass(frozen=True)
class RestoreEmbeddings:
    of: "Node"
    original: "Node"
    at: int = field(compare=False, default=0)


@dataclass(frozen=True)
class InTypeOf:
    """`of` as a file of `model`'s type would hold it; the formula of one tensor may have it (see tensor_program.py)."""

    of: "Node"
    model: str
    at: int = field(compare=False, default=0)


Node = Number | Model | InTypeOf | Negative | Binary | AddLokr | Blocks | RestoreEmbeddings


@dataclass(frozen=True)
class Formula:
    """A parsed formula: `models` and `lokrs` are the names in it, in order of first appearance."""

    text: str
    root: Node
    models: tuple[str, ...]
    lokrs: tuple[str, ...]


def parse_formula(text: str) -> Formula:
    """Parse a formula, names not yet looked up.

    Raises:
        StageError: not a formula of this language; shows it with a caret under the place.
    """
    parser = _Parser(text)
    root = parser.expression(0)
    if parser.kind != "end":
        parser.complain("expected an operator or the end")
    if isinstance(root, Number):
        complain(text, root.at, "a number alone; a formula gives a model")
    nodes = list(all_nodes(root))
    models = dict.fromkeys(node.name for node in nodes if isinstance(node, Model))
    lokrs = dict.fromkeys(node.lokr for node in nodes if isinstance(node, AddLokr))
    for node in nodes:
        if isinstance(node, Model) and node.name in lokrs:
            complain(text, node.at, f"'{node.name}' is the LoKr of lokr(...) elsewhere in this formula, and no model")
    return Formula(text, root, tuple(models), tuple(lokrs))


def require_formulas(params: Params) -> None:
    """Check both formulas of a recipe before anything is trained that they are to merge.

    Raises:
        StageError: one that cannot be read, a name in it that is neither listed nor the run's own, or `trained` in a place
            for another kind of file than `train.method` makes.
    """
    for key, text, own in (("base.formula", params.base.formula, ()), ("merge.formula", params.merge.formula, OWN_MODELS)):
        formula = parse_formula(text)
        for name in (*formula.models, *formula.lokrs):
            if name not in (*params.models.files, *own):
                known = ", ".join((*params.models.files, *own))
                complain_of_name(formula, name, f"{key}: no model '{name}' is listed in models.files; there are {known}")
    _require_trained_as_made(parse_formula(params.merge.formula), params.train.method)


def _require_trained_as_made(formula: Formula, method: str) -> None:
    if method == "full" and "trained" in formula.lokrs:
        what = "train.method full makes 'trained' a whole checkpoint, no LoKr; name it as a model: merge.formula: trained"
        complain_of_name(formula, "trained", what)
    if method == "lokr" and "trained" in formula.models:
        what = "train.method lokr makes 'trained' a LoKr file, no model; write merge.formula: lokr(base, trained, 1.0)"
        complain_of_name(formula, "trained", what)


def complain(text: str, at: int, what: str) -> NoReturn:
    """Raises:
    StageError: always; the formula's line and a caret below place `at`."""
    start = text.rfind("\n", 0, at) + 1
    line = text[start:].split("\n", 1)[0]
    caret = "".join("\t" if character == "\t" else " " for character in text[start:at]) + "^"
    raise StageError(f"formula, character {at + 1}: {what}\n    {line}\n    {caret}")


def complain_of_name(formula: Formula, name: str, what: str) -> NoReturn:
    """Raises:
    StageError: always; the formula with a caret below the first mention of a model or LoKr."""
    at = next(
        node.lokr_at if isinstance(node, AddLokr) and node.lokr == name else node.at
        for node in all_nodes(formula.root)
        if (isinstance(node, Model) and node.name == name) or (isinstance(node, AddLokr) and node.lokr == name)
    )
    complain(formula.text, at, what)


def all_nodes(node: Node) -> Iterator[Node]:
    """The node and all below it, in the order in which the formula names them."""
    yield node
    if isinstance(node, Negative):
        yield from all_nodes(node.of)
    elif isinstance(node, Binary):
        yield from all_nodes(node.left)
        yield from all_nodes(node.right)
    elif isinstance(node, AddLokr):
        yield from all_nodes(node.base)
    elif isinstance(node, Blocks):
        for model in node.models:
            yield from all_nodes(model)
    elif isinstance(node, RestoreEmbeddings):
        yield from all_nodes(node.of)
        yield from all_nodes(node.original)


NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
TOKEN = re.compile(rf"\s*(?:(?P<number>{NUMBER})|(?P<name>{FORMULA_NAME})|(?P<sign>[-+*/()\[\],=])|(?P<end>\Z))")
PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
LIST_BEGINS = re.compile(r"\s*\[")


class _Parser:
    """Recursive descent with precedence climbing; `kind`, `word` and `at` are the token in hand."""

    def __init__(self, text: str):
        self.text = text
        self._next_at = 0
        self._depth = self._operations = self._nested_mbw = 0
        self.advance()

    def advance(self) -> None:
        found = TOKEN.match(self.text, self._next_at)
        if found is None:
            at = len(self.text) - len(self.text[self._next_at :].lstrip())
            complain(self.text, at, f"{self.text[at]!r} has no meaning here")
        self.kind = found.lastgroup or "end"
        self.word = found[self.kind]
        self.at = found.start(self.kind)
        self._next_at = found.end()

    def complain(self, what: str) -> NoReturn:
        complain(self.text, self.at, f"{what}, found {'the end' if self.kind == 'end' else repr(self.word)}")

    def take(self, sign: str) -> None:
        if self.word != sign or self.kind != "sign":
            self.complain(f"expected '{sign}'")
        self.advance()

    def expression(self, above: int) -> Node:
        """Operands joined by operators that bind more tightly than `above`."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            complain(self.text, self.at, f"nested more than {MAX_DEPTH} deep")
        left = self.operand()
        while self.kind == "sign" and PRECEDENCE.get(self.word, 0) > above:
            operator, at = self.word, self.at
            self.advance()
            left = self.joined(operator, left, self.expression(PRECEDENCE[operator]), at)
        self._depth -= 1
        return left

    def operand(self) -> Node:
        kind, word, at = self.kind, self.word, self.at
        if kind == "number":
            self.advance()
            return self.number(word, at)
        if kind == "name":
            self.advance()
            return self.call(word, at) if self.kind == "sign" and self.word == "(" else Model(word, at)
        if word == "(" and kind == "sign":
            self.advance()
            inner = self.expression(0)
            self.take(")")
            return inner
        if word in ("-", "+") and kind == "sign":
            self.advance()
            of = self.expression(PRECEDENCE["*"])
            if word == "+":
                return of
            return Number(-of.value, at) if isinstance(of, Number) else Negative(of, at)
        self.complain("expected a model, a number or '('")

    def number(self, word: str, at: int) -> Number:
        with np.errstate(over="ignore"):
            value = np.float32(float(word))
        if not np.isfinite(value):
            complain(self.text, at, f"{word} is too large for float32")
        return Number(float(value), at)

    def joined(self, operator: str, left: Node, right: Node, at: int) -> Node:
        self.count_operation(at)
        if isinstance(left, Number) and isinstance(right, Number):
            return self.folded(operator, left, right, at)
        numbers = isinstance(left, Number) + isinstance(right, Number)
        if operator in "+-" and numbers:
            complain(self.text, at, f"'{operator}' of a model and a number; a number multiplies or divides a model")
        if operator in "*/" and not numbers:
            complain(self.text, at, f"'{operator}' of two models; a model is multiplied or divided by a number")
        if operator == "/" and not isinstance(right, Number):
            complain(self.text, at, "a number divided by a model")
        if operator == "/" and right.value == 0:
            complain(self.text, at, "division by zero")
        return Binary(operator, left, right, at)

    def count_operation(self, at: int) -> None:
        self._operations += 1
        if self._operations > MAX_OPERATIONS:
            complain(self.text, at, f"more than {MAX_OPERATIONS} operations")

    def folded(self, operator: str, left: Number, right: Number, at: int) -> Number:
        a, b = np.float32(left.value), np.float32(right.value)
        if operator == "/" and b == 0:
            complain(self.text, at, "division by zero")
        with np.errstate(over="ignore", under="ignore"):
            value = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}[operator](a, b)
        if not np.isfinite(value):
            complain(self.text, at, "the result is too large for float32")
        return Number(float(value), left.at)

    def call(self, name: str, at: int) -> Node:
        function = FUNCTIONS.get(name)
        if function is None:
            complain(self.text, at, f"no function '{name}'; there are {', '.join(FUNCTIONS)}")
        self.count_operation(at)
        self.advance()
        node = function(self, at)
        self.take(")")
        return node

    def model(self) -> Node:
        """An argument that is a model."""
        at = self.at
        node = self.expression(0)
        if isinstance(node, Number):
            complain(self.text, at, "a number where a model is meant")
        return node

    def comma_model(self) -> Node:
        self.take(",")
        return self.model()

    def weight(self) -> Number:
        """An argument that is one number."""
        self.take(",")
        at = self.at
        node = self.expression(0)
        if not isinstance(node, Number):
            complain(self.text, at, "a model where a number is meant")
        return node

    def block_weights(self) -> tuple[float, ...]:
        """`[w, w, ...]`, 20 numbers."""
        at = self.at
        self.take("[")
        weights = []
        while not weights or self.word == ",":
            if weights:
                self.advance()
            of = self.at
            node = self.expression(0)
            if not isinstance(node, Number):
                complain(self.text, of, "a model where a block's weight is meant")
            weights.append(node.value)
        self.take("]")
        if len(weights) != len(BLOCKS):
            needed = f"{len(BLOCKS)} are needed: BASE, IN00 to IN08, M00, OUT00 to OUT08"
            complain(self.text, at, f"{len(weights)} weights; {needed}")
        return tuple(weights)

    def block_table(self) -> str:
        """`, blocks=NAME`, or nothing."""
        if self.word != ",":
            return "card"
        self.advance()
        if self.word != "blocks":
            self.complain("expected 'blocks='")
        self.advance()
        self.take("=")
        if self.word not in TABLES:
            self.complain(f"expected a table of blocks ({', '.join(TABLES)})")
        table = self.word
        self.advance()
        return table

    def lokr(self, at: int) -> Node:
        base = self.model()
        self.take(",")
        if self.kind != "name":
            self.complain("expected the name of a LoKr file")
        name, lokr_at = self.word, self.at
        self.advance()
        return AddLokr(base, name, self.weight(), at, lokr_at)

    def mbw(self, at: int) -> Node:
        self._nested_mbw += 1
        if self._nested_mbw > MAX_NESTED_MBW:
            complain(self.text, at, f"mbw nested more than {MAX_NESTED_MBW} deep")
        models = (self.model(), self.comma_model())
        self._nested_mbw -= 1
        self.take(",")
        return Blocks("mbw", models, self.block_weights(), self.block_table(), at)

    def weighted_sum(self, at: int) -> Node:
        a, b = self.model(), self.comma_model()
        if self._comes_list():
            self.take(",")
            return Blocks("weighted_sum", (a, b), self.block_weights(), self.block_table(), at)
        return weighted_sum(a, b, self.weight(), at)

    def add_difference(self, at: int) -> Node:
        a, b, c = self.model(), self.comma_model(), self.comma_model()
        if self._comes_list():
            self.take(",")
            return Blocks("add_difference", (a, b, c), self.block_weights(), self.block_table(), at)
        return add_difference(a, b, c, self.weight(), at)

    def restore_embeddings(self, at: int) -> Node:
        return RestoreEmbeddings(self.model(), self.comma_model(), at)

    def _comes_list(self) -> bool:
        return self.word == "," and LIST_BEGINS.match(self.text, self._next_at) is not None


FUNCTIONS: dict[str, Callable[[_Parser, int], Node]] = {
    "lokr": _Parser.lokr,
    "mbw": _Parser.mbw,
    "weighted_sum": _Parser.weighted_sum,
    "add_difference": _Parser.add_difference,
    "restore_embeddings": _Parser.restore_embeddings,
}


def mbw(a: Node, b: Node, w: Number, at: int = 0) -> Node:
    """a + w * (b - a)"""
    return add_difference(a, b, a, w, at)


def weighted_sum(a: Node, b: Node, w: Number, at: int = 0) -> Node:
    """(1 - w) * a + w * b"""
    rest = Number(float(np.float32(1) - np.float32(w.value)), at)
    return Binary("+", Binary("*", rest, a, at), Binary("*", w, b, at), at)


def add_difference(a: Node, b: Node, c: Node, w: Number, at: int = 0) -> Node:
    """a + w * (b - c)"""
    return Binary("+", a, Binary("*", w, Binary("-", b, c, at), at), at)


def show(node: Node, above: int = 0) -> str:
    """The text of a node that holds for one tensor, in parentheses where an operator of precedence `above` needs them."""
    if isinstance(node, Number):
        return str(np.float32(node.value))
    if isinstance(node, Model):
        return node.name
    if isinstance(node, Negative):
        return f"-{show(node.of, PRECEDENCE['*'] + 1)}"
    if isinstance(node, InTypeOf):
        return f"({show(node.of)} in the type of {node.model})"
    if isinstance(node, AddLokr):
        return f"lokr({show(node.base)}, {node.lokr}, {show(node.weight)})"
    if not isinstance(node, Binary):
        raise TypeError(f"{node}: has no single text; it differs by tensor")
    precedence = PRECEDENCE[node.operator]
    text = f"{show(node.left, precedence)} {node.operator} {show(node.right, precedence + 1)}"
    return f"({text})" if precedence < above else text
