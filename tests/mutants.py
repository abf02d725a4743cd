"""Changes of a module, each small and each wrong in most places: what tests are tried on."""

import ast
import copy
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parents[1]

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}  # fmt: skip


class Mutant(NamedTuple):
    """One change of one module."""

    file: str  # from the root
    place: int  # among the nodes of its tree, as `ast.walk` meets them
    line: int
    change: str


def mutants(file: str) -> Iterator[Mutant]:
    """Every change of the module in that file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    skipped = set(_never_run(tree))
    for place, node in enumerate(ast.walk(tree)):
        if id(node) not in skipped and (change := _change(copy.deepcopy(node))):
            yield Mutant(file, place, getattr(node, "lineno", 0), change)


# Changed whenever tests were written for what survived of the sample before. Before "3" they were
# for what survived of all changes in functions: it is a sample of those.
DRAW = "3"


def in_order(files: list[str]) -> list[Mutant]:
    """The changes of all files in the order of a hash: the first n are a fair sample."""
    found = [mutant for file in files for mutant in mutants(file)]
    return sorted(found, key=lambda each: hashlib.sha256(f"{DRAW}{each!r}".encode()).digest())


def lines_of(mutant: Mutant) -> range | None:
    """Those of the statement that is changed, of one that holds others its head; None where it runs
    when the module is imported.
    """
    tree = ast.parse((ROOT / mutant.file).read_text(encoding="utf-8"))
    above = {inner: node for node in ast.walk(tree) for inner in ast.iter_child_nodes(node)}
    node: ast.AST = list(ast.walk(tree))[mutant.place]
    while not isinstance(node, ast.stmt):
        node = above[node]
    body = getattr(node, "body", None)
    end = body[0].lineno - 1 if body else node.end_lineno or node.lineno
    lines = range(node.lineno, max(node.lineno, end) + 1)
    outer = node
    while outer := above[outer]:
        if isinstance(outer, ast.FunctionDef):
            return lines
        if isinstance(outer, ast.Module):
            break
    return None


def install(file: str, place: int) -> None:
    """From here on the module in `file` is imported with that change; none where it is -1."""
    sys.meta_path.insert(0, _Changed(file.removesuffix(".py").replace("/", "."), file, place))


def changed(file: str, place: int) -> CodeType:
    """The code of the module in `file` with that change."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert _change(list(ast.walk(tree))[place])
    return compile(tree, str(ROOT / file), "exec")


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, name: str, file: str, place: int) -> None:
        self.name, self.file, self.place = name, file, place

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        if name != self.name or self.place < 0:
            return None
        return importlib.util.spec_from_file_location(name, ROOT / self.file, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(changed(self.file, self.place), module.__dict__)


def _never_run(tree: ast.Module) -> Iterator[int]:
    """What says nothing when it runs: docstrings, annotations, and what only raises tell."""
    for node in ast.walk(tree):
        told: list[ast.AST | None] = []
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            told.append(node.body[0])
        if isinstance(node, ast.arg | ast.AnnAssign):
            told.append(node.annotation)
        if isinstance(node, ast.FunctionDef):
            told.append(node.returns)
        for each in told:
            if each is not None:
                yield from map(id, ast.walk(each))


def _change(node: ast.AST) -> str:
    """Changes the node and says how; empty where there is nothing to change in it."""
    match node:
        case ast.Compare(ops=[op, *_]) if type(op) in _COMPARED:
            node.ops[0] = _COMPARED[type(op)]()
            return f"{type(op).__name__} is {type(node.ops[0]).__name__}"
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _COMPUTED:
            node.op = _COMPUTED[type(op)]()
            return f"{type(op).__name__} is {type(node.op).__name__}"
        case ast.BoolOp(op=op):
            node.op = ast.Or() if isinstance(op, ast.And) else ast.And()
            return f"{type(op).__name__} is {type(node.op).__name__}"
        case ast.Constant(value=bool(value)):
            node.value = not value
            return f"{value} is {not value}"
        case ast.Constant(value=int(value) | float(value)):
            node.value = value + 1
            return f"{value} is {value + 1}"
        case ast.Constant(value=str(value)) if value:
            node.value = f"{value}X"
            return f"{value[:30]!r} has an X behind it"
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            node.test = ast.copy_location(ast.UnaryOp(ast.Not(), test), test)
            ast.fix_missing_locations(node)
            return "the condition is turned round"
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            node.value = ast.copy_location(ast.Constant(None), value)
            return "None is returned"
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
            if isinstance(node.op, ast.Not):
                node.operand = ast.copy_location(ast.UnaryOp(ast.Not(), operand), operand)
                ast.fix_missing_locations(node)
            return "a sign or a not is gone"
    return ""
