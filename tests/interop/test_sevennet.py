"""SevenNet-0, the trained potential inside the sevenn wheel, gives the same numbers on equikern."""

import copy
import io
import types
import warnings

import pytest
import torch

import equikern
from equikern.interop import report
from equikern.interop.swap import installed
from equikern.testing import as_on_a_device

sevenn = pytest.importorskip("sevenn", reason="sevenn is not installed")
build = pytest.importorskip("ase.build", reason="ase is not installed")


def crystal(name):
    atoms = {
        "salt": build.bulk("NaCl", "rocksalt", a=5.64, cubic=True),
        "copper": build.bulk("Cu", cubic=True) * (2, 2, 2),
    }[name]
    atoms.rattle(0.1, seed=0)
    return atoms


def graph_of(atoms, model, dtype=torch.float32):
    """SevenNet's input dictionary, one structure."""
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.train.dataload import unlabeled_atoms_to_graph

    data = AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(atoms, model.cutoff))
    for key in list(data.keys()):
        if isinstance(data[key], torch.Tensor) and data[key].is_floating_point():
            data[key] = data[key].to(dtype)
    return data


def outputs(model, atoms, dtype=torch.float32):
    """Energy, forces (N, 3) and stress (6,)."""
    out = model(graph_of(atoms, model, dtype))
    return [out[key].detach() for key in ("inferred_total_energy", "inferred_force", "inferred_stress")]


def exact_double(model):
    """The model in float64: e3nn's own symbols in float64, not rounded; SevenNet's one-hot (`.float()`) cast."""
    from e3nn.o3 import wigner_3j

    model.double()
    for name, buffer in model.named_buffers():
        head, _, degrees = name.rpartition("_w3j_")
        if head:
            buffer.copy_(wigner_3j(*map(int, degrees.split("_")), dtype=torch.float64))

    def cast(module, args, data):
        data[module.key_output] = data[module.key_output].double()
        data[module.key_additional_output] = data[module.key_additional_output].double()

    return model, model._modules["onehot_idx_to_onehot"].register_forward_hook(cast)


@pytest.fixture(scope="module")
def trained():
    from sevenn.util import load_checkpoint

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = load_checkpoint("7net-0").build_model()
    model.set_is_batch_data(False)
    return model.eval()


@pytest.fixture
def model(trained):
    """The trained model; what a test does to it is undone."""
    state = copy.deepcopy(trained.state_dict())
    yield trained
    equikern.restore(trained).float().load_state_dict(state)


@pytest.fixture
def double(model):
    """The trained model in float64."""
    model, hook = exact_double(model)
    yield model
    hook.remove()


@pytest.fixture
def convolution(trained):
    """A copy of one convolution, to be changed at will."""
    return copy.deepcopy(trained._modules["1_convolution"])


@pytest.mark.parametrize("name", ["salt", "copper"])
def test_float32_energies_and_forces_equal_e3nn(model, name):
    atoms = crystal(name)
    energy, forces, stress = outputs(model, atoms)
    got = outputs(equikern.accelerate(model), atoms)
    assert forces.abs().max() > 0.1
    assert (got[1] - forces).abs().max() <= 2e-5
    assert (got[0] - energy).abs() / len(atoms) <= 2e-6
    assert (got[2] - stress).abs().max() <= 2e-6


@pytest.mark.parametrize("name", ["salt", "copper"])
def test_float64_energies_and_forces_equal_e3nn(double, name):
    atoms = crystal(name)
    expected = outputs(double, atoms, torch.float64)
    got = outputs(equikern.accelerate(double), atoms, torch.float64)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def large():
    """A crystal with more edges than the tables have rows."""
    atoms = build.bulk("Cu", cubic=True) * (3, 3, 3)
    atoms.rattle(0.1, seed=0)
    return atoms


def test_tables_leave_forces_as_close_to_float64_as_float32_is(model):
    atoms = large()
    own = outputs(model, atoms)
    tabled = outputs(equikern.accelerate(model), atoms)
    swaps = [installed(m) for m in model.modules() if installed(m) is not None]
    tables = [swap.table for swap in swaps if getattr(swap, "table", None) is not None]
    assert len(tables) == 5 and all(table.why_not() is None for table in tables)
    untabled = outputs(equikern.accelerate(model, tables="never"), atoms)
    assert not torch.equal(tabled[1], untabled[1])
    exact, hook = exact_double(equikern.restore(model))
    expected = outputs(exact, atoms, torch.float64)
    hook.remove()
    for got, theirs, right in zip(tabled, own, expected, strict=True):
        rounding = torch.finfo(torch.float32).eps * right.abs().max()
        assert (got - right).abs().max() <= 1.5 * (theirs - right).abs().max() + rounding


def test_tables_on_a_device_give_the_same_forces(model):
    equikern.accelerate(model, tables="always")
    expected = outputs(model, large())
    with as_on_a_device():
        got = outputs(model, large())
    assert all(map(torch.equal, got, expected))


def test_training_with_tables_gives_the_same_parameter_gradients(model, monkeypatch):
    atoms = large()

    gradient = model._modules["force_output"]
    monkeypatch.setattr(type(gradient), "forward", lambda self, data: data)  # it would free the graph

    def gradients():
        out = model(graph_of(atoms, model))
        trained = [p for p in model.parameters() if p.requires_grad]
        return torch.autograd.grad(out["inferred_total_energy"], trained, allow_unused=True)

    expected = gradients()
    got = gradients() if equikern.accelerate(model, tables="always") is model else []
    pairs = [(g, e) for g, e in zip(got, expected, strict=True) if e is not None]
    assert len(pairs) > 20
    for g, e in pairs:
        assert (g - e).abs().max() <= 2e-4 * e.abs().max()


def test_an_unknown_use_of_tables_is_refused(model):
    with pytest.raises(equikern.EquikernError, match="tables is one of"):
        equikern.accelerate(model, tables="sometimes")


def test_every_convolution_is_replaced(model):
    entries = report(equikern.accelerate(model)).replaced
    assert [e.path for e in entries if e.kind == "IrrepsConvolution"] == [f"{n}_convolution" for n in range(5)]


def test_state_dict_and_classes_stay(model):
    before, classes = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    after = equikern.accelerate(model).state_dict()
    assert list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before)
    assert [type(m) for m in model.modules()] == classes


@pytest.fixture
def one_thread():
    """torch's own index_put sums in the order of the threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_restore_gives_bitwise_the_original_result(model, one_thread):
    atoms = crystal("salt")
    expected = outputs(model, atoms)
    equikern.restore(equikern.accelerate(model))
    for a, b in zip(outputs(model, atoms), expected, strict=True):
        assert torch.equal(a, b)


def test_to_float64_after_accelerate(model):
    atoms = crystal("salt")
    equikern.accelerate(model)
    model, hook = exact_double(model)
    got = outputs(model, atoms, torch.float64)
    expected = outputs(equikern.restore(model), atoms, torch.float64)
    hook.remove()
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_a_deep_copy_is_independent_and_agrees(model):
    atoms = crystal("salt")
    expected = outputs(equikern.accelerate(model), atoms)
    other = copy.deepcopy(model)
    equikern.restore(model)
    assert len(report(other).replaced) == len(report(equikern.accelerate(model)).replaced)
    for a, b in zip(outputs(other, atoms), expected, strict=True):
        assert torch.equal(a, b)


def test_a_saved_model_loads_accelerated(model):
    atoms = crystal("salt")
    expected = outputs(equikern.accelerate(model), atoms)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert len(report(loaded).replaced) == len(report(model).replaced)
    for a, b in zip(outputs(loaded, atoms), expected, strict=True):
        assert torch.equal(a, b)


def test_a_flipped_sign_changes_the_energy_as_in_e3nn(double):
    atoms = crystal("salt")
    before = outputs(double, atoms, torch.float64)[0]
    state = {k: -v if k.endswith("_w3j_1_1_2") else v for k, v in double.state_dict().items()}
    equikern.accelerate(double).load_state_dict(state)
    assert installed(double._modules["1_convolution"]) is not None
    got = outputs(double, atoms, torch.float64)[0]
    expected = outputs(equikern.restore(double), atoms, torch.float64)[0]
    assert (expected - before).abs() > 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


def small_graph(convolution):
    """The input of one convolution: three atoms, two ghost atoms, six edges."""
    generator = torch.Generator().manual_seed(0)
    dim, hidden = convolution.convolution.irreps_in1.dim, convolution.weight_nn.hs[0]

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return {
        "x": draw(3, dim),
        "x_ghost": draw(2, dim),
        "nlocal": torch.tensor([3]),
        "edge_attr": draw(6, 9),
        "edge_embedding": draw(6, hidden),
        "edge_index": torch.tensor([[0, 1, 2, 2, 0, 1], [4, 3, 0, 1, 2, 4]]),
    }


def test_ghost_atoms_as_in_parallel_runs(convolution):
    convolution.is_parallel = True
    data = small_graph(convolution)
    expected = convolution(dict(data))["x"]
    got = equikern.accelerate(convolution)(dict(data))["x"]
    assert installed(convolution) is not None
    assert got.shape == (3, convolution.convolution.irreps_out.dim)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_buffers_that_e3nn_does_not_read_are_not_believed(convolution):
    # e3nn bakes the symbols into its graph when it is copied; the buffers stay and have no effect.
    convolution.is_parallel = True
    data = small_graph(convolution)
    state = {k: -v if k.endswith("_w3j_1_1_2") else v for k, v in convolution.state_dict().items()}
    equikern.accelerate(convolution).load_state_dict(state)
    got = convolution(dict(data))["x"]
    assert torch.equal(got, equikern.restore(convolution)(dict(data))["x"])


def test_one_isolated_atom(model):
    from ase import Atoms

    atom = Atoms("Na", cell=[30, 30, 30], pbc=True)
    data = graph_of(atom, model)
    expected = model(data)["inferred_total_energy"]
    got = equikern.accelerate(model)(graph_of(atom, model))["inferred_total_energy"]
    torch.testing.assert_close(got, expected)


def test_the_result_holds_no_key_of_ours(model):
    atoms = crystal("salt")
    expected = set(model(graph_of(atoms, model)).keys())
    assert set(equikern.accelerate(model)(graph_of(atoms, model)).keys()) == expected


def test_a_hook_on_the_product_still_fires(model):
    seen = []
    convolution = equikern.accelerate(model)._modules["0_convolution"]
    hook = convolution.convolution.register_forward_hook(lambda *_: seen.append(1))
    outputs(model, crystal("salt"))
    hook.remove()
    assert seen == [1]


def copied(module, **changes):
    cls = type(module)
    module.__class__ = types.new_class(cls.__name__, (cls,), {}, lambda ns: ns.update(changes, __module__="archive.nn"))
    return module


def test_a_copy_of_the_class_is_recognised(convolution):
    copied(convolution)
    assert report(equikern.accelerate(convolution)).replaced[0].kind == "IrrepsConvolution"


def test_a_copy_that_computes_something_else_is_left(convolution):
    cls = type(convolution)

    def forward(self, data):
        data = cls.forward(self, data)
        data[self.key_x] = 2 * data[self.key_x]
        return data

    entry = report(copied(convolution, forward=forward)).entries[0]
    assert (entry.replaced, entry.reason) == (False, "a check on random input found other numbers than e3nn's")


def test_a_fused_convolution_of_another_library_is_left_with_its_name(convolution):
    convolution.convolution = torch.nn.Identity()
    entry = report(convolution).entries[0]
    assert entry.reason == "its product is a Identity, not e3nn's TensorProduct"
