"""The arithmetic of one path on one edge, a channel a lane.

With a = w x (and b = w hx + hw x its derivative), forward is z_k += sum_i M_ik a_i, M_ik = sum_j C_ijk y_j, one for all
channels where y has one. Gradients all follow from h_ij = sum_k C_ijk g_k: t_i = sum_j h_ij y_j gives those of x and
w, sum_i h_ij a_i that of y; the double backward has s_i = sum_j h_ij hy_j beside t. Its z is
z_k += sum_ij C_ijk (b_i y_j + a_i hy_j).
"""

from __future__ import annotations

from typing import NamedTuple

from equikern.backends.gpu.units import Cell, UnitPath
from equikern.backends.triton.text import Lines, combination


class Wanted(NamedTuple):
    """Which slots are opened (x only where read, w only where the path has weights), and which tangents are there."""

    x: bool
    y: bool
    w: bool
    z: bool
    second: bool
    hx: bool
    hy: bool
    hw: bool


def write_path(out: Lines, path: UnitPath, wanted: Wanted) -> None:
    """Add the path to the sums z<segment>_<k>, dx<segment>_<i>, dy<j> and f, its own weights' gradient over its scale.

    Reads x<segment>_<i>, y<j>, g<segment>_<k>, `wu` (the scaled weight, where it has one) and their tangents.
    """
    weight = "wu" if path.w >= 0 else repr(path.scale)
    rows = sorted({cell.i for cell in path.cells})
    derived = wanted.second and (wanted.hx or wanted.hw)
    need_a = (wanted.z and wanted.hy) if wanted.second else (wanted.z or wanted.y)
    for i in rows:
        if need_a:
            out.add(f"a{i} = {weight} * x{path.x}_{i}")
        if derived and (wanted.z or wanted.y):
            terms = [f"{weight} * hx{path.x}_{i}"] * wanted.hx + [f"hwu * x{path.x}_{i}"] * wanted.hw
            out.add(f"b{i} = {' + '.join(terms)}")
    if wanted.z and not wanted.second:
        _forward(out, path, rows)
    if wanted.z and wanted.second:
        _second_z(out, path, derived, wanted.hy)
    _gradients(out, path, wanted, derived, weight)


def _by(cells: tuple[Cell, ...], *letters: str) -> dict[tuple[int, ...], list[Cell]]:
    """Cells grouped by some of their components."""
    groups: dict[tuple[int, ...], list[Cell]] = {}
    for cell in sorted(cells):
        groups.setdefault(tuple(getattr(cell, letter) for letter in letters), []).append(cell)
    return groups


def _forward(out: Lines, path: UnitPath, rows: list[int]) -> None:
    for (i, k), cells in _by(path.cells, "i", "k").items():
        m = combination([(c.value, f"y{c.j}") for c in cells])
        out.accumulate(f"z{path.z}_{k}", f"({m}) * a{i}" if len(cells) > 1 else f"{m} * a{i}")


def _second_z(out: Lines, path: UnitPath, derived: bool, hy: bool) -> None:
    if not (derived or hy):
        return
    for (i, j), cells in _by(path.cells, "i", "j").items():
        out.add(f"r = {' + '.join([f'b{i} * y{j}'] * derived + [f'a{i} * hy{j}'] * hy)}")
        for c in cells:
            out.accumulate(f"z{path.z}_{c.k}", combination([(c.value, "r")]))


def _gradients(out: Lines, path: UnitPath, wanted: Wanted, derived: bool, weight: str) -> None:
    if wanted.second:
        t, s = (wanted.x and wanted.hw) or (wanted.w and wanted.hx), wanted.hy and (wanted.x or wanted.w)
        factor = "b" if derived else ""
    else:
        t, s, factor = wanted.x or wanted.w, False, "a"
    y = wanted.y and bool(factor)
    if not (t or s or y):
        return
    by_row: dict[int, list[tuple[int, list[Cell]]]] = {}
    for (i, j), cells in _by(path.cells, "i", "j").items():
        by_row.setdefault(i, []).append((j, cells))
    for i, columns in by_row.items():
        for j, cells in columns:
            out.add(f"h = {combination([(c.value, f'g{path.z}_{c.k}') for c in cells])}")
            if t:
                out.accumulate(f"t{i}", f"h * y{j}")
            if s:
                out.accumulate(f"s{i}", f"h * hy{j}")
            if y:
                out.accumulate(f"dy{j}", f"h * {factor}{i}")
        x, tangent = f"x{path.x}_{i}", "hwu" if wanted.second else weight
        if wanted.x and t and (not wanted.second or wanted.hw):
            out.accumulate(f"dx{path.x}_{i}", f"{tangent} * t{i}")
        if wanted.x and s:
            out.accumulate(f"dx{path.x}_{i}", f"{weight} * s{i}")
        if wanted.w and t and (not wanted.second or wanted.hx):
            out.accumulate("f", f"{'h' if wanted.second else ''}{x} * t{i}")
        if wanted.w and s:
            out.accumulate("f", f"{x} * s{i}")
        out.set -= {f"t{i}", f"s{i}"}
