"""Angles and torsions at pairs of edges that meet, as harmonics without angles: nothing is singular.

At the edge s -> r and the neighbour q of s, theta is the angle between s -> r and s -> q, and phi the turn about
s -> r, right-handed, from q to the next other neighbour of s (Y. Liu et al., "Spherical message passing", ICLR 2022).
That definition jumps where a neighbour comes or goes. Here neighbours count in the order of their turns, each with a
weight: Y = w1 Y(phi1) + (1 - w1) w2 Y(phi2) + ..., and what is left belongs to a whole turn, q itself. A weight is 1,
so that the first counts alone, but fades to 0 from 0.9 of the cutoff on, and from 13 to 6 degrees off the axis or q's
azimuth. Where q is near the axis itself, its harmonics of order m != 0 fade. What is left are kinks of the energy where
two neighbours have one azimuth; there an order of their places decides, not rounding.
"""

from __future__ import annotations

from math import pi, sqrt

import torch
from torch import Tensor

from equikern.ops.engine import in_float32
from equikern.ops.harmonics import spherical_harmonics
from equikern.ops.radial import deepmd_switch

NEAR_CUTOFF = 0.9
IN_LINE = (1e-2, 5e-2)  # squared sines, of 6 and 13 degrees: less, and rounding in float32 shows in forces


def legendre(x: Tensor, degrees: int) -> Tensor:
    """Y_l0 of an angle's cosine x: sqrt((2l + 1) / 4 pi) P_l(x), l = 0 ... degrees - 1; (...) -> (..., degrees)."""
    p = [torch.ones_like(x), x]
    for n in range(1, degrees - 1):
        p.append(((2 * n + 1) * x * p[n] - n * p[n - 1]) / (n + 1))
    return torch.stack([sqrt((2 * n + 1) / (4 * pi)) * p[n] for n in range(degrees)], -1)


def fade(square: Tensor) -> Tensor:
    """0 for a squared sine at most `IN_LINE[0]`, 1 from `IN_LINE[1]` on."""
    return 1 - deepmd_switch(square, *IN_LINE)


@in_float32
def torsion_harmonics(
    direction: Tensor, length: Tensor, pairs: Tensor, degrees: int, cutoff: float
) -> tuple[Tensor, Tensor]:
    """Y_l0(theta) (T, degrees), and Y_lm(theta, phi) (T, degrees^2), l = 0 ... degrees - 1, m = -l ... l.

    direction (E, 3) and length (E,): of edges, from the receiver to the sender, zero for a vector of zero; pairs
    (2, T): the edges q -> s and s -> r, grouped by the second (`graph.edge_pairs`). Derivatives of any order.
    """
    inward, onward = pairs
    axis, q = -direction[onward], direction[inward]  # (T, 3)
    height = (axis * q).sum(1)
    square = torch.linalg.cross(axis, q).square().sum(1)  # sin^2 theta
    zonal = legendre(height, degrees)
    middle = torch.tensor([n * (n + 1) for n in range(degrees)], device=q.device)  # m = 0
    total = zonal.new_zeros(len(q), degrees * degrees).index_add(1, middle, zonal)

    turning = torch.ones(degrees * degrees, dtype=q.dtype, device=q.device)
    turning[middle] = 0
    weight = fade(square)
    sine = torch.where(weight > 0, square, 1.0).sqrt()
    own = fade(square) * deepmd_switch(length[inward], NEAR_CUTOFF * cutoff, cutoff)
    order, count = _order(direction, length[inward], pairs, own.detach(), cutoff)
    for k in range(order.shape[1]):
        # Where the first neighbours have all of the weight, the others are not looked at.
        rows = ((weight.detach() > 0) & (k < count)).nonzero().flatten()
        if not len(rows):
            break
        c = order[rows, k]
        dot = ((q[rows] * q[c]).sum(1) - height[rows] * height[c]) / sine[c]
        triple = (axis[rows] * torch.linalg.cross(q[rows], q[c])).sum(1) / sine[c]
        apart = own[c] * fade(2 * (1 - dot / sine[rows]))
        share = weight[rows] * apart
        harmonics = _harmonics(triple, height[rows], dot, degrees) * turning
        total = total.index_add(0, rows, share.unsqueeze(1) * harmonics)
        weight = weight.index_add(0, rows, -share)
    rest = _harmonics(torch.zeros_like(sine), height, sine, degrees) * turning
    return zonal, total + weight.unsqueeze(1) * rest


def _harmonics(x: Tensor, y: Tensor, z: Tensor, degrees: int) -> Tensor:
    """Y_lm of vectors whose polar axis is y and whose azimuth turns from z to x."""
    return spherical_harmonics(range(degrees), torch.stack([x, y, z], 1), True, "integral")


@torch.no_grad()
def _order(direction: Tensor, length: Tensor, pairs: Tensor, own: Tensor, cutoff: float) -> tuple[Tensor, Tensor]:
    """(T, D): the other neighbours of each pair's s, as rows of `pairs`, by rising turn; and how many count, (T,)."""
    inward, onward = pairs
    groups = torch.bincount(onward, minlength=direction.shape[0])
    start = (groups.cumsum(0) - groups)[onward]
    columns = torch.arange(int(groups.max()) if len(onward) else 0, device=onward.device)
    table = start.unsqueeze(1) + columns  # (T, D)
    inside = columns < groups[onward].unsqueeze(1)
    table = torch.where(inside, table, 0)
    inside &= (table != torch.arange(len(onward), device=onward.device).unsqueeze(1)) & (own[table] > 0)

    # Coordinates across the axis, right-handed: the turn from q to q' is the angle of conj(q) q'.
    axis, q = -direction[onward], direction[inward]
    least = torch.nn.functional.one_hot(axis.abs().argmin(1), 3).to(axis)
    first = torch.nn.functional.normalize(torch.linalg.cross(axis, least), dim=1)
    second = torch.linalg.cross(axis, first)
    x, y = (q * first).sum(1), (q * second).sum(1)
    a, b = x.unsqueeze(1), y.unsqueeze(1)
    turn = torch.atan2(a * y[table] - b * x[table], a * x[table] + b * y[table]) % (2 * pi)
    # A tie must not be decided by rounding: the result has to turn with the atoms.
    height = (axis * q).sum(1)
    turn += sqrt(torch.finfo(q.dtype).eps) * (length * (1 + 0.618 * height) / cutoff)[table]
    order = torch.where(inside, turn, torch.inf).argsort(1)
    return table.gather(1, order), inside.sum(1)
