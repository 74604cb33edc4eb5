"""Programs whose channels keep to themselves, so that a backend may sweep each channel by itself."""

from __future__ import annotations

from functools import cache

from equikern.program import EDGE, SHARED, Path, Program, parse
from equikern.program.program import B

MOST = 48  # paths of a sweep, where each channel of an operand has its own


@cache
def channelwise(text: str) -> bool:
    """Whether every path keeps x's channel, and rows are such that one sweep gathers, multiplies and sums them.

    That is mode `uvu`, or one that is the same when y's multiplicity is 1 (`uvuv`; the others for single channels); x
    and z by any index or by edge, y by edge, w by edge, shared, or by rows of a table.
    """
    program = parse(text)
    return _swept(program) and all(_keeps_channel(program, path) for path in program.paths)


@cache
def kept(text: str) -> bool:
    """Whether every path keeps x's channel, and reads one or several of y (`uvu`), `MOST` in all paths together.

    Rows are those of a channelwise program.
    """
    program = parse(text)
    if channelwise(text):
        return True
    if program.family != "product" or not _swept(program):
        return False
    whole = all(path.mode == "uvu" or _keeps_channel(program, path) for path in program.paths)
    return whole and sum(program.multiplicities(path)[1] for path in program.paths) <= MOST


@cache
def elementwise(text: str) -> bool:
    """Whether every path has equal channels of x, y and z (`uuu`, or single ones), weights by edge or shared.

    Rows are those of a channelwise program, which it is as well if all multiplicities are 1.
    """
    program = parse(text)
    return program.family == "product" and _swept(program) and all(_equal_channels(program, p) for p in program.paths)


def _swept(program: Program) -> bool:
    x, y, w, z = (*program.operands[:B], program.operands[-1])
    by_rows = w.row in (EDGE, SHARED) or (program.family == "table" and w.row not in (x.row, z.row))
    return y.row == EDGE and by_rows and SHARED not in (x.row, z.row)


def _keeps_channel(program: Program, path: Path) -> bool:
    _, m2, _ = program.multiplicities(path)
    return (m2 == 1 and path.mode in ("uvu", "uvuv")) or _single(program, path)


def _equal_channels(program: Program, path: Path) -> bool:
    return path.mode == "uuu" or _single(program, path)


def _single(program: Program, path: Path) -> bool:
    return program.multiplicities(path) == (1, 1, 1) and "<" not in path.mode
