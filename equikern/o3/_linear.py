"""`Linear` with e3nn's arguments, normalisation, weight order and values, over `equikern.ops.linear`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equikern.errors import ProgramError, ShapeError
from equikern.o3._irreps import Irreps
from equikern.o3._state import check_and_drop_compiled
from equikern.o3._tensor_product import output_mask, own_weights
from equikern.ops import linear
from equikern.program import linear as linear_program

PATH_NORMALIZATIONS = ("element", "path")


class Instruction(NamedTuple):
    """One path of a linear map; i_in is -1 for a bias."""

    i_in: int
    i_out: int
    path_shape: tuple[int, ...]
    path_weight: float


class LinearSlices(NamedTuple):
    """Where a path's weights lie in the flat ones, and their shape."""

    slice_1D: slice
    shape_2D: tuple[int, ...]


class Linear(torch.nn.Module):
    """z = W x between equal irreps, plus a bias of scalars: (..., irreps_in.dim) to (..., irreps_out.dim).

    `instructions` are pairs (i_in, i_out); by default all that have equal irreps. Weights are flat, path after path,
    each (mul_in, mul_out) row-major. `biases` is True for all 0e, or one bool an output entry. With `f_in` and `f_out`
    the features are (..., f_in, dim) and (..., f_out, dim), the weights (f_in, f_out, weight_numel). Arguments,
    defaults and factors are those of e3nn 0.6.

    Raises ProgramError for what cannot be, ShapeError for tensors that do not fit.

    >>> Linear("4x0e+16x1o", "8x0e+8x1o")
    Linear(4x0e+16x1o -> 8x0e+8x1o | 160 weights)
    """

    weight: Tensor
    bias: Tensor
    output_mask: Tensor

    def __init__(
        self,
        irreps_in: Any,
        irreps_out: Any,
        *,
        f_in: int | None = None,
        f_out: int | None = None,
        internal_weights: bool | None = None,
        shared_weights: bool | None = None,
        instructions: Sequence[tuple[int, int]] | None = None,
        biases: bool | Sequence[bool] | None = False,
        path_normalization: str = "element",
        _optimize_einsums: bool | None = None,
    ) -> None:
        super().__init__()
        if (f_in is None) != (f_out is None):
            raise ProgramError(f"f_in and f_out are given both or neither; got {f_in} and {f_out}.")
        self.irreps_in, self.irreps_out = Irreps(irreps_in), Irreps(irreps_out)
        self.f_in, self.f_out = f_in, f_out
        self.shared_weights = shared_weights is None or bool(shared_weights)
        if internal_weights is None:
            internal_weights = self.shared_weights
        self.internal_weights = own_weights(internal_weights, self.shared_weights)
        paths = _paths(self.irreps_in, self.irreps_out, instructions, path_normalization, f_in or 1)
        self.instructions = paths + _biases(self.irreps_out, biases)
        self.weight_numel = sum(prod(ins.path_shape) for ins in paths)
        self.bias_numel = sum(prod(ins.path_shape) for ins in self.instructions[len(paths) :])
        fi, fo, n, m = f_in or 1, f_out or 1, len(self.irreps_in), len(self.irreps_out)
        self.program = linear_program(
            self.irreps_in * fi,
            self.irreps_out * fo,
            [(a * n + p.i_in, b * m + p.i_out, p.path_weight) for a in range(fi) for b in range(fo) for p in paths],
            shared=self.shared_weights,
        )
        self.weight_index_slices = _slices(self.instructions)
        self._bias_layout = bias_layout(self.irreps_out, self.instructions)
        self._register()

    def _register(self) -> None:
        factors = () if self.f_in is None else (self.f_in, self.f_out)
        if self.internal_weights and self.weight_numel > 0:
            self.weight = torch.nn.Parameter(torch.randn(*factors, self.weight_numel))
        else:
            self.register_buffer("weight", torch.zeros(0))
        if self.internal_weights and self.bias_numel > 0:
            self.bias = torch.nn.Parameter(torch.zeros(*factors[1:], self.bias_numel))
        else:
            self.register_buffer("bias", torch.zeros(0))
        live = {ins.i_out for ins in self.instructions if 0 not in ins.path_shape}
        self.register_buffer("output_mask", output_mask(self.irreps_out, live))

    def forward(self, features: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """z (..., irreps_out.dim), or (..., f_out, irreps_out.dim).

        weight: (weight_numel,) if shared, else (..., weight_numel) with as many rows as the features, or one; bias:
        (bias_numel,), or (f_out, bias_numel). Both are required if there are no internal weights.
        """
        x = features
        factors = 0 if self.f_in is None else 1
        shape = (self.irreps_in.dim,) if self.f_in is None else (self.f_in, self.irreps_in.dim)
        if x.shape[-1 - factors :] != shape:
            raise ShapeError(f"features have shape {tuple(x.shape)}; {self} reads (..., {', '.join(map(str, shape))}).")
        size = x.shape[: x.ndim - 1 - factors]
        rows = prod(size)
        z = linear(self.program, x.reshape(rows, self.program.dims[0]), self._weights(weight, rows))
        if self.bias_numel > 0:
            z = z + self._bias_columns(bias)
        return z.reshape(*size, *(() if self.f_out is None else (self.f_out,)), self.irreps_out.dim)

    def _weights(self, weight: Tensor | None, rows: int) -> Tensor:
        if weight is None:
            if self.weight_numel > 0 and not self.internal_weights:
                raise ShapeError(f"the map has no internal weights; pass weight with {self.weight_numel} columns.")
            weight = self.weight
        numel = self.program.dims[1]
        if self.shared_weights:
            if weight.numel() != numel:
                raise ShapeError(f"weight has shape {tuple(weight.shape)}; {self} reads {numel} numbers.")
            return weight.reshape(numel)
        if numel == 0:
            return weight.new_zeros(rows, 0)
        if weight.ndim < 2 or weight.numel() not in (numel, rows * numel):
            raise ShapeError(
                f"weight has shape {tuple(weight.shape)}; {self} reads 1 or {rows} rows of {numel} numbers."
            )
        return weight.reshape(-1, numel).expand(rows, numel)

    def _bias_columns(self, bias: Tensor | None) -> Tensor:
        """(f_out dim,): the bias in its columns, zero elsewhere."""
        if bias is None:
            if not self.internal_weights:
                raise ShapeError(f"the map has no internal biases; pass bias with {self.bias_numel} numbers.")
            bias = self.bias
        rows = self.f_out or 1
        if bias.numel() != rows * self.bias_numel:
            raise ShapeError(f"bias has shape {tuple(bias.shape)}; {self} reads {rows * self.bias_numel} numbers.")
        bias = bias.reshape(rows, self.bias_numel)
        return bias_columns(bias, self._bias_layout)

    def weight_views(
        self, weight: Tensor | None = None, yield_instruction: bool = False
    ) -> Iterator[Tensor | tuple[int, Instruction, Tensor]]:
        """Views of the weights of each path but biases, (..., mul_in, mul_out); or (n, path, view)."""
        for n, ins in enumerate(self.instructions):
            if ins.i_in != -1:
                view = self.weight_view_for_instruction(n, weight)
                yield (n, ins, view) if yield_instruction else view

    def weight_view_for_instruction(self, instruction: int, weight: Tensor | None = None) -> Tensor:
        """View of the weights of path number `instruction`, (..., mul_in, mul_out)."""
        if self.instructions[instruction].i_in == -1:
            raise ProgramError(f"path {instruction} is a bias and has no weights; see the attribute bias.")
        if weight is None:
            if not self.internal_weights:
                raise ShapeError("the map has no internal weights; pass weight to view it.")
            weight = self.weight
        columns, shape = self.weight_index_slices[instruction]
        return weight[..., columns].unflatten(-1, shape)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        check_and_drop_compiled(state_dict, prefix, unexpected=args[3], errors=args[4])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.irreps_in} -> {self.irreps_out} | {self.weight_numel} weights)"


def bias_layout(irreps: Any, instructions: Sequence[Any]) -> list[tuple[int, bool]]:
    """(dim, whether it has a bias) of each entry: plain numbers, which torch.compile can trace whatever the irreps."""
    outs = {ins.i_out for ins in instructions if ins.i_in == -1}
    return [(mul * ir.dim, i in outs) for i, (mul, ir) in enumerate(irreps)]


def bias_columns(bias: Tensor, layout: list[tuple[int, bool]]) -> Tensor:
    """(rows * dim,): biases (rows, n) in the columns of the entries that have one, zero elsewhere."""
    bias = bias.reshape(-1, sum(dim for dim, biased in layout if biased))
    parts, start = [], 0
    for dim, biased in layout:
        if biased:
            parts.append(bias[:, start : start + dim])
            start += dim
        else:
            parts.append(bias.new_zeros(len(bias), dim))
    return torch.cat(parts, dim=-1).flatten()


def _paths(
    x: Irreps, z: Irreps, pairs: Sequence[tuple[int, int]] | None, normalization: str, f_in: int
) -> list[Instruction]:
    """The paths with their factors 1/sqrt(number of products summed into an output)."""
    if normalization not in PATH_NORMALIZATIONS:
        raise ProgramError(f"path_normalization is one of {PATH_NORMALIZATIONS}; got {normalization!r}.")
    if pairs is None:
        pairs = [(i, o) for i, (_, ir_in) in enumerate(x) for o, (_, ir_out) in enumerate(z) if ir_in == ir_out]
    for i, o in pairs:
        if not (0 <= i < len(x) and 0 <= o < len(z)):
            raise ProgramError(f"instruction {(i, o)} is out of range; {x} has {len(x)} entries and {z} has {len(z)}.")
        if x[i].ir != z[o].ir:
            raise ProgramError(f"instruction {(i, o)} maps {x[i].ir} to {z[o].ir}; both must be the same irrep.")
    paths = []
    for i, o in pairs:
        into = [other for other, out in pairs if out == o]
        summed = sum(x[other].mul for other in into) if normalization == "element" else x[i].mul * len(into)
        paths.append(Instruction(i, o, (x[i].mul, z[o].mul), (f_in * summed or 1) ** -0.5))
    return paths


def _biases(z: Irreps, biases: bool | Sequence[bool] | None) -> list[Instruction]:
    if biases is None or isinstance(biases, bool):
        biases = [bool(biases) and ir.is_scalar() for _, ir in z]
    if len(biases) != len(z):
        raise ProgramError(f"biases has {len(biases)} entries; irreps_out {z} has {len(z)}.")
    for bias, (_, ir) in zip(biases, z, strict=True):
        if bias and not ir.is_scalar():
            raise ProgramError(f"only 0e can have a bias; {ir} of irreps_out {z} cannot.")
    return [Instruction(-1, o, (z[o].dim,), 1.0) for o, bias in enumerate(biases) if bias]


def _slices(instructions: Sequence[Instruction]) -> list[LinearSlices]:
    slices, end = [], 0
    for ins in instructions:
        start, end = end, end + prod(ins.path_shape)
        slices.append(LinearSlices(slice(start, end), ins.path_shape))
    return slices
