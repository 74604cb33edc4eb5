"""Symmetric contractions: ours, MACE's own (if installed, as in .venv-e3nn04) and the same sum in plain torch.

128 channels, l <= 3 in, scalars and vectors out, correlation 3, three species; the time is that of a node. The plain
rewrite forms every monomial and multiplies with the species' weights: what one would write without a kernel.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from timing import alternate
from torch import Tensor

from equikern.interop.mace import contraction_swap
from equikern.ops.symmetric_contraction import symmetric_contraction
from equikern.program.symmetric import Symmetric, basis, symmetric

X, Z, CHANNELS, SPECIES = "128x0e+128x1o+128x2e+128x3o", "128x0e+128x1o", 128, 3
STEPS = ("forward", "forward+backward", "force training")


def mace_contraction() -> tuple[Any, str]:
    """MACE's module, or why there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mace.modules import SymmetricContraction  # isort: skip  (first: it lets torch load e3nn's constants)
            from e3nn import o3
    except ImportError as error:
        return None, f"not importable: {error}"
    return SymmetricContraction(o3.Irreps(X), o3.Irreps(Z), 3, num_elements=SPECIES), ""


class Plain:
    """z = sum over terms, with monomials gathered and multiplied at once."""

    def __init__(self, program: Symmetric) -> None:
        size = program.components
        padded = [[*monomial, *[size] * (3 - len(monomial))] for _, monomial in program.terms]
        self.factors = torch.tensor(padded)  # (terms, 3); component `size` is one
        self.columns = torch.tensor([k for k, _ in program.terms])

    def __call__(self, x: Tensor, weight: Tensor, species: Tensor) -> Tensor:
        """x (N, C, D), weight (species, terms, C), species (N,) -> (N, C * columns)."""
        ones = torch.cat([x, torch.ones_like(x[..., :1])], 2)
        monomials = ones[..., self.factors].prod(3)  # (N, C, terms)
        products = monomials * weight[species].transpose(1, 2)
        z = x.new_zeros(*x.shape[:2], int(self.columns.max()) + 1).index_add(2, self.columns, products)
        return torch.cat([z[..., :1].flatten(1), z[..., 1:].flatten(1)], 1)


def run(step: str, function: Any, x: Tensor, weights: list[Tensor]) -> Any:
    """One step of a function of x."""
    if step == "forward":
        with torch.no_grad():
            return function(x)
    x = x.detach().requires_grad_()
    z = function(x)
    if step == "forward+backward":
        return torch.autograd.grad(z.sum(), x)
    (force,) = torch.autograd.grad(z.sum(), x, create_graph=True)
    return torch.autograd.grad(force.square().sum(), weights)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nodes", [100, 400])
def test_symmetric_contraction(benchmark: Any, nodes: int, step: str) -> None:
    program = symmetric(X, Z, 3, layout_x="channels")
    x, species = torch.randn(nodes, CHANNELS, program.components), torch.arange(nodes) % SPECIES
    theirs, why = mace_contraction()
    plain, rivals = Plain(program), {}
    matrix = torch.tensor(basis(program.text).matrix, dtype=torch.float32)
    weight = torch.randn(SPECIES, matrix.shape[1], CHANNELS, requires_grad=True)
    if step == "force training" and nodes > 100:
        skipped = {"plain torch": "it would take gigabytes"}
    else:
        skipped = {}
        rivals["plain torch"] = lambda: run(step, lambda x: plain(x, matrix @ weight, species), x, [weight])
    function, weights = lambda x: symmetric_contraction(program, x.flatten(1), matrix @ weight, species), [weight]
    expected = plain(x[:9].double(), (matrix @ weight).double(), species[:9])
    got = function(x)[:9]
    error = float((got - expected).abs().max() / expected.abs().max())
    assert error < 1e-5, f"results differ by {error:.1e}; it is not timed"
    if theirs is None:
        skipped["MACE"] = why
    else:
        swap, attributes = contraction_swap(theirs), torch.eye(SPECIES)[species]
        weights = [p for p in theirs.parameters() if p.requires_grad]
        function = lambda x: swap(x, attributes)  # noqa: E731
        torch.testing.assert_close(function(x), theirs(x, attributes), rtol=1e-4, atol=1e-4)
        rivals["MACE"] = lambda: run(step, lambda x: theirs(x, attributes), x, weights)
    factor = {"forward": 1, "forward+backward": 3, "force training": 8}[step]
    benchmark.group = f"symmetric contraction {nodes} {step}"
    benchmark.extra_info.update(
        case="mace, correlation 3", edges=nodes, unit="node", step=step, error=error, skipped=skipped,
        flops=factor * program.flops(nodes),
    )  # fmt: skip
    alternate(benchmark, lambda: run(step, function, x, weights), rivals)
