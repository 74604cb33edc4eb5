"""Layers."""

from equikern.nn._convolution import Convolution
from equikern.nn._force_graph import force_graph
from equikern.nn._gate import GAINS, Gate
from equikern.nn._messages import PaiNNMessage, SchNetMessage
from equikern.nn._mixed import MixedConvolution
from equikern.nn._mlp import MLP
from equikern.nn._radial_convolution import RadialConvolution
from equikern.nn._radial_table import RadialTable
from equikern.nn._species_linear import SpeciesLinear
from equikern.nn._symmetric_contraction import SymmetricContraction

__all__ = [
    "GAINS", "Convolution", "Gate", "MLP", "MixedConvolution", "PaiNNMessage", "RadialConvolution", "RadialTable",
    "SchNetMessage", "SpeciesLinear", "SymmetricContraction", "force_graph",
]  # fmt: skip
