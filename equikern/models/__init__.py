"""Models, one file each, and `Potential`, which makes energies, forces and stress of any of them."""

from equikern.models.deeppot import DeepPotSE, DeepPotSEConfig
from equikern.models.mace import MACE, MACEConfig
from equikern.models.nequip import NequIP, NequIPConfig
from equikern.models.painn import PaiNN
from equikern.models.potential import Potential
from equikern.models.schnet import SchNet, SchNetConfig
from equikern.ops import PaiNNConfig

__all__ = [
    "MACE", "DeepPotSE", "DeepPotSEConfig", "MACEConfig", "NequIP", "NequIPConfig", "PaiNN", "PaiNNConfig", "Potential",
    "SchNet", "SchNetConfig",
]  # fmt: skip
