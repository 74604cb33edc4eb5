"""The source of a sweep: Triton text that a program becomes. `tools/show_kernel.py` prints it.

One program instance owns a row of z and a block of channels; it walks the edges of that row, forms the sums over y in
registers (M_ik = sum_j C_ijk y_j, docs/programs.md), and keeps what it sums in registers. Gradients of x are written an
edge and summed afterwards (`sum_source`), those of y in parts, one for each block of channels: nothing is added in
memory, so that every run gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from equikern.backends.triton.units import Segment, Unit, UnitPath, segments, units
from equikern.program import EDGE, SHARED, Program, parse
from equikern.program.program import W, X, Y, Z

HX, HY, HW = range(4, 7)
NAMES = ("x", "y", "w", "g", "hx", "hy", "hw")
RESULTS = {X: "dx", Y: "dy", W: "dw", Z: "z"}
HEADER = "import triton\nimport triton.language as tl\n\nNAN = tl.constexpr(float('nan'))\n\n\n"


class Sweep(NamedTuple):
    """What one kernel computes: the opened slots of a product, or (`second`) of its derivative along hx, hy and hw."""

    text: str
    open: tuple[int, ...]
    given: tuple[int, ...]  # which of x y w g hx hy hw are there
    second: bool = False
    fixed: bool = True  # unweighted paths take part
    lanes: int = 32  # most channels of a program instance
    unroll: int = 1  # edges of a row that are in flight together

    @property
    def program(self) -> Program:
        """The base program."""
        return parse(self.text)


class Block(NamedTuple):
    """The program instances of a row that compute a unit, `lanes` channels each."""

    unit: int
    instances: int
    lanes: int


@cache
def sweep_units(sweep: Sweep) -> tuple[Unit, ...]:
    """The units of a sweep."""
    return units(sweep.text, Z in sweep.open, sweep.second, sweep.fixed)


@cache
def blocks(sweep: Sweep) -> tuple[Block, ...]:
    """How many program instances each unit takes for a row, and how many channels one has."""
    made = []
    for n, unit in enumerate(sweep_units(sweep)):
        lanes = min(_power_of_two(unit.mul), sweep.lanes)
        made.append(Block(n, -(-unit.mul // lanes), lanes))
    return tuple(made)


def instances(sweep: Sweep) -> int:
    """Program instances of a row."""
    return sum(block.instances for block in blocks(sweep))


@cache
def part_columns(sweep: Sweep) -> tuple[dict[tuple[int, int], int], int]:
    """Where an edge's gradient of x lies: the first column of (unit, segment of x), components first; and the width."""
    at, width = {}, 0
    for n, unit in enumerate(sweep_units(sweep)):
        for segment in unit.xs:
            at[n, segment.number] = width
            width += -(-segment.mul * segment.dim // 4) * 4
    return at, width


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


@cache
def arguments(sweep: Sweep) -> tuple[str, ...]:
    """Names of the kernel's arguments, pointers first."""
    program = sweep.program
    names = [NAMES[slot] for slot in sweep.given]
    names += [RESULTS[slot] for slot in sweep.open]
    names += ["x_index"] if program.rows[X] != EDGE else []
    names += ["edges", "x_rows"] if program.rows[Z] == EDGE else ["ptr", "order", "x_rows"]
    return tuple(names)


@cache
def sweep_source(sweep: Sweep) -> str:
    """The kernel of a sweep and the functions of its units."""
    names = ", ".join(arguments(sweep))
    by_edge = sweep.program.rows[Z] == EDGE
    functions = [_unit(sweep, n, unit) for n, unit in enumerate(sweep_units(sweep))]
    lines = [
        '@triton.jit(do_not_specialize=["edges", "x_rows"])'
        if by_edge
        else '@triton.jit(do_not_specialize=["x_rows"])',
        f"def sweep_kernel({names}, T: tl.constexpr, ROWS: tl.constexpr):",
        "    pid = tl.program_id(0).to(tl.int64)",
        f"    row = pid // {instances(sweep)}",
        f"    block = (pid % {instances(sweep)}).to(tl.int32)",
    ]
    end, branch = 0, "if"
    for block in blocks(sweep):
        call = f"unit_{block.unit}({names}, row, block, (block - {end}) * {block.lanes}, T, ROWS)"
        end += block.instances
        lines += [f"    {branch} block < {end}:", f"        {call}"]
        branch = "elif"
    title = f"# {sweep.text}\n# opens {', '.join(RESULTS[s] for s in sweep.open)}"
    title += " of its derivative along hx, hy, hw\n" if sweep.second else "\n"
    return title + HEADER + "\n\n\n".join([*functions, "\n".join(lines)]) + "\n"


class _Lines:
    """Lines of a function, and which of its variables have a value."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self.set: set[str] = set()

    def add(self, *lines: str) -> None:
        self.lines += ["    " * self.depth + line for line in lines]

    def accumulate(self, name: str, value: str) -> None:
        self.add(f"{name} {'+=' if name in self.set else '='} {value}")
        self.set.add(name)

    def value(self, name: str, lanes: int) -> str:
        return name if name in self.set else f"tl.zeros([{lanes}], T)"


def _unit(sweep: Sweep, n: int, unit: Unit) -> str:
    """The function of one unit: a row of z, `lanes` channels from u0 on."""
    program, block = sweep.program, blocks(sweep)[n]
    out = _Lines()
    by_edge = program.rows[Z] == EDGE
    out.add(f"u = u0 + tl.arange(0, {block.lanes})")
    if unit.mul % block.lanes:
        out.add(f"inside = u < {unit.mul}")
    if Y in sweep.open:
        out.add(f"columns = tl.arange(0, {_power_of_two(program.dims[Y])})")
    carried = _carried(sweep, unit)
    for name in carried:
        out.add(f"{name} = tl.zeros([{block.lanes}], T)")
        out.set.add(name)
    if by_edge:
        out.add("for e in range(row * ROWS, tl.minimum(row * ROWS + ROWS, edges)):")
    else:
        out.add("first = tl.load(ptr + row)", "last = tl.load(ptr + row + 1)")
        if 3 in sweep.given:
            _load_segments(out, sweep, unit, unit.zs, "g", "row")
        edges = (
            f"tl.range(first, last, loop_unroll_factor={sweep.unroll})" if sweep.unroll > 1 else "range(first, last)"
        )
        out.add(f"for t in {edges}:")
    out.depth += 1
    if not by_edge:
        out.add("e = tl.load(order + t)")
    _edge(out, sweep, n, unit)
    if by_edge and Z in sweep.open:
        _store_z(out, sweep, unit, "e")
    out.depth -= 1
    if not by_edge and Z in sweep.open:
        _store_z(out, sweep, unit, "row")
    if W in sweep.open and program.rows[W] == SHARED:
        for path in unit.paths:
            if path.w >= 0:
                pointer = f"dw + row * {program.dims[W]} + {path.w} + u"
                out.add(_store(pointer, f"dw{path.number}", unit, block.lanes))
    names = ", ".join(arguments(sweep))
    head = f"def unit_{n}({names}, row, block, u0, T: tl.constexpr, ROWS: tl.constexpr):"
    return "\n".join(["@triton.jit", head, *out.lines])


def _carried(sweep: Sweep, unit: Unit) -> list[str]:
    """Variables that sum over the edges of a row."""
    program, names = sweep.program, []
    if Z in sweep.open and program.rows[Z] != EDGE:
        names += [f"z{c.number}_{k}" for c in unit.zs for k in range(c.dim)]
    if W in sweep.open and program.rows[W] == SHARED:
        names += [f"dw{path.number}" for path in unit.paths if path.w >= 0]
    return names


def _masked(unit: Unit, lanes: int) -> str:
    return ", mask=inside, other=0.0" if unit.mul % lanes else ""


def _store(pointer: str, value: str, unit: Unit, lanes: int) -> str:
    return f"tl.store({pointer}, {value}{', mask=inside' if unit.mul % lanes else ''})"


def _column(program: Program, segment: Segment, component: int) -> str:
    """Offset in a row of channel u of a component."""
    if program.layout == "mul_ir":
        return f"{segment.start + component} + u" + (f" * {segment.dim}" if segment.dim > 1 else "")
    return f"{segment.start + component * segment.mul} + u"


def _load_segments(
    out: _Lines, sweep: Sweep, unit: Unit, of: Iterable[Segment], name: str, row: str, guarded: bool = False
) -> None:
    """Load `name<segment>_<component>` for the unit's channels."""
    program = sweep.program
    dim = program.dims[Z] if name == "g" else program.dims[X]
    lanes = min(_power_of_two(unit.mul), sweep.lanes)
    mask = _masked(unit, lanes)
    if guarded:
        mask = f", mask={'inside & ' if mask else ''}known, other=fill"
    for segment in of:
        for k in range(segment.dim):
            pointer = f"{name} + {row} * {dim} + {_column(program, segment, k)}"
            out.add(f"{name}{segment.number}_{k} = tl.load({pointer}{mask}).to(T)")


def _store_z(out: _Lines, sweep: Sweep, unit: Unit, row: str) -> None:
    program = sweep.program
    lanes = min(_power_of_two(unit.mul), sweep.lanes)
    for segment in unit.zs:
        for k in range(segment.dim):
            pointer = f"z + {row} * {program.dims[Z]} + {_column(program, segment, k)}"
            out.add(_store(pointer, out.value(f"z{segment.number}_{k}", lanes), unit, lanes))


def _edge(out: _Lines, sweep: Sweep, n: int, unit: Unit) -> None:
    """What is done for one edge e."""
    program, given = sweep.program, sweep.given
    lanes = blocks(sweep)[n].lanes
    indexed = program.rows[X] != EDGE
    if indexed and (X in given or HX in given):
        out.add("s = tl.load(x_index + e)", "known = (s >= 0) & (s < x_rows)", "fill = tl.where(known, 0.0, NAN)")
    if program.rows[Z] == EDGE and 3 in given:
        _load_segments(out, sweep, unit, unit.zs, "g", "e")
    used = sorted({cell.j for path in unit.paths for cell in path.cells})
    for slot, name in ((Y, "y"), (HY, "hy")):
        if slot in given:
            out.add(*(f"{name}{j} = tl.load({name} + e * {program.dims[Y]} + {j}).to(T)" for j in used))
    for slot, name in ((X, "x"), (HX, "hx")):
        if slot in given:
            _load_segments(out, sweep, unit, unit.xs, name, "s" if indexed else "e", guarded=indexed)
    for path in unit.paths:
        _path(out, sweep, unit, path, lanes)
    if X in sweep.open:
        at, width = part_columns(sweep)
        for a in unit.xs:
            for i in range(a.dim):
                pointer = f"dx + e * {width} + {at[n, a.number] + i * a.mul} + u"
                out.add(_store(pointer, out.value(f"dx{a.number}_{i}", lanes), unit, lanes))
    if Y in sweep.open:
        size = _power_of_two(program.dims[Y])
        out.add(f"sums = tl.zeros([{size}], T)")
        for j in used:
            if f"dy{j}" in out.set:
                out.add(f"sums = tl.where(columns == {j}, tl.sum(dy{j}, 0), sums)")
        mask = "" if size == program.dims[Y] else f", mask=columns < {program.dims[Y]}"
        out.add(f"tl.store(dy + (e * {instances(sweep)} + block) * {program.dims[Y]} + columns, sums{mask})")
    carried = _carried(sweep, unit)
    out.set = {name for name in out.set if name.startswith("z") or name in carried}


def _path(out: _Lines, sweep: Sweep, unit: Unit, path: UnitPath, lanes: int) -> None:
    """One path: sums over y first (m, n of its tangent), then every opened slot."""
    program, opened, has = sweep.program, set(sweep.open), set(sweep.given)
    out.add(f"# path {path.number}")
    weighted, name = path.w >= 0, path.number
    where = f"{path.w} + u" if program.rows[W] == SHARED else f"e * {program.dims[W]} + {path.w} + u"
    for slot, letter in ((W, "w"), (HW, "hw")):
        if weighted and slot in has:
            load = f"tl.load({letter} + {where}{_masked(unit, lanes)}).to(T)"
            out.add(f"{letter}u = {load} * {path.scale!r}" if path.scale != 1.0 else f"{letter}u = {load}")
    weight = "wu" if weighted else repr(path.scale)
    hx, hy, hw = HX in has, HY in has, HW in has and weighted
    rows = sorted({cell.i for cell in path.cells})
    # a = w x, and its derivative b along hx and hw.
    derived = sweep.second and (hx or hw)
    for i in rows:
        if (sweep.second and hy and Z in opened) or (not sweep.second and opened & {Z, Y}):
            out.add(f"a{i} = {weight} * x{path.x}_{i}")
        if derived and opened & {Z, Y}:
            terms = [f"{weight} * hx{path.x}_{i}"] * hx + [f"hwu * x{path.x}_{i}"] * hw
            out.add(f"b{i} = {' + '.join(terms)}")
    into_w = W in opened and weighted
    if sweep.second:
        sums_z = [("m", "b")] * derived + [("n", "a")] * hy
        t, s = (X in opened and hw) or (into_w and hx), hy and (X in opened or into_w)
        factor = "b" if derived else ""
    else:
        sums_z, factor = [("m", "a")], "a"
        t, s = X in opened or into_w, False
    sums_z = sums_z if Z in opened else []
    matrices = {m for m, _ in sums_z} | ({"m"} if t else set()) | ({"n"} if s else set())
    for i in rows:
        for k in sorted({cell.k for cell in path.cells if cell.i == i}):
            cells = [cell for cell in path.cells if (cell.i, cell.k) == (i, k)]
            for m, letter in (("m", "y"), ("n", "hy")):
                if m in matrices:
                    out.add(f"{m} = {_combination([(c.value, f'{letter}{c.j}') for c in cells])}")
            for m, v in sums_z:
                out.accumulate(f"z{path.z}_{k}", f"{m} * {v}{i}")
            if t:
                out.accumulate(f"t{i}", f"m * g{path.z}_{k}")
            if s:
                out.accumulate(f"s{i}", f"n * g{path.z}_{k}")
            if Y in opened and factor:
                out.add(f"q = {factor}{i} * g{path.z}_{k}")
                for c in cells:
                    out.accumulate(f"dy{c.j}", "q" if c.value == 1 else "-q" if c.value == -1 else f"{c.value!r} * q")
        if X in opened:
            for present, term in (
                (not sweep.second, f"{weight} * t{i}"),
                (sweep.second and hw, f"hwu * t{i}"),
                (s, f"{weight} * s{i}"),
            ):
                if present:
                    out.accumulate(f"dx{path.x}_{i}", term)
        if into_w:
            for present, term in (
                (not sweep.second, f"x{path.x}_{i} * t{i}"),
                (sweep.second and hx, f"hx{path.x}_{i} * t{i}"),
                (s, f"x{path.x}_{i} * s{i}"),
            ):
                if present:
                    out.accumulate("f", term)
        out.set -= {f"t{i}", f"s{i}"}
    if into_w:
        value = f"{out.value('f', lanes)} * {path.scale!r}"
        if program.rows[W] == SHARED:
            out.add(f"dw{name} += {value}")
        else:
            out.add(_store(f"dw + {where}", value, unit, lanes))
        out.set.discard("f")


def _combination(terms: list[tuple[float, str]]) -> str:
    """`y1 - 0.5 * y2` of [(1, "y1"), (-0.5, "y2")]."""
    text = ""
    for value, name in terms:
        sign = ("-" if value < 0 else "") if not text else (" - " if value < 0 else " + ")
        text += sign + (name if abs(value) == 1 else f"{abs(value)!r} * {name}")
    return text


@cache
def sum_source(sweep: Sweep) -> str:
    """The kernel that sums the gradients of x that a sweep wrote for each edge, over the edges of a row of x."""
    program = sweep.program
    at, width = part_columns(sweep)
    indexed = program.rows[X] != EDGE
    names = "part, dx, ptr, order" if indexed else "part, dx"
    functions, lines, end, branch = [], [], 0, "if"
    for segment in segments(program.operands[X].irreps):  # type: ignore[arg-type]
        parts = [first for (_, number), first in at.items() if number == segment.number]
        if not parts:
            continue
        functions.append(_sum_segment(program, segment, parts, width, names, indexed))
        count = -(-segment.mul * segment.dim // SUM_LANES)
        call = f"segment_{segment.number}({names}, row, (block - {end}) * {SUM_LANES}, T)"
        end += count
        lines += [f"    {branch} block < {end}:", f"        {call}"]
        branch = "elif"
    head = [
        "@triton.jit",
        f"def sum_kernel({names}, T: tl.constexpr):",
        "    pid = tl.program_id(0).to(tl.int64)",
        f"    row = pid // {end}",
        f"    block = (pid % {end}).to(tl.int32)",
    ]
    return f"# {sweep.text}\n" + HEADER + "\n\n\n".join([*functions, "\n".join([*head, *lines])]) + "\n"


SUM_LANES = 128


def sum_blocks(sweep: Sweep) -> int:
    """Program instances of the sum for a row of x."""
    read = {number for _, number in part_columns(sweep)[0]}
    of = segments(sweep.program.operands[X].irreps)  # type: ignore[arg-type]
    return sum(-(-s.mul * s.dim // SUM_LANES) for s in of if s.number in read)


def _sum_segment(program: Program, segment: Segment, parts: list[int], width: int, names: str, indexed: bool) -> str:
    size = segment.mul * segment.dim
    column = (
        "c"
        if program.layout == "ir_mul" or segment.dim == 1
        else f"(c % {segment.mul}) * {segment.dim} + c // {segment.mul}"
    )
    mask = "" if size % SUM_LANES == 0 else f", mask=c < {size}, other=0.0"
    out = _Lines()
    out.add(f"c = c0 + tl.arange(0, {SUM_LANES})", f"total = tl.zeros([{SUM_LANES}], T)")
    loads = [f"total += tl.load(part + e * {width} + {first} + c{mask})" for first in parts]
    if indexed:
        out.add("for t in range(tl.load(ptr + row), tl.load(ptr + row + 1)):", "    e = tl.load(order + t)")
        out.add(*("    " + load for load in loads))
    else:
        out.add("e = row", *loads)
    out.add(f"tl.store(dx + row * {program.dims[X]} + {segment.start} + {column}, total{mask.split(', other')[0]})")
    head = f"@triton.jit\ndef segment_{segment.number}({names}, row, c0, T: tl.constexpr):"
    return "\n".join([head, *out.lines])
