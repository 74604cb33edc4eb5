"""accelerate, restore and report on whole models."""

import copy

import pytest
import torch

import equikern
from equikern.interop import report
from equikern.interop.swap import Reload, installed


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def hooks(model):
    return [h for m in model.modules() for h in m._load_state_dict_post_hooks.values() if isinstance(h, Reload)]


def test_accelerate_returns_the_model_and_keeps_keys_values_and_classes(network):
    model = network[0]
    before, classes = state(model), [type(m) for m in model.modules()]
    assert equikern.accelerate(model) is model
    after = state(model)
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)
    assert [type(m) for m in model.modules()] == classes


def test_accelerating_twice_changes_nothing_more(network):
    model = equikern.accelerate(network[0])
    swaps, count = [installed(m) for m in model.modules()], len(hooks(model))
    equikern.accelerate(model)
    assert [installed(m) for m in model.modules()] == swaps and len(hooks(model)) == count


def test_restore_gives_bitwise_the_original_result(network):
    model, *inputs = network
    expected = model(*inputs)
    assert equikern.restore(equikern.accelerate(model)) is model
    assert torch.equal(model(*inputs), expected)
    assert not hooks(model) and all(installed(m) is None for m in model.modules())


def test_restoring_what_was_not_accelerated_is_harmless(network):
    model, *inputs = network
    expected = model(*inputs)
    assert torch.equal(equikern.restore(model)(*inputs), expected)


def test_the_report_says_what_was_replaced_and_why_the_rest_was_not(network):
    model = network[0]
    model.layers[1].bfloat16()
    text = str(report(equikern.accelerate(model)))
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert "TensorProduct" in lines["layers.0.product"] and lines["layers.0.product"].endswith("replaced")
    assert "left: no kernel: cpu: operands are torch.bfloat16" in lines["layers.1.mix"]


def test_before_accelerate_the_report_says_so(network):
    entry = next(e for e in report(network[0]).entries if e.path == "layers.0.product")
    assert (entry.replaced, entry.reason) == (False, "equikern.accelerate was not called")


def test_a_model_without_known_parts_is_reported_as_such():
    assert str(report(equikern.accelerate(torch.nn.Linear(2, 2)))).startswith("no tensor product")


def test_a_shared_module_is_replaced_once(uvu):
    tp = uvu()
    model = torch.nn.ModuleList([tp, tp])
    assert len(report(equikern.accelerate(model)).entries) == 1 and len(hooks(model)) == 1


def test_a_copied_model_is_independent(network):
    model, *inputs = network
    equikern.accelerate(model)
    expected, replaced = model(*inputs), len(report(model).replaced)
    other = copy.deepcopy(model)
    equikern.restore(model)
    assert len(report(other).replaced) == replaced >= 5
    torch.testing.assert_close(other(*inputs), expected, rtol=0, atol=0)


def test_a_scripted_model_is_refused():
    with pytest.raises(equikern.BackendError, match="scripted"):
        equikern.accelerate(torch.jit.script(torch.nn.Linear(2, 2)))


def test_a_compiled_model_is_refused():
    with pytest.raises(equikern.BackendError, match="compiled already"):
        equikern.accelerate(torch.compile(torch.nn.Linear(2, 2)))


def test_a_compiled_part_is_left(uvu):
    model = torch.nn.Sequential(torch.compile(uvu(), backend="eager"))
    (entry,) = report(equikern.accelerate(model)).entries
    assert (entry.replaced, entry.reason) == (False, "it is compiled already; accelerate before torch.compile")


def test_what_is_no_module_is_refused_with_a_hint():
    with pytest.raises(equikern.EquikernError, match="For a calculator pass the model that it holds"):
        equikern.accelerate(object())


def test_scripting_an_accelerated_product_says_what_to_do(uvu):
    with pytest.raises(AttributeError, match=r"call equikern\.restore\(model\) before torch.jit.script"):
        torch.jit.script(equikern.accelerate(uvu()))


def test_a_restored_product_can_be_scripted(uvu):
    tp = equikern.restore(equikern.accelerate(uvu()))
    assert isinstance(torch.jit.script(tp), torch.jit.ScriptModule)


def test_explain_names_the_backends_of_each_program(network):
    text = str(equikern.explain(equikern.accelerate(network[0])))
    assert text.count("eqk1 product") >= 2 and text.count("cpu         runs it") == text.count("eqk1") >= 4


def test_explain_gives_the_reason_of_a_backend_that_cannot(uvu):
    text = str(equikern.explain(equikern.accelerate(uvu()), dtype=torch.bfloat16))
    assert "cpu         operands are torch.bfloat16" in text and "reference   runs it" in text


def test_explain_of_what_holds_no_program_says_what_to_do():
    with pytest.raises(equikern.EquikernError, match=r"equikern\.accelerate it first"):
        equikern.explain(torch.nn.Linear(2, 2))
