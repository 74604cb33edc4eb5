"""The SE(3)-Transformer's attention, edge by edge, with e3nn's products; constant keys; nobody to attend to."""

import pytest
import torch

from equikern.graph import Graph
from equikern.models import SE3Transformer, SE3TransformerConfig
from equikern.models.se3_transformer import join_heads, split_heads
from equikern.ops import radial, spherical_harmonics
from equikern.program import Irreps

CUTOFF = 3.0
SIZES = {"cutoff": CUTOFF, "num_species": 5, "channels": 4, "heads": 2, "hidden": 6}


@pytest.fixture
def double():
    """e3nn makes its coefficients in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def edge_features(vec):
    """Lengths, harmonics and envelope of edge vectors."""
    r = vec.norm(dim=1)
    return r, spherical_harmonics([0, 1, 2], vec, True, "component"), radial.polynomial_cutoff(r, CUTOFF)


@pytest.mark.parametrize("parity", ["natural", "none"])
def test_attention_is_the_papers_edge_by_edge_with_e3nns_products(parity, double):
    o3 = pytest.importorskip("e3nn.o3", reason="e3nn is not installed")
    layer = SE3Transformer(SE3TransformerConfig(layers=3, parity=parity, **SIZES)).attentions[1]
    positions = 2 * torch.rand(5, 3)
    edges = (~torch.eye(5, dtype=torch.bool)).nonzero().T
    vec = positions[edges[0]] - positions[edges[1]]
    r, y, envelope = edge_features(vec)
    irreps_in = layer.query.irreps_in
    h = torch.randn(5, irreps_in.dim)

    x_irreps, y_irreps = str(irreps_in), str(layer.program.operands[1].irreps)
    tp = o3.FullyConnectedTensorProduct(
        x_irreps, y_irreps, str(layer.key + layer.value), shared_weights=False, internal_weights=False
    )
    query, mix = o3.Linear(x_irreps, str(layer.key)), o3.Linear(str(layer.value + irreps_in), str(layer.irreps_out))
    query.weight.data, mix.weight.data = layer.query.weight.data, layer.mix.weight.data
    q, attended = query(h), []
    for i in range(5):
        mine = (edges[1] == i).nonzero().flatten()
        both = torch.cat([tp(h[edges[0, e]][None], y[e][None], layer.radial(r[e : e + 1])) for e in mine])
        k, v = both[:, : layer.key.dim], both[:, layer.key.dim :]
        out = torch.zeros(layer.value.dim)
        for head in range(2):
            # A head's channels are half of each entry of four.
            def columns(irreps, head=head):
                return [
                    c
                    for (mul, ir), s in zip(irreps, Irreps(irreps).slices(), strict=True)
                    for c in range(s.start + head * mul // 2 * ir.dim, s.start + (head + 1) * mul // 2 * ir.dim)
                ]

            of_k, of_v = columns(layer.key), columns(layer.value)
            logits = (k[:, of_k] @ q[i, of_k]) / layer.key.dim**0.5
            terms = envelope[mine] * logits.exp()
            out[of_v] = (terms / terms.sum()) @ v[:, of_v]
        attended.append(torch.cat([out, h[i]]))
    got = layer(h, r, y, envelope, Graph(edges, 5))
    torch.testing.assert_close(got, mix(torch.stack(attended)), rtol=1e-12, atol=1e-12)


def test_constant_keys_give_the_mean_of_the_values_of_neighbours_at_one_distance():
    layer = SE3Transformer(SE3TransformerConfig(layers=2, **SIZES)).double().attentions[0]
    with torch.no_grad():
        layer.query.weight.zero_()
    h = torch.randn(6, layer.query.irreps_in.dim, dtype=torch.float64)
    edges = torch.stack([torch.arange(1, 6), torch.zeros(5, dtype=torch.int64)])
    vec = torch.nn.functional.normalize(torch.randn(5, 3, dtype=torch.float64), dim=1) * 1.3
    alone = torch.stack([layer(h, *edge_features(vec[e : e + 1]), Graph(edges[:, e : e + 1], 6))[0] for e in range(5)])
    together = layer(h, *edge_features(vec), Graph(edges, 6))[0]
    torch.testing.assert_close(together, alone.mean(0), rtol=1e-12, atol=1e-12)


def test_an_atom_that_has_nobody_to_attend_to_keeps_only_itself():
    model = SE3Transformer(SE3TransformerConfig(layers=2, **SIZES)).double()
    species, none = torch.tensor([1, 2]), torch.zeros(2, 0, dtype=torch.int64)
    alone = model(species, torch.zeros(0, 3, dtype=torch.float64), none)
    vec = torch.tensor([[CUTOFF, 0, 0], [-CUTOFF, 0, 0]], dtype=torch.float64)
    assert torch.equal(model(species, vec, torch.tensor([[0, 1], [1, 0]])), alone)
    assert alone[0] != alone[1]


def test_joining_heads_undoes_splitting_them():
    irreps, x = Irreps("4x0e+8x1o+4x2e"), torch.randn(3, 48)
    assert torch.equal(join_heads(irreps, split_heads(irreps, x, 4)), x)
