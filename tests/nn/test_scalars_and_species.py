"""`Gate`, `MLP` and `SpeciesLinear`: e3nn's numbers where it is installed, parity, scale at the start, and refusals."""

import pytest
import torch
from torch.nn.functional import silu

from equikern.errors import ProgramError, ShapeError
from equikern.nn import GAINS, MLP, Gate, SpeciesLinear
from equikern.o3 import Irreps
from equikern.testing import assert_close

ARGUMENTS = ("4x0e+3x0o", [silu, torch.tanh], "2x0e+5x0e", [silu, torch.sigmoid], "2x1o+5x2e")


@pytest.fixture
def e3nn():
    """e3nn makes its constants in the default dtype."""
    e3nn = pytest.importorskip("e3nn.nn", reason="e3nn is not installed")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield e3nn
    torch.set_default_dtype(before)


def test_a_gate_is_that_of_e3nn(e3nn):
    ours, theirs = Gate(*ARGUMENTS), e3nn.Gate(*ARGUMENTS)
    assert str(ours.irreps_in) == str(theirs.irreps_in) and str(ours.irreps_out) == str(theirs.irreps_out)
    x = torch.randn(2, 3, ours.irreps_in.dim)
    assert_close(ours(x), theirs(x), 1e-14)


@pytest.mark.parametrize("name", ["silu", "tanh", "sigmoid"])
def test_gains_are_those_of_e3nn(e3nn, name):
    from e3nn.math import normalize2mom

    assert GAINS[name] == normalize2mom(getattr(torch, name, silu)).cst


def test_a_network_is_that_of_e3nn(e3nn):
    ours, theirs = MLP((3, 16, 8, 5), gain=GAINS["silu"]), e3nn.FullyConnectedNet([3, 16, 8, 5], silu)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(7, 3)
    assert_close(ours(x), theirs(x), 1e-14)


def test_a_map_by_species_is_e3nns_product_with_attributes(e3nn):
    from e3nn import o3

    x, z, attributes = "4x0e+3x1o+2x0e", "5x0e+2x1o+1x2e", torch.randn(3, 6)
    ours, theirs = SpeciesLinear(x, z, 6), o3.FullyConnectedTensorProduct(x, "6x0e", z)
    maps = [theirs.weight_view_for_instruction(n) for n in range(len(theirs.instructions))]
    with torch.no_grad():
        ours.weight.copy_(torch.cat([m.transpose(0, 1).flatten(1) for m in maps], 1))
    features, species = torch.randn(7, Irreps(x).dim), torch.tensor([2, 0, 0, 2, 2, 0, 2])
    got = ours(features, species, attributes)
    assert_close(got, theirs(features, attributes[species]), 1e-13)
    assert got[:, -5:].abs().max() == 0
    one_hot = ours(features, species)
    assert_close(one_hot, theirs(features, torch.eye(6)[species]), 1e-13)


def test_gates_turn_with_what_they_multiply():
    gate = Gate(*ARGUMENTS)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    x = torch.randn(4, gate.irreps_in.dim, dtype=torch.float64)
    for matrix in (turn, -turn):
        before, after = (Irreps(irreps).D_from_matrix(matrix).double() for irreps in (gate.irreps_in, gate.irreps_out))
        assert_close(gate(x @ before.T), gate(x) @ after.T, 1e-12)


@pytest.mark.parametrize("uniform", [True, False])
def test_a_network_starts_with_results_of_variance_one(uniform):
    torch.manual_seed(0)
    network = MLP((64, 256, 256, 64), gain=GAINS["silu"], uniform=uniform)
    assert 0.5 < network(torch.randn(256, 64)).square().mean() < 1.5


@pytest.mark.parametrize("rows", [0, 1])
def test_a_map_by_species_takes_any_number_of_rows(rows):
    layer = SpeciesLinear("2x0e+2x1o", "3x0e+3x1o", 2)
    x = torch.randn(rows, 8, requires_grad=True)
    for attributes in (None, torch.randn(4, 2)):
        z = layer(x, torch.zeros(rows, dtype=torch.int64), attributes)
        gradients = torch.autograd.grad(z.square().sum(), [x, layer.weight])
        assert z.shape == (rows, 12) and all(bool(g.any()) == bool(rows) for g in gradients)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gate("4x0e", [], "", [], ""), "one activation for each entry"),
        (lambda: Gate("4x0e", [torch.relu], "", [], ""), "unknown activation"),
        (lambda: Gate("4x1o", [silu], "", [], ""), "acts on scalars"),
        (lambda: Gate("4x0o", [silu], "", [], ""), "has no parity"),
        (lambda: Gate("4x0e", [silu], "2x0o", [torch.tanh], "2x1o"), "even scalars"),
        (lambda: Gate("4x0e", [silu], "2x0e", [silu], "3x1o"), "as many gates"),
        (lambda: MLP((4,), gain=1.0), "two sizes or more"),
        (lambda: SpeciesLinear("4x0e", "4x0e", 0), "one species at least"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ProgramError, match=message):
        make()


def test_attributes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="num_species, 3"):
        SpeciesLinear("2x0e", "2x0e", 3)(torch.randn(1, 2), torch.tensor([0]), torch.randn(2, 4))


@pytest.mark.parametrize("species", [[0, 3], [-1, 0]])
@pytest.mark.parametrize("attributes", [None, torch.ones(3, 3)])
def test_a_species_out_of_range_is_refused(species, attributes):
    with pytest.raises(ShapeError, match="out of range"):
        SpeciesLinear("2x0e", "2x0e", 3)(torch.randn(2, 2), torch.tensor(species, dtype=torch.int32), attributes)
