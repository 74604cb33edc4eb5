"""What is known of a tensor's values is worked out once, and forgotten with the tensor."""

import gc
import weakref

import pytest
import torch

from equikern.errors import ShapeError
from equikern.interop.e3nn import species_of
from equikern.interop.remembered import graph_of, remembered


def test_a_value_is_made_once_for_each_version_of_a_tensor():
    made, tensor = [], torch.zeros(3)
    for _ in range(2):
        remembered("sum", tensor, lambda: made.append(1))
    tensor[0] = 1
    remembered("sum", tensor, lambda: made.append(2))
    remembered("sum", tensor.clone(), lambda: made.append(3))
    remembered("mean", tensor, lambda: made.append(4))
    assert made == [1, 2, 3, 4]


def test_a_tensor_of_inference_mode_that_changed_is_looked_at_again():
    with torch.inference_mode():
        tensor = torch.eye(2)
        assert species_of(tensor).tolist() == [0, 1]
        tensor.copy_(tensor.flip(0))
        assert species_of(tensor).tolist() == [1, 0]


def test_a_graph_is_forgotten_with_its_edges():
    edges = torch.tensor([[0, 1], [1, 0]])
    graph = weakref.ref(graph_of(edges, 2))
    assert graph_of(edges, 2) is graph()
    gc.disable()
    try:
        del edges
        assert graph() is None
    finally:
        gc.enable()


def test_a_graph_is_that_of_its_edges_as_they_are():
    edges = torch.tensor([[0, 1, 2], [1, 0, 0]])
    assert graph_of(edges, 3).sender.tolist() == [0, 1, 2] == graph_of(edges, 3, receivers_first=True).receiver.tolist()
    edges[0, 0] = 2
    assert graph_of(edges, 3).sender.tolist() == [2, 1, 2]
    edges.data[0, 1] = 2
    assert graph_of(edges, 3).sender.tolist() == [2, 2, 2]
    with pytest.raises(ShapeError):
        graph_of(edges, 2)
