"""PaiNN's atomic energies in plain torch, any derivative by autograd: what the kernels must agree with.

Source: K. T. Schütt, O. T. Unke, M. Gastegger, "Equivariant message passing for the prediction of tensorial properties
and molecular spectra", ICML 2021.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from equikern.backends._painn import PaiNNConfig


def _basis(spec: PaiNNConfig, d: Tensor, centres: Tensor | None) -> Tensor:
    if centres is None:
        k = torch.arange(1, spec.num_basis + 1, dtype=d.dtype, device=d.device)
        return torch.sinc(k * (d / spec.cutoff)) * (k * (pi / spec.cutoff))
    return torch.exp(-0.5 * ((d - centres) / spec.gaussian_width) ** 2)


def energies(spec: PaiNNConfig, vec: Tensor, graph: list[Tensor], weights: list[Tensor]) -> Tensor:
    """(N,) of edge vectors (E, 3), graph (species, sender, receiver, ...), weights in the spec's order."""
    species, sender, receiver = graph[:3]
    centres = weights[-1] if spec.basis == "gaussian" else None
    given = iter(weights if centres is None else weights[:-1])
    d = vec.norm(dim=1, keepdim=True)  # (E, 1)
    u = (vec / torch.where(d > 0, d, 1.0)).unsqueeze(2)  # (E, 3, 1); a vector of zero has no direction
    basis = _basis(spec, d, centres)  # (E, K)
    envelope = torch.where(d < spec.cutoff, 0.5 * (1 + torch.cos(d * (pi / spec.cutoff))), 0.0)
    q = next(given)[species]  # (N, C)
    mu = q.new_zeros(q.shape[0], 3, q.shape[1])  # (N, 3, C)
    for _ in range(spec.layers):
        a1, b1, a2, b2, w, b, mix, c1, d1, c2, d2 = (next(given) for _ in range(11))
        phi = linear(silu(linear(q, a1, b1)), a2, b2)
        s, r, v = (phi[sender] * linear(basis, w, b) * envelope).chunk(3, 1)  # (E, C) each
        q, mu = (
            q.index_add(0, receiver, s),
            mu.index_add(0, receiver, r.unsqueeze(1) * u + v.unsqueeze(1) * mu[sender]),
        )
        length, vector = linear(mu, mix).chunk(2, 2)
        norm = (length.square().sum(1) + spec.epsilon).sqrt()
        a_q, a_mu, a_dot = linear(silu(linear(torch.cat([q, norm], 1), c1, d1)), c2, d2).chunk(3, 1)
        q, mu = q + a_q + a_dot * (length * vector).sum(1), mu + a_mu.unsqueeze(1) * vector
    r1, e1, r2, e2 = given
    return linear(silu(linear(q, r1, e1)), r2, e2).squeeze(1)
