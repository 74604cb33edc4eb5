"""Linear maps between equal irreps as matrix products of torch: one for each path, channels against channels."""

from __future__ import annotations

from torch import Tensor

from equikern.program import Program

X, W, Z = range(3)


def sweep(base: Program, operands: list[Tensor], open: dict[int, int]) -> list[Tensor]:
    """dF/da of F = sum of scale * w x z for each open slot; `operands` are x (E, dim), w (1, n), z (E, dim)."""
    x, w, z = operands
    sides = {X: _Side(base, X, x), Z: _Side(base, Z, z)}
    like = next(a for a in operands if a.ndim == 2)
    results = {s: like.new_zeros(n, base.dims[s]) for s, n in open.items()}
    sums: dict[tuple[int, int], Tensor] = {}
    for path, columns in zip(base.paths, base.weight_slices, strict=True):
        m1, _, m3 = base.multiplicities(path)
        weight = w[0, columns].view(m1, m3) * path.scale if w.ndim == 2 and (X in open or Z in open) else None
        if Z in open and x.ndim == 2 and weight is not None:
            _add(sums, (Z, path.out), sides[X].matrix(path.in1), weight)
        if X in open and z.ndim == 2 and weight is not None:
            _add(sums, (X, path.in1), sides[Z].matrix(path.out), weight.t())
        if W in open and x.ndim == 2 and z.ndim == 2:
            product = sides[X].matrix(path.in1).t() @ sides[Z].matrix(path.out)
            results[W][0, columns] = (product * path.scale).flatten()
    for (slot, segment), matrix in sums.items():
        sides[slot].put(results[slot], segment, matrix)
    return list(results.values())


def _add(sums: dict[tuple[int, int], Tensor], key: tuple[int, int], a: Tensor, b: Tensor) -> None:
    if key in sums:
        sums[key].addmm_(a, b)
    else:
        sums[key] = a @ b


class _Side:
    """The segments of x or z as matrices (E * components, channels), each made once."""

    def __init__(self, base: Program, slot: int, a: Tensor) -> None:
        self.a, self.mul_ir = a, base.layout == "mul_ir"
        self.irreps = base.operands[slot].irreps
        self.columns = self.irreps.slices()  # type: ignore[union-attr]
        self.made: dict[int, Tensor] = {}

    def matrix(self, segment: int) -> Tensor:
        """(E * components, channels) of a segment."""
        if segment not in self.made:
            mul, ir = self.irreps[segment]  # type: ignore[index]
            part = self.a[:, self.columns[segment]]
            if ir.dim > 1 and self.mul_ir:
                part = part.reshape(len(part), mul, ir.dim).transpose(1, 2)
            self.made[segment] = part.reshape(len(self.a) * ir.dim, mul)
        return self.made[segment]

    def put(self, out: Tensor, segment: int, matrix: Tensor) -> None:
        """Write a segment's matrix into its columns."""
        mul, ir = self.irreps[segment]  # type: ignore[index]
        shaped = matrix.view(len(out), ir.dim, mul)
        if self.mul_ir:
            out[:, self.columns[segment]].view(len(out), mul, ir.dim).copy_(shaped.transpose(1, 2))
        else:
            out[:, self.columns[segment]].view(len(out), ir.dim, mul).copy_(shaped)


def why_not(program: Program) -> str | None:
    """None if the program is a linear map with shared weights, row by row."""
    x, w, z = program.operands
    if (x.row, w.row, z.row) != ("edge", "shared", "edge"):
        return f"rows are x[{x.row}] w[{w.row}] z[{z.row}]; linear maps are x[edge] w[shared] z[edge]"
    return None
