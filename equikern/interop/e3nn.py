"""e3nn's `TensorProduct` (with its subclasses) and `SphericalHarmonics`, of any version, in any package with a copy.

Objects are recognised by their structure and checked by their numbers. Coefficients are those of the object: each 3j
symbol that it holds, or that its package computes, must be plus or minus ours; the sign goes into the path's scale.
"""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from equikern.errors import ProgramError
from equikern.interop.remembered import remembered
from equikern.interop.swap import Swap, close, runs, why_no_harmonics
from equikern.nn._species_linear import present_species
from equikern.ops import evaluate
from equikern.ops.harmonics import spherical_harmonics
from equikern.program import (
    EDGE,
    SHARED,
    Irreps,
    Path,
    Program,
    Rows,
    linear_of_species,
    parse,
    product_of_paths,
    wigner_3j,
)

_PRODUCT = (
    "irreps_in1", "irreps_in2", "irreps_out", "instructions",
    "weight_numel", "shared_weights", "internal_weights", "_get_weights",
)  # fmt: skip
_HARMONICS = ("irreps_in", "irreps_out", "normalize", "normalization", "_ls_list", "_lmax", "_is_range_lmax")
_FOREIGN = "coefficients are not e3nn's"


def is_product(module: nn.Module) -> bool:
    """Whether a module has the structure of e3nn's `TensorProduct`."""
    return all(hasattr(module, name) for name in _PRODUCT)


def is_harmonics(module: nn.Module) -> bool:
    """Whether a module has the structure of e3nn's `SphericalHarmonics`."""
    return all(hasattr(module, name) for name in _HARMONICS)


def arguments(module: nn.Module) -> list[str]:
    """The names of the arguments of the class's forward."""
    return list(inspect.signature(type(module).forward).parameters)[1:]  # type: ignore[attr-defined]


# --- tensor products


class ProductSwap(Swap):
    """z = w (x tensor y) for e3nn's calls: leading dimensions broadcast, weights internal, shared, by row or a list."""

    program: Program

    def __call__(self, x: Tensor, y: Tensor, weight: Any = None) -> Tensor:
        w = self.module._get_weights(weight)  # type: ignore[operator]
        if not runs(self.program, x, y, w):
            return self.own(x, y, weight)  # type: ignore[no-any-return]
        return self.evaluate(x, y, w)

    def evaluate(self, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """x (..., dim), y (..., dim), w (..., n), or (n,) where it is shared -> (..., dim)."""
        shared = self.module.shared_weights
        if not values_hidden() and (species := self._species(x, y)) is not None:
            present, rows = species
            weights = weights_of_species(self.program.text, present, w.reshape(-1))
            return evaluate(species_map(self.program.text), (x, weights), [rows])  # type: ignore[arg-type]
        batch = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1], () if shared else w.shape[:-1])
        rows = prod(batch)
        x = x.expand(*batch, x.shape[-1]).reshape(rows, x.shape[-1])
        y = y.expand(*batch, y.shape[-1]).reshape(rows, y.shape[-1])
        if not self.program.dims[2]:
            z = evaluate(self.program, (x, y, None))
        else:
            z = evaluate(
                self.program, (x, y, w if shared else w.expand(*batch, w.shape[-1]).reshape(rows, w.shape[-1]))
            )
        return z.reshape(*batch, z.shape[-1])

    def _species(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """The columns of y that are 1 in a row, and for each row which of them; None where y is not one-hot."""
        rows = (x.ndim, y.ndim) == (2, 2) and 0 < len(y) == len(x) and y.shape[1] > 1
        one_segment = len(self.program.operands[1].irreps) == 1  # type: ignore[arg-type]
        if not rows or not one_segment or species_map(self.program.text) is None:
            return None
        species = species_of(y)
        if species is None:
            return None
        return remembered("present species", y, lambda: present_species(species, y.shape[1]))

    def agrees(self) -> bool:
        """See Swap."""
        module: Any = self.module
        tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
        like = tensors[0] if tensors else torch.empty(0)
        generator = torch.Generator().manual_seed(0)
        shapes: list[tuple[int, ...]] = [(2, slot.dim) for slot in self.program.operands[: len(arguments(module)) - 1]]
        if not module.internal_weights:
            shapes.append((module.weight_numel,) if module.shared_weights else (2, module.weight_numel))
        inputs = [torch.randn(shape, generator=generator, dtype=torch.float64).to(like) for shape in shapes]
        return close(lambda: self.own(*inputs), lambda: self(*inputs))

    def rebuild(self) -> Swap | str:
        """See Swap."""
        return product_swap(self.module)

    def constants(self) -> nn.Module:
        """See Swap."""
        return self.module


class SquareSwap(ProductSwap):
    """e3nn's `TensorSquare`: both factors are x."""

    def __call__(self, x: Tensor, weight: Any = None) -> Tensor:  # type: ignore[override]
        w = self.module._get_weights(weight)  # type: ignore[operator]
        return self.evaluate(x, x, w) if runs(self.program, x, w) else self.own(x, weight)  # type: ignore[no-any-return]


def product_swap(module: nn.Module) -> Swap | str:
    """The stand-in for a module with `is_product`, or the reason why it stays."""
    kinds = {("x", "y", "weight"): ProductSwap, ("x", "weight"): SquareSwap}
    kind = kinds.get(tuple(arguments(module)))
    if kind is None:
        return f"its forward takes ({', '.join(arguments(module))}), not (x, y, weight)"
    program = product_program(module)
    if isinstance(program, str):
        return program
    if not program.paths:
        return "it has no paths"
    return kind(module, program)


def product_program(module: Any, rows: Rows | None = None) -> Program | str:
    """The program of an e3nn tensor product with its own coefficients, or the reason why there is none."""
    irreps = [
        Irreps([(mul, (ir.l, ir.p)) for mul, ir in each])
        for each in (module.irreps_in1, module.irreps_in2, module.irreps_out)
    ]
    held = _held_symbols(module)
    signs: dict[tuple[int, int, int], float] = {}
    paths = []
    for ins in module.instructions:
        if 0 in ins.path_shape:
            continue
        triple = (irreps[0][ins.i_in1].ir.l, irreps[1][ins.i_in2].ir.l, irreps[2][ins.i_out].ir.l)
        if triple not in signs:
            symbol = held[triple] if triple in held else _package_symbol(module, triple)
            sign = None if symbol is None else _sign(symbol, wigner_3j(*triple))
            if sign is None:
                return f"{_FOREIGN}: path l = {triple}"
            signs[triple] = sign
        scale = float(ins.path_weight) * signs[triple]
        paths.append(Path(ins.i_in1, ins.i_in2, ins.i_out, ins.connection_mode, scale, bool(ins.has_weight)))
    try:
        return product_of_paths(
            irreps[0], irreps[1], irreps[2], paths, rows=rows or Rows(w="shared" if module.shared_weights else "edge")
        )
    except ProgramError as error:
        return f"it is no program: {error}"


def _held_symbols(module: nn.Module) -> dict[tuple[int, ...], Any]:
    """The 3j symbols among a module's buffers, by (l1, l2, l3); None for one without data."""
    held: dict[tuple[int, ...], Any] = {}
    for name, buffer in module.named_buffers():
        *parents, last = name.split(".")
        degrees = last.removeprefix("_w3j_").split("_")
        if last.startswith("_w3j_") and "_compiled_main_right" not in parents and all(map(str.isdecimal, degrees)):
            held[tuple(map(int, degrees))] = None if buffer.is_meta else buffer.detach().double().cpu().numpy()
    return held


def _package_symbol(module: nn.Module, triple: tuple[int, int, int]) -> Any:
    """A 3j symbol as the package of a module's class computes it, else the installed e3nn; None if there is neither."""
    for cls in type(module).__mro__:
        names = getattr(vars(cls).get("__init__"), "__globals__", {})
        generator = getattr(names.get("codegen_tensor_product_left_right"), "__globals__", {})
        for scope in (names, generator):
            function = scope.get("wigner_3j") or getattr(scope.get("o3"), "wigner_3j", None)
            if callable(function):
                return function(*triple, dtype=torch.float64).numpy()
    try:
        return importlib.import_module("e3nn.o3").wigner_3j(*triple, dtype=torch.float64).numpy()
    except ImportError:
        return None


def _sign(symbol: Any, ours: Any) -> float | None:
    if symbol.shape != ours.shape:
        return None
    for sign in (1.0, -1.0):
        if np.abs(symbol - sign * ours).max() <= 1e-5 * np.abs(ours).max():
            return sign
    return None


@cache
def species_map(text: str) -> Program | None:
    """A program that multiplies by scalars y and mixes channels by shared weights, as a linear map by species; else
    None. Where few rows of y differ it costs less.
    """
    program = parse(text)
    x, y, w, z = program.operands
    scalars = all(ir.l == 0 for _, ir in y.irreps)  # type: ignore[union-attr]
    rows = (x.row, y.row, w.row, z.row) == (EDGE, EDGE, SHARED, EDGE)
    if not rows or not scalars or any(path.mode != "uvw" for path in program.paths):
        return None
    return linear_of_species(program)


def weights_of_species(text: str, y: Tensor, w: Tensor) -> Tensor:
    """(species, n): the weights of `linear_of_species`, for y and the product's weights w (n,).

    y (species, dim), or where it is one segment and one-hot (species,), integers: the column that is 1.
    """
    parts, groups = [], _weight_matrices(text)
    # Not w[columns]: the gradient of each would be as large as w, mostly zeros. To split copies it once.
    rows = [w] if len(groups) == 1 else w.split([prod(shape) for _, shape in groups])
    for row, (columns, shape) in zip(rows, groups, strict=True):
        matrices = row.view(shape)
        if y.ndim == 1:
            products = matrices.index_select(1, y)
        else:  # not matmul: where gradients are recorded it copies the weights first
            products = torch.bmm(y[:, columns].expand(shape[0], *y[:, columns].shape), matrices)
        parts.append(products.transpose(0, 1).flatten(1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


@cache
def _weight_matrices(text: str) -> list[tuple[slice, tuple[int, int, int]]]:
    """The weights of paths in turn as matrices, together where they can be: columns of y, (matrices, rows, columns)."""
    program, groups = parse(text), list[tuple[slice, tuple[int, int, int]]]()
    for path in program.paths:
        count, *sides = program.multiplicities(path)
        columns = program.operands[1].irreps.slices()[path.in2]  # type: ignore[union-attr]
        if groups and (columns, *sides) == (groups[-1][0], *groups[-1][1][1:]):
            count += groups.pop()[1][0]
        groups.append((columns, (count, *sides)))  # type: ignore[arg-type]
    return groups


def species_of(y: Tensor) -> Tensor | None:
    """(N,): the column that is 1 in each row of y (N, Z); None where y is no constant one-hot matrix."""

    def look() -> Tensor | None:
        species = y.argmax(1)
        one_hot = torch.zeros_like(y).scatter_(1, species.unsqueeze(1), 1.0)
        return species if torch.equal(one_hot, y) else None

    return None if y.requires_grad or not y.shape[1] else remembered("species", y, look)


def values_hidden() -> bool:
    """Whether values of tensors cannot be looked at: somebody traces, transforms (torch.func) or sends tangents."""
    # First: torch.compile cannot trace the others.
    return (
        torch.compiler.is_compiling()
        or _get_current_dispatch_mode() is not None
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def watched(module: nn.Module) -> bool:
    """Whether somebody's hooks want to see what a module gets and gives."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


# --- spherical harmonics


class HarmonicsSwap(Swap):
    """Y of vectors (..., 3)."""

    def __call__(self, x: Tensor) -> Tensor:
        if self.why_not(x.device.type, x.dtype) is not None:
            return self.own(x)  # type: ignore[no-any-return]
        module: Any = self.module
        return spherical_harmonics(module._ls_list, x, module.normalize, module.normalization)

    def why_not(self, device: str, dtype: torch.dtype) -> str | None:
        """See Swap."""
        return why_no_harmonics(device, dtype)

    def agrees(self) -> bool:
        """See Swap."""
        # Without parameters it computes wherever its input is.
        x = torch.tensor([[0.3, -0.5, 0.8], [-1.1, 0.2, 0.4]], dtype=torch.float64)
        return close(lambda: self.own(x), lambda: self(x))


def harmonics_swap(module: Any) -> Swap | str:
    """The stand-in for a module with `is_harmonics`, or the reason why it stays."""
    if arguments(module) != ["x"]:
        return f"its forward takes ({', '.join(arguments(module))}), not (x)"
    return HarmonicsSwap(module)
