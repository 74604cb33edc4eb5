"""Symmetric contractions in CUDA: what a thread does with its nodes.

The monomials of a program are the points of a tree: below the product p of some components of x lie the products p x_c.
A kernel goes through the tree once. On the way down it makes the products; at a term it adds to the gradients of z and
w; on the way up it gathers q, the polynomial that p is multiplied with, and from p and q the gradients of x. So nothing
but a branch is held. Along tangents every number is one for each set S of them: (a b)_S = sum of a_P b_(S - P), P in S.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import NamedTuple

from equikern.backends.cuda.emit import Reals
from equikern.program.symmetric import Symmetric, parse_symmetric

THREADS, WARP = 128, 32
HELD = {"float": 64, "double": 32}  # gradients of w that a thread sums
NODES = {("float", 0): 2}  # of a thread, by number type and order, where it has registers for more than one
W, Z, X = range(3)


class Point(NamedTuple):
    """A monomial: its terms (row of w, column of z), and the points below it by the component that they add."""

    terms: list[tuple[int, int]]
    below: dict[int, Point]


def tree(program: Symmetric, rows: range | None = None) -> Point:
    """The point of degree 0; with `rows`, of a tree that has only these of the terms, in the order of `ordered`."""
    root = Point([], {})
    of = ordered(program)
    for row in of if rows is None else of[rows.start : rows.stop]:
        column, monomial = program.terms[row]
        point = root
        for component in monomial:
            point = point.below.setdefault(component, Point([], {}))
        point.terms.append((row, column))
    return root


def ordered(program: Symmetric) -> list[int]:
    """Rows of w such that terms with like monomials follow each other."""
    return sorted(range(len(program.terms)), key=lambda row: program.terms[row][1])


class Body:
    """The statements that open slots: for every point of a tree, once."""

    def __init__(self, program: Symmetric, opens: tuple[int, ...], pack: int) -> None:
        self.program, self.pack = program, pack
        self.w, self.z = W in opens, Z in opens
        self.sets = range(program.reads)
        self.x = [slot - X for slot in opens if slot >= X]
        self.lines: list[str] = []

    @cached_property
    def parts(self) -> set[int]:
        """The sets whose coefficients of q are read: the gradient of x_S has that of the others than S in p q."""
        return {part for part in self.sets for s in self.x if part & s == 0}

    def component(self, s: int, i: int) -> str:
        """Of x."""
        return f"x{s}_{i // self.pack}.value[{i % self.pack}]"

    def product(self, a: dict[int, str], b: dict[int, str], s: int) -> str:
        """Coefficient S of a b: "" where it is zero."""
        pairs = [(a[part], b[s ^ part]) for part in self.sets if part & ~s == 0 and part in a and s ^ part in b]
        return " + ".join(f"{first} * {second}" for first, second in pairs)

    def visit(self, point: Point, p: dict[int, str], q: dict[int, str], depth: int = 0) -> None:
        """What lies below a point, of product p; added to q, whose coefficients are named where they have a value."""
        for i, (terms, below) in point.below.items():
            x = {s: self.component(s, i) for s in self.sets}
            lower = x if not depth else {s: text for s in self.sets if (text := self.product(p, x, s))}
            if depth and below:
                self.lines += [f"p{depth}_{s} = {text};" for s, text in lower.items()]
                lower = {s: f"p{depth}_{s}" for s in lower}
            found = self.terms(terms, lower[self.program.reads - 1], depth) if terms else {}
            self.visit(Point([], below), lower, found, depth + 1)
            for s in self.x:
                rest = self.program.reads - 1 - s
                text = self.product(p, found, rest) if depth else found.get(rest, "")
                self.lines += [f"dx{s}_{i} += {text};"] if text else []
            for part in self.parts if depth else ():
                if text := self.product(x, found, part):
                    name = f"q{depth - 1}_{part}"
                    self.lines.append(f"{name} {'+=' if part in q else '='} {text};")
                    q[part] = name

    def terms(self, terms: list[tuple[int, int]], value: str, depth: int) -> dict[int, str]:
        """Terms of one monomial, of a value: the constant of q."""
        if self.w:
            self.lines += [f"dw{row} += z{column} * ({value});" for row, column in terms]
            return {}
        if self.z:
            self.lines.append(f"value = {value};")
        for n, (row, column) in enumerate(terms):
            self.lines.append(f"w = at.weight({row});")
            self.lines += [f"dz{column} += w * value;"] if self.z else []
            self.lines += [f"q{depth}_0 {'+=' if n else '='} w * z{column};"] if self.x else []
        return {0: f"q{depth}_0"} if self.x else {}


def lanes(program: Symmetric) -> int:
    """Threads side by side that have different channels."""
    return min(WARP, 1 << (program.channels - 1).bit_length())


def nodes_of_thread(program: Symmetric, reals: Reals) -> int:
    """Nodes that share a weight once it is read."""
    return NODES.get((reals.wide, program.order), 1)


def _pack(program: Symmetric, reals: Reals) -> int:
    """Components of x that are read at once, 16 bytes at most."""
    most = 16 // {"double": 8, "float": 4}.get(reals.row, 2) if program.layout_x == "channels" else 1
    return max(n for n in (1, 2, 4, 8) if n <= most and program.components % n == 0)


def _kernel(name: str) -> str:
    # Bounded by no count of blocks: with one, all registers are taken, for weights that are read long before their use.
    return f"EQK_BOUNDED_KERNEL({name}, {THREADS}, 0, Form::Argument)"


def _head(program: Symmetric, reals: Reals, nodes: int) -> list[str]:
    columns = {"X": program.columns_x, "Z": program.columns_z}
    sizes = {"TERMS": len(program.terms), "CHANNELS": program.channels}
    sizes |= {"X_DIM": program.irreps_x.dim, "Z_DIM": program.irreps_z.dim}
    numbers = {"READS": program.reads, "X_PACK": _pack(program, reals), "NODES": nodes}
    numbers |= {"THREADS": THREADS, "LANES": lanes(program)}
    lines = [f"// {program}", '#include "symmetric.cuh"', "using namespace eqk;"]
    for name, tables in columns.items():
        for what, values in zip(("FIRST", "STEP"), tables, strict=True):
            lines.append(f"EQK_TABLE Index {name}_{what}[] = {{{', '.join(map(str, values.tolist()))}}};")
    lines += [
        "struct Form {",
        f"  using Real = {reals.row};",
        f"  using Wide = {reals.wide};",
        f"  using Argument = Contraction<Real, Wide, {program.reads}>;",
        f"  static constexpr int {', '.join(f'{n} = {value}' for n, value in numbers.items())};",
        f"  static constexpr Index {', '.join(f'{n} = {value}' for n, value in sizes.items())};",
    ]
    for name in columns:
        lines.append(f"  static EQK_DEVICE Index {name.lower()}_column(int n, Index channel) {{")
        lines.append(f"    return {name}_FIRST[n] + channel * {name}_STEP[n];")
        lines.append("  }")
    return [*lines, "};", "using N = Several<Form::Wide, Form::NODES>;"]


def _reads(program: Symmetric, pack: int, z: bool) -> list[str]:
    firsts = range(0, program.components, pack)
    lines = [f"const auto x{s}_{i // pack} = at.x({s}, {i});" for s in range(program.reads) for i in firsts]
    lines += [f"const N z{k} = at.z({k});" for k in range(len(program.columns_z[0]))] if z else []
    depths, sets = range(program.correlation), range(program.reads)
    return [*lines, f"N value, {', '.join(f'p{d}_{s}, q{d}_{s}' for d in depths for s in sets)};", "Form::Wide w;"]


def _indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


@cache
def node_source(text: str, opens: tuple[int, ...], reals: Reals) -> str:
    """The kernel that opens z and some of x."""
    program = parse_symmetric(text)
    pack = _pack(program, reals)
    body = Body(program, opens, pack)
    body.visit(tree(program), {}, {})
    columns, components = range(len(program.columns_z[0])), range(program.components)
    sums = [f"dz{k}" for k in columns if body.z] + [f"dx{s}_{i}" for s in body.x for i in components]
    writes = [f"at.write_z({k}, dz{k});" for k in columns if body.z]
    for s in body.x:
        for i in components[::pack]:
            row = ", ".join(f"dx{s}_{n}" for n in range(i, i + pack))
            writes.append(f"at.write_x({s}, {i}, {{{row}}});")
    return "\n".join(
        [
            *_head(program, reals, nodes_of_thread(program, reals)),
            f"{_kernel('node_kernel')} {{",
            "  Nodes<Form> at(argument, blockIdx.y);",
            "  if (!at.begin()) return;",
            "  do {",
            *_indented(_reads(program, pack, z=bool(body.x))),
            f"    N {', '.join(f'{name}{{}}' for name in sums)};",
            *_indented(body.lines),
            *_indented(writes),
            "  } while (at.again());",
            "}",
            "",
        ]
    )


@cache
def chunk_source(text: str, reals: Reals) -> tuple[str, int]:
    """The kernel that sums gradients of w over chunks of nodes, and how many parts w has for it."""
    program = parse_symmetric(text)
    pack, rows = _pack(program, reals), len(program.terms)
    parts = [range(first, min(first + HELD[reals.wide], rows)) for first in range(0, rows, HELD[reals.wide])]
    lines = _head(program, reals, 1)
    for n, part in enumerate(parts):
        body = Body(program, (W,), pack)
        body.visit(tree(program, part), {}, {})
        names = [f"dw{row}" for row in ordered(program)[part.start : part.stop]]
        lines += [
            f"EQK_DEVICE void part_{n}(const Form::Argument& argument, Index channels) {{",
            f"  N {', '.join(f'{name}{{}}' for name in names)};",
            "  for (Chunk<Form> at(argument, channels); at.more();) {",
            *_indented(_reads(program, pack, z=True)),
            *_indented(body.lines),
            "    if (!at.ends()) continue;",
            *_indented([f"at.write_w({name[2:]}, {name}), {name} = {{}};" for name in names]),
            "  }",
            "}",
        ]
    lines += [
        f"{_kernel('chunk_kernel')} {{",
        f"  switch (blockIdx.y % {len(parts)}) {{",
        *(f"    case {n}: return part_{n}(argument, blockIdx.y / {len(parts)});" for n in range(len(parts))),
        "  }",
        "}",
        "",
    ]
    return "\n".join(lines), len(parts)


@cache
def sum_source(text: str, reals: Reals) -> str:
    """The kernel that adds up the chunks of each species."""
    lines = _head(parse_symmetric(text), reals, 1)
    return "\n".join([*lines, f"{_kernel('sum_kernel')} {{ sum_parts<Form>(argument); }}", ""])


def sources(text: str, reals: Reals) -> dict[str, str]:
    """The kernels of a step of force training, by name."""
    along = parse_symmetric(text).along().text
    return {
        "forward": node_source(text, (Z,), reals),
        "backward": node_source(text, (X,), reals),
        "double backward": node_source(along, (Z, X), reals),
        "backward of w": chunk_source(text, reals)[0],
        "double backward of w": chunk_source(along, reals)[0],
        "sum of w": sum_source(text, reals),
    }
