"""Functional torch ops, differentiable to any order."""

from equikern.ops.contract import evaluate, linear, product
from equikern.ops.harmonics import spherical_harmonics
from equikern.ops.plan import plan

__all__ = ["evaluate", "linear", "plan", "product", "spherical_harmonics"]
