"""Rivals that may be missing: cuEquivariance's convolution on the CPU."""

from __future__ import annotations

import importlib
from typing import Any

import torch


class CueConv(torch.nn.Module):
    """baselines.E3nnConv with cuEquivariance's channelwise product (its columns are sorted by irrep)."""

    def __init__(self, product: Any) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: torch.Tensor, y: torch.Tensor, w: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        """Sums at the receivers."""
        out = x.new_zeros(x.shape[0], self.product.irreps_out.dim)
        return out.index_add(0, edge_index[1], self.product(x[edge_index[0]], y, w))


def cuequivariance(spec: Any) -> tuple[CueConv | None, str]:
    """The convolution of a case of baselines.py, or why there is none."""
    ix, iy, io, instructions = spec
    try:
        cue = importlib.import_module("cuequivariance")
        torch_side = importlib.import_module("cuequivariance_torch")
    except (ImportError, OSError) as error:
        return None, f"not importable: {error}"
    product = torch_side.ChannelWiseTensorProduct(
        cue.Irreps("O3", str(ix)), cue.Irreps("O3", str(iy)), [cue.O3(ir.l, ir.p) for ir in {ir for _, ir in io}],
        layout=cue.mul_ir, shared_weights=False, method="naive",
    )  # fmt: skip
    weights = sum(ix[a].mul for a, *_ in instructions)
    if (product.weight_numel, product.irreps_out.dim) != (weights, io.dim):
        return None, f"its product has {product.weight_numel} weights and {product.irreps_out.dim} columns"
    return CueConv(product), ""
