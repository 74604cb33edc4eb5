"""Layers."""

from equikern.nn._convolution import Convolution
from equikern.nn._messages import PaiNNMessage, SchNetMessage

__all__ = ["Convolution", "PaiNNMessage", "SchNetMessage"]
