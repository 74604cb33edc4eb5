"""A derived form as a sum of base forms read at other slots."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import Tensor

from equikern.program import Program, parse
from equikern.program.program import W

# (base program, operands, rows of each opened slot, whether unweighted paths take part) -> one tensor a slot
Sweep = Callable[[Program, list[Tensor], dict[int, int], bool], list[Tensor]]


@cache
def _base_of(text: str) -> Program:
    return parse(text.split(" ~")[0])


def base_of(program: Program) -> Program:
    """The program without its derivations."""
    return program if not program.derived else _base_of(program.text)


def expanded(program: Program, operands: list[Tensor], open: dict[int, int], sweep: Sweep) -> list[Tensor]:
    """dF/da for each open slot (slot: rows), by sweeps of the base program, one a summand of F."""
    base = base_of(program)
    like = next(a for a in operands if a.ndim == 2)
    results: dict[int, Tensor] = {}
    factors = [k for k, name in enumerate(base.names) if name in "wb"]
    for slots in program.expansions:
        opened = {k: open[slot] for k, slot in enumerate(slots) if slot in open}
        # A summand with an absent factor is zero, but for the weights of unweighted paths, which are no factor.
        absent = [k for k, slot in enumerate(slots) if operands[slot].ndim != 2 and (k not in factors or base.dims[W])]
        opened = {k: n for k, n in opened.items() if set(absent) <= {k}}
        if not opened:
            continue
        parts = sweep(base, [operands[slot] for slot in slots], opened, all(slots[k] == k for k in factors))
        for k, part in zip(opened, parts, strict=True):
            slot = slots[k]
            results[slot] = results[slot].add_(part) if slot in results else part
    return [results[s] if s in results else like.new_zeros(n, program.dims[s]) for s, n in open.items()]
