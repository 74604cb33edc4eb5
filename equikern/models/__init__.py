"""Models, one file each."""

from equikern.models.nequip import NequIP, NequIPConfig
from equikern.models.painn import PaiNN
from equikern.ops import PaiNNConfig

__all__ = ["NequIP", "NequIPConfig", "PaiNN", "PaiNNConfig"]
