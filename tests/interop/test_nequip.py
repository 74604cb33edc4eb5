"""NequIP gives the same numbers on equikern."""

import copy
import functools
import io
import warnings

import pytest
import torch

import equikern
from equikern.interop import report
from equikern.interop.swap import installed
from equikern.testing.potentials import nequip, nequip_input

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("nequip.model", reason="nequip is not installed")
build = pytest.importorskip("ase.build", reason="ase is not installed")

SPECIES = ["Na", "Cl", "K"]
RESULTS = ("total_energy", "forces", "stress")


@pytest.fixture(autouse=True)
def quiet():
    """lightning and NequIP warn about the machine and about options."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def crystal(repeat=1):
    """Rattled rock salt; K is never there."""
    atoms = build.bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (repeat, 1, 1)
    atoms.rattle(0.1, seed=0)
    return atoms


@functools.cache
def built(*options):
    options = dict(options)
    cutoffs = {"per_edge_type_cutoff": {"Na": 3.5}} if options.pop("short", False) else {}
    return nequip(SPECIES, **options, **cutoffs)


def small(dtype="float32", **options):
    """A model of its own; to build one takes a second, to copy it does not."""
    options = {"num_features": 8, "num_layers": 2, "radial_mlp_width": 16, "avg_num_neighbors": 20.0} | options
    return copy.deepcopy(built(("dtype", dtype), *options.items()))


def outputs(model, atoms):
    """Energy, forces (N, 3) and stress (1, 3, 3)."""
    out = model(nequip_input(atoms, SPECIES))
    return [out[key].detach() for key in RESULTS]


def gradients(model, atoms):
    """Of a loss of energy and forces, for every parameter."""
    model.train()
    out = model(nequip_input(atoms, SPECIES))
    loss = out["forces"].square().sum() + out["total_energy"].square().sum()
    return torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])


def tables(model):
    return [s.table for m in model.modules() if getattr(s := installed(m), "table", None) is not None]


@pytest.mark.parametrize("options", [{"num_layers": 3}, {"parity": True, "l_max": 1}, {"convnet_sc": False}])
def test_float64_results_equal_e3nn(options):
    model = small("float64", **options)
    expected = outputs(model, crystal())
    assert expected[1].abs().max() > 1e-3
    for got, e in zip(outputs(equikern.accelerate(model), crystal()), expected, strict=True):
        torch.testing.assert_close(got, e, rtol=1e-10, atol=1e-10 * float(e.abs().max()))


def test_tables_leave_results_as_close_to_float64_as_float32_is():
    atoms, errors = crystal(4), []
    for seed in range(8):  # one energy of one model is close by chance
        model, exact = small(), small("float64")
        made = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 + 0.3 * torch.randn(p.shape, generator=made))
        exact.load_state_dict(model.state_dict())
        right, own = outputs(exact, atoms), outputs(model, atoms)
        got = outputs(equikern.accelerate(model), atoms)
        assert len(tables(model)) == 2 and all(t.why_not() is None for t in tables(model))
        untabled = outputs(equikern.accelerate(model, tables="never"), atoms)
        assert not torch.equal(got[1], untabled[1])
        scale = [r.abs().max() for r in right]
        off = [[(a - r).abs().max() for a, r in zip(of, right, strict=True)] for of in (own, got)]
        errors.append(torch.tensor(off) / torch.tensor(scale))
    theirs, ours = torch.stack(errors).square().mean(0).sqrt()
    assert (ours <= 1.5 * theirs + torch.finfo(torch.float32).eps).all()


def test_tables_follow_a_model_that_is_moved():
    model = equikern.accelerate(small()).to(torch.float64)  # puts other tensors in the places of its buffers, as `cuda`
    ours = {id(t) for t in (*model.parameters(), *model.buffers())}
    for table in tables(model):
        buffers = list(table.radial.buffers())
        assert buffers and {id(t) for t in (*table.radial.parameters(), *buffers)} <= ours


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_training_gives_the_same_parameter_gradients(dtype):
    model = small(dtype)
    expected = gradients(model, crystal())
    got = gradients(equikern.accelerate(model), crystal())
    tolerance = 1e-9 if dtype == "float64" else 2e-4
    assert len(expected) > 10
    for g, e in zip(got, expected, strict=True):
        assert (g - e).abs().max() <= tolerance * e.abs().max()


def test_training_with_tables_gives_the_same_parameter_gradients():
    model, atoms = small(), crystal(5)
    expected = gradients(model, atoms)
    got = gradients(equikern.accelerate(model, tables="always"), atoms)
    for g, e in zip(got, expected, strict=True):
        assert (g - e).abs().max() <= 5e-4 * e.abs().max()


def test_interactions_and_their_parts_are_replaced():
    entries = report(equikern.accelerate(small())).replaced
    assert [e.path for e in entries if e.kind == "InteractionBlock"] == [
        f"model.func.layer{n}_convnet.conv" for n in range(2)
    ]


def test_state_dict_and_classes_stay():
    model = small()
    before, classes = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    after = equikern.accelerate(model).state_dict()
    assert list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before)
    assert [type(m) for m in model.modules()] == classes


def test_a_deep_copy_and_a_saved_model_agree_and_are_independent():
    model = equikern.accelerate(small())
    expected = outputs(model, crystal())
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    others = [copy.deepcopy(model), torch.load(buffer, weights_only=False)]
    equikern.restore(model)
    for other in others:
        assert len(report(other).replaced) > 4
        for a, b in zip(outputs(other, crystal()), expected, strict=True):
            assert torch.equal(a, b)


def test_training_and_evaluation_agree():
    model = equikern.accelerate(small())
    expected = outputs(model, crystal(4))
    got = outputs(model.train(), crystal(4))
    for a, b in zip(got, expected, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def test_new_weights_are_seen():
    model, other = equikern.accelerate(small()), small(seed=1)
    model.load_state_dict(other.state_dict())
    for a, b in zip(outputs(model, crystal(4)), outputs(other, crystal(4)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_cutoffs_by_pair_of_species_run_without_tables():
    model = small("float64", short=True)
    expected = outputs(model, crystal())
    assert tables(equikern.accelerate(model)) == []
    for a, b in zip(outputs(model, crystal()), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))


def test_trained_frequencies_run_without_tables_and_have_gradients():
    model = small(bessel_trainable=True)
    expected = gradients(model, crystal(4))
    equikern.accelerate(model, tables="always")
    assert tables(model) == []
    for g, e in zip(gradients(model, crystal(4)), expected, strict=True):
        assert (g - e).abs().max() <= 5e-4 * e.abs().max()


def test_a_hook_on_the_product_still_fires():
    model, seen = equikern.accelerate(small()), []
    product = model.model.func.layer1_convnet.conv.tp_scatter.tp
    hook = product.register_forward_hook(lambda *_: seen.append(1))
    outputs(model, crystal())
    hook.remove()
    assert seen == [1]


def test_one_isolated_atom():
    from ase import Atoms

    atom, model = Atoms("Na", cell=[30, 30, 30], pbc=True), small()
    expected = outputs(model, atom)
    for a, b in zip(outputs(equikern.accelerate(model), atom), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
