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

from equikern.backends.triton.path import Wanted, write_path
from equikern.backends.triton.text import Lines, power_of_two, store_lane_sums
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
    ahead: bool = False  # an edge's data are loaded while the edge before is computed

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
        lanes = min(power_of_two(unit.mul), sweep.lanes)
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


def _unit(sweep: Sweep, n: int, unit: Unit) -> str:
    """The function of one unit: a row of z, `lanes` channels from u0 on."""
    program, block = sweep.program, blocks(sweep)[n]
    out = Lines()
    by_edge = program.rows[Z] == EDGE
    out.add(f"u = u0 + tl.arange(0, {block.lanes})")
    if unit.mul % block.lanes:
        out.add(f"inside = u < {unit.mul}")
    carried = _carried(sweep, unit)
    for name in carried:
        out.add(f"{name} = tl.zeros([{block.lanes}], T)")
        out.set.add(name)
    indexed = program.rows[X] != EDGE and bool({X, HX} & set(sweep.given))
    if by_edge:
        out.add("for e in range(row * ROWS, tl.minimum(row * ROWS + ROWS, edges)):")
        out.depth += 1
        out.add(*["s = tl.load(x_index + e)"] * indexed)
    else:
        _walk(out, sweep, n, unit, indexed)
    _edge(out, sweep, n, unit)
    if not by_edge:
        _advance(out, sweep, n, unit, indexed)
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


def _walk(out: Lines, sweep: Sweep, n: int, unit: Unit, indexed: bool) -> None:
    """The loop over the edges of a row. Indices are read ahead, so that an edge's data do not wait for them."""
    out.add("first = tl.load(ptr + row)", "last = tl.load(ptr + row + 1)")
    if Z in sweep.given:
        inside = "mask=inside" if unit.mul % blocks(sweep)[n].lanes else ""
        loads = _segment_loads(sweep.program, unit.zs, "g", sweep.program.dims[Z], "row", inside)
        out.add(*(f"{name} = {value}" for name, value in loads))
    out.add("e = tl.load(order + first, mask=first < last, other=0)")
    out.add("after = tl.load(order + first + 1, mask=first + 1 < last, other=0)")
    out.add(*["s = tl.load(x_index + e)"] * indexed)
    if sweep.ahead:
        out.add("later = tl.load(order + first + 2, mask=first + 2 < last, other=0)")
        out.add(*["s_after = tl.load(x_index + after)"] * indexed)
        _load_edge(out, sweep, n, unit)
    out.add("for t in range(first, last):")
    out.depth += 1
    if sweep.ahead:
        out.add("last_read = tl.load(order + t + 3, mask=t + 3 < last, other=0)")
        out.add(*["s_later = tl.load(x_index + later)"] * indexed)
        _load_edge(out, sweep, n, unit, "after", "s_after", "_next")
    else:
        out.add("later = tl.load(order + t + 2, mask=t + 2 < last, other=0)")
        out.add(*["s_after = tl.load(x_index + after)"] * indexed)


def _advance(out: Lines, sweep: Sweep, n: int, unit: Unit, indexed: bool) -> None:
    """The next edge of `_walk`."""
    if sweep.ahead:
        out.add("e, after, later = after, later, last_read", *["s, s_after = s_after, s_later"] * indexed)
        out.add(*(f"{name} = {name}_next" for name, _ in _loads(sweep, n, unit)))
    else:
        out.add("e, after = after, later", *["s = s_after"] * indexed)


def _load_edge(out: Lines, sweep: Sweep, n: int, unit: Unit, e: str = "e", s: str = "s", suffix: str = "") -> None:
    """Load what edge e reads, of row s of x."""
    if sweep.program.rows[X] != EDGE and {X, HX} & set(sweep.given):
        out.add(f"known = ({s} >= 0) & ({s} < x_rows)", "fill = tl.where(known, 0.0, NAN)")
    out.add(*(f"{name}{suffix} = {value}" for name, value in _loads(sweep, n, unit, e, s)))


def _carried(sweep: Sweep, unit: Unit) -> list[str]:
    """Variables that sum over the edges of a row."""
    program, names = sweep.program, []
    if Z in sweep.open and program.rows[Z] != EDGE:
        names += [f"z{c.number}_{k}" for c in unit.zs for k in range(c.dim)]
    if W in sweep.open and program.rows[W] == SHARED:
        names += [f"dw{path.number}" for path in unit.paths if path.w >= 0]
    return names


def _store(pointer: str, value: str, unit: Unit, lanes: int) -> str:
    return f"tl.store({pointer}, {value}{', mask=inside' if unit.mul % lanes else ''})"


def _column(program: Program, segment: Segment, component: int) -> str:
    """Offset in a row of channel u of a component."""
    if program.layout == "mul_ir":
        return f"{segment.start + component} + u" + (f" * {segment.dim}" if segment.dim > 1 else "")
    return f"{segment.start + component * segment.mul} + u"


def _store_z(out: Lines, sweep: Sweep, unit: Unit, row: str) -> None:
    program = sweep.program
    lanes = min(power_of_two(unit.mul), sweep.lanes)
    for segment in unit.zs:
        for k in range(segment.dim):
            pointer = f"z + {row} * {program.dims[Z]} + {_column(program, segment, k)}"
            out.add(_store(pointer, out.value(f"z{segment.number}_{k}", lanes), unit, lanes))


def _loads(sweep: Sweep, n: int, unit: Unit, e: str = "e", s: str = "s") -> list[tuple[str, str]]:
    """(variable, expression) of all that edge e reads, of row s of x."""
    program, given, lanes = sweep.program, sweep.given, blocks(sweep)[n].lanes
    inside = "mask=inside" if unit.mul % lanes else ""
    row_x, mask_x = e, inside
    if program.rows[X] != EDGE:
        row_x, mask_x = s, f"mask={'inside & ' if inside else ''}known, other=fill"
    loads = []
    used = sorted({cell.j for path in unit.paths for cell in path.cells})
    for slot, name in ((Y, "y"), (HY, "hy")):
        if slot in given:
            loads += [(f"{name}{j}", _load(f"{name} + {e} * {program.dims[Y]} + {j}", "")) for j in used]
    for slot, name in ((X, "x"), (HX, "hx")):
        if slot in given:
            loads += _segment_loads(program, unit.xs, name, program.dims[X], row_x, mask_x)
    if program.rows[Z] == EDGE and Z in given:
        loads += _segment_loads(program, unit.zs, "g", program.dims[Z], e, inside)
    for path in unit.paths:
        for slot, name in ((W, "w"), (HW, "hw")):
            if path.w >= 0 and slot in given:
                loads.append((f"{name}_{path.number}", _load(f"{name} + {_weights(program, path, e)}", inside)))
    return loads


def _load(pointer: str, mask: str) -> str:
    if mask and "other" not in mask:
        mask += ", other=0.0"
    return f"tl.load({pointer}{', ' if mask else ''}{mask}).to(T)"


def _segment_loads(
    program: Program, of: Iterable[Segment], name: str, dim: int, row: str, mask: str
) -> list[tuple[str, str]]:
    return [
        (f"{name}{segment.number}_{k}", _load(f"{name} + {row} * {dim} + {_column(program, segment, k)}", mask))
        for segment in of
        for k in range(segment.dim)
    ]


def _weights(program: Program, path: UnitPath, e: str = "e") -> str:
    """Offset of channel u's weight of a path."""
    return f"{path.w} + u" if program.rows[W] == SHARED else f"{e} * {program.dims[W]} + {path.w} + u"


def _edge(out: Lines, sweep: Sweep, n: int, unit: Unit) -> None:
    """What is done for one edge e."""
    program, given, opened = sweep.program, set(sweep.given), set(sweep.open)
    lanes = blocks(sweep)[n].lanes
    if not sweep.ahead or program.rows[Z] == EDGE:
        _load_edge(out, sweep, n, unit)
    for path in unit.paths:
        out.add(f"# path {path.number}")
        weighted = path.w >= 0
        for slot, name in ((W, "w"), (HW, "hw")):
            if weighted and slot in given:
                scale = "" if path.scale == 1 else f" * {path.scale!r}"
                out.add(f"{name}u = {name}_{path.number}{scale}")
        into_w = W in opened and weighted
        tangents = (HX in given, HY in given, HW in given and weighted)
        write_path(out, path, Wanted(X in opened, Y in opened, into_w, Z in opened, sweep.second, *tangents))
        if into_w:
            value = f"{out.value('f', lanes)} * {path.scale!r}"
            if program.rows[W] == SHARED:
                out.add(f"dw{path.number} += {value}")
            else:
                out.add(_store(f"dw + {_weights(program, path)}", value, unit, lanes))
            out.set.discard("f")
    if X in opened:
        at, width = part_columns(sweep)
        for a in unit.xs:
            for i in range(a.dim):
                pointer = f"dx + e * {width} + {at[n, a.number] + i * a.mul} + u"
                out.add(_store(pointer, out.value(f"dx{a.number}_{i}", lanes), unit, lanes))
    if Y in opened:
        sums = {j: f"dy{j}" for j in range(program.dims[Y]) if f"dy{j}" in out.set}
        pointer = f"dy + (e * {instances(sweep)} + block) * {program.dims[Y]}"
        store_lane_sums(out, sums, lanes, program.dims[Y], pointer)
    carried = _carried(sweep, unit)
    out.set = {name for name in out.set if name.startswith("z") or name in carried}


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
    out = Lines()
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
