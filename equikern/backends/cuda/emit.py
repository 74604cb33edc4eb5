"""What is emitted for a sweep: constants, tables, and the calls of each unit. The arithmetic is in csrc/cuda."""

from __future__ import annotations

from functools import cache

from equikern.backends.cuda.layout import Layout, components, layout
from equikern.backends.gpu.sweep import HW, HX, HY, NAMES, RESULTS, Sweep, part_columns, sweep_units
from equikern.backends.gpu.units import Segment, UnitPath, segments
from equikern.program import SHARED
from equikern.program.program import W, X, Y, Z

SUM_THREADS = 128
_SIZES = {"float": 4, "double": 8}


@cache
def sweep_source(sweep: Sweep, real: str, chunk: int) -> str:
    """The kernel of a sweep over numbers of C type `real`; `chunk`: edges of a row where z has a row an edge."""
    made = layout(sweep, _SIZES[real])
    title = f"// {sweep.text}\n// opens {', '.join(RESULTS[s] for s in sweep.open)}"
    title += " of its derivative along hx, hy, hw" if sweep.second else ""
    units = [_Unit(sweep, made, n).source() for n in range(len(sweep_units(sweep)))]
    return "\n".join(
        [
            title,
            '#include "sweep.cuh"',
            "using namespace eqk;",
            f"using T = {real};",
            _form(sweep),
            *units,
            *_tables(sweep, made),
            _kernel_constants(sweep, made, chunk),
            f"EQK_KERNEL(sweep_kernel, {made.warps} * WARP, Operands<T>) {{ sweep<Kernel>(argument); }}",
            "",
        ]
    )


def _form(sweep: Sweep) -> str:
    opened = {name: slot in sweep.open for slot, name in enumerate("XYWZ")}
    given = {NAMES[slot].upper(): slot in sweep.given for slot in (HX, HY, HW)}
    flags = opened | {"SECOND": sweep.second, "READS_Y": Y in sweep.given} | given
    dims = zip(("XDIM", "YDIM", "WDIM", "ZDIM"), sweep.program.dims, strict=True)
    lines = [
        f"  static constexpr bool {', '.join(f'{n} = {str(on).lower()}' for n, on in flags.items())};",
        f"  static constexpr Index {', '.join(f'{n} = {dim}' for n, dim in dims)}, PARTS = {part_columns(sweep)[1]};",
    ]
    return "\n".join(["struct Form {", *lines, "};"])


def _tables(sweep: Sweep, made: Layout) -> list[str]:
    """The coefficients by entry of the matrices, and by column of y."""
    by_entry: list[list[tuple[int, float]]] = [[] for _ in range(made.all_entries)]
    by_column: list[list[tuple[int, float]]] = [[] for _ in range(sweep.program.dims[Y])]
    for unit, firsts in zip(sweep_units(sweep), made.entries, strict=True):
        for path, first in zip(unit.paths, firsts, strict=True):
            _, d2, d3 = components(sweep, unit, path)
            for cell in path.cells:
                if d2 == 1 and cell.i:
                    continue  # a multiple of the unit matrix: its first element stands for all
                entry = first + (0 if d2 == 1 else cell.i * d3 + cell.k)
                by_entry[entry].append((cell.j, cell.value * path.scale))
                by_column[cell.j].append((entry, cell.value * path.scale))
    return [*_table("ENTRY", by_entry), *(_table("COLUMN", by_column) if Y in sweep.open else [])]


def _table(name: str, lists: list[list[tuple[int, float]]]) -> list[str]:
    begins = [0]
    for cells in lists:
        begins.append(begins[-1] + len(cells))
    values = ", ".join(f"{{{at}, T({value!r})}}" for cells in lists for at, value in cells)
    return [
        f"EQK_TABLE int {name}_BEGINS[] = {{{', '.join(map(str, begins))}}};",
        f"EQK_TABLE Cell<T> OF_{name}[] = {{{values}}};",
    ]


def _kernel_constants(sweep: Sweep, made: Layout, chunk: int) -> str:
    units = sweep_units(sweep)
    held = max(_Unit(sweep, made, n).held for n in range(len(units)))
    widest = max(end - first[0] for first, end in zip(made.entries, made.ends, strict=True))
    numbers = {"WARPS": made.warps, "THREADS": made.warps * 32, "BLOCKS": made.blocks, "BATCH": made.batch}
    numbers |= {"CHUNK": chunk, "ENTRIES": made.all_entries, "MOMENTS": widest, "HELD": max(held, 1)}
    flags = {"BY_EDGE": sweep.by_edge, "INDEXED": sweep.indexed}
    lines = [
        f"  static constexpr int {', '.join(f'{n} = {value}' for n, value in numbers.items())};",
        f"  static constexpr bool {', '.join(f'{n} = {str(on).lower()}' for n, on in flags.items())};",
        f"  using Units = eqk::Units<{', '.join(f'Unit{n}' for n in range(len(units)))}>;",
    ]
    for name in ["entry", "column"] if Y in sweep.open else ["entry"]:
        upper = name.upper()
        lines += [
            f"  static EQK_DEVICE int {name}_begins(int n) {{ return {upper}_BEGINS[n]; }}",
            f"  static EQK_DEVICE Cell<T> of_{name}(int n) {{ return OF_{upper}[n]; }}",
        ]
    return "\n".join(["struct Kernel : Form {", *lines, "};"])


class _Unit:
    """Writes the struct of one unit. An array in registers has the name of its tensor and its segment: g2, hx0."""

    def __init__(self, sweep: Sweep, made: Layout, n: int) -> None:
        self.sweep, self.made, self.n, self.unit = sweep, made, n, sweep_units(sweep)[n]
        self.given, self.opened, program = set(sweep.given), set(sweep.open), sweep.program
        self.shared = program.rows[W] == SHARED
        self.carried: dict[str, int] = {}  # place among the values that are held from edge to edge, over V
        self.held = 0
        own = sweep.owner == Z and not sweep.by_edge
        carried = [(f"g{c.number}", c.dim) for c in self.unit.zs if own and Z in self.given]
        carried += [(f"z{c.number}", c.dim) for c in self.unit.zs if own and Z in self.opened]
        carried += [(f"dx{a.number}", a.dim) for a in self.unit.xs if sweep.owner == X]
        carried += [(f"dw{p.number}", 1) for p in self.unit.paths if self.shared and W in self.opened and p.w >= 0]
        for name, dim in carried:
            self.carried[name] = self.held
            self.held += dim * made.lanes[n]

    def source(self) -> str:
        """The text of the struct."""
        n, made = self.n, self.made
        first, end = made.entries[n][0], made.ends[n]
        return "\n".join(
            [
                f"struct Unit{n} {{",
                f"  static constexpr int MUL = {self.unit.mul}, V = {made.lanes[n]}, TASKS = {made.tasks[n]};",
                f"  static constexpr int FIRST_ENTRY = {first}, ENTRIES = {end - first};",
                *self._names(),
                "  static EQK_DEVICE void begin(const Operands<T>& in, Index row, int u, T* held) {",
                *self._begin(),
                "  }",
                "  static EQK_DEVICE void edge(const Operands<T>& in, const T* m, const T* h, Index e, Index s, int u,",
                "                              int lane, T* held, T* moments) {",
                *self._edge(),
                "  }",
                "  static EQK_DEVICE void end(const Operands<T>& in, Index row, int u, T* held) {",
                *self._end(),
                "  }",
                "};",
            ]
        )

    def _names(self) -> list[str]:
        """The segments of x and z, of the weights, and of an edge's gradient of x."""
        order = "true" if self.sweep.program.layout == "mul_ir" else "false"
        columns = [(f"X{a.number}", a.start, a.dim, order) for a in self.unit.xs]
        columns += [(f"Z{c.number}", c.start, c.dim, order) for c in self.unit.zs]
        columns += [(f"W{p.number}", p.w, 1, "false") for p in self.unit.paths if p.w >= 0]
        if X in self.opened and self.sweep.owner == Z:
            at = part_columns(self.sweep)[0]
            columns += [(f"P{a.number}", at[self.n, a.number], a.dim, "false") for a in self.unit.xs]
        return [f"  using {name} = Segment<{start}, MUL, {dim}, V, {o}>;" for name, start, dim, o in columns]

    def _begin(self) -> list[str]:
        loads = [(f"Z{c.number}", f"g{c.number}") for c in self.unit.zs if f"g{c.number}" in self.carried]
        return [f"    {s}::load(row_of(in.g, row, Form::ZDIM), u, {self._array(name)});" for s, name in loads]

    def _edge(self) -> list[str]:
        lines = []
        for slot, segment in ((X, "X"), (HX, "X"), (Z, "Z")):
            if slot in self.given:
                owned = slot == Z and self.sweep.owner == Z
                row = "e" if owned else "s"
                for s in self.unit.zs if segment == "Z" else self.unit.xs:
                    name = f"{NAMES[slot]}{s.number}"
                    if name not in self.carried:
                        lines.append(f"    T {name}[{s.dim} * V];")
                        source = f"row_of(in.{NAMES[slot]}, {row}, Form::{segment}DIM)"
                        lines.append(f"    {segment}{s.number}::load({source}, u, {name});")
        sums = [(f"dx{a.number}", a) for a in self.unit.xs if X in self.opened]
        sums += [(f"z{c.number}", c) for c in self.unit.zs if Z in self.opened]
        lines += [f"    T {name}[{s.dim} * V] = {{}};" for name, s in sums if name not in self.carried]
        for path, entry in zip(self.unit.paths, self.made.entries[self.n], strict=True):
            lines += self._path(path, entry)
        for a in self.unit.xs:
            if X in self.opened and f"dx{a.number}" not in self.carried:
                lines.append(f"    P{a.number}::store(in.dx + e * Form::PARTS, u, dx{a.number});")
        for c in self.unit.zs:
            if Z in self.opened and f"z{c.number}" not in self.carried:
                lines.append(f"    Z{c.number}::store(in.z + e * Form::ZDIM, u, z{c.number});")
        return lines

    def _path(self, path: UnitPath, entry: int) -> list[str]:
        d1, d2, d3 = components(self.sweep, self.unit, path)
        kind, weighted = f"Diagonal<{d1}>" if d2 == 1 else f"Dense<{d1}, {d3}>", path.w >= 0
        lines, n = [], path.number
        offset = "" if self.shared else " + e * Form::WDIM"
        for slot, name in ((W, "w"), (HW, "hw")):
            if weighted and slot in self.given:
                lines.append(f"      T {name}[V]; W{n}::load(in.{name}{offset}, u, {name});")
        into = W in self.opened and weighted and not self.shared
        lines += ["      T dw[V] = {};"] if into else []
        dw = "dw" if into else self._array(f"dw{n}")
        arrays = [self._array(f"x{path.x}"), self._array(f"hx{path.x}"), self._array(f"g{path.z}")]
        arrays += [self._array(f"z{path.z}"), self._array(f"dx{path.x}"), dw]
        weights = [name if weighted and slot in self.given else "nullptr" for slot, name in ((W, "w"), (HW, "hw"))]
        moments = f"moments + {entry - self.made.entries[self.n][0]}"
        lines += [
            f"      path<Form, {kind}, V, {str(weighted).lower()}, T>(",
            f"          m + {entry}, h + {entry}, {', '.join([*weights, *arrays])}, lane, {moments});",
        ]
        lines += [f"      W{n}::store(in.dw{offset}, u, dw);"] if into else []
        return [f"    {{  // path {n}", *lines, "    }"]

    def _end(self) -> list[str]:
        lines = []
        for letter, of, pointer in (("z", self.unit.zs, "z"), ("dx", self.unit.xs, "dx")):
            for s in of:
                if (name := f"{letter}{s.number}") in self.carried:
                    segment = letter[-1].upper()
                    row = f"row_of(in.{pointer}, row, Form::{segment}DIM)"
                    lines.append(f"    {segment}{s.number}::store({row}, u, {self._array(name)});")
        for path in self.unit.paths:
            if (name := f"dw{path.number}") in self.carried:
                lines.append(f"    W{path.number}::store(row_of(in.dw, row, Form::WDIM), u, {self._array(name)});")
        return lines

    def _array(self, name: str) -> str:
        """An array of the unit: held from edge to edge, of this edge, or none."""
        if name in self.carried:
            return f"held + {self.carried[name]}"
        letters = name.rstrip("0123456789")
        there = letters in ("dx", "z") and {"dx": X, "z": Z}[letters] in self.opened
        there |= letters in ("x", "hx", "g") and NAMES.index(letters) in self.given
        return name if there else "nullptr"


def _summed(sweep: Sweep) -> list[Segment]:
    read = {number for _, number in part_columns(sweep)[0]}
    return [s for s in segments(sweep.program.operands[X].irreps) if s.number in read]  # type: ignore[arg-type]


@cache
def sum_source(sweep: Sweep, real: str) -> str:
    """The kernel that sums the gradients of x that a sweep wrote for each edge, over the edges of a row of x."""
    at, width = part_columns(sweep)
    order = "true" if sweep.program.layout == "mul_ir" else "false"
    lines = []
    for segment in _summed(sweep):
        firsts = [first for (_, number), first in at.items() if number == segment.number]
        numbers = ", ".join(map(str, (segment.start, segment.mul, segment.dim, order, *firsts)))
        call = f"argument, blockIdx.x, {width}, {sweep.program.dims[X]}, threadIdx.x, {SUM_THREADS}"
        lines.append(f"  Summed<{numbers}>::sum({call});")
    head = f'// {sweep.text}\n#include "sum.cuh"\nusing namespace eqk;\n'
    return "\n".join([f"{head}EQK_KERNEL(sum_kernel, {SUM_THREADS}, Parts<{real}>) {{", *lines, "}", ""])
