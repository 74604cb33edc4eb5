"""Symmetric contractions: equivariant polynomials of node features, channel by channel, numpy only.

F(x, w, z) = sum over nodes n, channels c and terms t of  w[s(n), t, c] * z[n, k_t, c] * m_t(x[n, :, c])

with m_t a monomial of degree 1 ... correlation in the components of x, and s(n) the species of a node. Which pairs
(column k of z, monomial) occur follows from symmetry: those that some equivariant polynomial has. `basis` holds an
orthonormal basis of these polynomials; weights of its elements are turned into w by one matrix (`basis.matrix`).

The derivative of order d along d tangents is the coefficient of e_1 ... e_d where x is x_0 + sum of e_S x_S over the
subsets S of {1, ..., d}, e_i^2 = 0: the same sum, with monomials of such numbers. So F is closed under `along`.
Source of the idea: Batatia et al. 2022 (MACE, arXiv:2206.07697), equations 8 to 11.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from equikern.errors import ProgramError
from equikern.program.irreps import Irreps
from equikern.program.polynomials import Monomial, monomials, support, symmetric_basis

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

LAYOUTS = ("mul_ir", "ir_mul", "channels")
CORRELATIONS = (1, 2, 3, 4)
_TEXT = re.compile(r"symmetric (\d+) \| x (\w+) (\S+) \| z (\w+) (\S+) ~(\d+)")


class Product(NamedTuple):
    """value[out] += value[a] * value[b]."""

    out: int
    a: int
    b: int


@dataclass(frozen=True)
class Basis:
    """Polynomials as columns of `matrix` (terms, polynomials); `block[p]` is the block of polynomial p.

    A block is an entry of z and a degree, named in `blocks`.
    """

    matrix: Array
    block: Ints
    blocks: tuple[tuple[int, int], ...]

    def sizes(self) -> Ints:
        """For each polynomial the number of those in its block."""
        return np.bincount(self.block, minlength=len(self.blocks))[self.block]


@dataclass(frozen=True)
class Symmetric:
    """A symmetric contraction; `text` is its identity.

    Layouts: `mul_ir` (e3nn's), `ir_mul`, and `channels`: all components of a channel together, (C, components).
    """

    correlation: int
    layout_x: str
    irreps_x: Irreps
    layout_z: str
    irreps_z: Irreps
    order: int = 0
    text: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.correlation not in CORRELATIONS:
            raise ProgramError(f"a symmetric contraction has a correlation of 1 to 4; got {self.correlation!r}.")
        for layout in (self.layout_x, self.layout_z):
            if layout not in LAYOUTS:
                raise ProgramError(f"unknown layout {layout!r}; use one of {', '.join(LAYOUTS)}.")
        muls = {mul for mul, _ in (*self.irreps_x, *self.irreps_z)}
        if not self.irreps_x or not self.irreps_z or len(muls) != 1 or 0 in muls:
            raise ProgramError(
                "a symmetric contraction works channel by channel: every entry of irreps_x and irreps_z has the same "
                f"multiplicity; got {self.irreps_x} -> {self.irreps_z}."
            )
        if max(self.irreps_x.lmax, self.irreps_z.lmax) > 3:
            raise ProgramError(f"a symmetric contraction has l <= 3; got {self.irreps_x} -> {self.irreps_z}.")
        irreps = [str(irreps).replace(" ", "") for irreps in (self.irreps_x, self.irreps_z)]
        x, z = f"x {self.layout_x} {irreps[0]}", f"z {self.layout_z} {irreps[1]}"
        text = f"symmetric {self.correlation} | {x} | {z} ~{self.order}"
        object.__setattr__(self, "text", text)

    @property
    def channels(self) -> int:
        """C."""
        return self.irreps_x[0].mul  # type: ignore[no-any-return]

    @property
    def components(self) -> int:
        """Components of one channel of x."""
        return self.irreps_x.dim // self.channels

    def along(self) -> Symmetric:
        """The derivative along tangents of all reads of x: the sets of tangents double."""
        return replace(self, order=self.order + 1)

    @property
    def reads(self) -> int:
        """How many arrays x_S there are."""
        return 1 << self.order

    # --- the polynomial

    @cached_property
    def terms(self) -> tuple[tuple[int, Monomial], ...]:
        """(column k of a channel of z, monomial) of each row of w: by entry of z, column, degree and monomial."""
        return _terms(self.base)

    @property
    def base(self) -> Symmetric:
        """The contraction itself, not its derivative."""
        return replace(self, order=0)

    @cached_property
    def columns_x(self) -> tuple[Ints, Ints]:
        """Of each component: the column of channel 0, and the step to the next channel."""
        return _columns(self.irreps_x, self.layout_x)

    @cached_property
    def columns_z(self) -> tuple[Ints, Ints]:
        """The same of z."""
        return _columns(self.irreps_z, self.layout_z)

    @cached_property
    def circuit(self) -> tuple[int, tuple[Product, ...], tuple[int, ...]]:
        """How monomials are made: (values, products in order, the value of each term).

        Values 0 ... reads * components - 1 are those of x_S, set by set; each other one is a sum of products of earlier
        ones.
        """
        return _circuit(self)

    def flops(self, nodes: int) -> int:
        """Multiplications and additions to open z."""
        _, products, terms = self.circuit
        return (len(products) + 2 * len(terms)) * self.channels * nodes

    def depth(self, degree: int = 1) -> int:
        """The longest sum into one element: of x, all terms; of w, `degree` nodes."""
        return max(len(self.terms) * self.correlation, degree, 1) << self.order

    def __str__(self) -> str:
        return self.text


@cache
def parse_symmetric(text: str) -> Symmetric:
    """The contraction of a text.

    >>> parse_symmetric("symmetric 2 | x mul_ir 4x0e+4x1o | z mul_ir 4x0e ~0").components
    4
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ProgramError(
            f"{text!r} is no symmetric contraction; write 'symmetric 2 | x mul_ir 4x0e+4x1o | z mul_ir 4x0e ~0'."
        )
    correlation, layout_x, x, layout_z, z, order = match.groups()
    return Symmetric(int(correlation), layout_x, Irreps(x), layout_z, Irreps(z), int(order))


@cache
def basis(text: str) -> Basis:
    """An orthonormal basis of the polynomials of a contraction's text, in the same order on every machine.

    Each polynomial has symmetric coefficient tensors of norm 1 for every component.
    """
    program = parse_symmetric(text).base
    rows = {term: n for n, term in enumerate(program.terms)}
    matrix: list[Array] = []
    block: list[int] = []
    blocks: list[tuple[int, int]] = []
    first = 0
    for entry, (_, ir) in enumerate(program.irreps_z):
        for degree in range(1, program.correlation + 1):
            found = symmetric_basis(_irreps(program.irreps_x), degree, (ir.l, ir.p))
            if not len(found):
                continue
            columns = np.zeros((len(rows), len(found)))
            names = monomials(program.components, degree)
            for k, m in np.argwhere(support(found)):
                columns[rows[first + k, names[m]]] = found[:, k, m]
            matrix.append(columns)
            block += [len(blocks)] * len(found)
            blocks.append((entry, degree))
        first += ir.dim
    joined = np.concatenate(matrix, 1) if matrix else np.zeros((len(rows), 0))
    joined.setflags(write=False)
    return Basis(joined, np.array(block, dtype=np.int64), tuple(blocks))


def tensor_rows(program: Symmetric, entry: int, tensor: Array) -> Array | None:
    """Coefficients (terms, P) of polynomials of one degree into an entry of z from their tensors; None if foreign.

    tensor: (2l+1, D, ..., D, P), symmetric in the axes D or not, with D components of x. Foreign are tensors that have
    a coefficient, above rounding, where no equivariant polynomial has one.
    """
    degree, size = tensor.ndim - 2, program.components
    names = monomials(size, degree)
    index = {name: n for n, name in enumerate(names)}
    place = np.array([index[tuple(sorted(i))] for i in np.ndindex(*(size,) * degree)])
    flat = tensor.reshape(tensor.shape[0], size**degree, tensor.shape[-1])
    summed = np.zeros((tensor.shape[0], len(names), tensor.shape[-1]))
    for k in range(tensor.shape[0]):
        np.add.at(summed[k], place, flat[k])
    rows = {term: n for n, term in enumerate(program.terms)}
    first = sum(ir.dim for _, ir in program.irreps_z[:entry])
    result = np.zeros((len(rows), tensor.shape[-1]))
    largest = np.abs(summed).max(initial=0.0)
    for k, m in np.argwhere(np.abs(summed).max(2, initial=0.0) > 1e-5 * largest):
        row = rows.get((first + int(k), names[m]))
        if row is None:
            return None
        result[row] = summed[k, m]
    return result


# --- how it is made


def _irreps(irreps: Irreps) -> tuple[tuple[int, int], ...]:
    return tuple((ir.l, ir.p) for _, ir in irreps)


@cache
def _terms(program: Symmetric) -> tuple[tuple[int, Monomial], ...]:
    terms: list[tuple[int, Monomial]] = []
    first = 0
    for _, ir in program.irreps_z:
        degrees = range(1, program.correlation + 1)
        found = [symmetric_basis(_irreps(program.irreps_x), degree, (ir.l, ir.p)) for degree in degrees]
        for k in range(ir.dim):
            for degree, polynomials in zip(degrees, found, strict=True):
                names = monomials(program.components, degree)
                terms += [(first + k, names[m]) for m in np.flatnonzero(support(polynomials)[k])]
        first += ir.dim
    return tuple(terms)


def _columns(irreps: Irreps, layout: str) -> tuple[Ints, Ints]:
    first: list[int] = []
    step: list[int] = []
    start, size = 0, irreps.dim // irreps[0].mul
    for mul, ir in irreps:
        for i in range(ir.dim):
            column = {"mul_ir": start + i, "ir_mul": start + i * mul, "channels": len(first)}[layout]
            first.append(column)
            step.append({"mul_ir": ir.dim, "ir_mul": 1, "channels": size}[layout])
        start += mul * ir.dim
    return np.array(first, dtype=np.int64), np.array(step, dtype=np.int64)


@cache
def _circuit(program: Symmetric) -> tuple[int, tuple[Product, ...], tuple[int, ...]]:
    full = program.reads - 1
    size = program.components
    needed: dict[tuple[int, Monomial], list[tuple[tuple[int, Monomial], tuple[int, Monomial]]]] = {}

    def need(subset: int, monomial: Monomial) -> None:
        if len(monomial) == 1 or (subset, monomial) in needed:
            return
        parent, last = monomial[:-1], monomial[-1:]
        factors = []
        for part in range(subset + 1):
            if part & ~subset == 0:
                need(part, parent)
                factors.append(((part, parent), (subset ^ part, last)))
        needed[subset, monomial] = factors  # after its factors

    for _, monomial in program.terms:
        need(full, monomial)
    number: dict[tuple[int, Monomial], int] = {
        (subset, (i,)): subset * size + i for subset in range(program.reads) for i in range(size)
    }
    products = []
    for value, factors in needed.items():
        number[value] = len(number)
        products += [Product(number[value], number[a], number[b]) for a, b in factors]
    return len(number), tuple(products), tuple(number[full, monomial] for _, monomial in program.terms)


def symmetric(
    irreps_x: Any, irreps_z: Any, correlation: int, *, layout_x: str = "mul_ir", layout_z: str = "mul_ir"
) -> Symmetric:
    """A symmetric contraction of features with equal multiplicities.

    >>> str(symmetric("4x0e+4x1o", "4x0e", 2))
    'symmetric 2 | x mul_ir 4x0e+4x1o | z mul_ir 4x0e ~0'
    """
    return Symmetric(correlation, layout_x, Irreps(irreps_x), layout_z, Irreps(irreps_z))


__all__: Sequence[str] = ["Basis", "Symmetric", "basis", "parse_symmetric", "symmetric", "tensor_rows"]
