"""`TensorProduct` with e3nn's arguments, normalisations, weight order and values, over `equikern.ops.product`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equikern.errors import ProgramError, ShapeError
from equikern.o3._irreps import Irreps
from equikern.o3._state import check_and_drop_compiled
from equikern.ops import product
from equikern.program import EDGE, SHARED, Program, Rows
from equikern.program import product as product_program
from equikern.program.program import mode_shapes


class Instruction(NamedTuple):
    """One path: `path_weight` is the whole factor in front of it, `path_shape` the shape of its weights."""

    i_in1: int
    i_in2: int
    i_out: int
    connection_mode: str
    has_weight: bool
    path_weight: float
    path_shape: tuple[int, ...]


class TensorProduct(torch.nn.Module):
    """z = sum over paths of c w (x ⊗ y): x (..., irreps_in1.dim), y (..., irreps_in2.dim) to (..., irreps_out.dim).

    Instructions are `(i_in1, i_in2, i_out, mode, has_weight[, path_weight])`; modes are uvw, uvu, uvv, uuw, uuu, uvuv,
    uvu<v and u<vw. Weights are flat, path after path, each path's row-major in its `path_shape`. With
    `internal_weights` they are a parameter, drawn standard normal; with `shared_weights` one row serves all of the
    batch. Arguments, defaults and the factors c are those of e3nn 0.6. `compile_left_right` and `compile_right` only
    say whether `forward` and `right` may be called; `_specialized_code` and `_optimize_einsums` are accepted and idle.

    The state dict holds `weight` (empty if external) and `output_mask`; one of e3nn loads strictly, after a check that
    its 3j symbols have our signs. Raises ProgramError for what cannot be, ShapeError for tensors that do not fit.

    >>> tp = TensorProduct("8x0e + 8x1o", "1o", "8x1o", [(0, 0, 0, "uvu", True)])
    >>> tp
    TensorProduct(8x0e+8x1o x 1x1o -> 8x1o | 8 paths | 8 weights)
    """

    weight: Tensor
    output_mask: Tensor

    def __init__(
        self,
        irreps_in1: Any,
        irreps_in2: Any,
        irreps_out: Any,
        instructions: Sequence[Sequence[Any]],
        in1_var: Sequence[float] | Tensor | None = None,
        in2_var: Sequence[float] | Tensor | None = None,
        out_var: Sequence[float] | Tensor | None = None,
        irrep_normalization: str | None = None,
        path_normalization: str | None = None,
        internal_weights: bool | None = None,
        shared_weights: bool | None = None,
        compile_left_right: bool = True,
        compile_right: bool = False,
        normalization: str | None = None,
        _specialized_code: bool | None = None,
        _optimize_einsums: bool | None = None,
    ) -> None:
        super().__init__()
        if normalization is not None:
            warnings.warn("normalization is deprecated; use irrep_normalization.", DeprecationWarning, stacklevel=2)
            irrep_normalization = normalization
        self.irreps_in1, self.irreps_in2, self.irreps_out = Irreps(irreps_in1), Irreps(irreps_in2), Irreps(irreps_out)
        self.shared_weights = shared_weights is None or bool(shared_weights)
        self.program = product_program(
            self.irreps_in1,
            self.irreps_in2,
            self.irreps_out,
            instructions,
            rows=Rows(w=SHARED if self.shared_weights else EDGE),
            irrep_normalization=irrep_normalization or "component",
            path_normalization=path_normalization or "element",
            in1_var=in1_var,  # type: ignore[arg-type]
            in2_var=in2_var,  # type: ignore[arg-type]
            out_var=out_var,  # type: ignore[arg-type]
        )
        self.instructions = _instructions(self.program)
        self.weight_numel = self.program.dims[2]
        if internal_weights is None:
            internal_weights = self.shared_weights and any(ins.has_weight for ins in self.instructions)
        self.internal_weights = own_weights(internal_weights, self.shared_weights)
        self._did_compile_left_right, self._did_compile_right = compile_left_right, compile_right
        self._register()

    def _register(self) -> None:
        if self.internal_weights and self.weight_numel > 0:
            self.weight = torch.nn.Parameter(torch.randn(self.weight_numel))
        else:
            self.register_buffer("weight", torch.zeros(0))
        live = {ins.i_out for ins in self.instructions if ins.path_weight != 0 and 0 not in ins.path_shape}
        self.register_buffer("output_mask", output_mask(self.irreps_out, live))

    def forward(self, x: Tensor, y: Tensor, weight: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """z (..., irreps_out.dim); leading dimensions of x, y and unshared weights broadcast.

        weight: (weight_numel,) if shared, else (..., weight_numel); or a list of one tensor a weighted path, each
        `path_shape`, behind leading dimensions if not shared. It is required if there are no internal weights.
        """
        if not self._did_compile_left_right:
            raise ProgramError("this product was made with compile_left_right=False; make it with True to call it.")
        w = self._get_weights(weight)
        given = (x, y) if self.shared_weights else (x, y, w)
        size, (x, y, *rest) = in_rows(given, (self.irreps_in1.dim, self.irreps_in2.dim, self.weight_numel))
        return product(self.program, x, y, rest[0] if rest else w).reshape(*size, self.irreps_out.dim)

    def right(self, y: Tensor, weight: Tensor | Sequence[Tensor] | None = None) -> Tensor:
        """b (..., irreps_in1.dim, irreps_out.dim) with z_k = sum_i x_i b_ik for all x. Needs `compile_right=True`.

        Each unit vector of x is evaluated, so a row of y costs irreps_in1.dim rows of `forward`.
        """
        if not self._did_compile_right:
            raise ProgramError("this product was made with compile_right=False; make it with True to call right().")
        w = self._get_weights(weight)
        units = torch.eye(self.irreps_in1.dim, dtype=y.dtype, device=y.device)
        w = w if self.shared_weights else w.unsqueeze(-2)
        given = (units, y.unsqueeze(-2)) if self.shared_weights else (units, y.unsqueeze(-2), w)
        size, (x, y, *rest) = in_rows(given, (self.irreps_in1.dim, self.irreps_in2.dim, self.weight_numel))
        return product(self.program, x, y, rest[0] if rest else w).reshape(*size, self.irreps_out.dim)

    def _get_weights(self, weight: Tensor | Sequence[Tensor] | None) -> Tensor:
        if weight is None:
            if self.weight_numel > 0 and not self.internal_weights:
                raise ShapeError(f"the product has no internal weights; pass weight with {self.weight_numel} columns.")
            return self.weight
        if not isinstance(weight, Tensor):
            weight = self._joined(weight)
        fits = weight.shape == (self.weight_numel,) if self.shared_weights else weight.ndim > 1
        if not fits or weight.shape[-1] != self.weight_numel:
            lead = "" if self.shared_weights else "..., "
            raise ShapeError(f"weight has shape {tuple(weight.shape)}; {self} reads ({lead}{self.weight_numel}).")
        return weight

    def _joined(self, weights: Sequence[Tensor]) -> Tensor:
        shapes = [ins.path_shape for ins in self.instructions if ins.has_weight]
        if len(weights) != len(shapes):
            raise ShapeError(f"weight is a list of {len(weights)} tensors; {self} has {len(shapes)} weighted paths.")
        flat = []
        for n, (w, shape) in enumerate(zip(weights, shapes, strict=True)):
            lead = w.ndim - len(shape)
            if w.shape[max(lead, 0) :] != shape or (lead > 0) == self.shared_weights:
                rows = "" if self.shared_weights else "(...) + "
                raise ShapeError(f"weight {n} of the list has shape {tuple(w.shape)}; its path reads {rows}{shape}.")
            flat.append(w.reshape(*w.shape[:lead], prod(shape)))
        return torch.cat(flat, dim=-1)

    def weight_views(
        self, weight: Tensor | None = None, yield_instruction: bool = False
    ) -> Iterator[Tensor | tuple[int, Instruction, Tensor]]:
        """Views of the weights of each weighted path, (..., *path_shape); with `yield_instruction` (n, path, view)."""
        for n, ins in enumerate(self.instructions):
            if ins.has_weight:
                view = self.weight_view_for_instruction(n, weight)
                yield (n, ins, view) if yield_instruction else view

    def weight_view_for_instruction(self, instruction: int, weight: Tensor | None = None) -> Tensor:
        """View of the weights of path number `instruction`, (..., *path_shape), as `weight_views` gives it."""
        ins = self.instructions[instruction]
        if not ins.has_weight:
            raise ProgramError(f"path {instruction} has no weights.")
        return self._get_weights(weight)[..., self.program.weight_slices[instruction]].unflatten(-1, ins.path_shape)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        check_and_drop_compiled(state_dict, prefix, unexpected=args[3], errors=args[4])

    def __repr__(self) -> str:
        paths = sum(prod(ins.path_shape) for ins in self.instructions)
        return (
            f"{type(self).__name__}({self.irreps_in1.simplify()} x {self.irreps_in2.simplify()} "
            f"-> {self.irreps_out.simplify()} | {paths} paths | {self.weight_numel} weights)"
        )


def _instructions(program: Program) -> list[Instruction]:
    return [
        Instruction(*path[:4], path.weighted, path.scale, mode_shapes(path.mode, *program.multiplicities(path))[0])
        for path in program.paths
    ]


def own_weights(internal: bool, shared: bool) -> bool:
    """`internal` as a bool; raises ProgramError for internal weights that are not shared."""
    if internal and not shared:
        raise ProgramError("internal weights are shared; drop shared_weights=False or pass the weights yourself.")
    return bool(internal)


def output_mask(irreps: Irreps, live: set[int]) -> Tensor:
    """(dim,): 1 in the columns of the entries `live`, else 0."""
    parts = [torch.full((entry.dim,), float(i in live)) for i, entry in enumerate(irreps)]
    return torch.cat([torch.zeros(0), *parts])


def in_rows(tensors: Sequence[Tensor], dims: Sequence[int]) -> tuple[torch.Size, list[Tensor]]:
    """The common leading shape of tensors (..., dim), and each as (rows, dim). Raises ShapeError."""
    for a, dim in zip(tensors, dims, strict=False):
        if a.ndim == 0 or a.shape[-1] != dim:
            raise ShapeError(f"an operand has shape {tuple(a.shape)}; its last dimension must be {dim}.")
    leads = [a.shape[:-1] for a in tensors]
    size = leads[0] if all(lead == leads[0] for lead in leads) else _broadcast(leads)
    rows = prod(size)
    return size, [a.expand(*size, a.shape[-1]).reshape(rows, a.shape[-1]) for a in tensors]


def _broadcast(leads: list[torch.Size]) -> torch.Size:
    width = max(map(len, leads))
    padded = [(1,) * (width - len(lead)) + tuple(lead) for lead in leads]
    for sizes in zip(*padded, strict=True):
        if len(set(sizes) - {1}) > 1:
            raise ShapeError(f"leading dimensions {', '.join(str(tuple(lead)) for lead in leads)} do not broadcast.")
    return torch.broadcast_shapes(*leads)
