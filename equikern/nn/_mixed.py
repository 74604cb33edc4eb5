"""`MixedConvolution`: fully connected messages whose weights are linear in features of the edge, never formed."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from equikern.errors import ProgramError, ShapeError
from equikern.graph import Graph
from equikern.ops import evaluate
from equikern.program import CONVOLUTION, Irreps, Path, Rows, product_of_paths
from equikern.program import product as product_program


class MixedConvolution(torch.nn.Module):
    """out_i = sum over edges e = (j -> i) of the `uvw` tensor product of x_j and y_e with weights h_e W.

    Equal to e3nn's `FullyConnectedTensorProduct(irreps_x, irreps_y, irreps_out)(x[sender], y, h @ weight)` summed at
    the receivers: the last, linear layer of a radial network is inside (Thomas et al., "Tensor field networks", 2018;
    DiffDock's layers). The weights of an edge, `weight_numel` numbers, are never formed: h ⊗ (x ⊗ y) is summed at the
    node first, and W applied once a node. It has no parameters.

    Arguments: irreps of x, y and the output; `features`, the columns H of h; `instructions` as e3nn's, all of mode
    `uvw`, by default every path; e3nn's normalisations. Raises ProgramError for an impossible path or another mode.

    >>> conv = MixedConvolution("8x0e+4x1o", "0e+1o", "8x0e+4x1o", 16)
    >>> x, y, h = torch.randn(5, 20), torch.randn(9, 4), torch.randn(9, 16)
    >>> weight = torch.randn(16, conv.weight_numel)
    >>> conv(x, y, h, weight, torch.randint(5, (2, 9))).shape
    torch.Size([5, 20])
    """

    def __init__(
        self,
        irreps_x: Any,
        irreps_y: Any,
        irreps_out: Any,
        features: int,
        instructions: Sequence[Sequence[Any]] | None = None,
        *,
        irrep_normalization: str = "component",
        path_normalization: str = "element",
    ) -> None:
        super().__init__()
        self.irreps_x, self.irreps_y, self.irreps_out = Irreps(irreps_x), Irreps(irreps_y), Irreps(irreps_out)
        if instructions is None:
            instructions = _every_path(self.irreps_x, self.irreps_y, self.irreps_out)
        if any(ins[3] != "uvw" for ins in instructions):
            raise ProgramError("MixedConvolution mixes channels: its instructions are all of mode uvw.")
        whole = product_program(
            self.irreps_x,
            self.irreps_y,
            self.irreps_out,
            instructions,
            irrep_normalization=irrep_normalization,
            path_normalization=path_normalization,
        )
        self.features, self.weight_numel, self._slices = features, whole.dims[2], whole.weight_slices
        self._muls = [whole.multiplicities(path) for path in whole.paths]
        message = Irreps(
            [(m1 * m2, self.irreps_out[p.out].ir) for p, (m1, m2, _) in zip(whole.paths, self._muls, strict=True)]
        )
        paths = [Path(p.in1, p.in2, n, "uvuv", p.scale, False) for n, p in enumerate(whole.paths)]
        # x[sender] ⊗ y by edge, path by path; then its product with h, mixed by (channels, H, out) weights.
        self.coupling = product_of_paths(
            self.irreps_x, self.irreps_y, message, paths, rows=Rows(x="sender"), layout="ir_mul"
        )
        # The 3j symbol (l, 0, l) is the unit matrix over sqrt(2l + 1).
        paths = [Path(n, 0, p.out, "uvw", sqrt(self.irreps_out[p.out].ir.dim)) for n, p in enumerate(whole.paths)]
        self.program = product_of_paths(
            message,
            f"{features}x0e",
            self.irreps_out,
            paths,
            rows=CONVOLUTION._replace(x="edge", w="shared"),
            layout="ir_mul",
        )

    def forward(
        self, x: Tensor, y: Tensor, h: Tensor, weight: Tensor, edge_index: Tensor, graph: Graph | None = None
    ) -> Tensor:
        """x (N, dim_x), y (E, dim_y), h (E, H), weight (H, weight_numel), edge_index (2, E) -> (N, dim_out).

        edge_index holds senders, then receivers. `graph`, made once by `Graph(edge_index, N)`, saves the checks and the
        sort of the edges. Raises ShapeError for tensors that do not fit.
        """
        if weight.shape != (self.features, self.weight_numel):
            raise ShapeError(f"weight is {tuple(weight.shape)}; {self} reads {(self.features, self.weight_numel)}.")
        for name, a, irreps in (("x", x, self.irreps_x), ("y", y, self.irreps_y)):
            if a.ndim != 2 or a.shape[1] != irreps.dim:
                raise ShapeError(f"{name} is {tuple(a.shape)}; {self} reads (rows, {irreps.dim}).")
        graph = Graph.of(edge_index, x.shape[0], graph)
        x, y = _turn(x, self.irreps_x, True), _turn(y, self.irreps_y, True)
        message = evaluate(self.coupling, (x, y, None), graph.index[:1], graph.num_edges)  # (E, dim of x ⊗ y)
        order = [
            weight[:, columns].unflatten(1, (m1 * m2, m3)).transpose(0, 1).flatten()
            for columns, (m1, m2, m3) in zip(self._slices, self._muls, strict=True)
        ]
        mixed = torch.cat(order) if order else weight.flatten()
        out = evaluate(self.program, (message, h, mixed), graph.index[1:], graph.num_nodes)
        return _turn(out, self.irreps_out, False)

    def extra_repr(self) -> str:
        return f"{self.irreps_x} x {self.irreps_y} -> {self.irreps_out}, {self.features} x {self.weight_numel} weights"


def _turn(a: Tensor, irreps: Irreps, split: bool) -> Tensor:
    """Columns (.., channel, component) to (.., component, channel) in each entry, or back."""
    if all(mul == 1 or ir.dim == 1 for mul, ir in irreps):
        return a
    parts = []
    for (mul, ir), columns in zip(irreps, irreps.slices(), strict=True):
        shape = (mul, ir.dim) if split else (ir.dim, mul)
        parts.append(a[:, columns].unflatten(1, shape).transpose(1, 2).flatten(1))
    return torch.cat(parts, 1)


def _every_path(x: Irreps, y: Irreps, z: Irreps) -> list[tuple[Any, ...]]:
    places = ((i, j, k) for i in range(len(x)) for j in range(len(y)) for k in range(len(z)))
    return [(i, j, k, "uvw", True) for i, j, k in places if z[k].ir in x[i].ir * y[j].ir]
