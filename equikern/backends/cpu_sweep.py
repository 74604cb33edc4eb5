"""One sweep over receivers for a channelwise program (`csrc/cpu/contract.inl`): forward, backward, double backward."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from equikern.backends.cpu_rows import check, counts, graph
from equikern.backends.extension import _C
from equikern.backends.results import empty
from equikern.backends.threads import threads
from equikern.errors import ShapeError
from equikern.program import SHARED, Program, parse, wigner_3j
from equikern.program.program import B, W, X, Y


@cache
def _lowered(text: str) -> _C.Contraction:
    program = parse(text)
    x, y, z = (program.operands[slot].irreps for slot in (X, Y, -1))
    w = program.operands[W]
    offsets = w.offsets if program.family == "table" else ()
    paths = []
    for path, columns in zip(program.paths, program.weight_slices, strict=True):
        c = path.scale * wigner_3j(x[path.in1].ir.l, y[path.in2].ir.l, z[path.out].ir.l)  # type: ignore[index]
        start = y[: path.in2].dim  # type: ignore[index]
        cells = np.argwhere(wigner_3j(x[path.in1].ir.l, y[path.in2].ir.l, z[path.out].ir.l))  # type: ignore[index]
        nonzeros = [(int(i), int(start + j), int(k), float(c[i, j, k])) for i, j, k in cells]
        paths.append((path.in1, path.out, columns.start if path.weighted else -1, nonzeros))
    segments = [[(mul, ir.dim) for mul, ir in irreps] for irreps in (x, z)]  # type: ignore[union-attr]
    return _C.Contraction(*segments, y.dim, w.dim, offsets, program.layout == "mul_ir", paths)  # type: ignore[union-attr]


def channelwise_sweep(
    base: Program,
    operands: list[Tensor],
    index: list[Tensor],
    open: dict[int, int],
    *,
    second: bool = False,
    fixed: float = 1.0,
) -> list[Tensor]:
    """One call of the kernel: `operands` are x y w (b) g and, for `second`, the tangents hx hy hw (hb)."""
    output = base.output
    given = [a.contiguous() if a.ndim == 2 else None for a in operands]
    like = next(a for a in given if a is not None)
    sizes = counts(base, given, index, open)
    check(base, given, sizes, like)
    # Without its cotangent (or without edges) the gradient of an input is zero.
    asked = [s for s in open if sizes[0] and (s == output or given[output] is not None)]
    added = [W] if base.family == "table" else []  # the kernel adds to these
    results = {
        s: empty(like, n, base.dims[s]) if s in asked and s not in added else like.new_zeros(n, base.dims[s])
        for s, n in open.items()
    }
    if not asked:
        return list(results.values())
    where = graph(base, index, sizes[0], sizes[2])
    tangents = given[output + 1 :] if second else [None] * output
    operands_in = [*given[:B], given[output], *tangents[:B]]  # x y w g hx hy hw
    operands_in += [given[B], tangents[B]] if base.family == "table" else [None, None]
    results_out = [X, Y, W, output, B if base.family == "table" else None]
    try:
        _lowered(base.text).run(
            like.dtype == torch.float64,
            sizes,
            [0 if t is None else t.data_ptr() for t in where],
            base.rows[W] == SHARED,
            second,
            fixed,
            [0 if a is None else a.data_ptr() for a in operands_in],
            [results[s].data_ptr() if s in asked else 0 for s in results_out],
            threads(),
        )
    except IndexError as error:
        raise ShapeError(f"{error}\n  program   {base}") from None
    return list(results.values())
