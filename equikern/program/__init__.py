"""Programs, irreps and coupling coefficients. No torch."""

from equikern.program.build import (
    CONVOLUTION,
    Rows,
    by_species,
    channelwise,
    linear,
    linear_of_species,
    painn_message,
    product,
    product_of_paths,
    schnet_message,
    tabled,
    untabled,
)
from equikern.program.irreps import Irrep, Irreps, MulIr
from equikern.program.program import EDGE, SHARED, Operand, Path, Program
from equikern.program.text import parse
from equikern.program.wigner import wigner_3j, wigner_d

__all__ = [
    "CONVOLUTION", "EDGE", "Irrep", "Irreps", "MulIr", "Operand", "Path", "Program", "Rows", "SHARED",
    "by_species", "channelwise", "linear", "linear_of_species", "painn_message", "parse", "product", "product_of_paths",
    "schnet_message", "tabled", "untabled", "wigner_3j", "wigner_d",
]  # fmt: skip
