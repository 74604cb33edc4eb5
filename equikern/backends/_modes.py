"""How a program in any connection mode is cut up for the kernels of `csrc/cpu/modes.inl`: tables, no arithmetic.

A path couples channels in *runs*: one channel of one operand (the scalar) with a run of channels of the other (the
lanes), or equal channels of both. Paths that mix channels (`uvw`, `uuw`, `u<vw`) are coupled into intermediate channels
first; a matrix of weights then takes these to the channels of z.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from equikern.program import SHARED, Irreps, Path, Program, parse, wigner_3j
from equikern.program.program import W, X, Y, Z, mode_shapes

BOTH, LANES_X, LANES_Y = range(3)
MIXING = ("uvw", "uuw", "u<vw")
Run = tuple[int, int, int, int, int]  # scalar channel, first lane, lanes, first output channel, first weight


class Coupled(NamedTuple):
    """One path for the kernels: lanes, segments, first weight or -1, weights to transpose, runs, coefficients."""

    lanes: int
    in1: int
    in2: int
    out: int
    w: int
    turned: tuple[int, int]
    runs: list[Run]
    cells: list[tuple[int, int, int, float]]


class Part(NamedTuple):
    """The intermediate channels of one mixing path: the first, how many, its weights, and their shape if transposed."""

    first: int
    channels: int
    weights: slice | None
    turned: tuple[int, int] | None


class Mixing(NamedTuple):
    """All mixing paths into one segment of z: their coupling into `width` intermediate channels, and their parts."""

    out: int
    width: int
    coupled: list[Coupled]
    parts: list[Part]


class Cut(NamedTuple):
    """A program's paths: those that go straight to z, and the mixing ones by output segment."""

    direct: list[Coupled]
    mixings: list[Mixing]


@cache
def cut(text: str, by_row: bool, fixed: bool) -> Cut:
    """The cut of a program; `by_row`: every row has its own weights; not `fixed`: unweighted paths drop out."""
    program = parse(text)
    direct: list[Coupled] = []
    mixing: dict[int, Mixing] = {}
    for path, columns in zip(program.paths, program.weight_slices, strict=True):
        muls = program.multiplicities(path)
        if 0 in muls or 0 in mode_shapes(path.mode, *muls)[0] or not (fixed or path.weighted):
            continue
        if path.mode not in MIXING:
            direct.append(_direct(program, path, columns.start if path.weighted else -1))
            continue
        into = mixing.setdefault(path.out, Mixing(path.out, 0, [], []))
        coupled, part = _mixed(program, path, into.width, columns if path.weighted else None, by_row)
        into.coupled.append(coupled)
        into.parts.append(part)
        mixing[path.out] = into._replace(width=into.width + part.channels)
    return Cut(direct, list(mixing.values()))


@cache
def mixes_all(text: str) -> bool:
    """Whether every path of a product mixes channels (`uvw`) by shared weights, and there is one."""
    program = parse(text)
    if program.family != "product" or program.rows[W] != SHARED or not program.paths:
        return False
    return all(path.mode == "uvw" and 0 not in program.multiplicities(path) for path in program.paths)


def segments(irreps: Irreps) -> list[tuple[int, int]]:
    """(mul, 2l+1) of each entry."""
    return [(mul, ir.dim) for mul, ir in irreps]


def _irreps(program: Program, slot: int) -> Irreps:
    return program.operands[slot].irreps  # type: ignore[return-value]


def _cells(program: Program, path: Path) -> list[tuple[int, int, int, float]]:
    ls = (_irreps(program, X)[path.in1].ir.l, _irreps(program, Y)[path.in2].ir.l, _irreps(program, Z)[path.out].ir.l)
    symbol = wigner_3j(*ls)
    return [(int(i), int(j), int(k), path.scale * float(symbol[i, j, k])) for i, j, k in np.argwhere(symbol)]


def _direct(program: Program, path: Path, w: int) -> Coupled:
    m1, m2, _ = program.multiplicities(path)
    turned, mode = (0, 0), path.mode
    if mode == "uuu":
        lanes, runs = BOTH, [(0, 0, m1, 0, 0)]
    elif mode == "uvu":
        lanes, runs = LANES_X, [(v, 0, m1, 0, v * m1) for v in range(m2)]
        turned = (m1, m2) if w >= 0 and min(m1, m2) > 1 else turned
    elif mode == "uvv":
        lanes, runs = LANES_Y, [(u, 0, m2, 0, u * m2) for u in range(m1)]
    elif mode == "uvuv" and m2 == 1:
        lanes, runs = LANES_X, [(0, 0, m1, 0, 0)]
    elif mode == "uvuv":
        lanes, runs = LANES_Y, [(u, 0, m2, u * m2, u * m2) for u in range(m1)]
    else:
        lanes, runs = LANES_Y, _triangle(m1, 0)
    return Coupled(lanes, path.in1, path.in2, path.out, w, turned, runs, _cells(program, path))


def _triangle(m: int, first: int) -> list[Run]:
    """Pairs u < v, row after row, as output channels from `first`."""
    starts = np.cumsum([0, *range(m - 1, 0, -1)])
    return [(u, u + 1, m - 1 - u, first + int(starts[u]), int(starts[u])) for u in range(m - 1)]


def _mixed(program: Program, path: Path, first: int, columns: slice | None, by_row: bool) -> tuple[Coupled, Part]:
    m1, m2, _ = program.multiplicities(path)
    turned = None
    if path.mode == "uuw":
        lanes, channels, runs = BOTH, m1, [(0, 0, m1, first, 0)]
    elif path.mode == "u<vw":
        lanes, channels, runs = LANES_Y, m1 * (m1 - 1) // 2, _triangle(m1, first)
    elif m2 == 1 or (m1 >= m2 and not by_row):
        # Long runs over u, so the pairs come as (v, u): the weights follow, where they are one small matrix.
        lanes, channels, runs = LANES_X, m1 * m2, [(v, 0, m1, first + v * m1, 0) for v in range(m2)]
        turned = (m1, m2) if m2 > 1 else None
    else:
        lanes, channels, runs = LANES_Y, m1 * m2, [(u, 0, m2, first + u * m2, 0) for u in range(m1)]
    coupled = Coupled(lanes, path.in1, path.in2, 0, -1, (0, 0), runs, _cells(program, path))
    return coupled, Part(first, channels, columns, turned)
