"""Convolution: bad inputs and their errors, odd inputs and their results."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from equikern.errors import ProgramError, ShapeError
from equikern.graph import Graph
from equikern.nn import Convolution
from equikern.testing import assert_close, tolerance

INSTRUCTIONS = [(0, 0, 0, "uvu", True), (1, 1, 0, "uvu", True), (0, 1, 1, "uvu", True), (1, 0, 1, "uvu", True)]
IRREPS = ("5x0e+5x1o", "0e+1o", "5x0e+5x1o")
N, E = 4, 7


def conv(**options):
    return Convolution(*IRREPS, INSTRUCTIONS, **options)


def arguments(dtype=torch.float32):
    edges = torch.tensor([[0, 1, 2, 3, 0, 2, 1], [1, 0, 1, 2, 2, 2, 0]])
    return torch.randn(N, 20, dtype=dtype), torch.randn(E, 4, dtype=dtype), torch.randn(E, 20, dtype=dtype), edges


def refuse(message, *given, graph=None):
    with pytest.raises(ShapeError, match=message) as error:
        conv()(*given, graph)
    return str(error.value)


# --- tensors that do not fit


@pytest.mark.parametrize("slot, name", [(0, "x"), (1, "y"), (2, "w")])
def test_a_wrong_column_count_is_named_with_the_program_and_all_shapes(slot, name):
    given = list(arguments())
    given[slot] = torch.cat([given[slot], given[slot][:, :1]], 1)
    text = refuse(f"operand '{name}' has {given[slot].shape[1]} columns", *given)
    assert "eqk1 product" in text and "got       x (4, 2" in text


@pytest.mark.parametrize("slot, name", [(0, "x"), (1, "y"), (2, "w")])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_wrong_rank_is_refused(slot, name, rank):
    given = list(arguments())
    graph = Graph(given[3], N)
    given[slot] = given[slot].flatten()[:N] if rank == 1 else given[slot][:, :, None]
    refuse(f"operand '{name}' has {rank} dimensions", *given, graph=graph)


@pytest.mark.parametrize("slot, name", [(1, "y"), (2, "w")])
@pytest.mark.parametrize("rows", [E - 1, E + 1, 1, 0])
def test_a_number_of_rows_that_is_not_that_of_the_edges_is_refused(slot, name, rows):
    given = list(arguments())
    given[slot] = torch.randn(rows, given[slot].shape[1])
    refuse(f"operand '{name}' has {rows} rows", *given)


@pytest.mark.parametrize("slot", [1, 2])
def test_mixed_dtypes_are_refused(slot):
    given = list(arguments())
    given[slot] = given[slot].double()
    refuse("use one dtype and device", *given)


def test_another_device_is_refused():
    given = list(arguments())
    given[1] = given[1].to("meta")
    refuse("use one dtype and device", *given)


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_integer_features_are_refused(slot):
    given = list(arguments())
    given[slot] = given[slot].long()
    refuse("floating dtype", *given)


def test_missing_weights_are_refused():
    x, y, _, edges = arguments()
    refuse("operand 'w' is missing", x, y, None, edges)


# --- edges that do not fit


@pytest.mark.parametrize("row, kind", [(0, "sender"), (1, "receiver")])
@pytest.mark.parametrize("value", [N, -1])
def test_an_index_out_of_range_is_refused(row, kind, value):
    *given, edges = arguments()
    edges[row, 3] = value
    refuse(kind, *given, edges)


def test_a_float_edge_index_is_refused():
    *given, edges = arguments()
    refuse("int32 or int64", *given, edges.float())


def test_an_edge_index_of_the_wrong_shape_is_refused():
    *given, edges = arguments()
    refuse(r"\(2, E\)", *given, edges.t())


def test_a_graph_of_fewer_edges_is_refused():
    *given, edges = arguments()
    refuse("build a new Graph", *given, edges, graph=Graph(edges[:, :-1], N))


def test_a_graph_of_other_edges_is_refused():
    *given, edges = arguments()
    refuse("made of other edges", *given, edges, graph=Graph(edges.flip(0), N))


def test_a_graph_whose_edges_were_changed_in_place_is_refused():
    *given, edges = arguments()
    graph = Graph(edges, N)
    edges[1, 0] = 3
    refuse("made of other edges", *given, edges, graph=graph)


def test_a_graph_serves_equal_edges_of_another_dtype():
    *given, edges = arguments()
    assert torch.equal(conv()(*given, edges.int(), Graph(edges, N)), conv()(*given, edges))


def test_a_graph_of_fewer_nodes_is_refused():
    x, y, w, edges = arguments()
    refuse("build a new Graph", torch.cat([x, x]), y, w, edges, graph=Graph(edges, N))


def test_a_plan_of_fewer_receivers_is_refused():
    x, y, w, edges = arguments()
    with pytest.raises(ShapeError):
        conv()(x, y, w, edges, Graph(edges[:, :6], 3, N))


def test_an_impossible_path_is_refused():
    with pytest.raises(ProgramError, match="is not in"):
        Convolution("2x0e", "1o", "2x0e", [(0, 0, 0, "uvu", True)])


def test_an_unknown_mode_is_refused():
    with pytest.raises(ProgramError, match="unknown mode"):
        Convolution("2x0e", "0e", "2x0e", [(0, 0, 0, "vuv", True)])


# --- odd inputs that work


def test_a_graph_made_before_gives_the_same_bits():
    x, y, w, edges = arguments()
    assert torch.equal(conv()(x, y, w, edges, Graph(edges, N)), conv()(x, y, w, edges))


def test_int32_edges_give_the_same_bits():
    *given, edges = arguments()
    assert torch.equal(conv()(*given, edges.int()), conv()(*given, edges))


def test_noncontiguous_tensors_give_the_same_bits():
    given = arguments()
    turned = [a.t().contiguous().t() for a in given]
    assert torch.equal(conv()(*turned), conv()(*given))


def test_no_edges_give_zeros_and_zero_gradients():
    x, y, w, edges = (a[..., :0] if a.dtype == torch.long else a for a in arguments())
    x, y, w = x.requires_grad_(), y[:0].requires_grad_(), w[:0].requires_grad_()
    z = conv()(x, y, w, edges)
    gradients = torch.autograd.grad(z.sum(), (x, y, w))
    assert torch.equal(z, torch.zeros(N, 20)) and torch.equal(gradients[0], torch.zeros(N, 20))
    assert [tuple(g.shape) for g in gradients] == [(N, 20), (0, 4), (0, 20)]


def test_no_nodes_give_no_rows():
    x, y, w, edges = arguments()
    assert conv()(x[:0], y[:0], w[:0], edges[:, :0]).shape == (0, 20)


def test_nodes_that_receive_nothing_get_zeros():
    z = conv()(*arguments())
    assert torch.equal(z[3], torch.zeros(20)) and z[:3].abs().amin(1).gt(0).all()


def test_ghost_senders_contribute_to_the_receivers_only():
    _, y, w, edges = arguments(torch.float64)
    x = torch.randn(N + 2, 20, dtype=torch.float64)
    edges[0, 0] = N + 1
    full = conv()(x, y, w, edges)
    assert_close(conv()(x, y, w, edges, Graph(edges, N, N + 2)), full[:N], 0.0)


@pytest.mark.parametrize("slot", [0, 1, 2])
def test_nan_reaches_only_the_receivers_that_see_it(slot):
    given = list(arguments())
    clean = conv()(*given)
    edges = given[3]
    given[slot] = given[slot].clone()
    given[slot][2] = float("nan")
    hit = set(edges[1][edges[0] == 2].tolist()) if slot == 0 else {int(edges[1, 2])}
    got = conv()(*given)
    seen = torch.tensor([n in hit for n in range(N)])
    assert got[seen].isnan().any(1).all() and torch.equal(got[~seen], clean[~seen])


def test_an_infinite_feature_gives_no_finite_result_where_it_is_seen():
    x, y, w, edges = arguments()
    x[3, 0] = float("inf")
    got = conv()(x, y, w, edges)
    assert not got[2].isfinite().all() and got[:2].isfinite().all()


def test_a_convolution_has_no_parameters_and_nothing_to_load():
    assert not list(conv().parameters()) and not conv().state_dict()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_give_the_same_bits(copied):
    given = arguments()
    assert torch.equal(copied(conv())(*given), conv()(*given))


def test_shared_weights_are_one_row():
    x, y, w, edges = arguments(torch.float64)
    shared = conv(shared_weights=True)
    expected = conv()(x, y, w[:1].expand(E, -1), edges)
    limit = tolerance(shared.program, torch.float64, 0, E)
    assert_close(shared(x, y, w[0], edges), expected, limit)
    assert_close(shared(x, y, w[:1], edges), expected, limit)


def test_a_convolution_says_what_it_does():
    assert "5x0e+5x1o x 1x0e+1x1o -> 5x0e+5x1o, 20 weights" in repr(conv())
