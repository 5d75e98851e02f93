"""The mutants of a module: one small change each, made by cosmic-ray's operators."""

import ast
import dataclasses
import difflib
import hashlib
from collections.abc import Iterator

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators import (
    binary_operator_replacement,
    boolean_replacer,
    break_continue,
    comparison_operator_replacement,
    exception_replacer,
    number_replacer,
    unary_operator_replacement,
    zero_iteration_for_loop,
)
from cosmic_ray.operators.operator import Operator

# Of the replacements those that type checks and shapes do not give away at once.
_BINARY = ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "FloorDiv_Div", "Mod_Mul")
_BINARY += ("Pow_Mul", "BitOr_BitAnd", "BitAnd_BitOr")
_COMPARISON = ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_Gt", "LtE_GtE", "Gt_Lt", "GtE_LtE")
_COMPARISON += ("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")
_UNARY = ("Delete_USub", "Delete_Not", "Delete_Invert")
# Calls and functions that make messages for people; their text is no part of a result.
_MESSAGE_CALLS = ("print", "warning", "add_column", "add_row", "Table")
_MESSAGE_FUNCTIONS = ("print_table", "print_rows", "describe", "protocol_name", "shown", "_listing")


class ArgumentDropper(Operator):
    """Leaves a keyword argument out of a call."""

    def mutation_positions(self, node):
        """Positions of the keyword arguments of a call that has others too."""
        if node.type != "arglist" or node.parent.type != "trailer":
            return []
        arguments = [node.children[i] for i in self._places(node)]
        # Not one by one: the call is changed between the first and the next.
        return [(argument.start_pos, argument.end_pos) for argument in arguments]

    def mutate(self, node, index):
        """The call without the keyword argument `index`."""
        place = self._places(node)[index]
        del node.children[place : place + 2]  # with the comma behind it
        return node

    @staticmethod
    def _places(node) -> list[int]:
        return [
            i
            for i, child in enumerate(node.children)
            if child.type == "argument" and child.children[1].type == "operator"
            if child.children[1].value == "="
        ]

    @classmethod
    def examples(cls):
        """None: cosmic-ray's own tests are not run on it."""
        return ()


def _named(module, prefix: str, names: tuple[str, ...]) -> list[type[Operator]]:
    return [getattr(module, f"{prefix}_{name}") for name in names]


OPERATORS = [
    *_named(binary_operator_replacement, "ReplaceBinaryOperator", _BINARY),
    *_named(comparison_operator_replacement, "ReplaceComparisonOperator", _COMPARISON),
    *_named(unary_operator_replacement, "ReplaceUnaryOperator", _UNARY),
    boolean_replacer.AddNot,
    boolean_replacer.ReplaceTrueWithFalse,
    boolean_replacer.ReplaceFalseWithTrue,
    boolean_replacer.ReplaceAndWithOr,
    boolean_replacer.ReplaceOrWithAnd,
    break_continue.ReplaceBreakWithContinue,
    break_continue.ReplaceContinueWithBreak,
    exception_replacer.ExceptionReplacer,
    number_replacer.NumberReplacer,
    zero_iteration_for_loop.ZeroIterationForLoop,
    ArgumentDropper,
]


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A changed module.

    Attributes:
        module: path of the module.
        function: qualified name of the innermost function or class, "" at the top of the module.
        change: `"old line -> new line"`, or the name of a mutant made by hand.
        source: the module's changed text.
    """

    module: str
    function: str
    change: str
    source: str

    @property
    def key(self) -> str:
        """Tells this mutant from all others, of other versions of the module too."""
        return hashlib.sha256(f"{self.module}\n{self.source}".encode()).hexdigest()[:12]


def sample(module: str, source: str, *, num: int, seed: int) -> list[Mutant]:
    """`num` mutants of a module, or all there are: drawn by place, then by kind of change."""
    by_place: dict[tuple, list[tuple]] = {}
    for place, operator, occurrence in _sites(source):
        by_place.setdefault(place, []).append((operator, occurrence))
    functions = _functions(source)

    def rank(*what) -> str:
        return hashlib.sha256(repr((seed, module, *what)).encode()).hexdigest()

    # Hashes in place of a generator: a change of one line leaves the other mutants drawn.
    lines = source.splitlines()
    order = sorted(by_place, key=lambda p: rank(lines[p[0][0] - 1], p[0][1], p[1][1]))
    drawn, seen = [], {ast.dump(ast.parse(source))}
    for place in order:
        choices = sorted(by_place[place], key=lambda c: rank(place, c[0].__name__, c[1]))
        for operator, occurrence in choices:
            mutated = mutate_code(source, operator(), occurrence)
            try:
                tree = ast.dump(ast.parse(mutated))
            except SyntaxError:
                continue
            if tree not in seen:
                seen.add(tree)
                function = _innermost(functions, place[0][0])
                drawn.append(Mutant(module, function, _change(source, mutated), mutated))
                break
        if len(drawn) == num:
            break
    return drawn


def count_places(source: str) -> int:
    """Places of a module that can be changed."""
    return len({place for place, _, _ in _sites(source)})


def _sites(source: str) -> Iterator[tuple[tuple, type[Operator], int]]:
    """Place, operator and occurrence of every change that is no message or annotation."""
    left_out = [*_left_out(source), *_separators(source)]
    counts = dict.fromkeys(OPERATORS, 0)
    for node in ast_nodes(get_ast(source)):
        for operator in OPERATORS:
            for start, end in operator().mutation_positions(node):
                if not any(first <= start and end <= last for first, last in left_out):
                    yield (start, end), operator, counts[operator]
                counts[operator] += 1


def _separators(source: str) -> Iterator[tuple]:
    """Spans of the `*` between parameters, which cosmic-ray takes for a product."""
    for node in ast_nodes(get_ast(source)):
        if node.type == "operator" and node.parent.type in ("parameters", "lambdef"):
            yield node.start_pos, node.end_pos


def _left_out(source: str) -> Iterator[tuple]:
    """Spans of annotations, decorators, messages, what is raised, and `strict=` of `zip`, which is
    an assertion.
    """
    for node in ast.walk(ast.parse(source)):
        spans = []
        if isinstance(node, ast.FunctionDef):
            spans = [*node.decorator_list, node.returns]
            spans += [node] if node.name in _MESSAGE_FUNCTIONS else []
        elif isinstance(node, ast.ClassDef):
            spans = node.decorator_list
        elif isinstance(node, ast.arg | ast.AnnAssign):
            spans = [node.annotation]
        elif isinstance(node, ast.Raise | ast.JoinedStr):
            spans = [node]
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            spans = [node] if name in _MESSAGE_CALLS else []
            spans += [keyword for keyword in node.keywords if keyword.arg == "strict"]
        for span in filter(None, spans):
            yield (span.lineno, span.col_offset), (span.end_lineno, span.end_col_offset)


def _functions(source: str) -> list[tuple[int, int, str]]:
    found = []

    def visit(node, path: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, ast.FunctionDef | ast.ClassDef)
            inner = (*path, child.name) if named else path
            if named:
                found.append((child.lineno, child.end_lineno, ".".join(inner)))
            visit(child, inner)

    visit(ast.parse(source), ())
    return found


def _innermost(functions: list[tuple[int, int, str]], line: int) -> str:
    around = [(first, name) for first, last, name in functions if first <= line <= last]
    return max(around)[1] if around else ""


def _change(source: str, mutated: str) -> str:
    """`"old line -> new line"`."""
    diff = difflib.ndiff(source.splitlines(), mutated.splitlines())
    diff = [line for line in diff if line[:2] in ("- ", "+ ")]
    old, new = (
        " ".join(line[2:].strip() for line in diff if line[0] == sign).strip() for sign in "-+"
    )
    return f"{old} -> {new}"
