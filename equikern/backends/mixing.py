"""Matrices of weights that mix channels: taken from rows of weights, multiplied, and put back."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from equikern.program import SHARED, parse
from equikern.program.program import W


class Part(NamedTuple):
    """The intermediate channels of one mixing path: the first, how many, its weights, and their shape if transposed."""

    first: int
    channels: int
    weights: slice
    turned: tuple[int, int] | None


@cache
def mixes_all(text: str) -> bool:
    """Whether every path of a product mixes channels (`uvw`) by shared weights, and there is one."""
    program = parse(text)
    if program.family != "product" or program.rows[W] != SHARED or not program.paths:
        return False
    return all(path.mode == "uvw" and 0 not in program.multiplicities(path) for path in program.paths)


def multiply(a: Tensor, b: Tensor, out: Tensor, scale: float = 1.0, *, add: bool = False) -> None:
    """out = scale a b, or added.

    On the CPU the other way round where b is narrow (10 columns, MKL on AVX-512: 54 GFLOP/s instead of 15). For the
    same reason a sum of a^T g is kept as its transpose, g^T a (64 instead of 12).
    """
    if not a.is_cpu or b.shape[1] % 16 == 0:
        # beta = 0: what is in `out` is not read
        torch.addmm(out, a, b, beta=float(add), alpha=scale, out=out)
        return
    turned = torch.mm(b.t(), a.t()).t()
    if add:
        out.add_(turned, alpha=scale)
    else:
        out.copy_(turned if scale == 1.0 else turned.mul_(scale))


def gather_weights(w: Tensor | None, parts: list[Part], mul: int, like: Tensor) -> Tensor:
    """(intermediate channels, `mul` channels of z) of all parts, from w (1, n).

    An absent w is not read: neither z nor the gradient of an input was asked for.
    """
    made = []
    for part in parts:
        if w is None:
            made.append(like.new_empty(part.channels, mul))
        elif part.turned is None:
            made.append(w[0, part.weights].view(part.channels, mul))
        else:
            made.append(w[0, part.weights].view(*part.turned, mul).transpose(0, 1).reshape(part.channels, mul))
    return made[0] if len(made) == 1 else torch.cat(made)


def scatter_weights(total: Tensor, parts: list[Part], dw: Tensor) -> None:
    """The reverse, into dw (1, n)."""
    for part in parts:
        matrix = total[part.first : part.first + part.channels]
        if part.turned is not None:
            matrix = matrix.view(*part.turned[::-1], -1).transpose(0, 1)
        dw[0, part.weights] = matrix.reshape(-1)
