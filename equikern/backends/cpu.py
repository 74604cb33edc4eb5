"""The CPU backend: every product program in C++, in one of two ways.

A product is channelwise when each path keeps x's channel: mode `uvu`, or one that is the same when y's multiplicity is
1 (`uvuv`; the others for single channels). With x and z by any index or by edge, y and w by edge (w shared too), one
sweep gathers, multiplies and sums (`csrc/cpu/contract.inl`): forward, backward and double backward are fused; a form of
higher order is a sum of base forms. All others run row by row (`cpu_modes`), their derivatives as sums of base forms.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from equikern.backends import cpu_linear, cpu_modes, cpu_nodes
from equikern.backends.extension import _C, MISSING
from equikern.backends.threads import threads
from equikern.errors import BackendError, ShapeError
from equikern.program import EDGE, SHARED, Path, Program, wigner_3j
from equikern.program import parse as parse_program
from equikern.program.program import W, X, Y, Z

name = "cpu"
_DTYPES = (torch.float32, torch.float64)
_SECOND = ((X, Y, W),)


def target() -> str:
    """The instruction set in use: base, avx2 or avx512."""
    return _C.cpu_target() if _C is not None else "none"  # type: ignore[no-any-return]


def fma_peak(dtype: torch.dtype) -> float:
    """Floating-point operations a second that multiply-adds on registers reach on one thread, measured now."""
    if _C is None:
        raise BackendError(MISSING)
    return _C.fma_peak(dtype == torch.float64)  # type: ignore[no-any-return]


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
    if program.family != "product":
        return f"it has no kernel for the family {program.family!r}"
    return None


@cache
def _channelwise(text: str) -> bool:
    """Whether every path keeps x's channel, and rows are such that the fused kernels gather and sum them."""
    program = parse_program(text)
    x, y, w, z = program.operands
    if y.row != EDGE or w.row not in (EDGE, SHARED) or SHARED in (x.row, z.row):
        return False
    return all(_keeps_channel(program, path) for path in program.paths)


def _keeps_channel(program: Program, path: Path) -> bool:
    m1, m2, m3 = program.multiplicities(path)
    single = m1 == m2 == m3 == 1 and path.mode in ("uvw", "uvv", "uuw", "uuu")
    return (m2 == 1 and path.mode in ("uvu", "uvuv")) or single


@cache
def _lowered(text: str) -> _C.Contraction:
    program = parse_program(text)
    x, y, w, z = (operand.irreps for operand in program.operands)
    paths = []
    for path, columns in zip(program.paths, program.weight_slices, strict=True):
        c = path.scale * wigner_3j(x[path.in1].ir.l, y[path.in2].ir.l, z[path.out].ir.l)  # type: ignore[index]
        start = y[: path.in2].dim  # type: ignore[index]
        cells = np.argwhere(wigner_3j(x[path.in1].ir.l, y[path.in2].ir.l, z[path.out].ir.l))  # type: ignore[index]
        nonzeros = [(int(i), int(start + j), int(k), float(c[i, j, k])) for i, j, k in cells]
        paths.append((path.in1, path.out, columns.start if path.weighted else -1, nonzeros))
    segments = [[(mul, ir.dim) for mul, ir in irreps] for irreps in (x, z)]  # type: ignore[union-attr]
    return _C.Contraction(*segments, y.dim, w, program.layout == "mul_ir", paths)  # type: ignore[union-attr]


def contract(
    program: Program, operands: list[Tensor], index: list[Tensor], rows: list[int], open: list[int]
) -> list[Tensor]:
    """dF/da for each open slot, `rows[n]` rows each; an absent operand (one dimension, no element) stands for zero."""
    base = _base(program)
    if not program.derived and base.family == "linear":
        return cpu_linear.sweep(base, operands, dict(zip(open, rows, strict=True)))
    if not program.derived:
        return _product(base, operands, index, dict(zip(open, rows, strict=True)))
    fused = base.family == "product" and _channelwise(base.text)
    if fused and program.derived == _SECOND and all(slot <= Z for slot in open):
        return _sweep(base, operands, index, dict(zip(open, rows, strict=True)), second=True)
    return _expanded(program, base, operands, index, dict(zip(open, rows, strict=True)))


@cache
def _base_of(text: str) -> Program:
    return parse_program(text.split(" ~")[0])


def _base(program: Program) -> Program:
    return program if not program.derived else _base_of(program.text)


def _expanded(
    program: Program, base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int]
) -> list[Tensor]:
    """A derived form as a sum of base forms read at other slots."""
    like = next(a for a in operands if a.ndim == 2)
    results = {slot: like.new_zeros(n, program.dims[slot]) for slot, n in open.items()}
    for slots in program.expansions:
        opened = {k: open[slot] for k, slot in enumerate(slots) if slot in open}
        # A summand with an absent factor is zero, but for the weights of unweighted paths, which are no factor.
        absent = [k for k, slot in enumerate(slots) if operands[slot].ndim != 2 and (k != W or base.dims[W])]
        opened = {k: n for k, n in opened.items() if set(absent) <= {k}}
        if not opened:
            continue
        read = [operands[slot] for slot in slots]
        if base.family == "linear":
            parts = cpu_linear.sweep(base, read, opened)
        else:
            parts = _product(base, read, index, opened, fixed=1.0 if slots[W] == W else 0.0)
        for k, part in zip(opened, parts, strict=True):
            results[slots[k]] += part
    return [results[slot] for slot in open]


def _product(
    base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int], fixed: float = 1.0
) -> list[Tensor]:
    if _channelwise(base.text):
        return _sweep(base, operands, index, open, fixed=fixed)
    if cpu_nodes.takes(base.text):
        return cpu_nodes.sweep(base, operands, index, open)
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
    """One call of the kernel: `operands` are x y w g and, for `second`, their tangents hx hy hw."""
    given = [a.contiguous() if a.ndim == 2 else None for a in operands]
    like = next(a for a in given if a is not None)
    counts = _counts(base, given, index, open)
    _check(base, given, counts, like)
    # Without its cotangent (or without edges) the gradient of an input is zero.
    asked = [s for s in open if counts[0] and (s == Z or given[Z] is not None)]
    results = {
        s: like.new_empty(n, base.dims[s]) if s in asked else like.new_zeros(n, base.dims[s]) for s, n in open.items()
    }
    if not asked:
        return list(results.values())
    graph = _graph(base, index, counts[0], counts[2])
    try:
        _lowered(base.text).run(
            like.dtype == torch.float64,
            counts,
            [0 if t is None else t.data_ptr() for t in graph],
            base.rows[W] == SHARED,
            second,
            fixed,
            [0 if a is None else a.data_ptr() for a in (given + [None] * 3)[:7]],
            [results[s].data_ptr() if s in asked else 0 for s in (X, Y, W, Z)],
            threads(),
        )
    except IndexError as error:
        raise ShapeError(f"{error}\n  program   {base}") from None
    return list(results.values())


def _counts(
    base: Program, given: list[Tensor | None], index: list[Tensor], open: dict[int, int]
) -> tuple[int, int, int]:
    """(edges, rows of x, rows of z)."""

    def rows(*slots: int) -> int | None:
        for slot in slots:
            a = given[slot] if slot < len(given) else None
            if slot in open or a is not None:
                return open[slot] if a is None else a.shape[0]
        return None

    if base.index_kinds:
        edges = index[0].shape[0]
    else:
        edges = next(n for s in (X, Y, Z, W) if base.rows[s] == EDGE and (n := rows(s)) is not None)
    x_rows, z_rows = rows(X, 4), rows(Z)
    return edges, edges if x_rows is None else x_rows, edges if z_rows is None else z_rows


def _check(base: Program, given: list[Tensor | None], counts: tuple[int, int, int], like: Tensor) -> None:
    """The last line before native code, also for calls of the op itself: what the kernel reads must be there."""
    edges, x_rows, z_rows = counts
    expected = (
        edges if base.rows[X] == EDGE else x_rows,
        edges,
        1 if base.rows[W] == SHARED else edges,
        edges if base.rows[Z] == EDGE else z_rows,
    )
    for slot, a in enumerate(given):
        kind = slot % 4
        if a is None:
            continue
        if a.shape != (expected[kind], base.dims[kind]) or a.dtype != like.dtype or a.device.type != "cpu":
            raise ShapeError(
                f"slot {slot} is {tuple(a.shape)} {a.dtype} on {a.device}; the program reads "
                f"{(expected[kind], base.dims[kind])} {like.dtype} on cpu.\n  program   {base}"
            )


def _graph(base: Program, index: list[Tensor], edges: int, z_rows: int) -> list[Tensor | None]:
    """[index of x's rows, then ptr and order of the edges by z's rows], None where rows are the edges themselves.

    Their values the kernel checks, against the rows there are.
    """
    for tensor in index:
        if tensor.dtype != torch.int64 or tensor.ndim != 1 or tensor.device.type != "cpu":
            raise ShapeError(
                f"an index is {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}; it must be one-dimensional "
                "int64 on the CPU. Make a Graph of the edges."
            )
    kinds = dict(zip(base.index_kinds, (tensor.contiguous() for tensor in index), strict=False))
    if any(tensor.shape[0] != edges for tensor in kinds.values()):
        sizes = {kind: tensor.shape[0] for kind, tensor in kinds.items()}
        raise ShapeError(f"the index tensors differ in length: {sizes}; give each one entry an edge.")
    x_index, z_index = kinds.get(base.rows[X]), kinds.get(base.rows[Z])
    if z_index is None:
        return [x_index, None, None]
    if len(index) == len(kinds):
        return [x_index, *plan(z_index, z_index, z_rows, z_rows)]
    ptr, order = (tensor.contiguous() for tensor in index[-2:])
    if ptr.shape[0] != z_rows + 1 or order.shape[0] != edges:
        raise ShapeError(
            f"the plan is for {ptr.shape[0] - 1} receivers and {order.shape[0]} edges, the call has {z_rows} and "
            f"{edges}; build a new Graph when the edges change."
        )
    return [x_index, ptr, order]


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
