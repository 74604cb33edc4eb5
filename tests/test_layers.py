"""The import rule: a module imports only from the layers left of its own. Checked on the syntax trees."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "equikern"

# Left to right; modules of one group may import one another.
LAYERS = (
    ("errors", "program"),
    ("backends",),
    ("ops",),
    ("math", "io", "o3"),
    ("util", "graph"),
    ("nn",),
    ("models",),
    ("data", "train"),
    ("interop",),
    ("cli", "app", "__main__"),
)
RANK = {name: rank for rank, group in enumerate(LAYERS) for name in group}
LAST = len(LAYERS) - 1

# Shipped to users and read by tests and benches; nothing else in the package may lean on it but `cli`, which shows it.
TESTING = "testing"
OPTIONAL = {"ase", "deepmd", "e3nn", "mace", "matplotlib", "nequip", "sevenn", "torch_geometric", "tqdm"}


class Import(NamedTuple):
    """One imported name: `equikern.ops.contract` for `from equikern.ops import contract`."""

    name: str
    line: int
    inside_function: bool
    typing_only: bool


def imports(tree: ast.Module, module: str, is_package: bool) -> Iterator[Import]:
    """Every name that a module imports, relative ones resolved, `importlib.import_module("...")` included."""

    def visit(node: ast.AST, inside: bool, typing_only: bool) -> Iterator[Import]:
        for name in _names(node, module, is_package):
            yield Import(name, node.lineno, inside, typing_only)  # type: ignore[attr-defined]
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, inside, True)
            for child in node.orelse:
                yield from visit(child, inside, typing_only)
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside, typing_only)

    yield from visit(tree, False, False)


def _names(node: ast.AST, module: str, is_package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            anchor = parts[: len(parts) - node.level + is_package]
            base = ".".join([*anchor, base] if base else anchor)
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called, name = ast.unparse(node.func), node.args[0].value
        if called.split(".")[-1] in ("import_module", "__import__") and isinstance(name, str):
            return [name]
    return []


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """What a module's source does against the rule, in words; empty when it keeps to it."""
    tree = ast.parse(source)
    layer = module.split(".")[1] if "." in module else ""
    if layer and layer not in RANK and layer != TESTING:
        return [f"{module} is in no layer; give `{layer}` its place in LAYERS"]
    found = [reason for item in imports(tree, module, is_package) for reason in _judge(item, module, layer)]
    if layer != "ops" and _touches_torch_library(tree):
        found.append(f"{module} touches torch.library; only ops does")
    return found


def _judge(item: Import, module: str, layer: str) -> Iterator[str]:
    where = f"{module}:{item.line} imports {item.name}"
    top, *rest = item.name.split(".")
    if top == "triton" and layer != "backends":
        yield f"{where}; only backends does"
    if top in OPTIONAL and not (item.inside_function or item.typing_only):
        yield f"{where}; an optional library is imported inside the function that needs it"
    if layer == "program" and top not in sys.stdlib_module_names | {"numpy", "equikern"}:
        yield f"{where}; program knows numpy only"
    if (item.name == "torch.library" or item.name.startswith("torch.library.")) and layer != "ops":
        yield f"{where}; only ops does"
    if top != "equikern":
        return
    if rest[:1] == ["_C"]:
        if layer != "backends":
            yield f"{where}; only backends does"
    elif layer:
        yield from _judge_rank(where, layer, rest)


def _judge_rank(where: str, layer: str, rest: list[str]) -> Iterator[str]:
    own = RANK["ops"] if layer == TESTING else RANK[layer]
    if rest[:1] == ["__version__"] or rest[:1] == [layer]:
        return
    if rest and rest[0] == TESTING and layer == "cli":
        return
    if rest and rest[0] == TESTING:
        yield f"{where}; testing is for tests and benches"
    elif not rest or rest[0] not in RANK:
        if own < LAST:
            yield f"{where}; name the layer, the package's root reaches all of them"
    elif RANK[rest[0]] > own:
        yield f"{where}; {layer} is left of {rest[0]}"


def _touches_torch_library(tree: ast.Module) -> bool:
    aliases = {"torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname for alias in node.names if alias.name == "torch" and alias.asname}
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == "library"
        and isinstance(node.value, ast.Name)
        and node.value.id in aliases
        for node in ast.walk(tree)
    )


def module_name(path: Path) -> str:
    """`equikern.ops.contract` of `equikern/ops/contract.py`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_module_imports_only_from_the_left(path: Path) -> None:
    assert violations(path.read_text(), module_name(path), path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("equikern.o3._linear", "from equikern.models.painn import PaiNN", "o3 is left of models"),
        ("equikern.o3._linear", "from equikern import nn", "o3 is left of nn"),
        ("equikern.o3._linear", "from ..nn import Gate", "o3 is left of nn"),
        ("equikern.o3._linear", "from .. import interop", "o3 is left of interop"),
        ("equikern.o3._linear", "def f():\n    import equikern.nn.gate", "o3 is left of nn"),
        ("equikern.nn.gate", "import equikern", "name the layer"),
        ("equikern.nn.gate", "from equikern import accelerate", "name the layer"),
        ("equikern.nn.gate", "from equikern.testing import cases", "testing is for tests"),
        ("equikern.testing.cases", "from equikern.o3 import Irreps", "testing is left of o3"),
        ("equikern.program.text", "import torch", "program knows numpy only"),
        ("equikern.program.text", "def f():\n    from torch import nn", "program knows numpy only"),
        ("equikern.program.text", "import scipy", "program knows numpy only"),
        ("equikern.ops.contract", "import triton.language as tl", "only backends does"),
        ("equikern.ops.contract", "from equikern import _C", "only backends does"),
        ("equikern.ops.contract", "from .._C import contract", "only backends does"),
        ("equikern", "from equikern._C import cpu_target", "only backends does"),
        ("equikern.nn.gate", "import torch\nlib = torch.library.Library('a', 'DEF')", "only ops does"),
        ("equikern.nn.gate", "import torch as t\nt.library.define('a', 'b')", "only ops does"),
        ("equikern.nn.gate", "from torch import library", "only ops does"),
        ("equikern.nn.gate", "from torch.library import custom_op", "only ops does"),
        ("equikern.interop.e3nn", "import e3nn", "inside the function"),
        ("equikern.interop.e3nn", "try:\n    from e3nn import o3\nexcept ImportError:\n    o3 = None", "inside the"),
        ("equikern.interop.e3nn", "class A:\n    import ase.io", "inside the function"),
        ("equikern.cli.demo", "import importlib\nm = importlib.import_module('sevenn')", "inside the function"),
        ("equikern", "import matplotlib", "inside the function"),
        ("equikern.shortcuts", "", "is in no layer"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, reason: str) -> None:
    found = violations(source, module)
    assert len(found) == 1 and reason in found[0], found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("equikern.backends.cpu", "from equikern import _C\nimport triton"),
        ("equikern.ops.contract", "import torch\nlib = torch.library.Library('a', 'DEF')"),
        ("equikern.nn.gate", "from equikern.o3 import Irreps\nfrom .activation import silu"),
        ("equikern.io.spherical", "from equikern.o3 import Irreps"),
        ("equikern.interop.e3nn", "def f():\n    import e3nn"),
        ("equikern.interop.ase", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import ase"),
        ("equikern.interop.e3nn", "from equikern.interop import mace"),
        ("equikern.testing.cases", "from equikern.ops import contract\nfrom equikern.testing import compare"),
        ("equikern.cli.certify", "from equikern.testing.symmetry import examine"),
        ("equikern.cli.info", "import equikern\nfrom equikern import accelerate, __version__"),
        ("equikern", "from equikern.interop import accelerate"),
    ],
)
def test_what_the_rule_allows_passes(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_every_package_was_looked_at() -> None:
    assert {module_name(path) for path in FILES} >= {"equikern", "equikern.errors", "equikern.program.text"}


def test_native_code_includes_python_only_in_bind_and_torch_only_in_torch() -> None:
    include = re.compile(r'^\s*#\s*include\s*[<"](Python\.h|pybind11/|torch/|ATen/|c10/)', re.MULTILINE)
    home = {"Python.h": "bind", "pybind11/": "bind", "torch/": "torch", "ATen/": "torch", "c10/": "torch"}
    found = []
    for path in sorted(ROOT.glob("csrc/**/*")):
        if path.is_file():
            folder = path.relative_to(ROOT / "csrc").parts[0]
            found += [f"{path.name}: {m[1]}" for m in include.finditer(path.read_text()) if folder != home[m[1]]]
    assert found == []
