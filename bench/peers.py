"""Other libraries' convolutions for CUDA devices, of the cases of baselines.py; each imports its library when made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import NamedTuple

import baselines
import torch
from torch import Tensor

from equikern.nn import Convolution
from equikern.program import Irreps, Program, wigner_3j


class Peer(NamedTuple):
    """A convolution, and which columns of our x, w and z are its columns."""

    convolve: Callable[..., Tensor]  # x (N, dim_x), y (E, dim_y), w (E, weights) -> (N, dim_z)
    x: Tensor
    w: Tensor
    z: Tensor

    def in_our_columns(self, f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A function of the peer's x, and more, to its z, as one of ours."""
        return lambda x, *more: f(x[:, self.x], *more)[:, self.z.argsort()]


def by_irrep(program: Program) -> list[int]:
    """The paths of a program in the order of their outputs' degree and parity."""
    kinds = [program.operands[3].irreps[path.out].ir for path in program.paths]
    return sorted(range(len(kinds)), key=lambda n: (kinds[n].l, kinds[n].p))


def columns(program: Program, order: Sequence[int]) -> list[Tensor]:
    """Where the columns of x, w and z lie in ours if they are `ir_mul`, weights and outputs in an order of paths."""
    x, _, _, z = (operand.irreps for operand in program.operands)
    weights = Irreps([(x[path.in1].mul, "0e") for path in program.paths])
    orders = ((x, range(len(x))), (weights, order), (z, [program.paths[n].out for n in order]))
    return [torch.cat([_transposed(irreps, n) for n in segments]) for irreps, segments in orders]


def _transposed(irreps: Irreps, n: int) -> Tensor:
    return torch.arange(irreps.dim)[irreps.slices()[n]].view(irreps[n].mul, -1).t().flatten()


def cuequivariance(name: str, edge_index: Tensor, nodes: int) -> Peer:
    """One `SegmentedPolynomial` that gathers, multiplies and sums, as MACE (`conv_fusion`) and SevenNet call it.

    The polynomial is that of `descriptors.channelwise_tensor_product`, path by path, but for the signs of e3nn's
    coefficients. Outputs are sorted, the layout is `ir_mul`, unequal multiplicities are split into their divisor.
    """
    import cuequivariance as cue
    from cuequivariance_torch import SegmentedPolynomial

    device, method = edge_index.device.type, "naive"
    if device == "cuda":
        import cuequivariance_ops_torch  # noqa: F401 (without it the method would be naive in silence)

        method = "uniform_1d"
    program = Convolution(*baselines.case(name)).program
    x, y, _, z = (operand.irreps for operand in program.operands)
    product = cue.SegmentedTensorProduct.from_subscripts("uv,iu,jv,kuv+ijk")
    for slot, irreps in ((1, x), (2, y)):
        for mul, ir in irreps:
            product.add_segment(slot, (ir.dim, mul))
    for path in program.paths:
        c = path.scale * wigner_3j(x[path.in1].ir.l, y[path.in2].ir.l, z[path.out].ir.l)
        product.add_path(None, path.in1, path.in2, None, c=c, dims={"u": x[path.in1].mul, "v": 1})
    order = by_irrep(program)
    product = product.permute_segments(0, order).permute_segments(3, order)
    polynomial = cue.SegmentedPolynomial.eval_last_operand(product).flatten_modes("ijk").squeeze_modes("v")
    width = gcd(*(mul for mul, _ in x))
    polynomial = polynomial.apply_fn(lambda operation, p: (operation, p.split_mode("u", width)))
    evaluate = SegmentedPolynomial(polynomial, method=method).to(device)
    sender, receiver = edge_index

    def convolve(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return evaluate([w, x, y], {1: sender}, {0: x}, {0: receiver})[0]  # type: ignore[no-any-return]

    return Peer(convolve, *(where.to(device) for where in columns(program, order)))


def openequivariance(name: str, edge_index: Tensor, nodes: int, deterministic: bool = False) -> Peer:
    """`TensorProductConv`, columns as ours: sums by atomic additions, or in a fixed order (graph symmetric, sorted)."""
    import openequivariance as oeq

    *irreps, instructions = baselines.case(name)
    problem = oeq.TPProblem(*map(str, irreps), instructions, shared_weights=False, internal_weights=False)
    module = oeq.TensorProductConv(problem, deterministic=deterministic)
    sender, receiver = edge_index
    by_sender = (sender * nodes + receiver).argsort(stable=True) if deterministic else None

    def convolve(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return module(x, y, w, receiver, sender, by_sender)  # type: ignore[no-any-return]

    dims = (irreps[0].dim, module.weight_numel, irreps[2].dim)
    return Peer(convolve, *(torch.arange(dim, device=edge_index.device) for dim in dims))


PEERS: dict[str, Callable[[str, Tensor, int], Peer]] = {
    "cuEquivariance": cuequivariance,
    "OpenEquivariance": openequivariance,
    "OpenEquivariance, deterministic": lambda *given: openequivariance(*given, deterministic=True),
}
