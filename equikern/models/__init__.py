"""Models, one file each."""

from equikern.models.mace import MACE, MACEConfig
from equikern.models.nequip import NequIP, NequIPConfig
from equikern.models.painn import PaiNN
from equikern.models.potential import Potential
from equikern.models.schnet import SchNet, SchNetConfig
from equikern.ops import PaiNNConfig

__all__ = [
    "MACE", "MACEConfig", "NequIP", "NequIPConfig", "PaiNN", "PaiNNConfig", "Potential", "SchNet", "SchNetConfig",
]  # fmt: skip
