"""On a CUDA device: weights from rows of a table, splines, and radial convolutions that wait for nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from equikern import backends
from equikern.cli.zoo import ZOO
from equikern.graph import Graph
from equikern.nn import Convolution, RadialConvolution, force_graph
from equikern.ops import spherical_harmonics
from equikern.ops.radial import length
from equikern.testing import RadialNetwork, assert_close, derivatives, get, inputs, reference, tolerance, uvu_paths

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(
        backends.triton.supports(get("table-mul-5").program, "cuda", torch.float32) is not None,
        reason="triton is not installed",
    ),
]
BACKENDS = [
    "triton",
    pytest.param("cuda", marks=pytest.mark.skipif(backends.cuda.library() is None, reason="NVRTC is not found")),
]
SPEC = uvu_paths("16x0e+8x1o", "0e+1o+2e", 2, "natural")
NODES, EDGES = 400, 12000


# Each derivative of a program takes seconds to compile.
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("id", "dtype", "orders"),
    [
        ("table-mul-5", torch.float64, (0, 1, 2)),
        ("table-mul-33", torch.float32, (0, 1)),
        ("table-edges", torch.float32, (0, 1)),
        ("table-hub", torch.float32, (0, 1)),
    ],
)
def test_orders_are_those_of_the_reference(id, dtype, orders, backend):
    case = get(id)
    for order in orders:
        got = derivatives(case.program, inputs(case, dtype).on("cuda"), backend, order)
        allowed = tolerance(case.program, dtype, order, case.longest_sum)
        assert_close(got, reference(case, dtype, order), allowed, f"{case} {order}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_large_layer_gives_what_the_reference_gives_and_the_same_bits_twice(backend):
    case = get("table-mace").sized(edges=1500)
    given = inputs(case, torch.float32).on("cuda")
    for order in (0, 1) if backend == "triton" else (0, 1, 2):  # Triton compiles a double backward for long
        got = derivatives(case.program, given, backend, order)
        expected = derivatives(case.program, given.to(torch.float64), "reference", order, draw=torch.float32)
        assert_close(got, expected, tolerance(case.program, torch.float32, order, case.longest_sum))
        again = derivatives(case.program, given, backend, order)
        assert all(torch.equal(again[name], got[name]) for name in got)


@pytest.mark.parametrize("order", [0, 1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_splines_are_those_of_the_reference(backend, order, dtype):
    r = torch.linspace(0.3, 5.4, 5000, dtype=dtype)
    r[7] = float("nan")
    op, arguments = torch.ops.equikern.spline.default, ([0.5, 2.0, 4.5, 5.0], [5, 7, 3], order)
    b, knot = op(backend, r.cuda(), *arguments)
    expected, rows = op("reference", r, *arguments)
    assert torch.equal(knot.cpu(), rows)
    allowed = 10 * torch.finfo(dtype).eps * float(expected.nan_to_num().abs().max())
    torch.testing.assert_close(b.cpu(), expected, rtol=0, atol=allowed, equal_nan=True)


def layer(species=None, table=True):
    torch.manual_seed(0)
    radial = RadialNetwork(Convolution(*SPEC).weight_numel, species or 0)
    return RadialConvolution(*SPEC, radial=radial, r_max=5.0, num_species=species, table=table)


def arguments(dtype=torch.float32, species=None):
    """x, edge_vec, species, the graph and its edges, on the device."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(NODES, SPEC[0].dim, generator=generator, dtype=dtype)
    unit = torch.nn.functional.normalize(torch.randn(EDGES, 3, generator=generator, dtype=dtype))
    vec = unit * (0.6 + 4.5 * torch.rand(EDGES, 1, generator=generator, dtype=dtype))
    edges = torch.randint(NODES, (2, EDGES), generator=generator).cuda()
    kinds = None if species is None else torch.randint(species, (NODES,), generator=generator).cuda()
    return x.cuda(), vec.cuda(), kinds, Graph(edges, NODES), edges


def exact(conv, x, vec, kinds, graph, edges):
    """The same in float64, in separate steps."""
    conv, x, vec = copy.deepcopy(conv).double(), x.double(), vec.double().detach().requires_grad_()
    ends = () if kinds is None else (kinds[edges[0]], kinds[edges[1]])
    y = spherical_harmonics([0, 1, 2], vec, True, "component")
    with backends.backend("reference"):
        out = Convolution(*SPEC).cuda().double()(x, y, conv.radial(length(vec), *ends), edges, graph)
    return [out.detach(), *torch.autograd.grad(out.sin().sum(), vec)]


def step(conv, x, vec, kinds, graph, edges):
    """Output and forces."""
    vec = vec.detach().requires_grad_()
    out = conv(x, vec, edges, species=kinds, graph=graph)
    return [out.detach(), *torch.autograd.grad(out.sin().sum(), vec)]


def assert_near(got, expected, allowed=2e-5):
    for g, e in zip(got, expected, strict=True):
        assert (g - e).abs().max() <= allowed * e.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("species", [None, 2])
def test_values_and_forces_are_those_of_the_module_and_nothing_waits(species, backend):
    conv, given = layer(species).eval().cuda(), arguments(species=species)
    with backends.backend(backend):
        step(conv, *given)
        torch.cuda.set_sync_debug_mode("error")
        try:
            got = step(conv, *given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert conv.table(length(given[1]), torch.float32, asked=True) is not None
    assert_near(got, exact(conv, *given))


def test_a_layer_that_was_used_on_the_cpu_follows_to_the_device_and_back():
    conv, given = layer().eval(), arguments()
    here = [t.cpu() for t in given[:2]]
    edges = given[4].cpu()
    expected = conv(*here, edges).detach()
    got = conv.cuda()(*given[:2], given[4]).detach()
    assert_near([got.cpu()], [expected])
    assert torch.equal(conv.cpu()(*here, edges), expected)


def test_a_captured_step_follows_new_edges_and_says_when_its_parameters_are_others():
    conv, given = layer().eval().cuda(), arguments()
    vec = given[1]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(conv, *given)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step(conv, *given)
    vec.mul_(0.97)
    graph.replay()
    assert_near(got, exact(conv, *given))
    vec[3] *= 0.4 / vec[3].norm()
    graph.replay()
    receivers = given[4][1]
    alone = torch.arange(NODES, device="cuda") == receivers[3]
    assert got[0][alone].isnan().all() and got[0][~alone].isfinite().all()
    for p in conv.parameters():
        p.data.mul_(0.9)
    graph.replay()
    assert got[0].isnan().any(1)[receivers].all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_with_a_table_gives_the_gradients_of_the_module(backend):
    conv, given = layer(table=True).cuda(), arguments()
    x, vec, _, graph, edges = given

    def gradients(conv, x, vec):
        vec = vec.detach().requires_grad_()
        out = conv(x, vec, edges, graph=graph)
        (force,) = torch.autograd.grad(out.sin().sum(), vec, create_graph=True)
        return torch.autograd.grad(out.square().mean() + force.square().mean(), list(conv.parameters()))

    assert conv.table(length(vec), torch.float32, asked=True) is not None
    with backends.backend(backend):
        got = gradients(conv, x, vec)
    doubled = layer(table=False).cuda().double()
    assert_near(got, gradients(doubled, x.double(), vec.double()), 5e-5)


def test_a_replayed_step_of_dynamics_follows_weights_that_are_written_in_place():
    generator = torch.Generator().manual_seed(0)
    side = torch.arange(4.0)
    positions = torch.cartesian_prod(side, side, side) * 1.3 + 0.2 * torch.rand(64, 3, generator=generator)
    edges = ((torch.cdist(positions, positions) < 4.0) & ~torch.eye(64, dtype=torch.bool)).nonzero().t()
    model, species = ZOO["schnet"].model().float().eval(), torch.zeros(64, dtype=torch.int64)
    here = copy.deepcopy(model).cuda()
    convolutions = [m for m in here.modules() if isinstance(m, RadialConvolution)]
    for convolution in convolutions:
        convolution.use_table = True
    expected, forces_of = force_graph(model, species, edges), force_graph(here, species.cuda(), edges.cuda())
    for change in (1.0, 1.1):
        with torch.no_grad():
            for p in (*model.parameters(), *here.parameters()):
                p.mul_(change)
        got = forces_of(positions.cuda())
        assert forces_of._captured.inputs, "it was captured"
        assert_near([t.cpu() for t in got], expected(positions), 1e-4)
    assert convolutions and all(0 < len(c.table) < edges.shape[1] for c in convolutions)
