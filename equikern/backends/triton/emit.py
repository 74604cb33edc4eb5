"""The source of a sweep: Triton text that a program becomes. `tools/show_kernel.py` prints it.

One program instance owns a row of z (or of x) and a block of channels; it walks the edges of that row and keeps what it
sums in registers (`path`). Gradients of x are written an edge and summed afterwards (`sums`), those of y in
parts, one for each block of channels: nothing is added in memory, so that every run gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from equikern.backends.gpu.sweep import HB, HW, HX, HY, OPENED, B, Sweep, part_columns, sweep_units, writes_x, y_parts
from equikern.backends.gpu.units import Segment, UnitPath
from equikern.backends.triton.blocks import arguments, blocks, instances
from equikern.backends.triton.path import Wanted, write_path
from equikern.backends.triton.table import add_gradient, load_factors, load_rows, weight
from equikern.backends.triton.text import HEADER, Lines, store_lane_sums
from equikern.program import SHARED, Program
from equikern.program.program import W, X, Y, Z

CONSTANTS = "T: tl.constexpr, ROWS: tl.constexpr"


@cache
def sweep_source(sweep: Sweep) -> str:
    """The kernel of a sweep and the functions of its units."""
    names, many = ", ".join(arguments(sweep)), instances(sweep)
    functions = [_Unit(sweep, n).source() for n in range(len(sweep_units(sweep)))]
    counts = [name for name in arguments(sweep) if name == "edges" or name.endswith("_rows")]
    lines = [
        f"@triton.jit(do_not_specialize={counts})",
        f"def sweep_kernel({names}, {CONSTANTS}):",
        "    pid = tl.program_id(0).to(tl.int64)",
        f"    row = pid // {many}",
        f"    block = (pid % {many}).to(tl.int32)",
    ]
    end, branch = 0, "if"
    for block in blocks(sweep):
        call = f"unit_{block.unit}({names}, row, block, (block - {end}) * {block.lanes}, T, ROWS)"
        end += block.instances
        lines += [f"    {branch} block < {end}:", f"        {call}"]
        branch = "elif"
    title = f"# {sweep.text}\n# opens {', '.join(OPENED[s] for s in sweep.open)}"
    title += f" of its derivative along hx, hy, {'hb' if sweep.table else 'hw'}" if sweep.second else ""
    title += f"\n# weights from rows knot + {sweep.table} of a table, times b\n" if sweep.table else "\n"
    return title + HEADER + "\n\n\n".join([*functions, "\n".join(lines)]) + "\n"


class _Unit:
    """Writes the function of one unit: a row of the owner, `lanes` channels from u0 on."""

    def __init__(self, sweep: Sweep, n: int) -> None:
        self.sweep, self.n, self.unit = sweep, n, sweep_units(sweep)[n]
        self.program, self.lanes = sweep.program, blocks(sweep)[n].lanes
        self.given, self.opened = set(sweep.given), set(sweep.open)
        self.shared = self.program.rows[W] == SHARED
        self.mask = "mask=inside" if self.unit.mul % self.lanes else ""
        self.out = Lines()

    def source(self) -> str:
        """The text of the function."""
        out, sweep = self.out, self.sweep
        out.add(f"u = u0 + tl.arange(0, {self.lanes})")
        out.add(*[f"inside = u < {self.unit.mul}"] * bool(self.mask))
        for name in self._carried():
            out.add(f"{name} = tl.zeros([{self.lanes}], T)")
            out.set.add(name)
        if sweep.by_edge:
            self._walk_own_edges()
        else:
            self._walk_row()
        for path in self.unit.paths:
            if W in self.opened and self.shared and path.w >= 0:
                self._store(f"dw + row * {self.program.dims[W]} + {_weight(path)}", f"dw{path.number}")
        names = ", ".join(arguments(sweep))
        head = f"def unit_{self.n}({names}, row, block, u0, {CONSTANTS}):"
        # TritonGPUCoalesce takes time with the square of what is inlined: half a minute here for some layers.
        apart = "(noinline=True)" if sweep.second and sweep.table else ""
        return "\n".join([f"@triton.jit{apart}", head, *out.lines])

    def _carried(self) -> list[str]:
        """Variables that sum over the edges of a row."""
        names = []
        if not self.sweep.by_edge and self.sweep.owner == Z and Z in self.opened:
            names += [f"z{c.number}_{k}" for c in self.unit.zs for k in range(c.dim)]
        if self.sweep.owner == X:
            names += [f"dx{a.number}_{i}" for a in self.unit.xs for i in range(a.dim)]
        if W in self.opened and self.shared:
            names += [f"dw{path.number}" for path in self.unit.paths if path.w >= 0]
        return names

    # --- the edges of a row

    def _walk_own_edges(self) -> None:
        """z has a row an edge: ROWS of them."""
        self.out.add("for e in range(row * ROWS, tl.minimum(row * ROWS + ROWS, edges)):")
        self.out.depth += 1
        self.out.add(*["s = tl.load(x_index + e)"] * self.sweep.indexed)
        self.out.add(*["k = tl.load(knot + e)"] * bool(self.sweep.table))
        self._edge()
        if Z in self.opened:
            self._store_segments(self.unit.zs, "z", "z", self.program.dims[Z], "e")
        self.out.depth -= 1

    def _walk_row(self) -> None:
        """The edges of the plan. Indices are read ahead, so that an edge's data do not wait for them."""
        out, indexed = self.out, self.sweep.indexed
        index = "x_index" if self.sweep.owner == Z else "z_index"
        out.add("first = tl.load(ptr + row)", "last = tl.load(ptr + row + 1)")
        if self.sweep.owner == Z and Z in self.given:
            self._set(self._segment_loads(self.unit.zs, "g", self.program.dims[Z], "row", self.mask))
        out.add("e = tl.load(order + first, mask=first < last, other=0)")
        out.add("after = tl.load(order + first + 1, mask=first + 1 < last, other=0)")
        ahead = [("s", index)] * indexed + [("k", "knot")] * bool(self.sweep.table)
        out.add(*(f"{name} = tl.load({pointer} + e)" for name, pointer in ahead))
        out.add("for t in range(first, last):")
        out.depth += 1
        out.add("later = tl.load(order + t + 2, mask=t + 2 < last, other=0)")
        out.add(*(f"{name}_after = tl.load({pointer} + after)" for name, pointer in ahead))
        self._edge()
        out.add("e, after = after, later", *(f"{name} = {name}_after" for name, _ in ahead))
        out.depth -= 1
        if self.sweep.owner == X:
            self._store_segments(self.unit.xs, "dx", "dx", self.program.dims[X], "row")
        elif Z in self.opened:
            self._store_segments(self.unit.zs, "z", "z", self.program.dims[Z], "row")

    def _edge(self) -> None:
        """What is done for edge e, with row s of the other operand."""
        out = self.out
        if self.sweep.indexed:
            rows = "x_rows" if self.sweep.owner == Z else "z_rows"
            out.add(f"known = (s >= 0) & (s < {rows})", "fill = tl.where(known, 0.0, float('nan'))")
        self._load_edge()
        for path in self.unit.paths:
            self._path(path)
        if X in self.opened and self.sweep.owner == Z and writes_x(self.sweep):
            self._store_segments(self.unit.xs, "dx", "dx", self.program.dims[X], "e")
        elif X in self.opened and self.sweep.owner == Z:
            at, width = part_columns(self.sweep)
            for a in self.unit.xs:
                for i in range(a.dim):
                    start = at[self.n, a.number] + i * a.mul
                    self._store(f"dx + e * {width} + {start} + u", f"dx{a.number}_{i}")
        at, parts = y_parts(self.sweep)
        for b in self.unit.ys if Y in self.opened else ():
            row = f"(e * {parts} + {at[self.n, b.number]}) * {self.program.dims[Y]}"
            for k in range(b.dim):
                self._store(f"dy + {row} + {_column(self.program, b, k)}", f"dy{b.first + k}")
        for slot, dim in ((Y, self.program.dims[Y]), (B, len(self.sweep.table))):
            if slot in self.opened and not (slot == Y and self.unit.ys):
                name = OPENED[slot]
                sums = {j: f"{name}{j}" for j in range(dim) if f"{name}{j}" in out.set}
                store_lane_sums(out, sums, self.lanes, dim, f"{name} + (e * {instances(self.sweep)} + block) * {dim}")
        out.set = {name for name in out.set if name.startswith("z") or name in self._carried()}

    def _path(self, path: UnitPath) -> None:
        out, weighted = self.out, path.w >= 0
        out.add(f"# path {path.number}")
        scale = "" if path.scale == 1 else f" * {path.scale!r}"
        table, tangent = self.sweep.table, HB if self.sweep.table else HW
        if weighted and table:
            load_rows(out, table, self.program.dims[W], path.w, self.mask)
        for slot, name in ((B if table else W, "w"), (tangent, "hw")):
            if weighted and slot in self.given:
                value = weight(table, name) if table else f"{name}_{path.number}"
                out.add(f"{name}u = {value}{scale}")
        into_w = weighted and bool(self.opened & {W, B})
        tangents = (HX in self.given, HY in self.given, tangent in self.given and weighted)
        opened = (X in self.opened, Y in self.opened, into_w, Z in self.opened)
        write_path(out, path, Wanted(*opened, self.sweep.second, *tangents))
        if into_w and table:
            if self.sweep.second:
                load_rows(out, table, self.program.dims[W], path.w, self.mask, again=True)
            add_gradient(out, table, scale)
        elif into_w and self.shared:
            out.add(*[f"dw{path.number} += f{scale}"] * ("f" in out.set))
        elif into_w:
            self._store(f"dw + {self._weights(path)}", "f", scale)
        out.set.discard("f")

    # --- what is read and written

    def _load_edge(self) -> None:
        out, program, indexed = self.out, self.program, self.sweep.indexed
        row = "s" if indexed else "e"
        guarded = f"mask={'inside & ' if self.mask else ''}known, other=fill" if indexed else self.mask
        used = sorted({cell.j for path in self.unit.paths for cell in path.cells})
        for slot, name in ((Y, "y"), (HY, "hy")):
            at = f"{name} + e * {program.dims[Y]}"
            for b in self.unit.ys if slot in self.given else ():
                self._set((f"{name}{b.first + k}", f"{at} + {_column(program, b, k)}", self.mask) for k in range(b.dim))
            if slot in self.given and not self.unit.ys:
                self._set([(f"{name}{j}", f"{at} + {j}", "") for j in used])
        for slot, name in ((X, "x"), (HX, "hx")):
            if slot in self.given:
                self._set(self._segment_loads(self.unit.xs, name, program.dims[X], row, guarded))
        if Z in self.given and (self.sweep.owner == X or self.sweep.by_edge):
            mask, at = (guarded, row) if self.sweep.owner == X else (self.mask, "e")
            self._set(self._segment_loads(self.unit.zs, "g", program.dims[Z], at, mask))
        if self.sweep.table:
            load_factors(out, self.sweep)
            return
        for path in self.unit.paths:
            for slot, name in ((W, "w"), (HW, "hw")):
                if path.w >= 0 and slot in self.given:
                    self._set([(f"{name}_{path.number}", f"{name} + {self._weights(path)}", self.mask)])

    def _weights(self, path: UnitPath) -> str:
        """Offset of channel u's weight."""
        return _weight(path) if self.shared else f"e * {self.program.dims[W]} + {_weight(path)}"

    def _set(self, loads: Iterable[tuple[str, str, str]]) -> None:
        """Load variables: (name, pointer, mask)."""
        for name, pointer, mask in loads:
            mask += ", other=0.0" if mask == "mask=inside" else ""
            self.out.add(f"{name} = tl.load({pointer}{', ' if mask else ''}{mask}).to(T)")

    def _segment_loads(
        self, of: Iterable[Segment], name: str, dim: int, row: str, mask: str
    ) -> list[tuple[str, str, str]]:
        return [
            (f"{name}{segment.number}_{k}", f"{name} + {row} * {dim} + {_column(self.program, segment, k)}", mask)
            for segment in of
            for k in range(segment.dim)
        ]

    def _store_segments(self, of: Iterable[Segment], name: str, pointer: str, dim: int, row: str) -> None:
        for segment in of:
            for k in range(segment.dim):
                self._store(
                    f"{pointer} + {row} * {dim} + {_column(self.program, segment, k)}", f"{name}{segment.number}_{k}"
                )

    def _store(self, pointer: str, name: str, scale: str = "") -> None:
        """Store a variable, or zeros where it has no value."""
        value = name + scale if name in self.out.set else f"tl.zeros([{self.lanes}], T)"
        self.out.add(f"tl.store({pointer}, {value}{', ' if self.mask else ''}{self.mask})")


def _weight(path: UnitPath) -> str:
    """Offset in a row of channel u's weight."""
    return f"{path.w} + u" + (f" * {path.step}" if path.step > 1 else "")


def _column(program: Program, segment: Segment, component: int) -> str:
    """Offset in a row of channel u of a component."""
    if program.layout == "mul_ir":
        return f"{segment.start + component} + u" + (f" * {segment.dim}" if segment.dim > 1 else "")
    return f"{segment.start + component * segment.mul} + u"
