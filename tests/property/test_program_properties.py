"""Algebra that every program obeys, on programs drawn at random."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from equikern.ops import evaluate
from equikern.program import CONVOLUTION, Irreps, Program, Rows, parse, wigner_d
from equikern.testing import Inputs, assert_close, edge_index, inputs, run, tolerance
from equikern.testing.strategies import SHAPES, cases, irreps, programs, rotations, seeds

F64 = torch.float64
MODES = st.sampled_from([("uvu",), SHAPES])
# Rotations and permutations round as one more derivative does.
ORDER = 1


def limit(case):
    return tolerance(case.program, F64, ORDER, max(case.edges, 1))


def representation(irreps: Irreps, layout: str, rotation, inversion: int) -> torch.Tensor:
    """The matrix (dim, dim) by which an element of O(3) acts on a row of features."""
    blocks = []
    for mul, ir in irreps:
        d = wigner_d(ir.l, rotation) * (inversion if ir.p < 0 else 1)
        blocks.append(np.kron(np.eye(mul), d) if layout == "mul_ir" else np.kron(d, np.eye(mul)))
    matrix = np.zeros((irreps.dim, irreps.dim))
    for columns, block in zip(irreps.slices(), blocks, strict=True):
        matrix[columns, columns] = block
    return torch.from_numpy(matrix)


def acting(program: Program, rotation, inversion: int):
    """x, y, z -> the rotated rows."""
    return [
        representation(o.irreps, program.layout, rotation, inversion) if o.name != "w" else None
        for o in program.operands
    ]


@given(case=MODES.flatmap(cases), element=rotations(), seed=seeds())
def test_programs_are_equivariant_under_rotation_and_inversion(case, element, seed):
    dx, dy, _, dz = acting(case.program, *element)
    x, y, w = (plain := inputs(case, F64, seed)).operands
    turned = replace(plain, operands=(x @ dx.T, y @ dy.T, w))
    assert_close(run(case.program, turned, "auto"), run(case.program, plain, "auto") @ dz.T, limit(case))


@given(case=MODES.flatmap(cases), slot=st.integers(0, 2), seed=seeds())
def test_programs_are_linear_in_each_operand(case, slot, seed):
    assume(case.program.dims[2] or slot != 2)
    assume(all(path.weighted for path in case.program.paths) or slot != 2)
    one, two = inputs(case, F64, seed), inputs(case, F64, seed + 1)

    def at(a):
        operands = list(one.operands)
        operands[slot] = a
        return run(case.program, replace(one, operands=tuple(operands)), "auto")

    a, b = one.operands[slot], two.operands[slot]
    assert_close(at(2.5 * a - b), 2.5 * at(a) - at(b), 4 * limit(case))


@given(case=MODES.flatmap(lambda modes: cases(modes, CONVOLUTION)), seed=seeds())
def test_renumbering_the_nodes_renumbers_the_output(case, seed):
    from equikern.ops import plan

    x, y, w = inputs(case, F64, seed).operands
    sender, receiver = edge_index(case, seed)
    order = torch.randperm(case.nodes, generator=torch.Generator().manual_seed(seed))
    place = torch.argsort(order)
    moved = (place[sender], place[receiver])
    index = (*moved, *plan(*moved, case.nodes, case.nodes))
    got = run(case.program, Inputs((x[order], y, w), index, case.nodes), "auto")
    assert_close(got, run(case.program, inputs(case, F64, seed), "auto")[order], 0.0)


@given(case=MODES.flatmap(lambda modes: cases(modes, CONVOLUTION)), seed=seeds())
def test_the_order_of_the_edges_does_not_matter(case, seed):
    from equikern.ops import plan

    x, y, w = inputs(case, F64, seed).operands
    sender, receiver = edge_index(case, seed)
    order = torch.randperm(case.edges, generator=torch.Generator().manual_seed(seed))
    ends = (sender[order], receiver[order])
    index = (*ends, *plan(*ends, case.nodes, case.nodes))
    got = run(case.program, Inputs((x, y[order], None if w is None else w[order]), index, case.nodes), "auto")
    assert_close(got, run(case.program, inputs(case, F64, seed), "auto"), limit(case))


@given(case=MODES.flatmap(lambda modes: cases(modes, CONVOLUTION)), seed=seeds())
def test_two_graphs_in_one_batch_give_what_each_gives_apart(case, seed):
    from equikern.ops import plan

    one, two = inputs(case, F64, seed), inputs(case, F64, seed + 1)
    edges = torch.cat([edge_index(case, seed), edge_index(case, seed + 1) + case.nodes], 1)
    index = (*edges, *plan(*edges, 2 * case.nodes, 2 * case.nodes))
    operands = tuple(None if a is None else torch.cat([a, b]) for a, b in zip(one.operands, two.operands, strict=True))
    got = run(case.program, Inputs(operands, index, 2 * case.nodes), "auto")
    apart = torch.cat([run(case.program, one, "auto"), run(case.program, two, "auto")])
    assert_close(got, apart, limit(case))


@given(case=cases(), seed=seeds())
def test_both_layouts_hold_the_same_numbers(case, seed):
    plain = replace(case.program, layout="mul_ir")
    turned = replace(case.program, layout="ir_mul")

    def columns(irreps):
        parts = [
            np.arange(c.start, c.stop).reshape(e.mul, e.ir.dim).T.ravel()
            for c, e in zip(irreps.slices(), irreps, strict=True)
        ]
        return torch.from_numpy(np.concatenate([np.zeros(0, int), *parts]))

    given = inputs(case, F64, seed)
    x, y, w = given.operands
    cx, cy, _, cz = (None if o.name == "w" else columns(o.irreps) for o in plain.operands)
    # uvuv outputs are pairs of channels, still channel outer and component inner.
    moved = replace(given, operands=(x[:, cx], y[:, cy], w))
    assert_close(run(turned, moved, "reference"), run(plain, given, "reference")[:, cz], limit(case))


@given(programs())
def test_a_program_is_read_back_from_its_text(program):
    assert parse(str(program)) == program


@given(programs(), st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=2))
def test_a_derived_program_is_read_back_from_its_text(program, groups):
    for group in groups:
        program = program.along(group)
    assert parse(str(program)) == program


@given(irreps())
def test_irreps_are_read_back_from_their_text(entries):
    assert Irreps(str(entries)) == entries


@given(programs(rows=Rows()), seeds())
def test_along_is_the_directional_derivative(program, seed):
    case_edges = 2
    generator = torch.Generator().manual_seed(seed)

    def draw():
        return [torch.randn(case_edges, o.dim, generator=generator, dtype=F64) for o in program.operands[:3]]

    assume(program.dims[2] > 0)
    values, tangents = draw(), draw()
    h = 1e-5
    ahead, behind = (evaluate(program, [a + s * t for a, t in zip(values, tangents, strict=True)]) for s in (h, -h))
    derivative = program.along([0, 1, 2])
    got = torch.ops.equikern.contract(
        str(derivative), "reference", [*values, torch.empty(0, dtype=F64), *tangents], [], [case_edges], [3]
    )
    assert_close(got[0], (ahead - behind) / (2 * h), 1e-7)
