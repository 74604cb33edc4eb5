"""The CPU backend: every product program in C++, in one of two ways.

A product is channelwise when each path keeps x's channel: mode `uvu`, or one that is the same when y's multiplicity is
1 (`uvuv`; the others for single channels). With x and z by any index or by edge, y and w by edge (w shared too, or by
rows of a table), one sweep gathers, multiplies and sums (`csrc/cpu/contract.inl`): forward, backward and double
backward are fused; a form of higher order is a sum of base forms. All others run row by row (`cpu_modes`), their
derivatives as sums of base forms.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from equikern.backends import cpu_linear, cpu_modes, cpu_nodes, cpu_species
from equikern.backends._channelwise import channelwise
from equikern.backends._derived import base_of, expanded
from equikern.backends.extension import _C, MISSING
from equikern.backends.threads import threads
from equikern.errors import BackendError, ShapeError
from equikern.program import EDGE, SHARED, Program, wigner_3j
from equikern.program import parse as parse_program
from equikern.program.program import B, W, X, Y

name = "cpu"
_DTYPES = (torch.float32, torch.float64)


def available() -> bool:
    """Whether the extension is there."""
    return _C is not None


def target() -> str:
    """The instruction set in use: base, avx2 or avx512."""
    return _C.cpu_target() if _C is not None else "none"  # type: ignore[no-any-return]


def fma_peak(dtype: torch.dtype) -> float:
    """Floating-point operations a second that multiply-adds on registers reach on one thread, measured now."""
    if _C is None:
        raise BackendError(MISSING)
    return _C.fma_peak(dtype == torch.float64)  # type: ignore[no-any-return]


def memory_bandwidth(threads: int = 1) -> float:
    """Bytes a second that threads stream from and to memory, measured now by a triad (3 arrays of 64 MB)."""
    if _C is None:
        raise BackendError(MISSING)
    return _C.memory_bandwidth(threads)  # type: ignore[no-any-return]


def supports(program: Program, device: str, dtype: torch.dtype) -> str | None:
    """None where the kernels run the program, else the reason why not."""
    if _C is None:
        return MISSING
    if device != "cpu":
        return f"operands are on {device}"
    if dtype not in _DTYPES:
        return f"operands are {dtype}; the kernels have float32 and float64"
    if program.family == "linear":
        return cpu_linear.why_not(program)
    if program.family not in ("product", "table"):
        return f"it has no kernel for the family {program.family!r}"
    if program.family == "table" and not channelwise(program.text.split(" ~")[0]):
        return "a table's weights are read by paths that keep x's channel, x and z by an index of their own or by edge"
    return None


@cache
def _lowered(text: str) -> _C.Contraction:
    program = parse_program(text)
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


def contract(
    program: Program, operands: list[Tensor], index: list[Tensor], rows: list[int], open: list[int]
) -> list[Tensor]:
    """dF/da for each open slot, `rows[n]` rows each; an absent operand (one dimension, no element) stands for zero."""
    base = base_of(program)
    if not program.derived and base.family == "linear":
        return cpu_linear.sweep(base, operands, index, dict(zip(open, rows, strict=True)))
    if not program.derived:
        return _product(base, operands, index, dict(zip(open, rows, strict=True)))
    fused = base.family != "linear" and channelwise(base.text)
    second = (tuple(range(base.output)),)
    if fused and program.derived == second and all(slot <= base.output for slot in open):
        return _sweep(base, operands, index, dict(zip(open, rows, strict=True)), second=True)

    def sweep(base: Program, read: list[Tensor], opened: dict[int, int], fixed: bool) -> list[Tensor]:
        if base.family == "linear":
            return cpu_linear.sweep(base, read, index, opened)
        return _product(base, read, index, opened, fixed=float(fixed))

    return expanded(program, operands, dict(zip(open, rows, strict=True)), sweep)


def _product(
    base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int], fixed: float = 1.0
) -> list[Tensor]:
    if channelwise(base.text):
        return _sweep(base, operands, index, open, fixed=fixed)
    if cpu_nodes.takes(base.text):
        return cpu_nodes.sweep(base, operands, index, open)
    if cpu_species.takes(base.text):
        return cpu_species.sweep(base, operands, index, open)
    return cpu_modes.sweep(base, operands, index, open, fixed=fixed)


def _sweep(
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
    counts = _counts(base, given, index, open)
    _check(base, given, counts, like)
    # Without its cotangent (or without edges) the gradient of an input is zero.
    asked = [s for s in open if counts[0] and (s == output or given[output] is not None)]
    added = [W] if base.family == "table" else []  # the kernel adds to these
    results = {
        s: like.new_empty(n, base.dims[s]) if s in asked and s not in added else like.new_zeros(n, base.dims[s])
        for s, n in open.items()
    }
    if not asked:
        return list(results.values())
    graph = _graph(base, index, counts[0], counts[2])
    tangents = given[output + 1 :] if second else [None] * output
    operands_in = [*given[:B], given[output], *tangents[:B]]  # x y w g hx hy hw
    operands_in += [given[B], tangents[B]] if base.family == "table" else [None, None]
    results_out = [X, Y, W, output, B if base.family == "table" else None]
    try:
        _lowered(base.text).run(
            like.dtype == torch.float64,
            counts,
            [0 if t is None else t.data_ptr() for t in graph],
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


def _counts(
    base: Program, given: list[Tensor | None], index: list[Tensor], open: dict[int, int]
) -> tuple[int, int, int, int]:
    """(edges, rows of x, of z, of w)."""
    first = base.output + 1  # of the tangents

    def rows(*slots: int) -> int | None:
        for slot in slots:
            if slot < len(given) and (a := given[slot]) is not None:
                return a.shape[0]
            if slot in open:
                return open[slot]
        return None

    if base.index_kinds:
        edges = index[0].shape[0]
    else:
        edges = next(n for s in (X, Y, base.output, W) if base.rows[s] == EDGE and (n := rows(s)) is not None)
    x_rows, z_rows, w_rows = rows(X, first + X), rows(base.output), rows(W, first + W)
    return edges, edges if x_rows is None else x_rows, edges if z_rows is None else z_rows, w_rows or 0


def _check(base: Program, given: list[Tensor | None], counts: tuple[int, int, int, int], like: Tensor) -> None:
    """The last line before native code, also for calls of the op itself: what the kernel reads must be there."""
    edges, x_rows, z_rows, w_rows = counts
    expected = [
        edges if base.rows[X] == EDGE else x_rows,
        edges,
        w_rows if base.family == "table" else 1 if base.rows[W] == SHARED else edges,
        *([edges] if base.family == "table" else []),
        edges if base.rows[base.output] == EDGE else z_rows,
    ]
    for slot, a in enumerate(given):
        kind = slot % len(base.operands)
        if a is None:
            continue
        if a.shape != (expected[kind], base.dims[kind]) or a.dtype != like.dtype or not a.is_cpu:
            raise ShapeError(
                f"slot {slot} is {tuple(a.shape)} {a.dtype} on {a.device}; the program reads "
                f"{(expected[kind], base.dims[kind])} {like.dtype} on cpu.\n  program   {base}"
            )


def _graph(base: Program, index: list[Tensor], edges: int, z_rows: int) -> list[Tensor | None]:
    """[x's rows, ptr and order of the edges by z's rows, knots of w's rows]; None where rows are the edges themselves.

    Their values the kernel checks, against the rows there are.
    """
    for tensor in index:
        if tensor.dtype is not torch.int64 or tensor.ndim != 1 or not tensor.is_cpu:
            raise ShapeError(
                f"an index is {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}; it must be one-dimensional "
                "int64 on the CPU. Make a Graph of the edges."
            )
    kinds = {kind: tensor.contiguous() for kind, tensor in zip(base.index_kinds, index, strict=False)}
    if [tensor.shape[0] for tensor in kinds.values()] != [edges] * len(kinds):
        sizes = {kind: tensor.shape[0] for kind, tensor in kinds.items()}
        raise ShapeError(f"the index tensors differ in length: {sizes}; give each one entry an edge.")
    x_index, z_index, knot = kinds.get(base.rows[X]), kinds.get(base.rows[base.output]), kinds.get(base.rows[W])
    if z_index is None:
        return [x_index, None, None, knot]
    if len(index) == len(kinds):
        return [x_index, *plan(z_index, z_index, z_rows, z_rows), knot]
    ptr, order = (tensor.contiguous() for tensor in index[len(kinds) : len(kinds) + 2])
    if ptr.shape[0] != z_rows + 1 or order.shape[0] != edges:
        raise ShapeError(
            f"the plan is for {ptr.shape[0] - 1} receivers and {order.shape[0]} edges, the call has {z_rows} and "
            f"{edges}; build a new Graph when the edges change."
        )
    return [x_index, ptr, order, knot]


def plan(sender: Tensor, receiver: Tensor, senders: int, receivers: int) -> tuple[Tensor, Tensor]:
    """CSR of the edges by receiver, (ptr, order); raises ShapeError for an index out of range. See ops/plan.py."""
    if _C is None:
        raise BackendError(MISSING)
    sender, receiver = sender.contiguous(), receiver.contiguous()
    ptr, order = receiver.new_empty(receivers + 1), torch.empty_like(receiver)
    try:
        _C.plan(
            len(receiver), sender.data_ptr(), receiver.data_ptr(), senders, receivers, ptr.data_ptr(), order.data_ptr()
        )
    except IndexError as error:
        raise ShapeError(str(error)) from None
    return ptr, order
