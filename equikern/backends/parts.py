"""Products whose paths are of several kinds as a sum of products of one kind: each goes where it runs best.

Parts are products of all of x and y, of their own columns of w and z. Weighted and unweighted paths are apart, since
along tangents of w there are none of the latter. Pairs u < v of channels (`uvu<v`) are taken from all of them (`uvuv`),
twice the work, for which there are kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from equikern.backends import staged
from equikern.backends._channelwise import MOST
from equikern.backends.gpu.contract import why_not
from equikern.program import Irreps, Path, Program, Rows, parse, product_of_paths
from equikern.program.program import W, X, Y, Z

PAIRS = "uvu<v"
Columns = tuple[slice, ...]


class Part(NamedTuple):
    """Some paths of a product as a product of their own, its columns of w and z in the whole's, whether it is swept.

    `pairs`: it has all u and v where the whole has u < v.
    """

    program: Program
    numbers: tuple[int, ...]
    w: Columns
    z: Columns
    swept: bool
    pairs: bool


# a part, operands x y w g, rows of each opened slot -> one tensor a slot
Run = Callable[[Part, list[Tensor], dict[int, int]], list[Tensor]]


@cache
def parts(text: str) -> tuple[Part, ...]:
    """The parts that kernels sweep or that run in two stages, then what is left.

    None where kernels sweep the whole product, or nothing in it goes a way of its own.
    """
    program = parse(text)
    if why_not(program) is None:
        return ()
    kinds: dict[tuple[str, bool], list[list[int]]] = {}
    for n, path in enumerate(program.paths):
        if 0 not in program.multiplicities(path):
            some = kinds.setdefault((_kind(program, path), path.weighted), [[]])
            if sum(_sweeps(program, program.paths[m]) for m in (*some[-1], n)) > MOST:
                some.append([])
            some[-1].append(n)
    found = [_part(program, numbers, kind == PAIRS) for (kind, _), some in kinds.items() for numbers in some if numbers]
    better = [part for part in found if part.swept or staged.takes(part.program.text)]
    if not better or (len(found) == 1 and not found[0].pairs):
        return ()
    left = sorted(n for part in found if part not in better for n in part.numbers)
    return (*better, *([_part(program, left, False)] if left else []))


def _kind(program: Program, path: Path) -> str:
    """Of paths that run together: their mode, or the one that is the same where y has one channel."""
    m1, m2, m3 = program.multiplicities(path)
    if (m2 == 1 and path.mode == "uvuv") or (m1 == m2 == m3 == 1 and "<" not in path.mode):
        return "uvu"
    return "uvv" if path.mode == "uvuv" else path.mode


def _sweeps(program: Program, path: Path) -> int:
    """Paths of a sweep that a path becomes where there may be too many: one for each channel of y, or of x."""
    m1, m2, _ = program.multiplicities(path)
    return {"uvu": m2, "uvv": m1, PAIRS: m1}.get(_kind(program, path), 0)


def _part(program: Program, numbers: Iterable[int], pairs: bool) -> Part:
    x, y, z = (program.operands[slot].irreps for slot in (X, Y, Z))
    chosen = [program.paths[n] for n in numbers]
    outs = sorted({path.out for path in chosen})
    paths = [path._replace(out=outs.index(path.out), mode="uvuv" if pairs else path.mode) for path in chosen]
    into = [z[n] for n in outs]  # type: ignore[index]
    if pairs:
        every = {path.out: program.multiplicities(path)[0] ** 2 for path in chosen}
        into = [(every[n], ir) for n, (_, ir) in zip(outs, into, strict=True)]
    made = product_of_paths(x, y, Irreps(into), paths, rows=Rows(*program.rows[:4]), layout=program.layout)
    w = tuple(program.weight_slices[n] for n in numbers if program.paths[n].weighted)
    columns = tuple(z.slices()[n] for n in outs)  # type: ignore[union-attr]
    return Part(made, tuple(numbers), w, columns, why_not(made) is None, pairs)


def sweep(base: Program, operands: list[Tensor], open: dict[int, int], *, fixed: bool, run: Run) -> list[Tensor]:
    """dF/da for each open slot, the sum of those of the parts; not `fixed`: unweighted paths drop out."""
    x, y, w, g = operands
    like = next(a for a in operands if a.ndim == 2)
    found = {slot: like.new_zeros(rows, base.dims[slot]) for slot, rows in open.items()}
    for part in parts(base.text):
        opened = {slot: rows for slot, rows in open.items() if slot != W or part.w}
        if not (opened and (fixed or part.w)):
            continue
        read = [x, y, _read(part, W, w), _read(part, Z, g)]
        made = run(part, read, opened)
        for slot, a in zip(opened, made, strict=True):
            _add(part, slot, found[slot], a)
    return list(found.values())


def _columns(part: Part, slot: int) -> Columns:
    return {W: part.w, Z: part.z}.get(slot, (slice(None),))


@lru_cache(maxsize=256)
def _pairs(text: str, slot: int, device: torch.device) -> Tensor:
    """The columns of pairs u < v among those of all u and v, path by path; kept for each device."""
    program, found = parse(text), []
    ends = program.weight_slices if slot == W else program.operands[Z].irreps.slices()  # type: ignore[union-attr]
    muls = {path.out if slot == Z else n: program.multiplicities(path)[0] for n, path in enumerate(program.paths)}
    for n, columns in enumerate(ends):
        every = np.arange(columns.start, columns.stop).reshape(muls[n], muls[n], -1)
        found.append(every[np.triu_indices(muls[n], 1)].reshape(-1))
    return torch.tensor(np.concatenate(found), device=device)


def _read(part: Part, slot: int, a: Tensor) -> Tensor:
    """A part's rows of w or of the cotangent of z."""
    columns = _columns(part, slot)
    if a.ndim != 2 or not columns:
        return a.new_empty(0)
    own = torch.cat([a[:, some] for some in columns], 1)
    if not part.pairs:
        return own
    every = a.new_zeros(len(a), part.program.dims[slot])
    return every.index_copy_(1, _pairs(part.program.text, slot, a.device), own)


def _add(part: Part, slot: int, whole: Tensor, a: Tensor) -> None:
    """A part's result to that of the whole."""
    if part.pairs and slot in (W, Z):
        a = a.index_select(1, _pairs(part.program.text, slot, a.device))
    places = [whole[:, some] for some in _columns(part, slot)]
    for place, some in zip(places, a.split([place.shape[1] for place in places], 1), strict=True):
        place += some
