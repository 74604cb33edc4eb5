"""What is emitted for the sum after a sweep: gradients of x over the edges of its row."""

from __future__ import annotations

from functools import cache

from equikern.backends.gpu.sweep import Sweep, part_columns
from equikern.backends.gpu.units import Segment, segments
from equikern.backends.triton.text import HEADER, Lines
from equikern.program import EDGE, Program
from equikern.program.program import X

SUM_LANES = 128


def sum_segments(sweep: Sweep) -> list[Segment]:
    """The segments of x that have a gradient."""
    read = {number for _, number in part_columns(sweep)[0]}
    return [s for s in segments(sweep.program.operands[X].irreps) if s.number in read]  # type: ignore[arg-type]


def sum_instances(sweep: Sweep) -> int:
    """Program instances of the sum for a row of x."""
    return sum(-(-s.mul * s.dim // SUM_LANES) for s in sum_segments(sweep))


@cache
def sum_source(sweep: Sweep) -> str:
    """The kernel that sums the gradients of x that a sweep wrote for each edge, over the edges of a row of x."""
    at, width = part_columns(sweep)
    indexed, many = sweep.program.rows[X] != EDGE, sum_instances(sweep)
    names = "part, dx, ptr, order" if indexed else "part, dx"
    functions, lines, end, branch = [], [], 0, "if"
    for segment in sum_segments(sweep):
        parts = [first for (_, number), first in at.items() if number == segment.number]
        functions.append(_sum_segment(sweep.program, segment, parts, width, names, indexed))
        call = f"segment_{segment.number}({names}, row, (block - {end}) * {SUM_LANES}, T)"
        end += -(-segment.mul * segment.dim // SUM_LANES)
        lines += [f"    {branch} block < {end}:", f"        {call}"]
        branch = "elif"
    head = [
        "@triton.jit",
        f"def sum_kernel({names}, T: tl.constexpr):",
        "    pid = tl.program_id(0).to(tl.int64)",
        f"    row = pid // {many}",
        f"    block = (pid % {many}).to(tl.int32)",
    ]
    return f"# {sweep.text}\n" + HEADER + "\n\n\n".join([*functions, "\n".join([*head, *lines])]) + "\n"


def _sum_segment(program: Program, segment: Segment, parts: list[int], width: int, names: str, indexed: bool) -> str:
    size = segment.mul * segment.dim
    column = "c"
    if program.layout == "mul_ir" and segment.dim > 1:
        column = f"(c % {segment.mul}) * {segment.dim} + c // {segment.mul}"
    mask = "" if size % SUM_LANES == 0 else f", mask=c < {size}"
    other = ", other=0.0" if mask else ""
    out = Lines()
    out.add(f"c = c0 + tl.arange(0, {SUM_LANES})", f"total = tl.zeros([{SUM_LANES}], T)")
    loads = [f"total += tl.load(part + e * {width} + {first} + c{mask}{other})" for first in parts]
    if indexed:
        out.add("for t in range(tl.load(ptr + row), tl.load(ptr + row + 1)):", "    e = tl.load(order + t)")
        out.add(*("    " + load for load in loads))
    else:
        out.add("e = row", *loads)
    out.add(f"tl.store(dx + row * {program.dims[X]} + {segment.start} + {column}, total{mask})")
    head = f"@triton.jit\ndef segment_{segment.number}({names}, row, c0, T: tl.constexpr):"
    return "\n".join([head, *out.lines])
