"""Convolutions with their radial network and harmonics, on both sides: what a layer costs on new positions.

Ours is `RadialConvolution`; a radial table is read where it may be, its making is not timed (a trained network's table
lives as long as its weights). The rival is e3nn's product on e3nn's harmonics, with the same network in torch.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import baselines
import e3nn.o3
import pytest
import torch
from test_convolution import arguments
from timing import alternate
from torch import Tensor

from equikern.nn import RadialConvolution
from equikern.ops.radial import bessel, polynomial_cutoff

R_MAX = 5.0


class Network(torch.nn.Module):
    """8 Bessel functions, three hidden layers of 64, the cutoff: MACE's and NequIP's radial network, without biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = [8, 64, 64, 64, width]
        self.layers = torch.nn.ModuleList(torch.nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))

    def forward(self, r: Tensor) -> Tensor:
        """r (E,) -> (E, width)."""
        h = bessel(r, 8, R_MAX) * polynomial_cutoff(r, R_MAX).unsqueeze(1)
        for layer in self.layers[:-1]:
            h = torch.nn.functional.silu(layer(h))
        return self.layers[-1](h)  # type: ignore[no-any-return]


class Rival(torch.nn.Module):
    """e3nn's harmonics and product, the network in between."""

    def __init__(self, spec: Any, radial: torch.nn.Module) -> None:
        super().__init__()
        self.convolution, self.radial, self.irreps_y = baselines.E3nnConv(*spec), radial, spec[1]

    def forward(self, x: Tensor, edge_vec: Tensor, edge_index: Tensor) -> Tensor:
        """x (N, dim), edge_vec (E, 3), edge_index (2, E) -> (N, dim_out)."""
        y = e3nn.o3.spherical_harmonics(self.irreps_y, edge_vec, True, "component")
        return self.convolution(x, y, self.radial(edge_vec.norm(dim=1)), edge_index)  # type: ignore[no-any-return]


def inputs(name: str, edges: int) -> tuple[Tensor, Tensor, Tensor]:
    """The graph of baselines.py, with edges of 1 to 5 in random directions."""
    x, _, _, index = arguments(name, edges)
    length = 1 + 4 * torch.rand(edges, 1)
    return x, length * torch.nn.functional.normalize(torch.randn(edges, 3)), index


def forward(f: Any, a: Any) -> Any:
    """The sums."""
    with torch.no_grad():
        return [f(*a)]


def forward_backward(f: Any, a: Any) -> Any:
    """Forces: derivatives with respect to features and positions, parameters frozen."""
    x, vec = (t.detach().requires_grad_() for t in a[:2])
    for p in f.parameters():
        p.requires_grad_(False)
    return torch.autograd.grad(f(x, vec, a[2]).square().sum(), (x, vec))


def training(f: Any, a: Any) -> Any:
    """Derivatives of a loss on values and forces, with respect to features and parameters."""
    parameters = [p.requires_grad_() for p in f.parameters()]
    x, vec = (t.detach().requires_grad_() for t in a[:2])
    e = torch.tanh(f(x, vec, a[2])).sum()
    (force,) = torch.autograd.grad(e, vec, create_graph=True)
    return torch.autograd.grad(e + force.square().sum(), (x, *parameters))


STEPS = {"forward": forward, "forward+backward": forward_backward, "training": training}


@cache
def layers(name: str) -> tuple[RadialConvolution, Rival]:
    """Ours and e3nn's with one network."""
    torch.manual_seed(0)
    spec = baselines.case(name)
    radial = Network(sum(spec[0][a].mul for a, *_ in spec[3]))
    return RadialConvolution(*spec, radial=radial, r_max=R_MAX), Rival(spec, radial)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ["mace", "nequip", "sevennet"])
def test_radial_convolution(benchmark: Any, name: str, edges: int, step: str) -> None:
    ours, theirs = layers(name)
    a, run = inputs(name, edges), STEPS[step]
    worst = max(float((got - e).norm() / e.norm()) for got, e in zip(run(ours, a), run(theirs, a), strict=True))
    assert worst < 1e-4, f"{name} disagrees with e3nn by {worst:.1e}; it is not timed"
    read = ours.table(a[1].norm(dim=1), torch.float32, None) is not None
    case = f"{name}-conv, {'table' if read else 'network'}"
    benchmark.group = f"{case} {edges} {step}"
    benchmark.extra_info.update(case=case, edges=edges, step=step)
    alternate(benchmark, lambda: run(ours, a), {"e3nn": lambda: run(theirs, a)})
