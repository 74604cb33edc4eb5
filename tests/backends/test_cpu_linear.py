"""The CPU's kernel of linear maps where its blocks, strips and chunks end."""

from __future__ import annotations

import pytest
import torch

from equikern.backends import cpu, cpu_linear, linear
from equikern.errors import ShapeError
from equikern.program import by_species, parse
from equikern.program import linear as linear_program

pytestmark = pytest.mark.skipif(not cpu.available(), reason="the extension is not built")
# Multiplicities beside those of vectors and strips, rows of 2 kB, degrees that have no kernel to turn them.
IRREPS = ("1x0e+17x1o+33x2e+3x4e", "35x0e+16x1o+2x2e+31x4e+5x3o", [(0, 0, 0.7), (1, 1, 2.0), (2, 2, 1.5), (3, 3, 0.3)])
WIDE = ("512x0e+64x1o", "65x0e+512x1o", [(0, 0, 0.1), (1, 1, 0.2), (1, 1, -0.3)])
# One row, a tile and a block with one more, and more rows than are turned together for the gradient of the weights.
ROWS = [1, 13, 49, 1030]


def operands(program, rows, kinds, dtype):
    """x, w, and a cotangent of z."""
    made = torch.Generator().manual_seed(rows)
    sizes = zip((rows, kinds, rows), program.dims, strict=True)
    return [torch.randn(n, dim, generator=made, dtype=torch.float64).to(dtype) for n, dim in sizes]


def all_of(sweep, program, given, index=()):
    rows = {slot: a.shape[0] for slot, a in enumerate(given)}
    return sweep(program, given, list(index), rows)


def close(got, expected, dtype):
    for a, e in zip(got, expected, strict=True):
        assert a.shape == e.shape and a.dtype == dtype
        error, largest = (float(t.abs().max()) if t.numel() else 0.0 for t in (a.double() - e, e))
        assert error <= (2e-6 if dtype == torch.float32 else 1e-14) * largest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("layout", ["mul_ir", "ir_mul"])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("irreps", [IRREPS, WIDE], ids=["beside", "wide"])
def test_results_are_those_of_matrix_products(irreps, rows, layout, dtype):
    program = linear_program(*irreps, layout=layout)
    given = operands(program, rows, 1, dtype)
    close(all_of(cpu_linear.sweep, program, given), all_of(linear.sweep, program, [a.double() for a in given]), dtype)


@pytest.mark.parametrize("rows", [0, *ROWS])
def test_rows_have_the_weights_of_their_species(rows):
    program = by_species(linear_program(*IRREPS))
    given = operands(program, rows, 5, torch.float64)
    species = torch.tensor([0, 3, 1, 3])[torch.arange(rows) * 7 % 4]  # species 2 and 4 do not occur
    got = all_of(cpu_linear.sweep, program, given, [species])
    close(got, all_of(linear.sweep, program, given, [species]), torch.float64)
    assert not got[linear.W][[2, 4]].any()


@pytest.mark.parametrize("missing", [linear.X, linear.W, linear.Z])
def test_what_an_absent_operand_makes_is_zero(missing):
    program = linear_program(*IRREPS)
    given = operands(program, 20, 1, torch.float32)
    rows = {slot: a.shape[0] for slot, a in enumerate(given)}
    given[missing] = torch.empty(0)
    got = cpu_linear.sweep(program, given, [], rows)
    assert [bool(a.any()) for a in got] == [slot == missing for slot in range(3)]


@pytest.mark.parametrize("rows", [49, 1030])
def test_bits_are_those_of_one_thread(rows):
    program = by_species(linear_program(*IRREPS))
    given, species = operands(program, rows, 3, torch.float32), torch.arange(rows) % 3
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = all_of(cpu_linear.sweep, program, given, [species])
        torch.set_num_threads(3)
        together = all_of(cpu_linear.sweep, program, given, [species])
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, alone, together))


@pytest.mark.parametrize("kind", [-1, 3])
def test_a_species_without_weights_is_named(kind):
    program = by_species(linear_program("4x0e", "4x0e", [(0, 0, 1.0)]))
    species = torch.tensor([0, 1, kind, 2])
    with pytest.raises(ShapeError, match=f"has {kind}, there are 3"):
        all_of(cpu_linear.sweep, program, operands(program, 4, 3, torch.float32), [species])


def test_columns_that_no_path_writes_are_zero():
    program = parse(linear_program("4x0e+2x1o", "3x0e+2x1o", [(0, 0, 1.0)]).text)
    x, w, g = operands(program, 5, 1, torch.float32)
    z, dx = cpu_linear.sweep(program, [x, w, g], [], {linear.Z: 5, linear.X: 5})
    assert z[:, :3].all() and not z[:, 3:].any() and dx[:, :4].all() and not dx[:, 4:].any()
