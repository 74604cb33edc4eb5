"""Products that are channelwise or element-wise once x and y change places.

x takes y's part: where y has rows by an index and x by edge (`uuu`, Allegro's layers), or where each channel of x meets
all of y (`uvv`, `uvuv`), which makes a path for each of them. Columns stay where they are.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from equikern.backends._channelwise import MOST, elementwise, kept
from equikern.backends._derived import base_of
from equikern.program import Irrep, Irreps, Path, Program, Rows, parse, product_of_paths, wigner_3j
from equikern.program.program import X, Y, Z


class Exchanged(NamedTuple):
    """The program with x and y in each other's place, and the new place of each slot."""

    program: Program
    places: tuple[int, ...]


@cache
def exchanged(text: str) -> Exchanged | None:
    """The exchange that makes sweeps of a product and its derivatives; None where it is one, or does not become one."""
    program = parse(text)
    base = base_of(program)
    if base.family != "product" or kept(base.text) or elementwise(base.text):
        return None
    swept = _equal(base) if all(path.mode == "uuu" for path in base.paths) else _split(base)
    if swept is None or not (kept(swept.text) or elementwise(swept.text)):
        return None
    places = [Y, X, *range(Y + 1, len(program.slots))]
    first = len(base.slots)
    for group in program.derived:
        # Tangents keep the order of their slots.
        order = sorted(range(len(group)), key=lambda n: places[group[n]])
        for place, n in enumerate(order):
            places[first + n] = first + place
        swept, first = swept.along([places[group[n]] for n in order]), first + len(group)
    return Exchanged(swept, tuple(places))


def _equal(base: Program) -> Program:
    x, y, z = (base.operands[slot].irreps for slot in (X, Y, Z))
    paths = [path._replace(in1=path.in2, in2=path.in1, scale=_scale(base, path)) for path in base.paths]
    return product_of_paths(y, x, z, paths, rows=_rows(base), layout=base.layout)


def _split(base: Program) -> Program | None:
    """Every channel of x an entry of its own, and with it those of z that it makes."""
    x, y, z = (base.operands[slot].irreps for slot in (X, Y, Z))
    muls = [base.multiplicities(path)[0] for path in base.paths]
    # Channels of an entry lie one after the other in this layout alone.
    apart = base.layout == "mul_ir" or max(muls, default=1) == 1
    if not apart or sum(muls) > MOST or not all(path.mode in ("uvv", "uvuv") for path in base.paths):
        return None
    pieces: dict[int, int] = {}
    for path, mul in zip(base.paths, muls, strict=True):
        count = max(mul, 1) if path.mode == "uvuv" else 1
        if pieces.setdefault(path.out, count) != count:
            return None
    singles = [(1, ir) for mul, ir in x for _ in range(mul)]  # type: ignore[union-attr]
    out: list[tuple[int, Irrep]] = []
    starts: list[int] = []
    for n, (mul, ir) in enumerate(z):  # type: ignore[arg-type]
        starts.append(len(out))
        count = pieces.get(n, 1)
        out += [(mul // count, ir)] * count
    paths = []
    for path, mul in zip(base.paths, muls, strict=True):
        first = sum(entry.mul for entry in x[: path.in1])  # type: ignore[index]
        for u in range(mul):
            place = starts[path.out] + (u if path.mode == "uvuv" else 0)
            paths.append(Path(path.in2, first + u, place, "uvu", _scale(base, path), path.weighted))
    return product_of_paths(y, Irreps(singles), Irreps(out), paths, rows=_rows(base), layout=base.layout)


def _rows(base: Program) -> Rows:
    x, y, w, z = base.rows[:4]
    return Rows(y, x, w, z)


def _scale(base: Program, path: Path) -> float:
    """Of the path whose 3j symbol has its first two indices exchanged, which may turn its sign."""
    x, y, z = (base.operands[s].irreps[n].ir.l for s, n in ((X, path.in1), (Y, path.in2), (Z, path.out)))  # type: ignore[index]
    return path.scale * round(float(np.vdot(wigner_3j(x, y, z), wigner_3j(y, x, z).swapaxes(0, 1))))
