"""SchNet's and PaiNN's messages against their formulas, with gradients and gradients of gradients."""

from __future__ import annotations

import pytest
import torch

from equikern.errors import ShapeError
from equikern.graph import Graph
from equikern.nn import PaiNNMessage, SchNetMessage

N, E, C = 5, 17, 6


def schnet(h, filters, edges):
    """The formula."""
    return torch.zeros_like(h).index_add(0, edges[1], h[edges[0]] * filters)


def painn(phi, mu, filters, direction, edges):
    """The formula."""
    s, r, v = (phi[edges[0]] * filters).split(C, 1)
    messages = r[:, None] * direction[:, :, None] + v[:, None] * mu[edges[0]]
    return phi.new_zeros(N, C).index_add(0, edges[1], s), torch.zeros_like(mu).index_add(0, edges[1], messages)


CASES = {
    "schnet": (SchNetMessage(C), lambda *a: (schnet(*a),), ((N, C), (E, C))),
    "painn": (PaiNNMessage(C), painn, ((N, 3 * C), (N, 3, C), (E, 3 * C), (E, 3))),
}


def derivatives(function, inputs, edges):
    """Outputs, their gradients, and the gradients of those, as a force-training step takes them."""
    outputs = function(*inputs, edges)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    first = torch.autograd.grad(sum(z.sin().sum() for z in outputs), inputs, create_graph=True)
    return [*outputs, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), inputs)]


@pytest.mark.parametrize("name", CASES)
def test_message_and_its_two_derivatives_are_those_of_the_formula(name):
    module, formula, shapes = CASES[name]
    edges = torch.randint(N - 1, (2, E))
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    got, expected = derivatives(module, inputs, edges), derivatives(formula, inputs, edges)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_vector_message_turns_with_the_directions():
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    module, _, shapes = CASES["painn"]
    phi, mu, filters, direction = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    edges = torch.randint(N, (2, E))
    q, vector = module(phi, mu, filters, direction, edges)
    turned = module(phi, torch.einsum("ab,nbc->nac", rotation, mu), filters, direction @ rotation.T, edges)
    torch.testing.assert_close(turned[0], q, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(turned[1], torch.einsum("ab,nbc->nac", rotation, vector), rtol=1e-12, atol=1e-12)


def test_filters_of_the_wrong_width_are_refused():
    with pytest.raises(ShapeError, match="'w' has 7 columns"):
        SchNetMessage(C)(torch.randn(N, C), torch.randn(E, 7), torch.randint(N, (2, E)))


def test_a_graph_of_other_edges_is_refused():
    edges = torch.randint(N - 1, (2, E))
    with pytest.raises(ShapeError, match="other edges"):
        SchNetMessage(C)(torch.randn(N, C), torch.randn(E, C), edges + 1, Graph(edges, N))
