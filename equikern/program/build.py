"""Constructors of programs: e3nn's instruction tuples and normalisations in, a `Program` out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import sqrt
from typing import Any, NamedTuple

from equikern.errors import ProgramError
from equikern.program.irreps import Irreps, sort_irreps
from equikern.program.program import EDGE, MODES, Operand, Path, Program, mode_shapes
from equikern.program.text import parse
from equikern.program.wigner import wigner_3j

IRREP_NORMALIZATIONS = ("component", "norm", "none")
PATH_NORMALIZATIONS = ("element", "path", "none")


class Rows(NamedTuple):
    """The row kind of each operand of a product."""

    x: str = "edge"
    y: str = "edge"
    w: str = "edge"
    z: str = "edge"


CONVOLUTION = Rows(x="sender", z="receiver")


def product(
    irreps_x: Any,
    irreps_y: Any,
    irreps_z: Any,
    instructions: Sequence[Sequence[Any]],
    *,
    rows: Rows = Rows(),
    layout: str = "mul_ir",
    irrep_normalization: str = "component",
    path_normalization: str = "element",
    in1_var: Sequence[float] | None = None,
    in2_var: Sequence[float] | None = None,
    out_var: Sequence[float] | None = None,
) -> Program:
    """A tensor product from e3nn's instructions `(in1, in2, out, mode, has_weight[, path_weight])`.

    The scale of a path is e3nn's: sqrt(A / X * out_var * path_weight), with A from `irrep_normalization` and X from
    `path_normalization` over all paths into the same output (e3nn's `TensorProduct`, "normalization").
    """
    x, y, z = Irreps(irreps_x), Irreps(irreps_y), Irreps(irreps_z)
    parsed = [_instruction(n, ins) for n, ins in enumerate(instructions)]
    for n, ins in enumerate(parsed):
        for name, segment, irreps in (("in1", ins.in1, x), ("in2", ins.in2, y), ("out", ins.out, z)):
            if not 0 <= segment < len(irreps):
                raise ProgramError(
                    f"instruction {n} uses {name} segment {segment}; its irreps {irreps} have {len(irreps)}."
                )
    variances = [_variance(in1_var, x, "in1_var"), _variance(in2_var, y, "in2_var"), _variance(out_var, z, "out_var")]
    scales = _scales(x, y, z, parsed, irrep_normalization, path_normalization, variances)
    paths = tuple(ins._replace(scale=scale) for ins, scale in zip(parsed, scales, strict=True))
    return product_of_paths(x, y, z, paths, rows=rows, layout=layout)


def channelwise(irreps_x: Any, irreps_y: Any, irreps_out: Any) -> tuple[Irreps, list[tuple[int, int, int, str, bool]]]:
    """Irreps and instructions of the weighted products 'uvu' of x and y into the irreps that irreps_out has.

    Each has an entry of its own; the entries are sorted, so that a linear map after them sees them together.

    >>> channelwise("4x0e+4x1o", "1o", "0e+1o")
    (4x0e+4x1o, [(0, 0, 1, 'uvu', True), (1, 0, 0, 'uvu', True)])
    """
    x, y, out = Irreps(irreps_x), Irreps(irreps_y), Irreps(irreps_out)
    found = [
        (i, j, mul, ir)
        for i, (mul, ir_x) in enumerate(x)
        for j, (_, ir_y) in enumerate(y)
        for ir in ir_x * ir_y
        if ir in out
    ]
    order = sort_irreps(Irreps([(mul, ir) for *_, mul, ir in found]))
    return order.irreps, [(i, j, place, "uvu", True) for (i, j, *_), place in zip(found, order.p, strict=True)]


def product_of_paths(
    irreps_x: Any, irreps_y: Any, irreps_z: Any, paths: Sequence[Path], *, rows: Rows = Rows(), layout: str = "mul_ir"
) -> Program:
    """A tensor product from paths whose scale is final."""
    x, y, z = Irreps(irreps_x), Irreps(irreps_y), Irreps(irreps_z)
    width = 0
    for path in paths:
        if path.weighted and path.mode in MODES:
            shape = mode_shapes(path.mode, x[path.in1].mul, y[path.in2].mul, z[path.out].mul)[0]
            size = 1
            for n in shape:
                size *= n
            width += size
    operands = (Operand("x", rows.x, x), Operand("y", rows.y, y), Operand("w", rows.w, width), Operand("z", rows.z, z))
    return Program("product", layout, operands, tuple(paths))


def tabled(program: Program, offsets: Sequence[int]) -> Program:
    """A product whose weights are a row an edge, with weights w[e] = sum over c of b[e, c] w[knot(e) + offsets[c]].

    Operands x y w[knot] b[edge] z: w (rows, weights) is the table, b (E, len(offsets)) the factors of its rows.
    """
    return _tabled(program.text, tuple(offsets))


@cache
def _tabled(text: str, offsets: tuple[int, ...]) -> Program:
    program = parse(text)
    x, y, w, z = program.operands
    operands = (x, y, w._replace(row="knot", offsets=offsets), Operand("b", EDGE, len(offsets)), z)
    return Program("table", program.layout, operands, program.paths)


@cache
def untabled(text: str) -> Program:
    """The product, with weights a row an edge, of which a table program was made by `tabled`."""
    program = parse(text)
    x, y, w, _, z = program.operands
    return Program("product", program.layout, (x, y, w._replace(row=EDGE, offsets=(0,)), z), program.paths)


def schnet_message(channels: int) -> Program:
    """z = w x at C channels: x (C), the constant y = 1, w (C), z (C)."""
    c = f"{channels}x0e"
    return product_of_paths(c, "0e", c, [Path(0, 0, 0, "uvu", 1.0)], rows=CONVOLUTION, layout="ir_mul")


def painn_message(channels: int) -> Program:
    """PaiNN's three paths: scalar to scalar, scalar times direction, vector to vector.

    x is C 0e (phi_s), C 0e (phi_r), C 1o (phi_v mu), y is 1 and the direction, w the three filters, z C 0e and C 1o.
    """
    c = channels
    # The 3j symbols (0, 1, 1) and (1, 0, 1) are the unit matrix over sqrt(3).
    paths = [Path(0, 0, 0, "uvu", 1.0), Path(1, 1, 1, "uvu", sqrt(3)), Path(2, 0, 1, "uvu", sqrt(3))]
    x, z = f"{c}x0e+{c}x0e+{c}x1o", f"{c}x0e+{c}x1o"
    return product_of_paths(x, "0e+1o", z, paths, rows=CONVOLUTION, layout="ir_mul")


def linear(
    irreps_x: Any,
    irreps_z: Any,
    paths: Sequence[tuple[int, int, float]],
    *,
    shared: bool = True,
    layout: str = "mul_ir",
) -> Program:
    """A linear map between equal irreps: paths `(in, out, scale)`; weights in path order, each (mul_in, mul_out)."""
    x, z = Irreps(irreps_x), Irreps(irreps_z)
    width = sum(x[i].mul * z[o].mul for i, o, _ in paths)
    operands = (Operand("x", "edge", x), Operand("w", "shared" if shared else "edge", width), Operand("z", "edge", z))
    return Program("linear", layout, operands, tuple(Path(i, -1, o, "uvw", float(scale)) for i, o, scale in paths))


def by_species(program: Program) -> Program:
    """The program with rows by species of w (a linear map), or of y (a product)."""
    first, second, *rest = program.operands
    return Program(program.family, program.layout, (first, second._replace(row="species"), *rest), program.paths)


def linear_of_species(program: Program) -> Program:
    """A product `uvw` with scalars y as a linear map by species, of weights (species, sum of m1 m3).

    They are, path after path, sum over v of y_v w[u, v, w] for the y of each species.
    """
    x, _, _, z = program.operands
    paths, width = [], 0
    for path in program.paths:
        m1, _, m3 = program.multiplicities(path)
        l = z.irreps[path.out].ir.l  # type: ignore[index]  # noqa: E741
        scale = path.scale * float(wigner_3j(l, 0, l)[0, 0, 0])
        paths.append(Path(path.in1, -1, path.out, "uvw", scale))
        width += m1 * m3
    return Program("linear", program.layout, (x, Operand("w", "species", width), z), tuple(paths))


def _instruction(n: int, instruction: Sequence[Any]) -> Path:
    if not 5 <= len(instruction) <= 6:
        raise ProgramError(
            f"instruction {n} is {tuple(instruction)!r}; it needs (in1, in2, out, mode, has_weight[, path_weight])."
        )
    in1, in2, out, mode, weighted, *rest = instruction
    if mode not in MODES:
        raise ProgramError(f"instruction {n} has the unknown mode {mode!r}; use one of {', '.join(MODES)}.")
    return Path(int(in1), int(in2), int(out), mode, float(rest[0]) if rest else 1.0, bool(weighted))


def _variance(values: Sequence[float] | None, irreps: Irreps, name: str) -> list[float]:
    if values is None:
        return [1.0] * len(irreps)
    if len(values) != len(irreps):
        raise ProgramError(f"{name} has {len(values)} entries; its irreps {irreps} have {len(irreps)}.")
    return [float(v) for v in values]


def _scales(
    x: Irreps,
    y: Irreps,
    z: Irreps,
    paths: list[Path],
    irrep_normalization: str,
    path_normalization: str,
    variances: list[list[float]],
) -> list[float]:
    if irrep_normalization not in IRREP_NORMALIZATIONS:
        raise ProgramError(f"irrep_normalization is one of {IRREP_NORMALIZATIONS}; got {irrep_normalization!r}.")
    if path_normalization not in PATH_NORMALIZATIONS:
        raise ProgramError(f"path_normalization is one of {PATH_NORMALIZATIONS}; got {path_normalization!r}.")
    var1, var2, var3 = variances

    def elements(path: Path) -> float:
        n = mode_shapes(path.mode, x[path.in1].mul, y[path.in2].mul, z[path.out].mul)[2]
        return var1[path.in1] * var2[path.in2] * n

    scales = []
    for path in paths:
        ir1, ir2, ir3 = x[path.in1].ir, y[path.in2].ir, z[path.out].ir
        a = {"component": ir3.dim, "norm": ir1.dim * ir2.dim, "none": 1}[irrep_normalization]
        into = [other for other in paths if other.out == path.out]
        totals = {"element": sum(map(elements, into)), "path": elements(path) * len(into), "none": 1.0}
        total = totals[path_normalization]
        if path.scale < 0:
            raise ProgramError(f"a path_weight is the variance of its path and cannot be negative; got {path.scale}.")
        scales.append(sqrt(a * var3[path.out] * path.scale / (total if total > 0 else 1.0)))
    return scales
