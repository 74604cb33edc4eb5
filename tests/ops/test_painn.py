"""PaiNN as one op: energies, their derivatives, the gradients of both, against plain torch."""

import pytest
import torch

import equikern
from equikern.errors import BackendError, EquikernError, ProgramError, ShapeError
from equikern.ops import PaiNNConfig, painn, painn_forces
from equikern.ops.painn import evaluate_packed, pack
from equikern.testing.painn import CONFIGS, painn_inputs

LIMITS = {torch.float64: 1e-12, torch.float32: 3e-4}
op, backward = torch.ops.equikern.painn.default, torch.ops.equikern.painn_backward.default


def gradients(config, vec, graph, weights, backend="auto"):
    """energy, g, and the gradients of <c, energy> + <h, g> by vec and by every weight that is trained."""
    with equikern.backend(backend):
        leaves = [t.detach().clone().requires_grad_() for t in (vec, *weights)]
        if config.basis == "gaussian":
            leaves[-1].requires_grad_(False)
        generator = torch.Generator().manual_seed(1)
        energy, g = painn(config, leaves[0], graph, leaves[1:])
        c, h = (torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in (energy, g))
        trained = [t for t in leaves if t.requires_grad]
        found = torch.autograd.grad((energy * c).sum() + (g * h).sum(), trained, allow_unused=True)
    zeros = [torch.zeros_like(t) for t in trained]
    return [energy.detach(), g.detach(), *(z if f is None else f for f, z in zip(found, zeros, strict=True))]


@pytest.mark.parametrize("atoms", [1, 2, 9, 70])
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("id", CONFIGS)
def test_values_and_all_gradients_are_those_of_the_reference(id, dtype, atoms):
    config = CONFIGS[id]
    got = gradients(config, *painn_inputs(config, atoms, dtype))
    wide = painn_inputs(config, atoms, torch.float64)
    if dtype == torch.float32:  # the same rounded inputs
        narrow = painn_inputs(config, atoms, dtype)
        wide = type(wide)(narrow.vec.double(), wide.graph, [w.double() for w in narrow.weights])
    expected = gradients(config, *wide, backend="reference")
    for name, a, b in zip(["energy", "g", "vec", *config.weights], got, expected, strict=False):
        assert (a.double() - b).norm() <= LIMITS[dtype] * max(b.norm(), 1e-3), name


def test_first_and_second_derivatives_pass_numerical_checks():
    config = CONFIGS["odd"]
    vec, graph, weights = painn_inputs(config, 4, torch.float64)
    leaves = [t.requires_grad_() for t in (vec, *weights)]
    assert torch.autograd.gradcheck(lambda v, *w: painn(config, v, graph, w), leaves, fast_mode=True)


def test_g_is_the_derivative_of_the_summed_energies():
    config = CONFIGS["bessel"]
    vec, graph, weights = painn_inputs(config, 9, torch.float64)
    vec.requires_grad_()
    energy, g = painn(config, vec, graph, weights)
    (expected,) = torch.autograd.grad(energy.sum(), vec)
    torch.testing.assert_close(g.detach(), expected, rtol=1e-12, atol=1e-12)


def test_the_op_is_registered_as_torch_expects():
    config = CONFIGS["odd"]
    vec, graph, weights = painn_inputs(config, 4, torch.float64)
    given = (config.text, vec.requires_grad_(), graph, [w.requires_grad_() for w in weights])
    torch.library.opcheck(op, given, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_gives_the_same_bits(threads):
    config = CONFIGS["trained-size"]
    given = painn_inputs(config, 150, torch.float32)
    torch.set_num_threads(1)
    one = gradients(config, *given)
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, gradients(config, *given), strict=True))


def test_edges_beyond_the_cutoff_give_nothing_and_meet_it_smoothly():
    config = CONFIGS["bessel"]
    vec, graph, weights = painn_inputs(config, 2, torch.float64)
    unit = vec / vec.norm(dim=1, keepdim=True)
    far, _ = painn(config, unit * 50, graph, weights)
    for length, limit in ((config.cutoff, 0.0), (config.cutoff - 1e-5, 1e-8)):
        energy, g = painn(config, unit * length, graph, weights)
        assert (energy - far).abs().max() <= limit and g.abs().max() <= 1e4 * limit


def test_an_edge_of_length_zero_is_finite():
    config = CONFIGS["wide"]
    vec, graph, weights = painn_inputs(config, 5, torch.float64)
    vec[0] = 0
    assert all(t.isfinite().all() for t in painn(config, vec, graph, weights))


def test_nan_reaches_the_results():
    config = CONFIGS["wide"]
    vec, graph, weights = painn_inputs(config, 5, torch.float32)
    vec[0, 1] = float("nan")
    energy, g = painn(config, vec, graph, weights)
    assert energy[graph[2][0]].isnan() and g[0].isnan().all()


@pytest.mark.parametrize("scale", [10.0, 60.0])
@pytest.mark.parametrize("dtype", LIMITS)
def test_activations_saturate_as_torch_has_it(dtype, scale):
    config = CONFIGS["one-layer"]
    vec, graph, weights = painn_inputs(config, 9, dtype)
    weights = [w if name == "centres" else w * scale for w, name in zip(weights, config.weights, strict=True)]
    got = painn(config, vec, graph, weights)
    with equikern.backend("reference"):
        expected = painn(config, vec.double(), graph, [w.double() for w in weights])
    for a, b in zip(got, expected, strict=True):
        assert (a.double() - b).norm() <= LIMITS[dtype] * b.norm()


def test_frozen_weights_get_no_gradient_and_change_nothing():
    config = CONFIGS["odd"]
    vec, graph, weights = painn_inputs(config, 9, torch.float64)
    weights[1].requires_grad_()
    energy, g = painn(config, vec.requires_grad_(), graph, weights)
    (energy.sum() + g.square().sum()).backward()
    full = gradients(config, vec, graph, weights)
    assert weights[1].grad is not None and all(w.grad is None for w in weights[2:])
    torch.testing.assert_close([energy.detach(), g.detach()], full[:2], rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("atoms", [9, 70])
def test_forces_are_minus_the_gradient_by_positions_and_differentiable(atoms, backend):
    config = CONFIGS["bessel"]
    vec, graph, weights = painn_inputs(config, atoms, torch.float64)
    receiver, sender = graph[2], graph[1]
    ends = torch.zeros(atoms, len(vec), dtype=vec.dtype)
    ends[receiver, torch.arange(len(vec))] += 1
    ends[sender, torch.arange(len(vec))] -= 1
    leaves = [t.requires_grad_() for t in (vec, *weights)]
    cotangent = torch.randn(atoms, 3, generator=torch.Generator().manual_seed(2), dtype=vec.dtype)
    with equikern.backend(backend):
        energy, forces = painn_forces(config, vec, graph, weights)
        same_energy, g = painn(config, vec, graph, weights)
        torch.testing.assert_close(energy, same_energy, rtol=0, atol=0)
        torch.testing.assert_close(forces, ends @ g, rtol=1e-12, atol=1e-12)
        expected = torch.autograd.grad((ends @ g * cotangent).sum() + same_energy.sum(), leaves)
        found = torch.autograd.grad((forces * cotangent).sum() + energy.sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() <= LIMITS[torch.float64] * b.norm()


@pytest.mark.parametrize("atoms", [9, 70])
def test_gradients_of_weights_need_none_of_the_vectors(atoms):
    config = CONFIGS["trained-size"]
    vec, graph, weights = painn_inputs(config, atoms, torch.float64)
    expected = gradients(config, vec, graph, weights)[3:]
    trained = [w.requires_grad_() for w in weights[:-1]]
    energy, g = painn(config, vec, graph, weights)
    generator = torch.Generator().manual_seed(1)
    c, h = (torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in (energy, g))
    found = torch.autograd.grad((energy * c).sum() + (g * h).sum(), trained)
    for name, a, b in zip(config.weights, found, expected, strict=False):
        assert (a - b).norm() <= LIMITS[torch.float64] * b.norm(), name


@pytest.mark.parametrize("atoms", [9, 70])
def test_a_gradient_taken_twice_has_the_same_bits(atoms):
    config = CONFIGS["trained-size"]
    vec, graph, weights = painn_inputs(config, atoms, torch.float32)
    trained = [w.requires_grad_() for w in weights[:-1]]
    energy, g = painn(config, vec, graph, weights)
    loss = energy.square().sum() + g.square().sum()
    first = torch.autograd.grad(loss, trained, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, trained), strict=True))


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("atoms", [9, 70])
def test_packed_weights_give_the_same(atoms, dtype):
    for id in ("wide", "bessel", "trained-size"):
        vec, graph, weights = painn_inputs(config := CONFIGS[id], atoms, dtype)
        packed = evaluate_packed(config, vec, graph, pack(config, weights))
        assert all(torch.equal(a, b) for a, b in zip(packed, painn(config, vec, graph, weights), strict=True))


def test_a_second_derivative_is_refused_with_the_way_out():
    config = CONFIGS["odd"]
    vec, graph, weights = painn_inputs(config, 4, torch.float64)
    energy, g = painn(config, vec.requires_grad_(), graph, weights)
    with pytest.raises(BackendError, match="call the model itself"):
        torch.autograd.grad(g.sum() + energy.sum(), vec, create_graph=True)


def test_forward_mode_is_refused():
    config = CONFIGS["odd"]
    vec, graph, weights = painn_inputs(config, 4, torch.float64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(vec, torch.ones_like(vec))
        with pytest.raises(BackendError, match="forward-mode"):
            painn(config, dual, graph, weights)


def test_centres_are_not_trained():
    config = CONFIGS["wide"]
    vec, graph, weights = painn_inputs(config, 4, torch.float64)
    weights[-1].requires_grad_()
    with pytest.raises(BackendError, match="centres"):
        painn(config, vec, graph, weights)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("edge vectors are", lambda v, g, w: (v[:-1], g, w)),
        ("embedding.weight is", lambda v, g, w: (v, g, [w[0][:, :-1], *w[1:]])),
        ("float32", lambda v, g, w: (v.float(), g, w)),
        ("weights; the model has", lambda v, g, w: (v, g, w[:-1])),
        ("7", lambda v, g, w: (v, g[:5], w)),
        ("an array of the graph", lambda v, g, w: (v, [g[0].int(), *g[1:]], w)),
        ("species of atom 2 is 17", lambda v, g, w: (v, [torch.where(torch.arange(4) == 2, 17, g[0]), *g[1:]], w)),
        ("grouped by receiver", lambda v, g, w: (v, [*g[:4], g[4].flip(0), *g[5:]], w)),
        ("grouped by sender", lambda v, g, w: (v, [*g[:5], g[5] - 1, g[6]], w)),
        ("grouped by receiver", lambda v, g, w: (v, [*g[:2], g[2] + 10**12, *g[3:]], w)),
        ("grouped by sender", lambda v, g, w: (v, [g[0], g[1] * 0 - 10**12, *g[2:]], w)),
        ("grouped by sender", lambda v, g, w: (v, [*g[:6], torch.zeros_like(g[6])], w)),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_computed(what, change):
    config = CONFIGS["odd"]
    with pytest.raises(ShapeError, match=what):
        painn(config, *change(*painn_inputs(config, 4, torch.float64)))


def test_the_op_itself_refuses_what_the_kernels_cannot_read():
    config = CONFIGS["odd"]
    vec, graph, weights = painn_inputs(config, 4, torch.float16)
    with pytest.raises(BackendError, match="float16"):
        op(config.text, vec, graph, weights)
    with pytest.raises(BackendError, match="float16"):
        pack(config, weights)
    vec, graph, weights = painn_inputs(config, 4, torch.float64)
    with pytest.raises(ShapeError, match="packed"):
        evaluate_packed(config, vec, graph, pack(config, weights)[1:])
    with pytest.raises(ShapeError, match="use one dtype"):
        evaluate_packed(config, vec.float(), graph, pack(config, weights))
    energy, *_, kept = op(config.text, vec, graph, weights, True)
    for wrong in (kept[1:], kept.float()):
        with pytest.raises(ShapeError, match="kept"):
            backward(config.text, vec, graph, weights, wrong, energy, None, None, True, True)


@pytest.mark.parametrize(
    "wrong", [{"layers": 0}, {"channels": 2.5}, {"cutoff": float("inf")}, {"basis": "wave"}, {"num_basis": 1}]
)
def test_an_impossible_configuration_is_refused(wrong):
    with pytest.raises(EquikernError, match=next(iter(wrong)) if "basis" not in wrong else "basis"):
        PaiNNConfig(**wrong)


def test_the_text_is_the_configuration():
    from equikern.backends._painn import parse_painn

    assert all(parse_painn(config.text) == config for config in CONFIGS.values())
    with pytest.raises(ProgramError, match="no PaiNN"):
        parse_painn("painn 1 2")
