"""What is emitted for a sweep: constants, coefficients, and the calls of each unit. The arithmetic is in csrc/cuda."""

from __future__ import annotations

from functools import cache
from itertools import accumulate, groupby
from typing import NamedTuple

from equikern.backends.cuda.layout import WARP, Layout, columns, components
from equikern.backends.gpu.sweep import (
    HB,
    HW,
    HX,
    HY,
    OPENED,
    OPERANDS,
    B,
    Sweep,
    part_columns,
    sweep_units,
    writes_x,
    y_parts,
)
from equikern.backends.gpu.units import Cell, Unit, UnitPath
from equikern.program import SHARED
from equikern.program.program import W, X, Y, Z


class Reals(NamedTuple):
    """C types: of the numbers in a row, and what they are computed and summed in."""

    row: str
    wide: str


@cache
def sweep_source(sweep: Sweep, made: Layout, reals: Reals, chunk: int) -> str:
    """The kernel of a sweep; `chunk`: edges of a row of the grid where z has a row an edge."""
    title = f"// {sweep.text}\n// opens {', '.join(OPENED[s] for s in sweep.open)}"
    title += f" of its derivative along hx, hy, {'hb' if sweep.table else 'hw'}" if sweep.second else ""
    title += f"\n// weights from rows knot + {sweep.table} of a table, times b" if sweep.table else ""
    units = sweep_units(sweep)
    lines = [title, '#include "sweep.cuh"', "using namespace eqk;", _form(sweep, made, reals, chunk)]
    for n, unit in enumerate(units):
        lines += [*(_path(sweep, unit, path) for path in unit.paths), _Unit(sweep, made, n).source()]
    lines += [
        f"using Kernel = Units<{', '.join(f'Unit{n}' for n in range(len(units)))}>;",
        f"EQK_BOUNDED_KERNEL(sweep_kernel, Form::WARPS * WARP, {made.blocks}, Operands<Form>) {{",
        "  Kernel::sweep(argument);",
        "}",
    ]
    return "\n".join([*lines, ""])


def _form(sweep: Sweep, made: Layout, reals: Reals, chunk: int) -> str:
    shared, parts = sweep.program.rows[W] == SHARED, y_parts(sweep)[1] if sweep.by_channel else made.all_tasks
    types = {"Real": reals.row, "T": reals.wide, "RealX": reals.row if writes_x(sweep) else reals.wide}
    types |= {"RealY": reals.row if parts == 1 else reals.wide, "RealW": reals.wide if shared else reals.row}
    opened = {name: slot in sweep.open for name, slot in (("X", X), ("Y", Y), ("Z", Z), ("B", B))}
    opened["W"] = bool({W, B} & set(sweep.open))
    given = {"HX": HX in sweep.given, "HY": HY in sweep.given, "HW": bool({HW, HB} & set(sweep.given))}
    flags = opened | {"SECOND": sweep.second, "READS_Y": Y in sweep.given} | given
    flags |= {"BY_EDGE": sweep.by_edge, "INDEXED": sweep.indexed, "BY_CHANNEL": sweep.by_channel}
    dims = dict(zip(("XDIM", "YDIM", "WDIM", "ZDIM"), sweep.program.dims, strict=True))
    dims |= {"PARTS": part_columns(sweep)[1]}
    counts = {"TASKS": made.all_tasks, "WARPS": made.warps, "AHEAD": made.ahead, "CHUNK": chunk}
    counts |= {"STAGES": made.stages}
    lines = [
        *(f"  using {name} = {kind};" for name, kind in types.items()),
        f"  using Table = eqk::Table<{', '.join(map(str, (sweep.program.dims[W], *sweep.table)))}>;",
        f"  static constexpr bool {', '.join(f'{n} = {str(on).lower()}' for n, on in flags.items())};",
        f"  static constexpr Index {', '.join(f'{n} = {value}' for n, value in dims.items())};",
        f"  static constexpr int {', '.join(f'{n} = {value}' for n, value in counts.items())};",
    ]
    return "\n".join(["struct Form {", *lines, "};"])


def _path(sweep: Sweep, unit: Unit, path: UnitPath) -> str:
    """Sizes and coefficients of a path, by entry of its matrix. Where y has channels, j counts in its segment."""
    first = {segment.number: segment.first for segment in unit.ys}.get(path.y, 0)
    entries: dict[tuple[int, int], list[Cell]] = {}
    for cell in sorted(path.cells):
        entries.setdefault((cell.i, cell.k), []).append(cell)
    x, y, z = components(sweep, path)
    lines = [
        f"struct Path{path.number} {{  // {x} x {y} to {z}",
        f"  static constexpr int IN = {x};",
        f"  static constexpr bool WEIGHTED = {str(path.w >= 0).lower()};",
        f"  static constexpr double SCALE = {path.scale!r};",
        "  template <class T, class Do>",
        "  static EQK_DEVICE void entries(Do&& at) {",
        "    using C = Cell<T>;",
    ]
    for (i, k), cells in sorted(entries.items()):
        lines.append(f"    at({i}, {k}, {', '.join(f'C{{{c.j - first}, T({c.value!r})}}' for c in cells)});")
    return "\n".join([*lines, "  }", "};"])


class _Unit:
    """Writes the struct of one unit. An array in registers has the name of its tensor and its segment: g2, hx0."""

    def __init__(self, sweep: Sweep, made: Layout, n: int) -> None:
        self.sweep, self.n, self.unit, program = sweep, n, sweep_units(sweep)[n], sweep.program
        self.lanes, self.tasks, self.keep = made.lanes[n], made.tasks[n], made.keep
        self.given, self.opened = set(sweep.given), set(sweep.open)
        self.shared = program.rows[W] == SHARED
        # Of an edge, for every lane: columns of y, factors of a table's rows.
        self.columns, self.factors = ([OPERANDS[s] for s in of if s in self.given] for of in ((Y, HY), (B, HB)))
        self.columns = [] if self.unit.ys else self.columns
        self.spread = dict.fromkeys(self.columns, program.dims[Y]) | dict.fromkeys(self.factors, len(sweep.table))
        own = sweep.owner == Z and not sweep.by_edge
        # Of the row, held from edge to edge: where they lie, over V.
        held = [(f"g{c.number}", c.dim) for c in self.unit.zs if own and Z in self.given]
        held += [(f"z{c.number}", c.dim) for c in self.unit.zs if own and Z in self.opened]
        held += [(f"dx{a.number}", a.dim) for a in self.unit.xs if sweep.owner == X]
        held += [(f"dw{p.number}", 1) for p in self.unit.paths if self.shared and W in self.opened and p.w >= 0]
        ends = list(accumulate((dim for _, dim in held), initial=0))
        self.held, self.all_held = dict(zip((name for name, _ in held), ends, strict=False)), ends[-1]

    def source(self) -> str:
        """The text of the struct."""
        arguments, reads = "const Operands<Form>& in", self._reads()
        return "\n".join(
            [
                f"struct Unit{self.n} {{",
                "  using T = Form::T;",
                f"  static constexpr int MUL = {self.unit.mul}, V = {self.lanes}, TASKS = {self.tasks};",
                f"  static constexpr int HELD = {max(self.all_held, 1)} * V, STAGE = {self._stage()[1]};",
                *self._names(),
                "  struct Reads {",
                *(f"    T {name}[{size} * V];" for name, size, *_ in reads),
                *(f"    Spread<{size}, T> {name};" for name, size in self.spread.items()),
                "  };",
                f"  static EQK_DEVICE void read({arguments}, Index e, Index s, int u, int lane, Reads& to) {{",
                *(f"    {known}{segment}::load({row}, u, to.{name});" for name, _, segment, row, known in reads),
                *(f"    to.{name}.load(in.{name} + e * {size}, lane);" for name, size in self.spread.items()),
                "  }",
                *self._staged(),
                "  static EQK_DEVICE void missing(const Edge& edge, Reads& of) {",
                *(f"    if (edge.other < 0) fill(of.{name}, not_a_number<T>());" for name, *_, known in reads if known),
                *(f"    if (edge.knot < 0) fill(of.{name}.part, not_a_number<T>());" for name in self.factors),
                "  }",
                "  static EQK_DEVICE bool inside(int u) { return MUL % (V * WARP) == 0 || u < MUL; }",
                f"  static EQK_DEVICE void begin({arguments}, Index row, int u, T* held) {{",
                *self._begin(),
                "  }",
                f"  static EQK_DEVICE void edge({arguments}, const Reads& of, Index e, Index knot, int u,",
                "                              T* held, T* dy, T* db) {",
                *self._edge(),
                "  }",
                f"  static EQK_DEVICE void end({arguments}, Index row, int u, T* held) {{",
                *self._end(),
                "  }",
                "};",
            ]
        )

    def _names(self) -> list[str]:
        """The segments of x and z, of the weights, and of an edge's gradient of x."""
        order = "true" if self.sweep.program.layout == "mul_ir" else "false"
        once = "false, false" if self.keep else "false, true"
        names = [(f"X{a.number}", a.start, a.dim, order) for a in self.unit.xs]
        names += [(f"Y{b.number}", b.start, b.dim, order) for b in self.unit.ys]
        names += [(f"Z{c.number}", c.start, c.dim, order) for c in self.unit.zs]
        weighted = [p for p in self.unit.paths if p.w >= 0 and not self.sweep.table]
        # Weights of several channels of y lie side by side, for other paths to read.
        names += [
            (f"W{p.number}", p.w, 1, f"false, false, {p.step}" if self.shared or p.step > 1 else once) for p in weighted
        ]
        if X in self.opened and not writes_x(self.sweep):
            at = part_columns(self.sweep)[0]
            names += [(f"P{a.number}", at[self.n, a.number], a.dim, once) for a in self.unit.xs]
        return [f"  using {name} = Segment<{start}, MUL, {dim}, V, {o}>;" for name, start, dim, o in names]

    def _reads(self) -> list[tuple[str, int, str, str, str]]:
        """What is read for an edge: array, components, segment, row, and whether that is there."""
        found = []
        segments = {X: self.unit.xs, Y: self.unit.ys, Z: self.unit.zs, HX: self.unit.xs, HY: self.unit.ys}
        for slot, of in segments.items():
            letter = OPENED[slot % 4][-1].upper()
            row = "e" if slot in (Y, HY) or (slot == Z and self.sweep.owner == Z) else "s"
            for s in of if slot in self.given else ():
                if (name := f"{OPERANDS[slot]}{s.number}") not in self.held:
                    source = f"in.{OPERANDS[slot]}, {row} * Form::{letter}DIM"
                    found.append((name, s.dim, f"{letter}{s.number}", source, "if (s >= 0) " if row == "s" else ""))
        for slot in (W, HW) if not self.sweep.table else ():
            for path in self.unit.paths if slot in self.given else ():
                if path.w >= 0:
                    name = OPERANDS[slot]
                    found.append((f"{name}{path.number}", 1, f"W{path.number}", f"in.{name}, {self._row_of_w()}", ""))
        return found

    def _stage(self) -> tuple[dict[str, int], int]:
        """Where what is read for an edge lies in the memory of the block, in numbers, and how many they are."""
        sizes = {name: size * self.lanes * WARP for name, size, *_ in self._reads()}
        sizes |= {name: -(-size // WARP) * WARP for name, size in self.spread.items()}
        ends = list(accumulate(sizes.values(), initial=0))
        return dict(zip(sizes, ends, strict=False)), ends[-1]

    def _staged(self) -> list[str]:
        """The functions that copy what is read for an edge into the memory of the block, and load it from there."""
        at, reads, spread = self._stage()[0], self._reads(), self.spread.items()
        fetch = [f"{known}{s}::fetch({row}, u, lane, to + {at[name]});" for name, _, s, row, known in reads]
        fetch += [f"Spread<{n}, T>::fetch(in.{name} + e * {n}, lane, to + {at[name]});" for name, n in spread]
        take = [f"{s}::take(from + {at[name]}, lane, to.{name});" for name, _, s, *_ in reads]
        take += [f"to.{name}.load(from + {at[name]}, lane);" for name, _ in spread]
        return [
            "  static EQK_DEVICE void fetch(const Operands<Form>& in, Index e, Index s, int u, int lane,",
            "                               Form::Real* to) {",
            *(f"    {line}" for line in fetch),
            "  }",
            "  static EQK_DEVICE void take(Form::Real* from, int lane, Reads& to) {",
            *(f"    {line}" for line in take),
            "  }",
        ]

    def _row_of_w(self) -> str:
        return "0" if self.shared else "e * Form::WDIM"

    def _begin(self) -> list[str]:
        loads = [(f"Z{c.number}", f"g{c.number}") for c in self.unit.zs if f"g{c.number}" in self.held]
        return [f"    {s}::load(in.g, row * Form::ZDIM, u, {self._array(name)});" for s, name in loads]

    def _edge(self) -> list[str]:
        sums = [(f"dx{a.number}", a) for a in self.unit.xs if X in self.opened]
        sums += [(f"dy{b.number}", b) for b in self.unit.ys if Y in self.opened]
        sums += [(f"z{c.number}", c) for c in self.unit.zs if Z in self.opened]
        lines = [f"    T {name}[{s.dim} * V] = {{}};" for name, s in sums if name not in self.held]
        lines += ["    T y[Form::YDIM], hy[Form::YDIM];"] * (not self.unit.ys)
        rows = ", ".join(map(str, range(len(self.sweep.table))))
        for name in self.factors:
            lines += [f"    T {name}[Form::Table::ROWS];", f"    of.{name}.gather<{rows}>({name});"]
        # Paths of the same columns of y follow each other: these are gathered once, and only while they are needed.
        for read, paths in groupby(sorted(self.unit.paths, key=columns), key=columns):
            lines += [f"    of.{name}.gather<{', '.join(map(str, read))}>({name});" for name in self.columns]
            for path in paths:
                lines += self._path(path)
        segment, width = ("X", "XDIM") if writes_x(self.sweep) else ("P", "PARTS")
        for a in self.unit.xs:
            if X in self.opened and f"dx{a.number}" not in self.held:
                lines.append(f"    {segment}{a.number}::store(in.dx, e * Form::{width}, u, dx{a.number});")
        at, parts = y_parts(self.sweep)
        for b in self.unit.ys if Y in self.opened else ():
            row = f"(e * {parts} + {at[self.n, b.number]}) * Form::YDIM"
            lines.append(f"    Y{b.number}::store(in.dy, {row}, u, dy{b.number});")
        for c in self.unit.zs:
            if Z in self.opened and f"z{c.number}" not in self.held:
                lines.append(f"    Z{c.number}::store(in.z, e * Form::ZDIM, u, z{c.number});")
        return lines

    def _path(self, path: UnitPath) -> list[str]:
        n, weighted = path.number, path.w >= 0
        names = [f"w{n}", f"hw{n}", f"x{path.x}", f"hx{path.x}", f"y{path.y}", f"hy{path.y}"]
        names += [f"g{path.z}", f"z{path.z}", f"dx{path.x}"]
        arrays = [self._array(name) for name in names]
        before: list[str] = []
        after: list[str] = []
        if weighted and self.sweep.table:
            arrays[:2], before = self._combined(path)
            after = ["Form::Table::add_gradient<V>(dw, row, db);"] * (B in self.opened)
        elif weighted and W in self.opened and not self.shared:
            after = [f"W{n}::store(in.dw, {self._row_of_w()}, u, dw);"]
        arrays += ["dw" if after else self._array(f"dw{n}"), self._array(f"dy{path.y}")]
        before += ["T dw[V] = {};"] * bool(after)
        call = f"path<Form, Path{n}, V, T>({', '.join(arrays)});"
        if not before:
            return [f"    {call}"]
        return ["    {", *(f"      {line}" for line in (*before, call, *after)), "    }"]

    def _combined(self, path: UnitPath) -> tuple[list[str], list[str]]:
        """The arrays of a path's weight and tangent where they come from a table, and the lines that make them."""
        lines = [
            "Pack<Form::Real, V> row[Form::Table::ROWS];",
            f"Form::Table::load<{path.w}, MUL, V>(in.w, knot, u, row);",
        ]
        arrays = {"b": "w", "hb": "hw"}
        for name in self.factors:
            lines += [f"T {arrays[name]}[V];", f"Form::Table::combine<V>({name}, row, {arrays[name]});"]
        return [array if name in self.factors else "nullptr" for name, array in arrays.items()], lines

    def _end(self) -> list[str]:
        lines = []
        for letter, of in (("z", self.unit.zs), ("dx", self.unit.xs)):
            for s in of:
                if (name := f"{letter}{s.number}") in self.held:
                    segment = letter[-1].upper()
                    row = f"in.{letter}, row * Form::{segment}DIM"
                    lines.append(f"    {segment}{s.number}::store({row}, u, {self._array(name)});")
        for path in self.unit.paths:
            if (name := f"dw{path.number}") in self.held:
                lines.append(f"    W{path.number}::store(in.dw, row * Form::WDIM, u, {self._array(name)});")
        return lines

    def _array(self, name: str) -> str:
        """An array of the unit: held from edge to edge, read for this edge, a sum of it, or none."""
        if name in self.held:
            return f"held + {self.held[name]} * V"
        if any(name == read for read, *_ in self._reads()):
            return f"of.{name}"
        letters = name.rstrip("0123456789")
        if letters.endswith("y") and not self.unit.ys:
            return letters
        sums = {OPENED[slot] for slot in (X, Y, Z) if slot in self.opened}
        return name if letters in sums else "nullptr"
