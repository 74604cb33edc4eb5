"""e3nn objects keep their numbers, signs, calls and derivatives when they run on equikern."""

import copy
import io
import pickle
import types

import pytest
import torch

import equikern
from equikern.interop.swap import installed


def rows(tp, *shape, seed=0):
    """Random x and y (*shape, dim) and the weights that a call needs (None for internal ones)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    x, y = draw(*shape, tp.irreps_in1.dim), draw(*shape, tp.irreps_in2.dim)
    if tp.internal_weights or not tp.weight_numel:
        return x, y, None
    return x, y, draw(tp.weight_numel) if tp.shared_weights else draw(*shape, tp.weight_numel)


def replaced(module):
    """The module, accelerated; fails if nothing was replaced."""
    equikern.accelerate(module)
    assert installed(module) is not None, str(equikern.interop.report(module))
    return module


def test_uvu_equals_e3nn(uvu):
    tp = uvu().double()
    inputs = rows(tp, 7)
    expected = tp(*inputs)
    torch.testing.assert_close(replaced(tp)(*inputs), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normalizations", [("component", "path"), ("norm", "element"), ("none", "none")])
def test_every_normalization_equals_e3nn(uvu, normalizations):
    tp = uvu(irrep_normalization=normalizations[0], path_normalization=normalizations[1]).double()
    inputs = rows(tp, 4)
    expected = tp(*inputs)
    torch.testing.assert_close(replaced(tp)(*inputs), expected, rtol=1e-12, atol=1e-12)


def test_fully_connected_equals_e3nn(o3):
    tp = o3.FullyConnectedTensorProduct("3x0e+2x1o", "2x0e+1x1o+1x2e", "4x0e+3x1o+2x2o").double()
    inputs = rows(tp, 5)
    expected = tp(*inputs)
    torch.testing.assert_close(replaced(tp)(*inputs), expected, rtol=1e-12, atol=1e-12)


def test_elementwise_equals_e3nn(o3):
    tp = o3.ElementwiseTensorProduct("4x0e+4x1o", "4x1o+4x2e").double()
    inputs = rows(tp, 5)
    expected = tp(*inputs)
    torch.testing.assert_close(replaced(tp)(*inputs), expected, rtol=1e-12, atol=1e-12)


def test_full_product_equals_e3nn(o3):
    tp = o3.FullTensorProduct("2x0e+2x1o", "3x1o+1x2e").double()
    inputs = rows(tp, 5)
    expected = tp(*inputs)
    torch.testing.assert_close(replaced(tp)(*inputs), expected, rtol=1e-12, atol=1e-12)


def test_tensor_square_equals_e3nn(o3):
    tp = o3.TensorSquare("3x0e+2x1o+2x2e").double()
    x = rows(tp, 5)[0]
    expected = tp(x)
    torch.testing.assert_close(replaced(tp)(x), expected, rtol=1e-12, atol=1e-12)


def test_leading_dimensions_broadcast_as_in_e3nn(uvu):
    tp = uvu().double()
    x, y, w = rows(tp, 2, 3)
    expected = tp(x, y[0, 0], w[:, :1])
    torch.testing.assert_close(replaced(tp)(x, y[0, 0], w[:, :1]), expected, rtol=1e-12, atol=1e-12)


def test_a_list_of_weights_is_taken_as_in_e3nn(uvu):
    tp = uvu().double()
    x, y, w = rows(tp, 4)
    views = list(tp.weight_views(w))
    expected = tp(x, y, w)
    torch.testing.assert_close(replaced(tp)(x, y, views), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{"shared_weights": True}, {"shared_weights": True, "internal_weights": True}])
def test_shared_weights_equal_e3nn(uvu, options):
    tp = uvu(**({"internal_weights": False} | options)).double()
    inputs = rows(tp, 4)
    expected = tp(*inputs)
    torch.testing.assert_close(replaced(tp)(*inputs), expected, rtol=1e-12, atol=1e-12)


def test_no_rows_give_no_rows(uvu):
    tp = uvu().double()
    x, y, w = rows(tp, 0)
    assert replaced(tp)(x, y, w).shape == (0, tp.irreps_out.dim)


def test_missing_weights_raise_as_in_e3nn(uvu):
    tp = replaced(uvu().double())
    x, y, _ = rows(tp, 2)
    with pytest.raises(RuntimeError, match="Weights must be provided"):
        tp(x, y)


def test_mixed_dtypes_go_to_e3nn_itself(uvu):
    tp = uvu().double()
    x, y, w = rows(tp, 2)
    with pytest.raises(RuntimeError) as theirs:
        tp(x.float(), y, w)
    with pytest.raises(RuntimeError) as ours:
        replaced(tp)(x.float(), y, w)
    assert str(ours.value) == str(theirs.value)


def test_signs_come_from_the_buffers(uvu):
    tp = uvu().double()
    inputs = rows(tp, 4)
    before = tp(*inputs)
    dict(tp.named_buffers())["_compiled_main_left_right._w3j_1_2_2"].neg_()
    expected = tp(*inputs)
    assert not torch.allclose(expected, before)
    torch.testing.assert_close(replaced(tp)(*inputs), expected, rtol=1e-12, atol=1e-12)


def test_signs_follow_a_loaded_state_dict(uvu):
    tp = replaced(uvu().double())
    inputs = rows(tp, 4)
    state = {k: v.clone() for k, v in tp.state_dict().items()}
    state["_compiled_main_left_right._w3j_1_2_2"].neg_()
    twin = uvu().double()
    twin.load_state_dict(state)
    tp.load_state_dict(state)
    assert installed(tp) is not None
    torch.testing.assert_close(tp(*inputs), twin(*inputs), rtol=1e-12, atol=1e-12)


def test_coefficients_that_are_not_e3nns_are_left(uvu):
    tp = uvu().double()
    dict(tp.named_buffers())["_compiled_main_left_right._w3j_1_2_2"].mul_(1.001)
    (entry,) = equikern.interop.report(equikern.accelerate(tp)).entries
    assert (entry.replaced, entry.reason) == (False, "coefficients are not e3nn's: path l = (1, 2, 2)")


def test_loading_foreign_coefficients_gives_the_module_back_to_e3nn(uvu):
    tp = replaced(uvu().double())
    inputs = rows(tp, 4)
    state = {k: v.clone() for k, v in tp.state_dict().items()}
    state["_compiled_main_left_right._w3j_1_2_2"].mul_(2.0)
    twin = uvu().double()
    twin.load_state_dict(state)
    tp.load_state_dict(state)
    assert torch.equal(tp(*inputs), twin(*inputs))


def test_symbols_without_buffers_come_from_the_objects_package(uvu):
    from equikern.interop.e3nn import _held_symbols, _package_symbol

    tp = uvu().double()
    held = _held_symbols(tp)
    assert len(held) > 10
    for triple, symbol in held.items():
        torch.testing.assert_close(
            torch.tensor(_package_symbol(tp, triple)), torch.tensor(symbol), rtol=1e-5, atol=1e-6
        )


def class_copy(cls, **changes):
    """A class with the same code in a package of another name, as model archives carry them."""
    return types.new_class(cls.__name__, (cls,), {}, lambda ns: ns.update(changes, __module__="archive.nn"))


def test_a_copy_of_the_class_in_another_package_is_replaced(uvu):
    tp = uvu().double()
    tp.__class__ = class_copy(type(tp))
    inputs = rows(tp, 4)
    expected = tp(*inputs)
    torch.testing.assert_close(replaced(tp)(*inputs), expected, rtol=1e-12, atol=1e-12)


def test_a_copy_that_computes_something_else_is_left(uvu):
    tp = uvu().double()
    original = type(tp)

    def forward(self, x, y, weight=None):
        return 2 * original.forward(self, x, y, weight)

    tp.__class__ = class_copy(original, forward=forward)
    (entry,) = equikern.interop.report(tp).entries
    assert entry.reason == "a check on random input found other numbers than e3nn's"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_of_the_object_has_its_own_weights(uvu, copied):
    tp = replaced(uvu(shared_weights=True, internal_weights=True).double())
    x, y, _ = rows(tp, 4)
    expected = tp(x, y)
    other = copied(tp)
    with torch.no_grad():
        tp.weight.zero_()
    assert installed(other) is not None and installed(other) is not installed(tp)
    torch.testing.assert_close(other(x, y), expected, rtol=0, atol=0)


def test_a_copy_follows_its_own_loaded_signs(uvu):
    tp = replaced(uvu().double())
    inputs = rows(tp, 4)
    expected = tp(*inputs)
    other = copy.deepcopy(tp)
    state = {k: v.clone() for k, v in tp.state_dict().items()}
    state["_compiled_main_left_right._w3j_1_2_2"].neg_()
    other.load_state_dict(state)
    assert not torch.allclose(other(*inputs), expected)
    assert torch.equal(tp(*inputs), expected)


def test_torch_save_of_the_whole_object(uvu):
    tp = replaced(uvu().double())
    inputs = rows(tp, 4)
    expected = tp(*inputs)
    buffer = io.BytesIO()
    torch.save(tp, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert installed(loaded) is not None
    assert torch.equal(loaded(*inputs), expected)


def test_float32_after_to(uvu):
    tp = replaced(uvu().double()).float()
    inputs = rows(tp, 4)
    got = tp(*(t.float() for t in inputs))
    expected = equikern.restore(tp).double()(*inputs)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


def test_without_a_kernel_for_the_dtype_e3nn_computes(uvu):
    tp = replaced(uvu())
    inputs = [t.bfloat16() for t in rows(tp, 4)]
    got = tp.bfloat16()(*inputs)
    assert torch.equal(got, equikern.restore(tp)(*inputs))


@pytest.mark.parametrize("normalization", ["integral", "component", "norm"])
@pytest.mark.parametrize("normalize", [True, False])
def test_spherical_harmonics_equal_e3nn(o3, normalization, normalize):
    sh = o3.SphericalHarmonics([0, 1, 2, 3, 1, 6], normalize, normalization)
    x = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = sh(x)
    torch.testing.assert_close(replaced(sh)(x), expected, rtol=1e-12, atol=1e-12)


def test_a_harmonics_class_with_other_values_is_left(o3):
    sh = o3.SphericalHarmonics([0, 1, 2], True)
    original = type(sh)
    sh.__class__ = class_copy(original, forward=lambda self, x: original.forward(self, x).flip(-1))
    (entry,) = equikern.interop.report(sh).entries
    assert entry.reason == "a check on random input found other numbers than e3nn's"


def force_gradients(model, numbers, vectors, sender, receiver):
    """Energy, forces on the edges, and the parameters' gradients of a loss on the forces."""
    model.zero_grad()
    vectors = vectors.clone().requires_grad_()
    energy = model(numbers, vectors, sender, receiver)
    (force,) = torch.autograd.grad(energy, vectors, create_graph=True)
    (force.square().sum() + energy).backward()
    return [energy, force, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def test_force_training_gradients_equal_e3nn(network):
    model, *inputs = network
    expected = force_gradients(model, *inputs)
    equikern.accelerate(model)
    assert len(equikern.interop.report(model).replaced) >= 5
    got = force_gradients(model, *inputs)
    assert len(got) == len(expected) > 8
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_torch_compile_of_an_accelerated_model_agrees(uvu):
    tp = replaced(uvu().double())
    inputs = rows(tp, 4)
    compiled = torch.compile(tp, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), tp(*inputs), rtol=1e-12, atol=1e-12)


def test_harmonics_without_a_kernel_for_the_dtype_are_e3nns(o3):
    sh = replaced(o3.SphericalHarmonics([0, 1, 2], True))
    x = torch.randn(4, 3).bfloat16()
    assert torch.equal(sh(x), equikern.restore(sh)(x))


def test_torch_compile_of_an_accelerated_network_agrees(network):
    import e3nn

    if e3nn.__version__.startswith("0.4"):
        pytest.skip("e3nn 0.4 scripts parts of its modules, which torch.compile cannot trace")
    model, *inputs = network
    equikern.accelerate(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), model(*inputs), rtol=1e-12, atol=1e-12)
