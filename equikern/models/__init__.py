"""Models, one file each."""

from equikern.models.painn import PaiNN
from equikern.models.tfn import TFN, TFNConfig
from equikern.ops import PaiNNConfig

__all__ = ["PaiNN", "PaiNNConfig", "TFN", "TFNConfig"]
