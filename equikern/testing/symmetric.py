"""Symmetric contractions that tests and benches share, and their results to any order the suite checks."""

from __future__ import annotations

import torch
from torch import Tensor

from equikern import backends
from equikern.ops.symmetric_contraction import symmetric_contraction
from equikern.program.symmetric import Symmetric, symmetric

SPECIES = 3

# (id, program, nodes): real layers, every layout and correlation, awkward sizes.
SYMMETRIC: dict[str, tuple[Symmetric, int]] = {
    "mace-128": (symmetric("128x0e+128x1o+128x2e+128x3o", "128x0e+128x1o", 3, layout_x="channels"), 3),
    "mace-last": (symmetric("33x0e+33x1o+33x2e+33x3o", "33x0e", 3), 4),
    "ir-mul": (symmetric("5x0e+5x1o+5x2e", "5x2e+5x1o", 3, layout_x="ir_mul", layout_z="ir_mul"), 9),
    "to-channels": (symmetric("16x0e+16x1o", "16x0e+16x1o", 2, layout_z="channels"), 5),
    "linear": (symmetric("2x1o+2x0e+2x1o", "2x0e+2x1o", 1), 4),
    "four": (symmetric("17x0e+17x1o", "17x0e+17x1o", 4), 3),
    "odd": (symmetric("3x0e+3x0o+3x1o+3x1e", "3x0o+3x1e", 2), 4),
    "empty": (symmetric("2x0o", "2x0e+2x1o", 1), 2),
    "no-nodes": (symmetric("4x0e+4x1o", "4x0e", 3), 0),
    "one-node": (symmetric("1x0e+1x1o", "1x1o", 3), 1),
    "many-nodes": (symmetric("2x0e+2x1o", "2x0e+2x1o", 3), 150),
}


def symmetric_inputs(id: str, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and species of a case; the middle species is absent where there are few nodes."""
    program, nodes = SYMMETRIC[id]
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(nodes, program.irreps_x.dim, generator=generator, dtype=dtype)
    weight = torch.randn(SPECIES, len(program.terms), program.channels, generator=generator, dtype=dtype)
    species = torch.randint(SPECIES, (nodes,), generator=generator)
    return x, weight, species if nodes > 50 else torch.where(species == 1, 2, species)


def symmetric_derivatives(id: str, dtype: torch.dtype, backend: str, order: int, draw: torch.dtype) -> list[Tensor]:
    """z, then the gradients of <c, z>, of <h, these> and of <k, those>: all up to an order, inputs drawn in `draw`."""
    x, weight, species = symmetric_inputs(id, draw)
    leaves = [x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
    generator = torch.Generator().manual_seed(1000)
    with backends.backend(backend):
        found = [symmetric_contraction(SYMMETRIC[id][0], leaves[0], leaves[1], species)]
        last = found
        for n in range(order):
            along = [torch.randn(a.shape, generator=generator, dtype=draw).to(dtype).requires_grad_() for a in last]
            total = torch.stack([(a * t).sum() for a, t in zip(last, along, strict=True)]).sum()
            last = list(
                torch.autograd.grad(
                    total, [*leaves, *along], create_graph=n + 1 < order, allow_unused=True, materialize_grads=True
                )
            )
            leaves += along
            found = found + last
    return [a.detach() for a in found]
