"""Tensor products of rows in each connection mode against e3nn's: forward, forward+backward, force training.

`edges` is the number of rows. Weights are shared, or of each row; fully connected messages whose weights are linear in
features of the edge (DiffDock's layer) are `MixedConvolution` against e3nn's product with the weights formed.
"""

from __future__ import annotations

from typing import Any

import e3nn.o3
import pytest
import torch
from timing import alternate
from torch import Tensor

from equikern import o3
from equikern.nn import MixedConvolution

# irreps of x, y and the output; the entries of the instructions
WIDE = ("32x0e+32x1o", "0e+1o", "32x0e+32x1o")
PAIRS = ("32x0e+32x1o", "32x0e+32x1o", "32x0e+32x1o")
FEW = ("8x0e+8x1o", "8x0e+8x1o", "64x0e+64x1o")
HALF = ("12x0e+12x1o", "12x0e+12x1o", "66x1o+66x1e")
PLACES = [(0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 0)]
MODES: dict[str, tuple[tuple[str, str, str], str, list[tuple[int, int, int]]]] = {
    "uvw": (WIDE, "uvw", PLACES),
    "uvu": (WIDE, "uvu", PLACES),
    "uvv": (("0e+1o", *WIDE[:1], WIDE[2]), "uvv", PLACES),
    "uuw": (PAIRS, "uuw", PLACES),
    "uuu": (PAIRS, "uuu", PLACES),
    "uvuv": (FEW, "uvuv", PLACES),
    "uvu<v": (HALF, "uvu<v", [(0, 1, 0), (1, 0, 0), (1, 1, 1)]),
    "u<vw": (("12x0e+12x1o", "12x0e+12x1o", "16x1o+16x1e"), "u<vw", [(0, 1, 0), (1, 0, 0), (1, 1, 1)]),
}
DIFFDOCK = ("48x0e+10x1o+10x1e+48x0o", "0e+1o+2e", "48x0e+10x1o+10x1e+48x0o")


def forward(f: Any, tensors: list[Tensor]) -> Any:
    """The product."""
    with torch.no_grad():
        return [f(*tensors)]


def forward_backward(f: Any, tensors: list[Tensor]) -> Any:
    """And its derivatives with respect to all inputs."""
    v = [t.detach().requires_grad_() for t in tensors]
    return torch.autograd.grad(f(*v).square().sum(), v)


def force_training(f: Any, tensors: list[Tensor]) -> Any:
    """The derivatives of a first derivative."""
    v = [t.detach().requires_grad_() for t in tensors]
    e = torch.tanh(f(*v)).sum()
    g = torch.autograd.grad(e, v, create_graph=True)
    return torch.autograd.grad(e + sum(t.square().sum() for t in g), v)


STEPS = {"forward": forward, "forward+backward": forward_backward, "force training": force_training}


def time_pair(benchmark: Any, case: str, edges: int, step: str, ours: Any, theirs: Any, tensors: list[Tensor]) -> None:
    """Check, then time."""
    run = STEPS[step]
    for got, e in zip(run(ours, tensors), run(theirs, tensors), strict=True):
        worst = float((got - e).norm() / e.norm())
        assert worst < 2e-5, f"{case} disagrees with e3nn by {worst:.1e}; it is not timed"
    benchmark.group = f"{case} {edges} {step}"
    benchmark.extra_info.update(case=case, edges=edges, step=step, unit="row")
    alternate(benchmark, lambda: run(ours, tensors), {"e3nn": lambda: run(theirs, tensors)})


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("weights", ["shared", "by row"])
@pytest.mark.parametrize("mode", MODES)
def test_modes(benchmark: Any, mode: str, weights: str, edges: int, step: str) -> None:
    irreps, name, places = MODES[mode]
    spec = (*irreps, [(*place, name, True) for place in places])
    options = {"shared_weights": weights == "shared", "internal_weights": False}
    theirs, ours = e3nn.o3.TensorProduct(*spec, **options), o3.TensorProduct(*spec, **options)
    rows = () if weights == "shared" else (edges,)
    tensors = [torch.randn(edges, ours.irreps_in1.dim), torch.randn(edges, ours.irreps_in2.dim)]
    tensors.append(torch.randn(*rows, ours.weight_numel))
    time_pair(benchmark, f"{mode}, weights {weights}", edges, step, ours, theirs, tensors)


@pytest.mark.parametrize("step", ["forward", "forward+backward"])
def test_fully_connected_messages(benchmark: Any, edges: int, step: str) -> None:
    features = 144
    ours = MixedConvolution(*DIFFDOCK, features)
    product = e3nn.o3.FullyConnectedTensorProduct(*DIFFDOCK, shared_weights=False, internal_weights=False)
    nodes = max(edges // 30, 1)
    index = torch.stack([torch.randint(nodes, (edges,)), torch.arange(edges) * nodes // edges])

    def theirs(x: Tensor, y: Tensor, h: Tensor, w: Tensor) -> Tensor:
        out = x.new_zeros(nodes, product.irreps_out.dim)
        return out.index_add(0, index[1], product(x[index[0]], y, h @ w))

    sizes = [(nodes, ours.irreps_x.dim), (edges, ours.irreps_y.dim), (edges, features), (features, ours.weight_numel)]
    tensors = [torch.randn(*size) for size in sizes]
    time_pair(benchmark, "diffdock-uvw", edges, step, lambda *a: ours(*a, index), theirs, tensors)
