"""On a CUDA device: its backends against the reference in float64, and every layer on the device's tensors."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

import equikern
from equikern import backends, o3
from equikern.errors import ShapeError
from equikern.graph import Graph
from equikern.nn import Convolution, PaiNNMessage, SchNetMessage
from equikern.ops import radial, radial_embedding, spherical_harmonics
from equikern.program import painn_message, schnet_message
from equikern.testing import CASES, LAYERS, assert_close, derivatives, get, inputs, reference, run, tolerance

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
BACKENDS = pytest.mark.parametrize("backend", ["triton", "cuda"], indirect=True)
SUPPORTED = [
    case
    for case in CASES  # tables are in test_tables.py
    if backends.triton.supports(case.program, "cuda", torch.float32) is None and case.program.family != "table"
]


@pytest.fixture
def backend(request):
    """Skip what cannot run here, in its own words."""
    module = backends.get(request.param)
    if (reason := module.supports(get("mul-5").program, "cuda", torch.float32)) is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param


@BACKENDS
@DTYPES
@pytest.mark.parametrize("case", SUPPORTED, ids=str)
def test_value_gradient_and_double_gradient_are_those_of_the_reference(case, dtype, backend):
    given = inputs(case, dtype).on("cuda")
    for order in (0, 1, 2):
        got = derivatives(case.program, given, backend, order)
        assert {g.device.type for g in got.values()} == {"cuda"} and {g.dtype for g in got.values()} == {dtype}
        allowed = tolerance(case.program, dtype, order, case.longest_sum)
        assert_close(got, reference(case, dtype, order), allowed, f"{case} {order}")


@BACKENDS
@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("id", ["mul-5", "paths-meet", "shared-mixed", "rows-edge", "uuu-shared"])
def test_half_types_accumulate_in_float32(id, dtype, order, backend):
    case = get(id)
    got = derivatives(case.program, inputs(case, dtype).on("cuda"), backend, order)
    allowed = tolerance(case.program, dtype, order, case.longest_sum) * 4**order  # rounded between the orders
    assert_close(got, reference(case, dtype, order), allowed, str(case))


@BACKENDS
@pytest.mark.parametrize("id", ["mace-conv", "nequip-conv", "sevennet-conv", "mul-33", "allegro-64"])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_many_edges_give_what_the_reference_gives_and_the_same_bits_twice(id, order, backend):
    case = get(id).sized(edges=3000)
    given = inputs(case, torch.float32).on("cuda")
    got = derivatives(case.program, given, backend, order)
    expected = derivatives(case.program, given.to(torch.float64), "reference", order, draw=torch.float32)
    assert_close(got, expected, tolerance(case.program, torch.float32, order, case.longest_sum))
    again = derivatives(case.program, given, backend, order)
    assert all(torch.equal(again[name], got[name]) for name in got)


@BACKENDS
def test_tensors_that_begin_anywhere_and_other_counts_give_the_same(backend):
    case = get("mul-33")
    for shift, edges in ((0, 64), (1, 64), (0, 17), (3, 48)):
        given = inputs(case.sized(edges, degree=4), torch.float32).on("cuda")
        expected = run(case.program, given, "reference")
        moved = tuple(torch.cat([a.new_zeros(shift), a.flatten()])[shift:].view(a.shape) for a in given.operands)
        assert_close(run(case.program, replace(given, operands=moved), backend), expected, 1e-5, f"{shift} {edges}")


@pytest.mark.parametrize("program", [schnet_message(48), painn_message(48)], ids=["schnet", "painn"])
def test_first_and_second_derivatives_are_those_of_finite_differences(program):
    assert backends.select(program.text, "cuda", torch.float64) == ("cuda" if backends.cuda.library() else "triton")
    torch.manual_seed(0)
    edges = torch.randint(4, (2, 7), device="cuda")
    x, y, w = (
        torch.randn(n, d, dtype=torch.float64, device="cuda", requires_grad=True)
        for n, d in zip((4, 7, 7), program.dims, strict=False)
    )
    index = Graph(edges, 4).index

    def f(*leaves):
        return equikern.ops.evaluate(program, leaves, index, 4)

    assert torch.autograd.gradcheck(f, (x, y, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(f, (x, y, w), fast_mode=True)


def molecule(n=20, edges=160):
    torch.manual_seed(0)
    index = torch.randint(n, (2, edges), device="cuda")
    vec = torch.randn(edges, 3, device="cuda")
    return index, vec, Graph(index, n)


def force_training(f, tensors):
    """Outputs of a value and of a gradient that is differentiated again."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    out = f(*leaves)
    energy = out.tanh().sum()
    first = torch.autograd.grad(energy, leaves, create_graph=True)
    second = torch.autograd.grad(energy + sum(g.square().sum() for g in first), leaves)
    return [out.detach(), *(g.detach() for g in first), *second]


def layers():
    """(name, module, tensors): what a model is made of, on the device."""
    index, vec, graph = molecule()
    spec = LAYERS["nequip-conv"]
    conv, schnet, painn = Convolution(*spec), SchNetMessage(32), PaiNNMessage(32)
    linear = o3.Linear("8x0e+8x1o", "4x0e+16x1o")
    paths = [(0, 0, 0, "uvu", True), (1, 1, 0, "uvu", True), (0, 1, 1, "uvu", True)]
    product = o3.TensorProduct("8x0e+8x1o", "0e+1o", "8x0e+8x1o", paths)
    full = o3.FullyConnectedTensorProduct("8x0e+8x1o", "0e+1o", "8x0e+8x1o")
    e, n, none = vec.shape[0], graph.num_nodes, torch.nn.Identity()

    def draw(*shape):
        return torch.randn(*shape, device="cuda")

    def message(m, p, v, f, d):
        return torch.cat([a.flatten(1) for a in m(p, v, f, d, index, graph)], 1)

    def harmonics(m, v):
        return spherical_harmonics([0, 1, 2, 3], v, True, "component")

    def basis(m, r):
        return radial.bessel(r, 8, 5.0) * radial.polynomial_cutoff(r, 5.0).unsqueeze(1)

    nodes, weights = draw(n, conv.irreps_x.dim), draw(e, conv.weight_numel)
    return [
        ("convolution", conv, lambda m, x, y, w: m(x, y, w, index, graph), (nodes, draw(e, 9), weights)),
        ("schnet", schnet, lambda m, h, f: m(h, f, index, graph), (draw(n, 32), draw(e, 32))),
        ("painn", painn, message, (draw(n, 96), draw(n, 3, 32), draw(e, 96), draw(e, 3))),
        ("linear", linear, lambda m, x: m(x), (draw(n, 32),)),
        ("product", product, lambda m, x, y: m(x, y), (draw(e, 32), draw(e, 4))),
        ("fully connected", full, lambda m, x, y: m(x, y), (draw(e, 32), draw(e, 4))),
        ("harmonics", none, harmonics, (vec,)),
        ("radial", none, basis, (vec.norm(dim=1),)),
    ]


@pytest.mark.parametrize("which", range(8))
def test_a_layer_on_the_device_gives_what_it_gives_in_float64_and_waits_for_nothing(which):
    name, module, call, tensors = layers()[which]
    module = module.cuda()
    expected = force_training(lambda *t: call(copy.deepcopy(module).double(), *t), [t.double() for t in tensors])
    first = force_training(lambda *t: call(module, *t), tensors)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = force_training(lambda *t: call(module, *t), tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b, e in zip(got, first, expected, strict=True):
        assert_close(a, b, 1e-4, name)
        assert_close(a, e, 2e-4, name)


@BACKENDS
def test_a_step_is_captured_in_a_cuda_graph(backend):
    _, conv, call, tensors = layers()[0]
    conv = conv.cuda()

    def step():
        leaves = [t.requires_grad_() for t in tensors]
        with backends.backend(backend):
            return torch.autograd.grad(call(conv, *leaves).tanh().sum(), leaves)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        expected = step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@BACKENDS
@DTYPES
@pytest.mark.parametrize("spec", ["sh 0,1,2,3 component normalize", "sh 3,1,5 norm raw", "sh 6 integral normalize"])
def test_harmonics_and_their_derivatives_are_those_of_the_reference(spec, dtype, backend):
    ours, theirs = backends.harmonics[backend], backends.harmonics["reference"]
    torch.manual_seed(0)
    vec, h = torch.randn(2, 1000, 3, dtype=dtype, device="cuda")
    vec[0] = 0
    z = torch.randn_like(theirs.harmonics(spec, vec))
    wide, wide_h, wide_z = vec.double(), h.double(), z.double()
    near = vec.norm(dim=1, keepdim=True).clamp(max=1)  # gradients grow with the inverse of the length
    tol = 1000 * torch.finfo(dtype).eps
    assert_close(ours.harmonics(spec, vec), theirs.harmonics(spec, wide), tol)
    got, expected = ours.harmonics_backward(spec, vec, z), theirs.harmonics_backward(spec, wide, wide_z)
    assert_close(got * near, expected * near, tol)
    second = ours.harmonics_double_backward(spec, vec, z, h)
    expected = theirs.harmonics_double_backward(spec, wide, wide_z, wide_h)
    assert_close([a * near**2 for a in second], [a * near**2 for a in expected], tol)
    assert not got[0].any() or "raw" in spec


@DTYPES
@pytest.mark.parametrize("options", [{"p": 5}, {"cutoff": "cosine", "prefactor": "nequip"}, {"basis": "gaussian"}])
def test_radial_embeddings_and_their_derivatives_are_those_of_the_cpu(options, dtype):
    r = torch.rand(3000, dtype=dtype) * 5
    found = []
    for leaf in (r.cuda().requires_grad_(), r.double().requires_grad_()):
        value = radial_embedding(leaf, 8, 4.5, **options)
        (first,) = torch.autograd.grad(value.sin().sum(), leaf, create_graph=True)
        found.append([value, first, torch.autograd.grad(first.square().sum(), leaf)[0]])
    for got, expected in zip(*found, strict=True):
        assert got.is_cuda and got.dtype == dtype
        assert_close(got.detach().cpu(), expected.detach(), 3000 * torch.finfo(dtype).eps, str(options))


def test_an_index_out_of_range_is_refused():
    with pytest.raises(ShapeError, match="out of range"):
        Graph(torch.tensor([[0, 5], [1, 2]], device="cuda"), 4)


@BACKENDS
def test_a_row_that_is_not_there_gives_nan_and_no_fault(backend):
    case = get("rows-sender-to-edge")
    given = inputs(case, torch.float32).on("cuda")
    given.index[0][1] = 10**12
    z = run(case.program, given, backend)
    assert z[1].isnan().all() and z[0].isfinite().all()
