"""Layers."""

from equikern.nn._convolution import Convolution
from equikern.nn._messages import PaiNNMessage, SchNetMessage
from equikern.nn._mixed import MixedConvolution

__all__ = ["Convolution", "MixedConvolution", "PaiNNMessage", "SchNetMessage"]
