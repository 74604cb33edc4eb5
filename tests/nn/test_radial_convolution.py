"""`RadialConvolution` equals a `Convolution` with the module's weights, and keeps nothing of size edges x weights."""

import pytest
import torch

import equikern
from equikern.errors import ProgramError, ShapeError
from equikern.graph import Graph
from equikern.nn import Convolution, RadialConvolution
from equikern.ops import spherical_harmonics
from equikern.ops.radial import length
from equikern.testing import RadialNetwork, uvu_paths

SPEC = uvu_paths("16x0e+8x1o", "0e+1o+2e", 2, "natural")
NODES, EDGES = 60, 26000


def layer(species=None, **options):
    torch.manual_seed(0)
    radial = RadialNetwork(Convolution(*SPEC).weight_numel, species or 0)
    return RadialConvolution(*SPEC, radial=radial, r_max=5.0, num_species=species, **options)


def arguments(dtype=torch.float64, species=None):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(NODES, SPEC[0].dim, dtype=dtype, generator=generator)
    direction = torch.nn.functional.normalize(torch.randn(EDGES, 3, dtype=dtype, generator=generator))
    edge_vec = direction * (0.6 + 4.5 * torch.rand(EDGES, 1, dtype=dtype, generator=generator))
    edge_index = torch.randint(NODES, (2, EDGES), generator=generator)
    kinds = None if species is None else torch.randint(species, (NODES,), generator=generator)
    return x, edge_vec, edge_index, kinds


def exact(conv, x, edge_vec, edge_index, species):
    """What it means, in separate steps."""
    r, y = length(edge_vec), spherical_harmonics([0, 1, 2], edge_vec, True, "component")
    ends = () if species is None else (species[edge_index[0]], species[edge_index[1]])
    return Convolution(*SPEC)(x, y, conv.radial(r, *ends), edge_index)


def training_step(function, conv, x, edge_vec, edge_index, species):
    """Output, forces, and the gradients of a loss of both with respect to features and parameters."""
    x, edge_vec = x.clone().requires_grad_(), edge_vec.clone().requires_grad_()
    out = function(x, edge_vec, edge_index, species)
    (force,) = torch.autograd.grad(out.sin().sum(), edge_vec, create_graph=True)
    loss = out.square().mean() + force.square().mean()
    return [out, force, *torch.autograd.grad(loss, [x, *conv.radial.parameters()])]


@pytest.mark.parametrize("species", [None, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 2e-5)])
def test_values_forces_and_training_gradients_are_those_of_the_module(species, dtype, tolerance):
    conv = layer(species, table=True).to(dtype)
    given = arguments(dtype, species)
    got = training_step(lambda x, v, i, s: conv(x, v, i, species=s), conv, *given)
    assert conv.table(given[1].norm(dim=1), dtype) is not None
    conv.double()
    doubled = [t.double() if t is not None and t.is_floating_point() else t for t in given]
    expected = training_step(lambda *a: exact(conv, *a), conv, *doubled)
    for g, e in zip(got, expected, strict=True):
        assert (g - e).abs().max() <= tolerance * e.abs().max()


def test_the_table_serves_float32_by_default_and_float64_on_request(monkeypatch):
    used = []
    conv = layer()
    monkeypatch.setattr(RadialConvolution, "table", property(lambda self: used.append), raising=False)
    for dtype, table, expected in ((torch.float32, None, 1), (torch.float64, None, 0), (torch.float32, False, 0)):
        conv.to(dtype).use_table = table
        used.clear()
        with pytest.raises(TypeError) if expected else torch.no_grad():
            conv(*arguments(dtype)[:3])


def test_a_table_that_was_made_in_inference_mode_trains():
    conv, given = layer(table=True).eval(), arguments(torch.float32)
    with torch.inference_mode():
        conv(*given[:3])
    kept = conv.table._rows
    got = training_step(lambda x, v, i, s: conv(x, v, i), conv, *given)
    assert kept is conv.table._rows and all(g.isfinite().all() for g in got)


def test_nothing_of_size_edges_times_weights_or_outputs_is_saved():
    conv = layer(table=True)
    x, edge_vec, edge_index, _ = arguments(torch.float32)
    sizes = []

    def pack(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        training_step(lambda x, v, i, s: conv(x, v, i), conv, x, edge_vec, edge_index, None)
    limit = 3 * len(conv.table) * conv.weight_numel
    assert max(sizes) <= max(limit, EDGES * conv.irreps_y.dim) < EDGES * conv.weight_numel / 2


def test_a_rotation_turns_the_output():
    conv = layer()
    x, edge_vec, edge_index, _ = arguments(torch.float32)
    x[:, 16:] = 0
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2)))[0]
    plain, turned = (conv(x, v, edge_index).detach() for v in (edge_vec, edge_vec @ turn.T))
    scalars, vectors = plain[:, :16], plain[:, 16 + 0 : 16 + 48].unflatten(1, (16, 3))
    torch.testing.assert_close(turned[:, :16], scalars, rtol=1e-4, atol=1e-4)
    assert conv.irreps_out[1].ir.l == 1
    torch.testing.assert_close(turned[:, 16:64].unflatten(1, (16, 3)), vectors @ turn.T, rtol=1e-4, atol=1e-4)


def test_it_compiles_with_the_module_itself():
    conv = layer()
    x, edge_vec, edge_index, _ = arguments(torch.float32)
    compiled = torch.compile(conv, backend="aot_eager")
    torch.testing.assert_close(compiled(x, edge_vec, edge_index), conv(x, edge_vec, edge_index), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_layers_that_share_lengths_and_harmonics_give_the_same_bits(dtype):
    conv = layer().to(dtype)
    x, edge_vec, edge_index, _ = arguments(dtype)
    y = spherical_harmonics([0, 1, 2], edge_vec, True, "component")
    shared = conv.convolve(x, length(edge_vec), y, Graph(edge_index, NODES))
    assert torch.equal(shared, conv(x, edge_vec, edge_index))


def test_few_edges_use_the_module_and_none_give_zero():
    conv = layer()
    x, edge_vec, edge_index, _ = arguments(torch.float32)
    few = slice(0, 40)
    got = conv(x, edge_vec[few], edge_index[:, few])
    assert torch.equal(got, exact(conv, x, edge_vec[few], edge_index[:, few], None))
    assert not conv(x, edge_vec[:0], edge_index[:, :0]).any()


def test_the_state_dict_holds_the_module_once():
    assert [name.split(".")[0] for name in layer().state_dict()] == ["radial"] * 4


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_both_backends_agree(backend):
    conv = layer(table=True).double()
    given = arguments()
    with equikern.backend(backend):
        got = conv(*given[:3])
    torch.testing.assert_close(got, conv(*given[:3]), rtol=1e-12, atol=1e-12)


def test_bad_input_is_refused():
    conv, (x, edge_vec, edge_index, _) = layer(), arguments(torch.float32)
    with pytest.raises(ShapeError, match="edge_vec"):
        conv(x, edge_vec[:-1], edge_index)
    with pytest.raises(ShapeError, match="num_species"):
        conv(x, edge_vec, edge_index, species=torch.zeros(NODES, dtype=torch.int64))
    with pytest.raises(ShapeError, match="species"):
        layer(2)(x, edge_vec, edge_index)
    with pytest.raises(ShapeError, match=r"0 \.\.\. 1"):
        layer(2)(x, edge_vec, edge_index, species=torch.full((NODES,), 2))
    with pytest.raises(ProgramError, match="harmonics"):
        RadialConvolution("4x0e", "2x0e", "4x0e", [(0, 0, 0, "uvu", True)], radial=RadialNetwork(8), r_max=5.0)
