"""Programs: scalar polynomial forms F(a0, a1, ...) of named operands, the one thing a backend evaluates.

A program is a *family* (which polynomial), a *layout* (how columns are ordered), operands with row kinds, and paths.
`contract(program, operands, open)` returns dF/da for the open slots; see docs/programs.md.

Families
  product  F = sum over paths of scale * C_ijk * w * x_i * y_j * z_k         operands x y w z
  table    F = sum over paths of scale * C_ijk * (b_c w_c) * x_i * y_j * z_k   operands x y w b z
  linear   F = sum over paths of scale * w * x_i * z_i                       operands x w z

Row kinds say where an operand's row comes from: `edge` (the row of the edge itself), `shared` (one row for all), or any
other name, an indexed kind: the row that the index tensor of that name holds for the edge (`sender`, `receiver`,
`species`). In a table program an edge reads several rows of w, one for each column of b: those at fixed offsets from
the one that its index names (`w[knot:0,1,2,4]`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from equikern.errors import ProgramError
from equikern.program.irreps import Irreps
from equikern.program.wigner import wigner_3j

EDGE, SHARED = "edge", "shared"
MODES = ("uvw", "uvu", "uvv", "uuw", "uuu", "uvuv", "uvu<v", "u<vw")
FAMILIES = {"product": ("x", "y", "w", "z"), "table": ("x", "y", "w", "b", "z"), "linear": ("x", "w", "z")}
LAYOUTS = ("mul_ir", "ir_mul")
X, Y, W, B = range(4)
Z = 3  # of a product
WIDEST = 8  # rows of a table that an edge may read


class Operand(NamedTuple):
    """A named input: where its rows come from, what its columns are (irreps, or a flat width), offsets of its rows."""

    name: str
    row: str
    irreps: Irreps | int
    offsets: tuple[int, ...] = (0,)

    @property
    def dim(self) -> int:
        """Number of columns."""
        return self.irreps if isinstance(self.irreps, int) else self.irreps.dim

    def __str__(self) -> str:
        offsets = "" if self.offsets == (0,) else ":" + ",".join(map(str, self.offsets))
        return f"{self.name}[{self.row}{offsets}] {self.irreps}".rstrip()


class Path(NamedTuple):
    """in1 segment x in2 segment -> out segment; `scale` is the whole fixed factor (in2 is -1 in a linear program)."""

    in1: int
    in2: int
    out: int
    mode: str
    scale: float
    weighted: bool = True


class Read(NamedTuple):
    """One factor of a term: columns of a slot, shaped and lettered for einsum."""

    slot: int
    columns: NDArray[np.int64]
    shape: tuple[int, ...]
    letters: str


class Term(NamedTuple):
    """coefficient * product of reads, summed over all letters."""

    reads: tuple[Read, ...]
    letters: str
    coefficient: NDArray[np.float64]


def mode_shapes(mode: str, m1: int, m2: int, m3: int) -> tuple[tuple[int, ...], int, int]:
    """Of a mode at multiplicities m1, m2: (weight shape, multiplicity of the output, products summed per channel).

    For `uvw`, `uuw` and `u<vw` the output's multiplicity is free: m3 is returned (`uuw` without weight needs m3 = 1).
    """
    pairs = m1 * (m1 - 1) // 2
    return {
        "uvw": ((m1, m2, m3), m3, m1 * m2),
        "uvu": ((m1, m2), m1, m2),
        "uvv": ((m1, m2), m2, m1),
        "uuw": ((m1, m3), m3, m1),
        "uuu": ((m1,), m1, 1),
        "uvuv": ((m1, m2), m1 * m2, 1),
        "uvu<v": ((pairs,), pairs, 1),
        "u<vw": ((pairs, m3), m3, pairs),
    }[mode]


@dataclass(frozen=True)
class Program:
    """A scalar polynomial form; `str(program)` is its text and its identity."""

    family: str
    layout: str
    operands: tuple[Operand, ...]
    paths: tuple[Path, ...]
    derived: tuple[tuple[int, ...], ...] = ()

    # What ops read on every call, plain values so that torch.compile sees constants.
    text: str = field(init=False, compare=False, repr=False)
    names: tuple[str, ...] = field(init=False, compare=False, repr=False)
    rows: tuple[str, ...] = field(init=False, compare=False, repr=False)
    dims: tuple[int, ...] = field(init=False, compare=False, repr=False)
    index_kinds: tuple[str, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        from equikern.program.text import print_program

        _check(self)
        kinds = dict.fromkeys(o.row for o in self.operands if o.row not in (EDGE, SHARED))
        for name, value in (
            ("text", print_program(self)),
            ("names", tuple(slot.name for slot in self.slots)),
            ("rows", tuple(slot.row for slot in self.slots)),
            ("dims", tuple(slot.dim for slot in self.slots)),
            ("index_kinds", tuple(kinds)),
        ):
            object.__setattr__(self, name, value)

    # --- what a program is made of

    @cached_property
    def slots(self) -> tuple[Operand, ...]:
        """The operands, then the tangents that `along` added (named dx, dy, ...)."""
        slots = list(self.operands)
        for group in self.derived:
            for slot in group:
                name = "d" + slots[slot].name
                while any(other.name == name for other in slots):
                    name += "'"
                slots.append(slots[slot]._replace(name=name))
        return tuple(slots)

    @property
    def output(self) -> int:
        """The slot z that the forward pass opens."""
        return len(self.operands) - 1

    @cached_property
    def weight_slices(self) -> tuple[slice, ...]:
        """Columns of w of each path (empty for an unweighted path)."""
        slices, end = [], 0
        for path in self.paths:
            size = self.weight_size(path)
            slices.append(slice(end, end + size))
            end += size
        return tuple(slices)

    def multiplicities(self, path: Path) -> tuple[int, int, int]:
        """(m1, m2, m3) of a path."""
        x, z = self.operands[0].irreps, self.operands[-1].irreps
        m2 = 1 if self.family == "linear" else self.operands[Y].irreps[path.in2].mul  # type: ignore[index]
        return x[path.in1].mul, m2, z[path.out].mul  # type: ignore[index]

    def weight_size(self, path: Path) -> int:
        """Number of weights of a path."""
        if not path.weighted:
            return 0
        return int(np.prod(mode_shapes(path.mode, *self.multiplicities(path))[0]))

    # --- what can be done with it

    def along(self, slots: Sequence[int]) -> Program:
        """Sum over the slots of tangent . dF/da, each tangent a new slot placed last."""
        group = tuple(slots)
        if not group or not all(0 <= slot < len(self.slots) for slot in group):
            raise ProgramError(f"along takes slots of the program, 0 to {len(self.slots) - 1}; got {list(slots)}.")
        return replace(self, derived=(*self.derived, group))

    @cached_property
    def expansions(self) -> tuple[tuple[int, ...], ...]:
        """The base form is multilinear, so F is a sum of it read at other slots: one tuple of slots for each summand.

        A path that does not read a slot which a summand has replaced (an unweighted one, for w) is no part of it.
        """
        maps = [tuple(range(len(self.operands)))]
        first = len(self.operands)
        for group in self.derived:
            maps = [
                (*m[:k], first + n, *m[k + 1 :])
                for n, slot in enumerate(group)
                for m in maps
                for k in range(len(m))
                if m[k] == slot
            ]
            first += len(group)
        return tuple(maps)

    @cached_property
    def terms(self) -> tuple[Term, ...]:
        """The polynomial, term by term."""
        base = [term for n, path in enumerate(self.paths) for term in _path_terms(self, n, path)]
        return tuple(
            Term(tuple(read._replace(slot=slots[read.slot]) for read in term.reads), term.letters, term.coefficient)
            for slots in self.expansions
            for term in base
            if all(slots[k] == k or any(read.slot == k for read in term.reads) for k in range(len(slots)))
        )

    @cached_property
    def linear_slots(self) -> frozenset[int]:
        """The slots that every term reads exactly once."""
        reads = [[read.slot for read in term.reads] for term in self.terms]
        return frozenset(s for s in range(len(self.slots)) if all(slots.count(s) == 1 for slots in reads))

    def reads(self, open: Iterable[int]) -> frozenset[int]:
        """The slots whose values are needed to open the given ones."""
        reads = [{read.slot for read in term.reads} for term in self.terms]
        return frozenset(s for slots in reads for t in open if t in slots for s in slots if s != t)

    # --- what it costs

    def flops(self, edges: int, open: Iterable[int] = ()) -> int:
        """Multiplications and additions in M form (docs/programs.md) for `edges` edges, recomputation not counted."""
        opened = set(open) or {self.output}
        per_edge = 0
        for path in self.paths:
            d1 = self.operands[0].irreps[path.in1].ir.dim  # type: ignore[index]
            d3 = self.operands[-1].irreps[path.out].ir.dim  # type: ignore[index]
            if self.family == "linear":
                per_edge += 2 * self.weight_size(path) * d1 * len(opened)
                continue
            channels = int(np.prod(mode_shapes(path.mode, *self.multiplicities(path))[0]))
            if self.operands[Y].irreps[path.in2].ir.l == 0:  # type: ignore[index]
                per_edge += 2 * channels * _scalar_fmas(self, d1, opened)
            else:
                per_edge += 2 * channels * _channel_fmas(self, d1, d3, opened)
            if self.family == "table" and path.weighted:
                # w from its rows, db and dw; tangents of b (not those of a table) double each
                factors = 1 + len(opened & {W, B})
                per_edge += 2 * channels * len(self.operands[W].offsets) * factors * (2 if self.derived else 1)
        return per_edge * edges

    def bytes(self, rows: Mapping[str, int], itemsize: int, open: Iterable[int] = ()) -> int:
        """Bytes: what is read, once, and what is written; `rows` gives the number of rows of each row kind."""
        opened = set(open) or {self.output}
        count = {SHARED: 1, **rows}
        slots = [*opened, *self.reads(opened)]
        return sum(count[self.slots[s].row] * self.dims[s] * itemsize for s in slots)

    def depth(self, degree: int = 1) -> int:
        """The longest sum into one output element, for outputs that sum over `degree` edges."""
        longest: dict[tuple[int, int], int] = {}
        for path in self.paths:
            x, z = self.operands[0].irreps, self.operands[-1].irreps
            shape, _, summed = mode_shapes(path.mode, *self.multiplicities(path))
            sums = (summed * x[path.in1].ir.dim, int(np.prod(shape)) * z[path.out].ir.dim)  # type: ignore[index]
            for slot, n in ((path.out, sums[0]), (-1 - path.in1, sums[1])):
                longest[(0, slot)] = longest.get((0, slot), 0) + n
        return max(longest.values(), default=1) * max(degree, 1)

    def __str__(self) -> str:
        return self.text


def _channel_fmas(program: Program, d1: int, d3: int, opened: set[int]) -> int:
    """Fused multiply-adds a channel of one path in M form."""
    x, y, w, z = X, Y, W, program.output
    both = {W if program.operands[s].name in "wb" else s for s in opened if s <= z}
    if not program.derived:
        forward = d1 * d3 + d1 if z in both else 0
        inputs = both - {z}
        t = d1 * d3 if inputs & {x, w} else 0
        moments = d1 * d3 if y in inputs else 0
        return forward + t + moments + d1 * len(inputs)
    forward = 2 * d1 * d3 + 3 * d1 if z in both else 0
    t = 2 * d1 * d3 if both & {x, w} else 0
    return forward + t + (d1 * d3 if y in both else 0) + 2 * d1 * len(both - {z})


def _scalar_fmas(program: Program, d: int, opened: set[int]) -> int:
    """Those of a path whose y is a scalar: M is a number times the unit matrix; x g is summed before it comes in."""
    x, y, w, z = X, Y, W, program.output
    both = {W if program.operands[s].name in "wb" else s for s in opened if s <= z}
    times = 2 if program.derived else 1
    forward = (d + 1) * times if z in both else 0
    r = d * times if both & {w, y} else 0
    return forward + r + (d + times if x in both else 0) + times * len(both & {w, y})


def _segment(
    irreps: Irreps, layout: str, n: int, mul_letter: str, ir_letter: str
) -> tuple[NDArray[np.int64], tuple[int, ...], str]:
    start, mul, dim = sum(e.dim for e in irreps[:n]), irreps[n].mul, irreps[n].ir.dim
    columns = start + np.arange(mul * dim)
    if layout == "mul_ir":
        return columns, (mul, dim), mul_letter + ir_letter
    return columns, (dim, mul), ir_letter + mul_letter


def _pairs(
    read: tuple[NDArray[np.int64], tuple[int, ...], str], which: NDArray[np.int64]
) -> tuple[NDArray[np.int64], tuple[int, ...], str]:
    """Take the channels `which` of a segment: the rows or columns of a triangle of pairs, lettered p."""
    columns, shape, letters = read
    grid = columns.reshape(shape)
    axis = 0 if letters[0] in "uv" else 1
    taken = np.moveaxis(np.take(grid, which, axis=axis), axis, 0)
    return taken.reshape(-1), taken.shape, "p" + (letters[1] if axis == 0 else letters[0])


# letters of the channels of x, y, w and z in each mode; p counts the pairs u<v
_MODE_LETTERS = {
    "uvw": ("u", "v", "uvw", "w"),
    "uvu": ("u", "v", "uv", "u"),
    "uvv": ("u", "v", "uv", "v"),
    "uuw": ("u", "u", "uw", "w"),
    "uuu": ("u", "u", "u", "u"),
    "uvuv": ("u", "v", "uv", "uv"),
    "uvu<v": ("u", "v", "p", "p"),
    "u<vw": ("u", "v", "pw", "w"),
}


def _path_terms(program: Program, n: int, path: Path) -> list[Term]:
    x, z = program.operands[0].irreps, program.operands[-1].irreps
    assert isinstance(x, Irreps) and isinstance(z, Irreps)
    m1, m2, m3 = program.multiplicities(path)
    shape, _, _ = mode_shapes(path.mode, m1, m2, m3)
    columns = np.arange(program.weight_slices[n].start, program.weight_slices[n].stop)
    if program.family == "linear":
        reads = [
            Read(0, *_segment(x, program.layout, path.in1, "u", "i")),
            Read(1, columns, (m1, m3), "uw"),
            Read(2, *_segment(z, program.layout, path.out, "w", "i")),
        ]
        return [Term(tuple(reads), "", np.asarray(path.scale))]
    y = program.operands[Y].irreps
    assert isinstance(y, Irreps)
    lx, ly, lw, lz = _MODE_LETTERS[path.mode]
    read_x = _segment(x, program.layout, path.in1, lx, "i")
    read_y = _segment(y, program.layout, path.in2, ly, "j")
    read_z = _segment(z, program.layout, path.out, lz[0], "k")
    if "<" in path.mode:
        first, second = np.triu_indices(m1, 1)
        read_x, read_y = _pairs(read_x, first), _pairs(read_y, second)
    if path.mode == "uvuv":
        dim = z[path.out].ir.dim
        z_shape, z_letters = ((m1, m2, dim), "uvk") if program.layout == "mul_ir" else ((dim, m1, m2), "kuv")
        read_z = (read_z[0], z_shape, z_letters)
    if path.mode == "uuw" and not path.weighted:
        read_z = (read_z[0], (z[path.out].ir.dim,), "k")
    reads = [Read(X, *read_x), Read(Y, *read_y), Read(program.output, *read_z)]
    if path.weighted and program.family == "table":
        w = program.operands[W]
        n = len(w.offsets)
        beside = (w.dim * np.arange(n)[:, None] + columns).reshape(-1)  # of the rows side by side
        reads[2:2] = [Read(W, beside, (n, *shape), "c" + lw), Read(B, np.arange(n), (n,), "c")]
    elif path.weighted:
        reads.insert(2, Read(W, columns, shape, lw))
    triple = (x[path.in1].ir.l, y[path.in2].ir.l, z[path.out].ir.l)
    return [Term(tuple(reads), "ijk", path.scale * wigner_3j(*triple))]


# --- checks


def _check(program: Program) -> None:
    if program.family not in FAMILIES:
        raise ProgramError(f"unknown family {program.family!r}; use one of {', '.join(FAMILIES)}.")
    if program.layout not in LAYOUTS:
        raise ProgramError(f"unknown layout {program.layout!r}; use one of {', '.join(LAYOUTS)}.")
    names = tuple(o.name for o in program.operands)
    if names != FAMILIES[program.family]:
        raise ProgramError(f"a {program.family} program has operands {FAMILIES[program.family]}; got {names}.")
    for operand in program.operands:
        if (operand.name in "wb") != isinstance(operand.irreps, int):
            raise ProgramError(f"operands w and b have a flat width and all others have irreps; got {operand}.")
        if not operand.row.isidentifier():
            raise ProgramError(f"a row kind is a name like edge, sender or species; got {operand.row!r}.")
        if operand.offsets != (0,) and (program.family, operand.name) != ("table", "w"):
            raise ProgramError(f"only w of a table program has offsets; got {operand}.")
    if program.family == "table":
        w, b = program.operands[W], program.operands[B]
        rising = list(w.offsets) == sorted(set(w.offsets)) and w.offsets[:1] == (0,)
        if not rising or len(w.offsets) > WIDEST or b.dim != len(w.offsets):
            raise ProgramError(
                f"a table program reads 1 to {WIDEST} rows of w, at offsets that rise from 0, and as many columns of "
                f"b; got {w} and {b}."
            )
        if w.row in (EDGE, SHARED) or b.row != EDGE:
            raise ProgramError(f"a table program reads w by an index and b by edge; got {w} and {b}.")
    for n, path in enumerate(program.paths):
        _check_path(program, n, path)
    width = program.weight_slices[-1].stop if program.paths else 0
    given = program.operands[names.index("w")].dim
    if given != width:
        raise ProgramError(f"the paths read {width} weights but operand w has width {given}.")


def _check_path(program: Program, n: int, path: Path) -> None:
    linear = program.family == "linear"
    names = [("x", path.in1, program.operands[0].irreps), ("z", path.out, program.operands[-1].irreps)]
    if not linear:
        names.insert(1, ("y", path.in2, program.operands[Y].irreps))
    for name, segment, irreps in names:
        if not 0 <= segment < len(irreps):  # type: ignore[arg-type]
            raise ProgramError(f"path {n} uses segment {segment} of {name}, which has {len(irreps)}: {irreps}.")  # type: ignore[arg-type]
    irs = [irreps[segment].ir for _, segment, irreps in names]  # type: ignore[index]
    if linear:
        if irs[0] != irs[1]:
            raise ProgramError(f"path {n} of a linear program maps {irs[0]} to {irs[1]}; both must be the same irrep.")
        return
    ir1, ir2, ir3 = irs
    if path.mode not in MODES:
        raise ProgramError(f"path {n} has the unknown mode {path.mode!r}; use one of {', '.join(MODES)}.")
    if ir1.p * ir2.p != ir3.p or not abs(ir1.l - ir2.l) <= ir3.l <= ir1.l + ir2.l:
        raise ProgramError(
            f"path {n}: {ir3} is not in {ir1} x {ir2} = {' + '.join(map(str, ir1 * ir2))}; "
            "drop the path or change its output."
        )
    m1, m2, m3 = program.multiplicities(path)
    if ("<" in path.mode or path.mode in ("uuw", "uuu")) and m1 != m2:
        raise ProgramError(f"path {n}: mode {path.mode} needs equal multiplicities of its inputs; got {m1} and {m2}.")
    if not path.weighted and path.mode in ("uvw", "u<vw"):
        raise ProgramError(f"path {n}: mode {path.mode} mixes channels by weights; it needs has_weight=True.")
    expected = 1 if path.mode == "uuw" and not path.weighted else mode_shapes(path.mode, m1, m2, m3)[1]
    if m3 != expected:
        raise ProgramError(f"path {n}: mode {path.mode} gives multiplicity {expected}; its output has {m3}.")
