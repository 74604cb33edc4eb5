"""A program's text: its op argument, cache key and test id. `parse(str(program)) == program`.

    eqk1 product mul_ir: x[sender] 8x0e | y[edge] 0e+1o | w[edge] 8 | z[receiver] 8x0e : 0 0 0 uvu 1.0 ~0,1,2

Version, family, layout; operands (`w[knot:0,1,2,4] 96` reads four rows at these offsets); paths `in1 in2 out mode
scale` (linear: `in1 out scale`), `fixed` marking an unweighted one; then the slots of each derivation. No coefficients:
they follow from the text.
"""

from __future__ import annotations

import re
from functools import cache

from equikern.errors import ProgramError
from equikern.program.irreps import Irreps
from equikern.program.program import Operand, Path, Program

_OPERAND = re.compile(r"(\w+)\[(\w+)(?::([\d,]+))?\]\s*(.*)")


def print_program(program: Program) -> str:
    """The canonical text."""
    operands = " | ".join(map(str, program.operands))
    paths = " ; ".join(_print_path(program.family, path) for path in program.paths)
    derived = "".join(" ~" + ",".join(map(str, group)) for group in program.derived)
    return f"eqk1 {program.family} {program.layout}: {operands} : {paths}{derived}"


def _print_path(family: str, path: Path) -> str:
    if family == "linear":
        return f"{path.in1} {path.out} {path.scale!r}"
    return f"{path.in1} {path.in2} {path.out} {path.mode} {path.scale!r}" + ("" if path.weighted else " fixed")


@cache
def parse(text: str) -> Program:
    """The program of a text."""
    try:
        body, *derived = text.split("~")
        head, operands, paths = (part.strip() for part in re.split(r":\s|:$", body))
        version, family, layout = head.split()
    except ValueError:
        raise ProgramError(f"{text!r} is no program; it reads 'eqk1 family layout: operands : paths ~slots'.") from None
    if version != "eqk1":
        raise ProgramError(f"the program's version is {version!r}; this equikern reads 'eqk1'.")
    return Program(
        family,
        layout,
        tuple(_parse_operand(part.strip()) for part in operands.split("|")),
        tuple(_parse_path(family, part.split()) for part in paths.split(";") if part.strip()),
        tuple(tuple(int(slot) for slot in group.split(",")) for group in derived),
    )


def _parse_operand(text: str) -> Operand:
    match = _OPERAND.fullmatch(text)
    if match is None:
        raise ProgramError(f"cannot read the operand {text!r}; write like 'x[sender] 8x0e'.")
    name, row, offsets, columns = match.groups()
    rows = tuple(int(n) for n in (offsets or "0").split(",") if n)
    return Operand(name, row, int(columns) if name in "wb" else Irreps(columns), rows)


def _parse_path(family: str, fields: list[str]) -> Path:
    try:
        if family == "linear":
            in1, out, scale = fields
            return Path(int(in1), -1, int(out), "uvw", float(scale))
        in1, in2, out, mode, scale, *rest = fields
        if rest not in ([], ["fixed"]):
            raise ValueError
        return Path(int(in1), int(in2), int(out), mode, float(scale), not rest)
    except ValueError:
        raise ProgramError(f"cannot read the path {' '.join(fields)!r}; write 'in1 in2 out mode scale'.") from None
