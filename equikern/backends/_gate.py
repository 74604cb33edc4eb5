"""The text of a gate: its parts, and which columns they read (`ops/gate.py`)."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from equikern.errors import ProgramError

ACTIVATIONS = ("silu", "tanh", "sigmoid", "ssp", "abs", "identity")


class Part(NamedTuple):
    """`scale * act` of `mul` columns of x from `start` on; with `dim` > 0 they are gates of (mul, dim) at `gated`."""

    start: int
    mul: int
    act: str
    scale: float = 1.0
    gated: int = 0
    dim: int = 0


class Run(NamedTuple):
    """Adjacent columns with one activation, and the parts that read them, in the order of columns."""

    start: int
    width: int
    act: str
    scale: float
    parts: tuple[int, ...]


class Layout(NamedTuple):
    """A gate's parts, and what can be worked out from them."""

    columns: int
    parts: tuple[Part, ...]
    runs: tuple[Run, ...]
    widths: tuple[int, ...]  # of the parts in the output
    width: int  # of the output
    order: tuple[tuple[int, int, int], ...]  # (first column of x, 0, run) and (first column of x, 1, part): all of x


@lru_cache(maxsize=256)
def gate_spec(columns: int, parts: tuple[Part, ...]) -> str:
    """The text of a gate of x with so many columns, which the parts read once each; raises ProgramError otherwise."""
    for part in parts:
        if part.act not in ACTIVATIONS:
            raise ProgramError(f"unknown activation {part.act!r}; use one of {', '.join(ACTIVATIONS)}.")
    ends = sorted((p.start, p.start + p.mul) for p in parts)
    ends += sorted((p.gated, p.gated + p.mul * p.dim) for p in parts if p.dim)
    ends.sort()
    if [0, *(b for _, b in ends)] != [*(a for a, _ in ends), columns]:
        raise ProgramError(f"the parts of a gate read each of {columns} columns once; these read {ends}.")
    return f"{columns}: " + "; ".join(" ".join(str(v) for v in part) for part in parts)


@lru_cache(maxsize=256)
def parse_gate(spec: str) -> Layout:
    """The layout of a gate's text."""
    head, _, body = spec.partition(": ")
    parts = []
    for entry in body.split("; "):
        start, mul, act, scale, gated, dim = entry.split()
        parts.append(Part(int(start), int(mul), act, float(scale), int(gated), int(dim)))
    runs: list[Run] = []
    for n in sorted(range(len(parts)), key=lambda n: parts[n].start):
        p = parts[n]
        last = runs[-1] if runs else None
        if last and (last.start + last.width, last.act, last.scale) == (p.start, p.act, p.scale):
            runs[-1] = last._replace(width=last.width + p.mul, parts=(*last.parts, n))
        else:
            runs.append(Run(p.start, p.mul, p.act, p.scale, (n,)))
    order = [(run.start, 0, n) for n, run in enumerate(runs)] + [(p.gated, 1, n) for n, p in enumerate(parts) if p.dim]
    widths = tuple(p.mul * (p.dim or 1) for p in parts)
    return Layout(int(head), tuple(parts), tuple(runs), widths, sum(widths), tuple(sorted(order)))
