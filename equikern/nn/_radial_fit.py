"""Fitting a spline of degree 7 to functions of one variable: pieces, sites, measured errors, kinks.

A piece of n intervals has n + 7 coefficients (ops/spline.py says how a table holds them). They interpolate at its n + 1
knots and at the middles of its first three and last three intervals: sites that interleave with the knots (I. J.
Schoenberg and A. Whitney, 1953).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from equikern.ops.spline import DEGREE, OFFSETS, rows_of

Function = Callable[[Tensor], Tensor]
# Numbers of intervals that are tried, shared by the pieces: few, so that their matrices are made once.
INTERVALS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
MOST_BREAKS = 8
STEP = 2e-6  # of difference quotients, over r_max
KINK = 4e-7  # how well a kink is located, over r_max
SAMPLE = 4
CLOSE = 0.02  # change of parameters, over their largest, up to which a fit is only sampled, and a refusal stays
MOST_POINTS = 1024  # where errors are looked at together
HOST = torch.device("cpu")
BLOCK, REACH = 64, 64  # coefficients solved together; sites beyond them that still matter (0.54 ** 64 is 4e-18)


@dataclass(frozen=True)
class Fit:
    """Where the knots are, and what was measured: largest error of value and slope, over the largest value.

    `count` is the number of intervals that the pieces shared; short pieces have more than their share.
    """

    breaks: tuple[float, ...]
    intervals: tuple[int, ...]
    errors: tuple[float, float]
    count: int

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return sum(map(rows_of, self.intervals))


def fit(function: Function, r_min: float, r_max: float, tolerance: tuple[float, float], like: Fit | None) -> Fit | str:
    """The fewest intervals with errors under `tolerance` (value, slope per unit), or the reason why there are none.

    function maps (n,) to (n, W), in float64. `like` is a fit of a similar function to start from.
    """
    breaks = [r_min, r_max] if like is None else list(like.breaks)
    needed = 0.0 if like is None else like.count
    for count in INTERVALS:
        while count >= needed or count == INTERVALS[-1]:
            intervals = _share(breaks, count)
            r, value, slope = _errors(function, breaks, intervals)
            found = float(value.max()), float(slope.max())
            if not all(map(torch.isfinite, (value.sum(), slope.sum()))):
                return f"it is not finite between {r_min:g} and {r_max:g}"
            if found[0] <= tolerance[0] and found[1] <= tolerance[1]:
                return Fit(tuple(breaks), tuple(intervals), found, count)
            kink = _concentrated(function, breaks, r, slope, (r_max - r_min) / count)
            if kink is None or len(breaks) >= MOST_BREAKS:
                # Errors fall with the eighth and the seventh power of the intervals.
                needed = 0.9 * count * max((found[0] / tolerance[0]) ** (1 / 8), (found[1] / tolerance[1]) ** (1 / 7))
                break
            breaks = sorted([*breaks, kink])
    return (
        f"with {INTERVALS[-1]} intervals its value is off by {found[0]:.0e} and its slope by {found[1]:.0e} of the "
        f"largest weight (at {float(r[slope.argmax()]):.3g}); {tolerance[0]:.0e} and {tolerance[1]:.0e} are allowed"
    )


def holds(function: Function, known: Fit, tolerance: tuple[float, float], table: Tensor) -> bool:
    """Whether the table of a known fit is still within `tolerance`, looked at in every `SAMPLE`-th interval."""
    _, value, slope = _errors(function, known.breaks, known.intervals, table, SAMPLE)
    return bool(value.max() <= tolerance[0]) and bool(slope.max() <= tolerance[1])  # NaN: no


def near(now: list[Tensor], then: list[Tensor]) -> bool:
    """Whether tensors have changed little, against their largest number or, where that is less, the mean of these.

    Biases start at zero: against themselves alone, any change of them would be a large one.
    """
    if [(a.shape, a.dtype, a.device) for a in now] != [(b.shape, b.dtype, b.device) for b in then]:
        return False
    pairs = [(a.double(), b.double()) for a, b in zip(now, then, strict=True) if a.numel()]
    sizes = [b.abs().amax() for _, b in pairs]
    usual = sum(sizes) / max(len(sizes), 1)
    return all(
        bool((a - b).abs().amax() <= CLOSE * torch.maximum(size, torch.as_tensor(usual)))
        for (a, b), size in zip(pairs, sizes, strict=True)
    )


def table_of(fit: Fit, function: Function, device: torch.device = HOST) -> Tensor:
    """(rows, W): the table, differentiable in what the function, of tensors on a device, depends on."""
    return _table(function, fit.breaks, fit.intervals, device)


def sites_of(fit: Fit, device: torch.device = HOST) -> Tensor:
    """(sites,): where a table's function is evaluated."""
    return _sites_on(fit.breaks, fit.intervals, device)[0]


def gradient_at_sites(fit: Fit, grad: Tensor) -> Tensor:
    """(sites, W) of the gradient (rows, W) by a table, which is linear in its function's values at the sites."""
    found = []
    for g, n in zip(grad.split([rows_of(n) for n in fit.intervals]), fit.intervals, strict=True):
        d, c = g.unflatten(0, (-1, 2)).unbind(1)  # by differences c_(j+1) - c_j and by c_(j+1)
        by_coefficient = torch.nn.functional.pad(d + c, (0, 0, 1, 0)) - torch.nn.functional.pad(d, (0, 0, 0, 1))
        at_sites = torch.zeros_like(by_coefficient)  # as many sites as coefficients
        for (near, matrix), part in zip(_solver_on(n, g.device, g.dtype), by_coefficient.split(BLOCK), strict=True):
            at_sites[near] += matrix.t() @ part
        found.append(at_sites)
    return torch.cat(found)


def _share(breaks: Sequence[float], count: int) -> list[int]:
    lengths = [b - a for a, b in itertools.pairwise(breaks)]
    return [max(DEGREE + 1, round(count * length / sum(lengths))) for length in lengths]


def _sites(intervals: int) -> Tensor:
    """The sites of a piece in units of its intervals, rising."""
    knots = torch.arange(intervals + 1, dtype=torch.float64)
    middles = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64)
    middles = torch.cat([middles, intervals - middles])
    return torch.cat([knots, middles]).sort().values


@lru_cache(maxsize=64)
def _solver(intervals: int) -> tuple[tuple[slice, Tensor], ...]:
    """For each block of coefficients, the sites that matter to it and the matrix that takes their values to it."""
    sites = _sites(intervals)
    first = sites.long().clamp(max=intervals - 1)  # the interval of a site
    factors = torch.ops.equikern.spline("reference", sites, [0.0, float(intervals)], [intervals], 0)[0]
    rows = torch.zeros(len(sites), rows_of(intervals), dtype=torch.float64)
    rows.scatter_(1, 2 * first[:, None] + torch.tensor(OFFSETS), factors)
    # d_j = c_(j+1) - c_j in row 2j, c_(j+1) in row 2j + 1
    matrix = torch.nn.functional.pad(rows[:, 0::2] + rows[:, 1::2], (1, 0))
    matrix[:, :-1] -= rows[:, 0::2]
    blocks = []
    for start in range(0, len(sites), BLOCK):
        near = slice(max(0, start - REACH), min(len(sites), start + BLOCK + REACH))
        inverse = torch.linalg.inv(matrix[near, near])
        blocks.append((near, inverse[start - near.start : start - near.start + BLOCK].clone()))
    return tuple(blocks)


@lru_cache(maxsize=128)
def _solver_on(intervals: int, device: torch.device, dtype: torch.dtype) -> tuple[tuple[slice, Tensor], ...]:
    return tuple((near, matrix.to(device, dtype)) for near, matrix in _solver(intervals))


@lru_cache(maxsize=16)
def _sites_on(breaks: tuple[float, ...], intervals: tuple[int, ...], device: torch.device) -> tuple[Tensor, list[int]]:
    """The sites of all pieces, and how many each has. Kept: a table is then made again without copies."""
    ends = list(itertools.pairwise(breaks))
    sites = [a + _sites(n) * ((b - a) / n) for (a, b), n in zip(ends, intervals, strict=True)]
    # At a break a piece must see its own side of a kink; a cutoff's last site must not lie beyond it.
    sites = [torch.minimum(s, torch.tensor(b, dtype=torch.float64)) for s, (_, b) in zip(sites, ends, strict=True)]
    return torch.cat(sites).to(device), [len(s) for s in sites]


def _table(
    function: Function, breaks: Sequence[float], intervals: Sequence[int], device: torch.device = HOST
) -> Tensor:
    sites, sizes = _sites_on(tuple(breaks), tuple(intervals), device)
    rows = []
    for v, n in zip(function(sites).split(sizes), intervals, strict=True):
        c = torch.cat([matrix @ v[near] for near, matrix in _solver_on(n, v.device, v.dtype)])
        rows.append(torch.stack([c.diff(dim=0), c[1:]], 1).flatten(0, 1))  # differences and coefficients by turns
    return torch.cat(rows)


def _errors(
    function: Function,
    breaks: Sequence[float],
    intervals: Sequence[int],
    table: Tensor | None = None,
    every: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """r and the errors of value and slope there, over the largest value; of the table, in every so many intervals.

    They are largest at 0.5 and 0.25 of an interval; at the ends of a piece, where sites crowd, a grid is looked at.
    """
    table = _table(function, breaks, intervals) if table is None else table
    points = []
    for (a, b), n in zip(itertools.pairwise(breaks), intervals, strict=True):
        inner, ends = torch.arange(0, n, every), torch.tensor([0, 1, 2, 3, n - 4, n - 3, n - 2, n - 1])
        # Not at the very ends: a difference quotient must not look across a kink.
        grid = torch.tensor([0.02, 0.1, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 0.98], dtype=torch.float64)
        places = torch.cat([inner + 0.25, inner + 0.5, (ends + grid.unsqueeze(1)).flatten()])
        points.append(a + places.double() * ((b - a) / n))
    r, step = torch.cat(points), STEP * breaks[-1]
    # Few calls: this runs at each step of a training.
    around = [function(torch.cat([some - step, some, some + step])).chunk(3) for some in r.split(MOST_POINTS)]
    below, exact, above = (torch.cat(values) for values in zip(*around, strict=True))
    largest = exact.abs().max().clamp(min=1e-300)
    errors: list[Tensor] = []
    for order, expected in ((0, exact), (1, (above - below) / (2 * step))):
        factors, knot = torch.ops.equikern.spline("reference", r, list(breaks), list(intervals), order)
        read = knot.unsqueeze(1) + torch.tensor(OFFSETS)
        got = torch.nn.functional.embedding_bag(read, table, per_sample_weights=factors, mode="sum")
        errors.append(got.sub_(expected).abs_().amax(1) / largest)
    return r, errors[0], errors[1]


def _concentrated(function: Function, breaks: list[float], r: Tensor, slope: Tensor, step: float) -> float | None:
    """Where the error sits at one place only: the kink that is there, if it is none of the breaks.

    It may be no kink but a steep end; a break helps there too.
    """
    worst = float(r[slope.argmax()])
    far = slope[(r - worst).abs() > 4 * step]
    if not len(far) or float(far.max()) > float(slope.max()) / 8:
        return None
    lo, hi = max(breaks[0], worst - 3 * step), min(breaks[-1], worst + 3 * step)
    while hi - lo > KINK * breaks[-1]:
        grid = torch.linspace(lo, hi, 33, dtype=torch.float64)
        bend = function(grid).diff(n=3, dim=0).abs().sum(1)  # second differences jump across the kink
        n = int(bend.argmax())
        lo, hi = float(grid[n]), float(grid[n + 3])
    kink = (lo + hi) / 2
    return kink if min(abs(kink - b) for b in breaks) > step / 2 else None
