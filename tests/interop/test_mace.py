"""MACE gives the same numbers on equikern."""

import copy
import functools
import io
import warnings

import pytest
import torch

import equikern
from equikern.interop import report
from equikern.interop.mace import contraction_swap
from equikern.interop.swap import installed
from equikern.testing.potentials import mace, mace_input

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    modules = pytest.importorskip("mace.modules", reason="mace-torch is not installed (it needs e3nn 0.4.4)")
build = pytest.importorskip("ase.build", reason="ase is not installed")
o3 = pytest.importorskip("e3nn.o3")

NUMBERS = [11, 17, 19]
RESULTS = ("energy", "forces", "stress")


@pytest.fixture(autouse=True)
def quiet():
    """MACE's own calls of torch are deprecated ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def crystal(repeat=1, seed=0):
    """Rattled rock salt; K is never there."""
    atoms = build.bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (repeat, 1, 1)
    atoms.rattle(0.1, seed=seed)
    return atoms


@functools.cache
def built(*options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mace(NUMBERS, **{k: list(v) if isinstance(v, tuple) else v for k, v in options})


def small(dtype="float32", **options):
    """A model of its own; to build one takes a second, to copy it does not."""
    options = {"hidden_irreps": "8x0e+8x1o", "max_ell": 2, "correlation": 2, "radial_MLP": (16, 16)} | options
    return copy.deepcopy(built(("dtype", dtype), *options.items()))


def dtype_of(model):
    return next(model.parameters()).dtype


def outputs(model, atoms):
    """Energy, forces (N, 3) and stress (1, 3, 3)."""
    out = model(mace_input(atoms, NUMBERS, dtype_of(model)), compute_stress=True)
    return [out[key].detach() for key in RESULTS]


def gradients(model, atoms):
    """Of a loss of energy and forces, for every parameter that has one."""
    model.train()
    out = model(mace_input(atoms, NUMBERS, dtype_of(model)), training=True)
    loss = 1e3 * out["forces"].square().sum() + out["interaction_energy"].square().sum()
    parameters = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [g for g in found if g is not None and g.abs().max() > 0]


def tables(model):
    return [s.table for m in model.modules() if getattr(s := installed(m), "table", None) is not None]


def error(got, right):
    """Of energies, forces and stresses of some structures: the root mean square, over the largest number."""
    pairs = [
        (torch.stack(g), torch.stack(r)) for g, r in zip(zip(*got, strict=True), zip(*right, strict=True), strict=True)
    ]
    return torch.stack([(g - r).square().mean().sqrt() / r.abs().max() for g, r in pairs])


@pytest.mark.parametrize(
    "options",
    [
        {"max_ell": 3, "correlation": (3, 1)},
        {"model": "MACE", "first": "RealAgnosticResidualInteractionBlock", "apply_cutoff": False},
        {"hidden_irreps": "4x0e+4x1o+4x2e", "num_interactions": 3},
        {"hidden_irreps": "4x0e", "correlation": 4, "max_ell": 1},
        {"first": "RealAgnosticDensityInteractionBlock", "others": "RealAgnosticDensityResidualInteractionBlock"},
        {"distance_transform": "Agnesi", "pair_repulsion": True},
        {"use_agnostic_product": True, "num_interactions": 1},
    ],
    ids=lambda options: "-".join(options),
)
def test_float64_results_equal_mace(options):
    model = small("float64", **options)
    expected = outputs(model, crystal())
    assert expected[1].abs().max() > 1e-6
    got = outputs(equikern.accelerate(model), crystal())
    for a, e in zip(got, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10 * float(e.abs().max()))
    assert [e.path for e in report(model).left] == (["radial_embedding"] if "distance_transform" in options else [])


def test_tables_leave_results_as_close_to_float64_as_float32_is():
    model, structures = small(), [crystal(6, seed) for seed in range(4)]
    right, own = ([outputs(m, atoms) for atoms in structures] for m in (small().double(), model))
    got = [outputs(equikern.accelerate(model), atoms) for atoms in structures]
    assert len(tables(model)) == 2 and all(t.why_not() is None for t in tables(model))
    untabled = [outputs(equikern.accelerate(model, tables="never"), atoms) for atoms in structures]
    assert not torch.equal(got[0][1], untabled[0][1])
    limit = 1.5 * error(own, right) + torch.finfo(torch.float32).eps
    assert (error(got, right) <= limit).all() and (error(untabled, right) <= limit).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_training_gives_the_same_parameter_gradients(dtype):
    model = small(dtype)
    expected = gradients(model, crystal())
    got = gradients(equikern.accelerate(model), crystal())
    tolerance = 1e-9 if dtype == "float64" else 2e-4
    assert len(expected) == len(got) > 20
    for g, e in zip(got, expected, strict=True):
        assert (g - e).abs().max() <= tolerance * e.abs().max()


def test_training_with_tables_gives_the_same_parameter_gradients():
    model, atoms = small(), crystal(6)
    expected = gradients(model, atoms)
    got = gradients(equikern.accelerate(model, tables="always"), atoms)
    for g, e in zip(got, expected, strict=True):
        assert (g - e).abs().max() <= 5e-4 * e.abs().max()


@pytest.mark.parametrize("correlation", [1, 2, 3, 4])
def test_symmetric_contractions_equal_those_of_mace(correlation):
    x, z = o3.Irreps("5x0e+5x1o+5x2e" if correlation < 4 else "5x0e+5x1o"), o3.Irreps("5x0e+5x1o")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        module = modules.SymmetricContraction(x, z, correlation, num_elements=3)
        features = torch.randn(7, 5, x.dim // 5, requires_grad=True)
    finally:
        torch.set_default_dtype(before)
    attributes = torch.eye(3, dtype=torch.float64)[[0, 2, 2, 0, 2, 0, 0]]
    swap = contraction_swap(module)
    assert not isinstance(swap, str), swap
    leaves = [features, *(p for p in module.parameters() if p.requires_grad)]

    def everything(f):
        z = f(features, attributes)
        first = torch.autograd.grad(z.sin().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), leaves, allow_unused=True, materialize_grads=True)
        return [z, *first, *second]

    for a, b in zip(everything(swap), everything(module), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * float(b.abs().max()))


def test_attributes_that_are_not_one_hot_take_maces_own_path():
    module = small("float64").products[0].symmetric_contractions
    x, y = torch.randn(4, 8, 9, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    assert torch.equal(contraction_swap(module)(x, y), module(x, y))


def test_coupling_tensors_that_are_not_equivariant_are_left_alone():
    module = small("float64").products[0].symmetric_contractions
    module.contractions[0].U_matrix_2[0, 1] += 0.1
    assert "not equivariant" in contraction_swap(module)


def test_what_matters_is_replaced():
    replaced = {e.path: e.kind for e in report(equikern.accelerate(small())).replaced}
    assert {replaced[f"interactions.{n}.skip_tp"] for n in (0, 1)} == {"FullyConnectedTensorProduct"}
    assert {replaced[f"products.{n}.symmetric_contractions"] for n in (0, 1)} == {"SymmetricContraction"}
    assert replaced["interactions.0"] == "RealAgnosticInteractionBlock"
    assert replaced["interactions.1"] == "RealAgnosticResidualInteractionBlock"


def test_state_dict_and_classes_stay():
    model = small()
    before, classes = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    after = equikern.accelerate(model).state_dict()
    assert list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before)
    assert [type(m) for m in model.modules()] == classes


def test_restoring_gives_bitwise_the_original_result():
    model = small()
    expected = outputs(model, crystal())
    for a, b in zip(outputs(equikern.restore(equikern.accelerate(model)), crystal()), expected, strict=True):
        assert torch.equal(a, b)


def test_a_deep_copy_and_a_saved_model_agree_and_are_independent():
    model = equikern.accelerate(small())
    expected = outputs(model, crystal(6))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    others = [copy.deepcopy(model), torch.load(buffer, weights_only=False)]
    equikern.restore(model)
    for other in others:
        assert len(report(other).replaced) > 10
        for a, b in zip(outputs(other, crystal(6)), expected, strict=True):
            assert torch.equal(a, b)


def test_new_weights_are_seen():
    model, other = equikern.accelerate(small()), small(seed=1)
    before = outputs(model, crystal(6))
    model.load_state_dict(other.state_dict())
    after = outputs(model, crystal(6))
    assert not torch.allclose(before[1], after[1])
    for a, b in zip(after, outputs(other, crystal(6)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_a_hook_on_the_product_still_fires():
    model, seen = equikern.accelerate(small()), []
    hook = model.interactions[1].conv_tp.register_forward_hook(lambda *_: seen.append(1))
    outputs(model, crystal())
    hook.remove()
    assert seen == [1]


def test_one_isolated_atom():
    from ase import Atoms

    atom, model = Atoms("Na", cell=[30, 30, 30], pbc=True), small("float64")
    expected = outputs(model, atom)
    for a, b in zip(outputs(equikern.accelerate(model), atom), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_layers_of_a_model_look_at_an_input_once(monkeypatch):
    from equikern.interop import remembered

    model, given = equikern.accelerate(small()), mace_input(crystal(), NUMBERS)
    made, graph = [], remembered.Graph
    monkeypatch.setattr(remembered, "Graph", lambda *given: made.append(given) or graph(*given))
    for _ in range(2):
        model(given)
    assert len(made) == 1


def test_on_a_device_weights_are_not_compared():
    module = small().products[0].symmetric_contractions
    swap = contraction_swap(module)
    terms = swap._terms()
    module.to("meta")  # whose values nobody can look at
    assert swap._terms().shape == terms.shape and swap._terms().requires_grad
