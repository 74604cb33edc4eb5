"""Products that mix channels (`uvw`) in two stages: a channelwise sweep couples x and y, matrix products mix.

What is coupled lies in intermediate channels, components outermost, a segment for each path and channel of y. Where the
edges share weights, the mixing commutes with the sum over edges: the sweep sums, weights are applied once a row of z.
Where every edge has its own, intermediate channels are by edge, and z is summed last.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from equikern.backends import by_edge
from equikern.backends._channelwise import MOST
from equikern.backends.mixing import Part, gather_weights, multiply, scatter_weights
from equikern.backends.segments import Side, turned
from equikern.program import EDGE, SHARED, Irrep, Irreps, Path, Program, Rows, parse, product_of_paths
from equikern.program.program import W, X, Y, Z

# base program, operands x y w g, index, rows of each opened slot -> one tensor a slot
Sweep = Callable[[Program, list[Tensor], list[Tensor], dict[int, int]], list[Tensor]]


class Into(NamedTuple):
    """All paths into one segment of z: their intermediate channels, the segments of these, and their weights."""

    out: int
    channels: int
    segments: tuple[int, ...]
    parts: tuple[Part, ...]


class Stage(NamedTuple):
    """The channelwise program into the intermediate channels, and what becomes of these."""

    program: Program
    into: tuple[Into, ...]


@cache
def takes(text: str) -> bool:
    """Whether every path of a product mixes channels (`uvw`) of x and of y by edge, few paths to a sweep."""
    program = parse(text)
    rows = program.rows
    if program.family != "product" or not program.paths or rows[Y] != EDGE or SHARED in (rows[X], rows[Z]):
        return False
    muls = [program.multiplicities(path) for path in program.paths]
    whole = all(path.mode == "uvw" and 0 not in m for path, m in zip(program.paths, muls, strict=True))
    return whole and rows[W] in (EDGE, SHARED) and sum(m2 for _, m2, _ in muls) <= MOST


@cache
def stage(text: str) -> Stage:
    """The two stages. Every channel of y has an entry of its own; those into one segment of z lie together."""
    program = parse(text)
    x, y, z = (program.operands[slot].irreps for slot in (X, Y, Z))
    singles = [(1, ir) for mul, ir in y for _ in range(mul)]  # type: ignore[union-attr]
    middle: list[tuple[int, Irrep]] = []
    paths: list[Path] = []
    found: dict[int, Into] = {}
    both = sorted(zip(program.paths, program.weight_slices, strict=True), key=lambda pair: pair[0].out)
    for path, columns in both:
        m1, m2, _ = program.multiplicities(path)
        first = sum(entry.mul for entry in y[: path.in2])  # type: ignore[index]
        into = found.get(path.out, Into(path.out, 0, (), ()))
        segments = range(len(middle), len(middle) + m2)
        paths += [Path(path.in1, first + v, segment, "uvu", path.scale, False) for v, segment in enumerate(segments)]
        middle += [(m1, z[path.out].ir)] * m2  # type: ignore[index]
        part = Part(into.channels, m1 * m2, columns, (m1, m2) if m2 > 1 else None)
        found[path.out] = Into(path.out, into.channels + m1 * m2, (*into.segments, *segments), (*into.parts, part))
    shared = program.rows[W] == SHARED
    rows = Rows(x=program.rows[X], z=program.rows[Z] if shared else EDGE)
    made = product_of_paths(x, Irreps(singles), Irreps(middle), paths, rows=rows, layout="ir_mul")
    return Stage(made, tuple(found.values()))


def sweep(
    base: Program, operands: list[Tensor], index: list[Tensor], open: dict[int, int], channelwise: Sweep
) -> list[Tensor]:
    """dF/da for each open slot; `operands` are x y w g, `channelwise` sweeps the first stage."""
    given = [a.contiguous() if a.ndim == 2 else None for a in operands]
    like = next(a for a in given if a is not None)
    where = by_edge.places(base, index, like)
    edges = by_edge.edges(base, given, where, open)
    by_edge.check(base, given, edges, like)
    asked = [
        s for s in open if edges and all(given[k] is not None for k in (X, Y, W, Z) if k != s and (k, s) != (Z, Z))
    ]
    if not asked:
        return [like.new_zeros(n, base.dims[s]) for s, n in open.items()]
    shared = base.rows[W] == SHARED
    g, rows = given[Z], edges
    if shared:
        rows = open[Z] if g is None else g.shape[0]
        index = index[: len(base.index_kinds) + 4]
    else:
        index = index[: len(stage(base.text).program.index_kinds)]
        g = None if g is None else by_edge.gathered(base, Z, g, where, edges)
    call = _Call(base, [*given[:Z], g], index, rows, channelwise)
    found = call.run({s: rows if s == Z else open[s] for s in asked})
    if not shared and Z in found:
        found[Z] = by_edge.summed(base, Z, found[Z], where, open[Z], like)
    return [found[s] if s in found else like.new_zeros(n, base.dims[s]) for s, n in open.items()]


class _Call:
    """One call: operands x y w g, intermediate channels (and g, z) in `rows` rows."""

    def __init__(
        self, base: Program, operands: list[Tensor | None], index: list[Tensor], rows: int, channelwise: Sweep
    ) -> None:
        self.base, self.index, self.rows, self.channelwise = base, index, rows, channelwise
        self.like = next(a for a in operands if a is not None)
        self.program, self.into = stage(base.text)
        x, y, self.w, g = operands
        self.x = None if x is None else turned(base.text, X, x, split=True)
        self.y = None if y is None else turned(base.text, Y, y, split=False)  # each channel an entry of the stage
        self.g = None if g is None else Side(base.text, Z, g)

    def run(self, sizes: dict[int, int]) -> dict[int, Tensor]:
        """The results asked for (slot: rows)."""
        absent, text = self.like.new_empty(0), self.base.text
        x, y = (absent if a is None else a for a in (self.x, self.y))
        inputs = {s: n for s, n in sizes.items() if s in (X, Y)}
        middle = cotangent = z = dw = None
        if Z in sizes or W in sizes:
            (middle,) = self.channelwise(self.program, [x, y, absent, absent], self.index, {Z: self.rows})
        if inputs:
            cotangent = self.like.new_empty(self.rows, self.program.dims[Z])
        if Z in sizes:
            z = Side(text, Z, self.like.new_empty(self.rows, self.base.dims[Z]))
        if W in sizes:
            dw = self.like.new_empty(sizes[W], self.base.dims[W])
        for into in self.into:
            _Mix(self, into, middle, cotangent).run(z, dw)
        found = {}
        if cotangent is not None:
            parts = self.channelwise(self.program, [x, y, absent, cotangent], self.index, inputs)
            found = {s: turned(text, s, a, split=s == X, back=True) for s, a in zip(inputs, parts, strict=True)}
        if z is not None:
            found[Z] = z.finished()
        if dw is not None:
            found[W] = dw
        return found


class _Mix:
    """The mixing of all paths into one segment of z: its channels, and their gradients, as (rows, components, m1)."""

    def __init__(self, call: _Call, into: Into, middle: Tensor | None, cotangent: Tensor | None) -> None:
        self.call, self.into = call, into
        self.mul, ir = call.base.operands[Z].irreps[into.out]  # type: ignore[index]
        self.sizes = call.rows, ir.dim
        self.shared = call.base.rows[W] == SHARED
        slices = [call.program.operands[Z].irreps.slices()[n] for n in into.segments]  # type: ignore[union-attr]
        if self.shared and ir.dim == 1:  # side by side, they are one matrix
            slices = [slice(slices[0].start, slices[-1].stop)]
        self.a, self.da = (
            [] if whole is None else [whole[:, columns].unflatten(1, (ir.dim, -1)) for columns in slices]
            for whole in (middle, cotangent)
        )

    def run(self, z: Side | None, dw: Tensor | None) -> None:
        """Fill z, the gradient of w, and the cotangent of the intermediate channels."""
        out = None if z is None else z.into(self.into.out)[0]
        g = self.call.g.matrix(self.into.out) if self.call.g is not None and (self.da or dw is not None) else None
        (self._all_rows if self.shared else self._by_row)(out, g, dw)

    def _all_rows(self, z: Tensor | None, g: Tensor | None, dw: Tensor | None) -> None:
        """Weights of all rows: one product for all paths."""
        parts, whole = list(self.into.parts), self.sizes[1] == 1
        weights = gather_weights(self.call.w, parts, self.mul, self.call.like)
        if self.a:
            a = (self.a[0] if whole else torch.cat(self.a, 2)).flatten(0, 1)  # (rows * components, channels)
            if z is not None:
                multiply(a, weights, z)
            if dw is not None and g is not None:
                scatter_weights((g.t() @ a).t(), parts, dw)
        if self.da and g is not None and whole:
            multiply(g, weights.t(), self.da[0].flatten(0, 1))
        elif self.da and g is not None:
            found = (g @ weights.t()).unflatten(0, self.sizes).split([da.shape[2] for da in self.da], 2)
            for da, part in zip(self.da, found, strict=True):
                da.copy_(part)

    def _by_row(self, z: Tensor | None, g: Tensor | None, dw: Tensor | None) -> None:
        """Weights of each row, read where they are: a batch of small products for each path and channel of y."""
        z, g = (None if a is None else a.unflatten(0, self.sizes) for a in (z, g))
        w, grads = ([] if a is None else self._matrices(a) for a in (self.call.w, dw))
        for n in range(len(self.into.segments)):
            if z is not None:
                z.baddbmm_(self.a[n], w[n], beta=float(n > 0))
            if grads and g is not None:
                grads[n].baddbmm_(self.a[n].mT, g, beta=0.0)
            if self.da and g is not None:
                self.da[n].baddbmm_(g, w[n].mT, beta=0.0)

    def _matrices(self, w: Tensor) -> list[Tensor]:
        """(rows, m1, m3) views of the weights, for each segment."""
        found = []
        for part in self.into.parts:
            m1, m2 = part.turned or (part.channels, 1)
            found += list(w[:, part.weights].unflatten(1, (m1, m2, self.mul)).unbind(2))
        return found
