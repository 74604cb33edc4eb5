"""Functional torch ops, differentiable to any order."""

from equikern.ops.contract import evaluate, linear, product
from equikern.ops.harmonics import spherical_harmonics
from equikern.ops.painn import PaiNNConfig, painn, painn_forces
from equikern.ops.plan import plan
from equikern.ops.radial_embedding import radial_embedding

__all__ = [
    "PaiNNConfig",
    "evaluate",
    "linear",
    "painn",
    "painn_forces",
    "plan",
    "product",
    "radial_embedding",
    "spherical_harmonics",
]
