"""Models, one file each."""

from equikern.models.painn import PaiNN
from equikern.models.potential import Potential
from equikern.models.schnet import SchNet, SchNetConfig
from equikern.ops import PaiNNConfig

__all__ = ["PaiNN", "PaiNNConfig", "Potential", "SchNet", "SchNetConfig"]
