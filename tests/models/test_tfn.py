"""A tensor field network's layer is the paper's sum over edges, with e3nn's products; rotation order costs degrees."""

import pytest
import torch

from equikern.graph import Graph
from equikern.models import TFN, TFNConfig
from equikern.ops import spherical_harmonics
from equikern.program import Irreps


@pytest.fixture
def double():
    """e3nn makes its coefficients in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


SIZES = {"num_species": 5, "channels": 3, "hidden": 6}


def inputs(atoms=5):
    """Positions and all pairs."""
    positions = 2 * torch.rand(atoms, 3, dtype=torch.float64)
    return positions, (~torch.eye(atoms, dtype=torch.bool)).nonzero().T


@pytest.mark.parametrize("parity", ["natural", "full", "none"])
def test_a_layer_is_the_papers_sum_over_edges_with_e3nns_products(parity, double):
    o3 = pytest.importorskip("e3nn.o3", reason="e3nn is not installed")
    layer = TFN(TFNConfig(layers=3, parity=parity, avg_num_neighbors=4.0, **SIZES)).double().layers[1]
    with torch.no_grad():
        layer.activation.bias.normal_()
    conv = layer.convolution
    positions, (sender, receiver) = inputs()
    x = torch.randn(5, conv.irreps_x.dim, dtype=torch.float64)
    vec = positions[sender] - positions[receiver]
    instructions = [(p.in1, p.in2, p.out, "uvu", True) for p in conv.program.paths]
    tp = o3.TensorProduct(
        str(conv.irreps_x),
        str(conv.irreps_y),
        str(conv.irreps_out),
        instructions,
        shared_weights=False,
        internal_weights=False,
    ).double()
    summed = torch.zeros(5, conv.irreps_out.dim, dtype=torch.float64)
    for e, (j, i) in enumerate(zip(sender, receiver, strict=True)):
        y = o3.spherical_harmonics([0, 1, 2], vec[e], True, "component")
        summed[i] += tp(x[j : j + 1], y[None], conv.radial(vec[e].norm()[None]))[0] / 2
    mixed = torch.zeros(5, layer.irreps_out.dim, dtype=torch.float64)
    for linear, a in ((layer.mix, summed), (layer.keep, x)):
        theirs = o3.Linear(str(linear.irreps_in), str(linear.irreps_out)).double()
        theirs.weight.data = linear.weight.data
        mixed += theirs(a)
    expected, channel = [], 0
    for (mul, ir), columns in zip(layer.irreps_out, Irreps(layer.irreps_out).slices(), strict=True):
        a, b = mixed[:, columns].unflatten(1, (mul, ir.dim)), layer.activation.bias[channel : channel + mul]
        ssp = lambda t: torch.nn.functional.softplus(t) - torch.log(torch.tensor(2.0, dtype=t.dtype))  # noqa: E731
        scalar = str(ir) == "0e"
        n = (a.square().sum(2) + 1e-6).sqrt()
        expected.append(ssp(a[..., 0] + b) if scalar else (a * ssp(n + b).unsqueeze(2)).flatten(1))
        channel += mul
    y = spherical_harmonics([0, 1, 2], vec, True, "component")
    got = layer(x, vec.norm(dim=1), y, Graph(torch.stack([sender, receiver]), 5))
    torch.testing.assert_close(got, torch.cat(expected, 1), rtol=1e-12, atol=1e-12)


def test_only_irreps_that_a_path_reaches_are_kept():
    kept = [str(layer.irreps_out) for layer in TFN(TFNConfig(layers=3, parity="full", **SIZES)).layers]
    assert kept == ["3x0e+3x1o+3x2e", "3x0e+3x1e+3x1o+3x2e+3x2o", "3x0e"]


@pytest.mark.parametrize("fold", [2, 3])
def test_two_rings_about_an_atom_are_seen_to_be_turned_only_with_harmonics_of_their_order(fold):
    turns = 2 * torch.pi * torch.arange(fold, dtype=torch.float64) / fold
    out = torch.stack([torch.arange(1, 2 * fold + 1), torch.zeros(2 * fold, dtype=torch.int64)])
    edges, species = torch.cat([out, out.flip(0)], 1), torch.tensor([0] + [1] * 2 * fold)

    def energy(model, angle):
        both = torch.cat([turns, turns + angle])
        vec = torch.stack([both.cos(), both.sin(), 0 * both], 1)
        return model(species, torch.cat([vec, -vec]), edges).sum()

    for lmax, sees in ((fold - 1, False), (fold, True)):
        model = TFN(TFNConfig(layers=2, lmax=lmax, **SIZES)).double()
        difference = (energy(model, 0.3) - energy(model, 0.8)).abs()
        assert difference > 1e-9 if sees else difference < 1e-13
