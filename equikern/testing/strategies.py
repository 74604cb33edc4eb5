"""Hypothesis strategies for irreps, programs, graphs and rotations. The rest of `testing` does without hypothesis."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from equikern.program import CONVOLUTION, Irrep, Irreps, Program, Rows, product
from equikern.testing.cases import Case

SHAPES = ("uvw", "uvu", "uvv", "uuw", "uuu", "uvuv", "uvu<v", "u<vw")


def seeds() -> st.SearchStrategy[int]:
    """Seeds for torch and numpy generators."""
    return st.integers(0, 2**31 - 1)


def irreps(lmax: int = 3, entries: int = 3, mul: int = 4) -> st.SearchStrategy[Irreps]:
    """Irreps of at most `entries` entries; multiplicity zero and no entry at all are among them."""
    ir = st.builds(Irrep, st.integers(0, lmax), st.sampled_from([-1, 1]))
    return st.lists(st.tuples(st.integers(0, mul), ir), max_size=entries).map(Irreps)


@st.composite
def _path(draw: st.DrawFn, x: Irreps, y: Irreps, modes: tuple[str, ...], lmax: int) -> tuple[Any, ...] | None:
    """(in1, in2, (mul, ir) of the output, mode, weighted) or None where the mode does not fit."""
    a, b = draw(st.integers(0, len(x) - 1)), draw(st.integers(0, len(y) - 1))
    fitting = [ir for ir in x[a].ir * y[b].ir if ir.l <= lmax]
    mode = draw(st.sampled_from(modes))
    m1, m2 = x[a].mul, y[b].mul
    if not fitting or (mode in ("uuw", "uuu", "uvu<v", "u<vw") and m1 != m2):
        return None
    weighted = mode in ("uvw", "u<vw") or draw(st.booleans())
    free = draw(st.integers(1, 3))
    pairs = m1 * (m1 - 1) // 2
    m3 = {"uvw": free, "uuw": free if weighted else 1, "u<vw": free, "uvu<v": pairs, "uvuv": m1 * m2, "uvv": m2}.get(
        mode, m1
    )
    return a, b, (m3, draw(st.sampled_from(fitting))), mode, weighted


@st.composite
def programs(draw: st.DrawFn, modes: tuple[str, ...] = SHAPES, lmax: int = 2, rows: Rows | None = None) -> Program:
    """A product program with up to four paths, some into the same output."""
    x = draw(irreps(lmax).filter(len))
    y = draw(irreps(lmax, mul=1 if modes == ("uvu",) else 3).filter(len))
    paths = [p for p in draw(st.lists(_path(x, y, modes, lmax), min_size=1, max_size=4)) if p is not None]
    out: list[Any] = []
    instructions = []
    for a, b, entry, mode, weighted in paths:
        if entry not in out or draw(st.booleans()):
            out.append(entry)
        n = len(out) - 1 - out[::-1].index(entry)
        instructions.append((a, b, n, mode, weighted, draw(st.sampled_from([1.0, 0.5, 2.0]))))
    kinds = rows or draw(st.sampled_from([Rows(), CONVOLUTION, CONVOLUTION._replace(w="shared"), Rows(x="sender")]))
    layout = draw(st.sampled_from(["mul_ir", "ir_mul"]))
    return product(x, y, Irreps(out), instructions, rows=kinds, layout=layout)


@st.composite
def cases(draw: st.DrawFn, modes: tuple[str, ...] = SHAPES, rows: Rows | None = None) -> Case:
    """A program with a graph of up to six nodes; none, one and isolated nodes are among them."""
    program = draw(programs(modes, rows=rows))
    nodes, degree = draw(st.integers(1, 6)), draw(st.integers(0, 3))
    return Case("drawn", program, nodes, degree, graph=draw(st.sampled_from(["random", "isolated", "self", "hub"])))


@st.composite
def graphs(draw: st.DrawFn, nodes: int = 6, edges: int = 12) -> tuple[Tensor, int]:
    """(edge_index (2, E), number of nodes)."""
    n = draw(st.integers(1, nodes))
    pair = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))
    pairs = draw(st.lists(pair, max_size=edges))
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).t().contiguous(), n


def rotations() -> st.SearchStrategy[tuple[NDArray[np.float64], int]]:
    """Elements of O(3): (proper rotation (3, 3), 1 or -1 for the inversion)."""

    def build(seed: int, inversion: int) -> tuple[NDArray[np.float64], int]:
        q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
        q = q * np.sign(np.diag(r))
        return q * np.sign(np.linalg.det(q)), inversion

    return st.builds(build, seeds(), st.sampled_from([1, -1]))
