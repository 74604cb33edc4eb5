"""What was looked at is known again: by its numbers on the CPU, by being the same unchanged tensor on a device."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from equikern.ops.values import Seen, by_value, on_host
from equikern.testing import NoWaits, as_on_a_device


def tensor():
    return torch.tensor([[1.0, torch.nan, 3.0], [4.0, 5.0, 6.0]])


CHANGES = {
    "in place": lambda t: t.mul_(2),
    "through .data": lambda t: t.data.mul_(2),
    "by numpy": lambda t: t.numpy().put(0, 7.0),
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("inference", [False, True])
def test_on_the_cpu_numbers_tell(change, inference, transposed):
    with torch.inference_mode(inference):
        here = tensor().t() if transposed else tensor()[:, :2]
        here[here.isnan()] = 2.0  # where they are no plain block of memory, NaN is another number
        seen, other = Seen(here), here.clone()
        assert seen.still(here) and seen.still(other)
        change(here)
        assert not seen.still(here) and seen.still(other)


def test_nan_is_itself_and_other_shapes_dtypes_and_things_are_not():
    seen = Seen(tensor())
    assert seen.still(tensor())
    for other in (tensor().flatten(), tensor().double(), tensor().tolist(), None):
        assert not seen.still(other)
    assert not seen.still() and not seen.still(tensor(), tensor())
    assert Seen([True], None).still([True], None) and not Seen(None).still(tensor())


def test_on_a_device_the_same_unchanged_tensor_is_known():
    with as_on_a_device():
        here = tensor()
        seen = Seen(here)
        assert seen.still(here) and not seen.still(tensor())
        here[0, 0] = 2
        assert not seen.still(here)


def test_on_a_device_tensors_of_inference_mode_are_not_known_and_none_is_kept_alive():
    with as_on_a_device():
        with torch.inference_mode():
            here = tensor()
            assert not Seen(here).still(here)
        here = tensor()
        seen, there = Seen(here), weakref.ref(here)
        gc.disable()
        try:
            del here
            assert there() is None
        finally:
            gc.enable()
        assert not seen.still(tensor())


def test_tensors_that_somebody_traces_or_transforms_are_known_by_being_the_same():
    found = []

    def look(t):
        found.append((by_value(t), Seen(t).still(t), Seen(t).still(t.clone())))
        return t.sum()

    make_fx(look, tracing_mode="fake")(tensor())
    torch.func.grad(look)(tensor())
    torch.func.vmap(look)(tensor())
    assert found == [(False, True, False)] * 3
    look(tensor())
    assert found[-1] == (True, True, True)


def test_nothing_is_known_where_it_was_sent():
    seen = Seen(tensor())
    for other in (copy.copy(seen), pickle.loads(pickle.dumps(seen))):
        assert not other.still(tensor()) and not other.still()
    with as_on_a_device():
        pickle.loads(pickle.dumps(Seen(tensor())))


def test_the_cpu_is_a_device_only_inside_the_block():
    here = tensor()
    assert on_host(here)
    with pytest.raises(RuntimeError), as_on_a_device():
        with NoWaits():
            assert not on_host(here)
        assert not on_host(here)
        raise RuntimeError
    assert on_host(here)
    with pytest.raises(AssertionError, match="would wait"), NoWaits():
        assert not on_host(here)
        here.sum().item()
    assert on_host(here)
