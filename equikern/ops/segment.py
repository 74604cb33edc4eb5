"""Softmax over the edges of each receiver, differentiable to any order."""

from __future__ import annotations

import torch
from torch import Tensor

from equikern.errors import ShapeError
from equikern.ops.engine import in_float32


@in_float32
def softmax(logits: Tensor, segment: Tensor, num_segments: int, weight: Tensor | None = None) -> Tensor:
    """a_e = w_e exp(l_e) / sum of w exp(l) over the rows of e's segment; (E, H) logits -> (E, H).

    segment (E,) int64 in [0, num_segments): which sum a row belongs to, in any order. weight (E,), >= 0, by default 1:
    a row of weight 0 has a = 0 and does not change the others, so that weights which fade to 0 at a cutoff make a
    smooth function of rows that come and go. The largest term of a segment is divided out first: no logit overflows.
    A segment without weight gives 0. Raises ShapeError for tensors that do not fit.

    >>> softmax(torch.zeros(3, 1), torch.tensor([0, 0, 2]), 3).flatten()
    tensor([0.5000, 0.5000, 1.0000])
    """
    if logits.ndim != 2 or segment.shape != logits.shape[:1] or segment.dtype != torch.int64:
        raise ShapeError(
            f"softmax: logits {tuple(logits.shape)} are (E, H), their segments (E,) int64; "
            f"got {tuple(segment.shape)} {segment.dtype}."
        )
    if weight is None:
        weight = logits.new_ones(logits.shape[0])
    if weight.shape != segment.shape:
        raise ShapeError(f"softmax: weight has shape {tuple(weight.shape)}; {logits.shape[0]} rows need (E,).")
    weight = weight.unsqueeze(1)
    live = weight > 0
    with torch.no_grad():
        # A constant: the quotient does not depend on it.
        term = torch.where(live, logits + weight.log(), -torch.inf)
        rows = segment.unsqueeze(1).expand_as(term)
        peak = logits.new_full((num_segments, logits.shape[1]), -torch.inf).scatter_reduce(0, rows, term, "amax")
    term = weight * torch.where(live, logits - peak[segment], 0.0).exp()
    total = logits.new_zeros(num_segments, logits.shape[1]).index_add(0, segment, term)
    return term / torch.where(total > 0, total, 1.0)[segment]
