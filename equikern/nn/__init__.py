"""Layers."""

from equikern.nn._convolution import Convolution
from equikern.nn._force_graph import force_graph
from equikern.nn._messages import PaiNNMessage, SchNetMessage
from equikern.nn._mixed import MixedConvolution
from equikern.nn._radial_convolution import RadialConvolution
from equikern.nn._radial_table import RadialTable
from equikern.nn._symmetric_contraction import SymmetricContraction

__all__ = [
    "Convolution", "MixedConvolution", "PaiNNMessage", "RadialConvolution", "RadialTable", "SchNetMessage",
    "SymmetricContraction", "force_graph",
]  # fmt: skip
