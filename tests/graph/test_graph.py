"""Graph: what edges it takes, what it refuses, and what its plan says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from equikern.errors import ShapeError
from equikern.graph import Graph
from equikern.testing import NoWaits, as_on_a_device
from equikern.testing.strategies import graphs

EDGES = torch.tensor([[0, 1, 2, 2, 0], [1, 0, 1, 0, 1]])


@given(graphs())
def test_the_plan_groups_the_edges_by_receiver_in_ascending_order(drawn):
    edge_index, nodes = drawn
    graph = Graph(edge_index, nodes)
    groups = [graph.order[graph.ptr[n] : graph.ptr[n + 1]].tolist() for n in range(nodes)]
    assert groups == [torch.nonzero(edge_index[1] == n).flatten().tolist() for n in range(nodes)]


@pytest.mark.parametrize(
    "edges, message",
    [(EDGES[:1], r"\(1, 5\)"), (EDGES.t(), r"\(5, 2\)"), (EDGES[0], r"\(5,\)"), (EDGES[None], r"\(1, 2, 5\)")],
)
def test_edge_index_of_another_shape_is_refused(edges, message):
    with pytest.raises(ShapeError, match=message):
        Graph(edges, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bool, torch.uint8, torch.int16])
def test_edge_index_that_is_not_int32_or_int64_is_refused(dtype):
    with pytest.raises(ShapeError, match="int32 or int64"):
        Graph(EDGES.to(dtype), 3)


@pytest.mark.parametrize("row, kind", [(0, "sender"), (1, "receiver")])
@pytest.mark.parametrize("value", [3, -1, 2**40, -(2**62)])
def test_an_index_out_of_range_is_refused(row, kind, value):
    edges = EDGES.clone()
    edges[row, 2] = value
    with pytest.raises(ShapeError, match=kind):
        Graph(edges, 3)


def test_any_edge_of_a_graph_without_nodes_is_out_of_range():
    with pytest.raises(ShapeError, match="out of range"):
        Graph(torch.zeros(2, 1, dtype=torch.long), 0)


def test_senders_may_outnumber_receivers():
    edges = torch.tensor([[5, 4], [0, 1]])
    graph = Graph(edges, 2, num_senders=6)
    assert (graph.num_senders, graph.num_nodes, graph.ptr.tolist()) == (6, 2, [0, 1, 2])
    with pytest.raises(ShapeError, match="sender"):
        Graph(edges, 6, num_senders=2)


def test_int32_edges_give_the_same_plan():
    one, two = Graph(EDGES, 3), Graph(EDGES.int(), 3)
    assert all(torch.equal(a, b) for a, b in zip(one.index, two.index, strict=True))


def test_noncontiguous_edges_give_the_same_plan():
    one, two = Graph(EDGES, 3), Graph(EDGES.t().contiguous().t(), 3)
    assert all(torch.equal(a, b) for a, b in zip(one.index, two.index, strict=True))


@pytest.mark.parametrize("nodes", [0, 1, 4])
def test_a_graph_without_edges_has_an_empty_plan(nodes):
    graph = Graph(torch.zeros(2, 0, dtype=torch.long), nodes)
    assert (graph.num_edges, graph.ptr.tolist(), graph.order.tolist()) == (0, [0] * (nodes + 1), [])


def test_the_edges_that_were_given_are_not_changed():
    edges = EDGES.clone()
    Graph(edges, 3)
    assert torch.equal(edges, EDGES)


def test_what_was_read_of_a_tensor_is_read_again_only_when_it_changed():
    graph, species, reads = Graph(EDGES, 3), torch.tensor([0, 1, 1]), []

    def most():
        return graph.once("most", lambda: reads.append(0) or int(species.max()), species)

    assert (most(), most()) == (1, 1)
    species += 1
    assert (most(), most()) == (2, 2) and len(reads) == 2


def test_species_out_of_range_are_refused_each_time():
    graph, species = Graph(EDGES, 3), torch.tensor([0, 1, 4])
    for _ in range(2):
        with pytest.raises(ShapeError, match=r"must lie in 0 \.\.\. 3; got 0 \.\.\. 4"):
            graph.check_species(species, 4)
    graph.check_species(species, 5)


def test_other_edges_are_refused_each_time_and_its_own_are_known():
    graph, other = Graph(EDGES, 3), EDGES.flip(0)
    for _ in range(2):
        with pytest.raises(ShapeError, match="other edges"):
            graph.check(other, 3)
    graph.check(EDGES.clone(), 3)
    graph.check(graph.edge_index, 3)


@pytest.mark.parametrize("edges", [EDGES, EDGES.int(), EDGES.t().contiguous().t()], ids=["int64", "int32", "strided"])
def test_edges_changed_behind_torchs_back_are_refused(edges):
    edges = edges.clone(memory_format=torch.preserve_format)
    graph = Graph(edges, 3)
    graph.check(edges, 3)
    edges.data[0, 0] = 2
    for _ in range(2):
        with pytest.raises(ShapeError, match="other edges"):
            graph.check(edges, 3)


def test_on_a_device_the_same_edges_are_not_looked_at_again():
    with as_on_a_device():
        edges = EDGES.clone()
        graph = Graph(edges, 3)
        with NoWaits():
            graph.check(edges, 3)
            with pytest.raises(AssertionError, match="would wait"):
                graph.check(EDGES.clone(), 3)
        edges[0, 0] = 2
        with pytest.raises(ShapeError, match="other edges"):
            graph.check(edges, 3)


def test_what_is_remembered_of_inference_mode_serves_recording_too():
    graph, species, weight = Graph(EDGES, 3), torch.tensor([0, 1, 1]), torch.ones(2, requires_grad=True)
    with torch.inference_mode():
        graph.once("rows", lambda: species + 0, species)
    weight[graph.once("rows", lambda: species + 0, species)].sum().backward()
    assert weight.grad.tolist() == [1, 2]


@torch.inference_mode()
def test_edges_of_inference_mode_are_looked_at_each_time():
    edges = EDGES.clone()
    graph = Graph(edges, 3)
    graph.check(edges, 3)
    edges[0, 0] = 2
    with pytest.raises(ShapeError, match="other edges"):
        graph.check(edges, 3)
