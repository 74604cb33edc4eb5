"""Tensor products whose paths follow from the irreps: fully connected, element by element, full, and squares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

from torch import Tensor

from equikern.errors import ProgramError
from equikern.o3._irreps import Irrep, Irreps
from equikern.o3._tensor_product import TensorProduct
from equikern.program.build import IRREP_NORMALIZATIONS

Filter = Iterable[Any] | None
Paths = list[tuple[Any, ...]]


def _admits(filter_ir_out: Filter, ir: Any) -> bool:
    return filter_ir_out is None or ir in filter_ir_out


def _chosen(filter_ir_out: Filter) -> Filter:
    return None if filter_ir_out is None else [Irrep(ir) for ir in filter_ir_out]


class FullyConnectedTensorProduct(TensorProduct):
    """All weighted `uvw` paths from two irreps into a third: z_w = sum of w_uvw x_u ⊗ y_v.

    Other keyword arguments are those of `TensorProduct`.

    >>> FullyConnectedTensorProduct("4x0e+4x1o", "0e+1o", "8x0e+8x1o")
    FullyConnectedTensorProduct(4x0e+4x1o x 1x0e+1x1o -> 8x0e+8x1o | 128 paths | 128 weights)
    """

    def __init__(
        self,
        irreps_in1: Any,
        irreps_in2: Any,
        irreps_out: Any,
        irrep_normalization: str | None = None,
        path_normalization: str | None = None,
        **kwargs: Any,
    ) -> None:
        irreps_in1, irreps_in2, irreps_out = Irreps(irreps_in1), Irreps(irreps_in2), Irreps(irreps_out)
        paths = [
            (i, j, k, "uvw", True)
            for i, (_, ir1) in enumerate(irreps_in1)
            for j, (_, ir2) in enumerate(irreps_in2)
            for k, (_, ir3) in enumerate(irreps_out)
            if ir3 in ir1 * ir2
        ]
        super().__init__(
            irreps_in1,
            irreps_in2,
            irreps_out,
            paths,
            irrep_normalization=irrep_normalization,
            path_normalization=path_normalization,
            **kwargs,
        )


class ElementwiseTensorProduct(TensorProduct):
    """The product of the first irrep with the first, the second with the second, ...: z_u = x_u ⊗ y_u, no weights.

    `irreps_out` follows; `filter_ir_out` restricts it. Both inputs are simplified and cut into common pieces. Raises
    ProgramError if their numbers of irreps differ.

    >>> ElementwiseTensorProduct("5x1o + 5x1e", "10x1e", ["0e", "0o"])
    ElementwiseTensorProduct(5x1o+5x1e x 10x1e -> 5x0o+5x0e | 10 paths | 0 weights)
    """

    def __init__(
        self,
        irreps_in1: Any,
        irreps_in2: Any,
        filter_ir_out: Filter = None,
        irrep_normalization: str | None = None,
        **kwargs: Any,
    ) -> None:
        left, right, filter_ir_out = Irreps(irreps_in1), Irreps(irreps_in2), _chosen(filter_ir_out)
        if left.num_irreps != right.num_irreps:
            raise ProgramError(
                f"an elementwise product needs as many irreps on both sides; {left} has {left.num_irreps} and {right} "
                f"has {right.num_irreps}."
            )
        pieces = list(_common_pieces(left.simplify(), right.simplify()))
        out = [(n, mul, ir) for n, (mul, a, b) in enumerate(pieces) for ir in a * b if _admits(filter_ir_out, ir)]
        super().__init__(
            [(mul, a) for mul, a, _ in pieces],
            [(mul, b) for mul, _, b in pieces],
            [(mul, ir) for _, mul, ir in out],
            [(n, n, k, "uuu", False) for k, (n, _, _) in enumerate(out)],
            irrep_normalization=irrep_normalization,
            **kwargs,
        )


def _common_pieces(left: Irreps, right: Irreps) -> Iterator[tuple[int, Irrep, Irrep]]:
    """(mul, ir of left, ir of right) of the longest runs over which neither changes."""
    ends = sorted({sum(e.mul for e in irreps[: n + 1]) for irreps in (left, right) for n in range(len(irreps))})
    for start, end in zip([0, *ends], ends, strict=False):
        (_, a), (_, b) = left.slice_by_mul[start:end][0], right.slice_by_mul[start:end][0]
        yield end - start, a, b


class FullTensorProduct(TensorProduct):
    """All products, kept apart: z_uv = x_u ⊗ y_v, no weights.

    `irreps_out` follows, sorted; `filter_ir_out` restricts it. Both inputs are simplified.

    >>> FullTensorProduct("2x0e+1o", "1o").irreps_out
    1x0e+2x1o+1x1e+1x2e
    """

    def __init__(
        self,
        irreps_in1: Any,
        irreps_in2: Any,
        filter_ir_out: Filter = None,
        irrep_normalization: str | None = None,
        **kwargs: Any,
    ) -> None:
        left, right = Irreps(irreps_in1).simplify(), Irreps(irreps_in2).simplify()
        filter_ir_out = _chosen(filter_ir_out)
        found = [
            ((mul1 * mul2, ir), (i, j, "uvuv", False))
            for i, (mul1, ir1) in enumerate(left)
            for j, (mul2, ir2) in enumerate(right)
            for ir in ir1 * ir2
            if _admits(filter_ir_out, ir)
        ]
        out, paths = _sorted_outputs(found)
        super().__init__(left, right, out, paths, irrep_normalization=irrep_normalization, **kwargs)


def _sorted_outputs(found: list[tuple[tuple[int, Any], tuple[Any, ...]]]) -> tuple[Irreps, Paths]:
    """Sort the outputs `(mul, ir)` of paths `(i, j, ...)` and put each output's new place into its path."""
    out, place, _ = Irreps([entry for entry, _ in found]).sort()
    return out, [(*path[:2], place[k], *path[2:]) for k, (_, path) in enumerate(found)]  # type: ignore[return-value]


class TensorSquare(TensorProduct):
    """The products of a tensor with itself: of each unordered pair of irreps once, antisymmetric ones left out.

    With `irreps_out` it is fully connected and weighted; without it, all products are kept and `filter_ir_out`
    restricts them. Other keyword arguments are those of `TensorProduct`. Raises ProgramError if both are given.

    >>> TensorSquare("1o").irreps_out
    1x0e+1x2e
    """

    def __init__(
        self,
        irreps_in: Any,
        irreps_out: Any = None,
        filter_ir_out: Filter = None,
        irrep_normalization: str | None = None,
        **kwargs: Any,
    ) -> None:
        normalization = irrep_normalization or "component"
        if normalization not in IRREP_NORMALIZATIONS:
            raise ProgramError(f"irrep_normalization is one of {IRREP_NORMALIZATIONS}; got {normalization!r}.")
        x = Irreps(irreps_in).simplify()
        if irreps_out is None:
            out, paths = _sorted_outputs(list(_full_square(x, _chosen(filter_ir_out), normalization)))
        elif filter_ir_out is not None:
            raise ProgramError("give irreps_out or filter_ir_out, not both: irreps_out is the filter.")
        else:
            out = Irreps(irreps_out).simplify()  # type: ignore[assignment]
            paths = list(_connected_square(x, out, normalization))
        super().__init__(x, x, out, paths, irrep_normalization="none", **kwargs)
        self.irreps_in = x

    def forward(self, x: Tensor, weight: Any = None) -> Tensor:  # type: ignore[override]
        """z (..., irreps_out.dim) of x (..., irreps_in.dim)."""
        return super().forward(x, x, weight)

    def __repr__(self) -> str:
        paths = sum(prod(ins.path_shape) for ins in self.instructions)
        return (
            f"{type(self).__name__}({self.irreps_in} -> {self.irreps_out.simplify()} "
            f"| {paths} paths | {self.weight_numel} weights)"
        )


def _pair_variance(ir1: Any, ir2: Any, ir3: Any, normalization: str) -> float:
    """Factor of a product of two different tensors; see `TensorProduct`."""
    return {"component": ir3.dim, "norm": ir1.dim * ir2.dim, "none": 1}[normalization]  # type: ignore[no-any-return]


def _self_variance(ir: Any, ir3: Any, normalization: str) -> float:
    """Factor of the product of one irrep with itself, whose components are not independent (e3nn's `TensorSquare`)."""
    d, scalar = ir.dim, ir3.l == 0
    component = ir3.dim / (d + 2) if scalar else ir3.dim / 2
    norm = ir3.dim * d if scalar else d * (d + 2) / 2
    return {"component": component, "norm": norm, "none": 1}[normalization]  # type: ignore[no-any-return]


def _full_square(x: Irreps, admitted: Filter, normalization: str) -> Iterator[tuple[tuple[int, Any], tuple[Any, ...]]]:
    for i, (mul1, ir1) in enumerate(x):
        for j, (mul2, ir2) in enumerate(x):
            for ir in ir1 * ir2 if i <= j else ():
                if not _admits(admitted, ir):
                    continue
                pair = _pair_variance(ir1, ir2, ir, normalization)
                if i < j:
                    yield (mul1 * mul2, ir), (i, j, "uvuv", False, pair)
                    continue
                if mul1 > 1:
                    yield (mul1 * (mul1 - 1) // 2, ir), (i, i, "uvu<v", False, pair)
                if ir.l % 2 == 0:
                    yield (mul1, ir), (i, i, "uuu", False, _self_variance(ir1, ir, normalization))


def _connected_square(x: Irreps, z: Irreps, normalization: str) -> Iterator[tuple[Any, ...]]:
    for i, (mul, ir1) in enumerate(x):
        for j, (_, ir2) in enumerate(x):
            for k, (_, ir) in enumerate(z):
                if i > j or ir not in ir1 * ir2:
                    continue
                pair = _pair_variance(ir1, ir2, ir, normalization)
                if i < j:
                    yield i, j, k, "uvw", True, pair
                    continue
                if mul > 1:
                    yield i, i, k, "u<vw", True, pair
                if ir.l % 2 == 0:
                    yield i, i, k, "uuw", True, _self_variance(ir1, ir, normalization)
