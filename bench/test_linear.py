"""Linear maps of features against e3nn's and cuEquivariance's on the CPU: forward, and forward with backward."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import e3nn.o3
import pytest
import torch
from timing import alternate
from torch import Tensor

from equikern import o3

# One or two layers of MACE, NequIP and SevenNet: what a node mixes between convolutions.
CASES = {
    "mace 128": ("128x0e+128x1o", "128x0e+128x1o"),
    "mace 128, l 3": ("128x0e+128x1o+128x2e+128x3o", "128x0e+128x1o+128x2e+128x3o"),
    "nequip 64": ("64x0e+64x1o+64x2e", "64x0e+64x1o+64x2e"),
    "sevennet": ("384x0e+320x1e+224x2e", "128x0e+64x1e+32x2e"),
}


def forward(f: Callable[[Tensor], Tensor], x: Tensor, cotangent: Tensor) -> Any:
    """The map."""
    with torch.no_grad():
        return (f(x),)


def forward_backward(f: Any, x: Tensor, cotangent: Tensor) -> Any:
    """The map and its derivatives with respect to features and weights."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(f(x), [x, *f.parameters()], cotangent)


STEPS = {"forward": forward, "forward+backward": forward_backward}


def cuequivariance(irreps_in: str, irreps_out: str, weight: Tensor) -> tuple[Any, str]:
    """cuEquivariance's map with e3nn's weights, or why there is none."""
    try:
        cue = importlib.import_module("cuequivariance")
        layer = importlib.import_module("cuequivariance_torch").Linear(
            cue.Irreps("O3", irreps_in), cue.Irreps("O3", irreps_out), layout=cue.mul_ir, method="naive"
        )
    except (ImportError, OSError) as error:
        return None, f"not importable: {error}"
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
    return layer, ""


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_linear(benchmark: Any, case: str, edges: int, step: str) -> None:
    irreps_in, irreps_out = CASES[case]
    theirs, ours = e3nn.o3.Linear(irreps_in, irreps_out), o3.Linear(irreps_in, irreps_out)
    with torch.no_grad():
        ours.weight.copy_(theirs.weight)
    layer, why = cuequivariance(irreps_in, irreps_out, theirs.weight.detach())
    others = {"e3nn": theirs} | ({"cuEquivariance": layer} if layer else {})
    skipped = {} if layer else {"cuEquivariance": why}
    x, cotangent = torch.randn(edges, ours.irreps_in.dim), torch.randn(edges, ours.irreps_out.dim)
    run = STEPS[step]
    expected = run(theirs, x, cotangent)
    for name, f in {"equikern": ours, **others}.items():
        for got, e in zip(run(f, x, cotangent), expected, strict=True):
            error = (got.reshape(e.shape) - e).norm() / e.norm()
            if name == "equikern" or error < 1e-5:
                assert error < 1e-5, f"{name} disagrees with e3nn by {error:.1e}; it is not timed"
            else:
                skipped[name] = f"disagrees with e3nn by {error:.1e}"
    flops = 2 * sum(m.mul * n.mul * m.ir.dim for m, n in zip(ours.irreps_in, ours.irreps_out, strict=True)) * edges
    sizes = x.numel() + cotangent.numel()
    benchmark.group = f"linear {case} {edges} {step}"
    benchmark.extra_info.update(
        case=case, edges=edges, step=step, unit="node", skipped=skipped, flops=flops * (1 if step == "forward" else 3),
        bytes=4 * sizes * (1 if step == "forward" else 3),
    )  # fmt: skip
    timed = {name: lambda f=f: run(f, x, cotangent) for name, f in others.items() if name not in skipped}
    alternate(benchmark, lambda: run(ours, x, cotangent), timed)
