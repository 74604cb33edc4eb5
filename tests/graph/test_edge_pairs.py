"""Pairs of edges q -> s -> r: those of a loop, in molecules and between periodic images."""

import torch

from equikern.graph import Graph, edge_pairs


def by_loop(edges, vec):
    """All (q -> s, s -> r) where q is not r, at r's own place."""
    found = []
    for onward in range(edges.shape[1]):
        for inward in range(edges.shape[1]):
            meet = edges[1, inward] == edges[0, onward]
            back = edges[0, inward] == edges[1, onward] and (vec[inward] + vec[onward]).norm() < 1e-6
            if meet and not back:
                found.append((inward, onward))
    return sorted(found)


def check(edges, vec, atoms):
    pairs = edge_pairs(Graph(edges, atoms), vec)
    assert sorted(map(tuple, pairs.T.tolist())) == by_loop(edges, vec)
    assert (pairs[1].diff() >= 0).all()
    return pairs.shape[1]


def test_molecules_have_the_pairs_of_a_loop():
    positions = torch.rand(6, 3, dtype=torch.float64) * 3
    edges = ((torch.cdist(positions, positions) < 2) & ~torch.eye(6, dtype=torch.bool)).nonzero().T
    edges = edges[:, torch.randperm(edges.shape[1])]
    assert check(edges, positions[edges[0]] - positions[edges[1]], 6) > 10


def test_another_image_of_the_receiver_is_a_neighbour_like_any_other():
    # One atom in a cell of side 1: six edges to itself; each meets all but its own way back.
    vec = torch.cat([torch.eye(3, dtype=torch.float64), -torch.eye(3, dtype=torch.float64)])
    assert check(torch.zeros(2, 6, dtype=torch.int64), vec, 1) == 6 * 5


def test_no_edges_have_no_pairs():
    assert edge_pairs(Graph(torch.zeros(2, 0, dtype=torch.int64), 3), torch.zeros(0, 3)).shape == (2, 0)
