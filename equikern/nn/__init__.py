"""Layers."""

from equikern.nn._convolution import Convolution

__all__ = ["Convolution"]
