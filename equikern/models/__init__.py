"""Models, one file each."""

from equikern.models.deeppot import DeepPotSE, DeepPotSEConfig
from equikern.models.leftnet import LEFTNet, LEFTNetConfig
from equikern.models.mace import MACE, MACEConfig
from equikern.models.nequip import NequIP, NequIPConfig
from equikern.models.painn import PaiNN
from equikern.models.potential import Potential
from equikern.models.schnet import SchNet, SchNetConfig
from equikern.models.se3_transformer import SE3Transformer, SE3TransformerConfig
from equikern.models.spherenet import SphereNet, SphereNetConfig
from equikern.models.tfn import TFN, TFNConfig
from equikern.ops import PaiNNConfig

__all__ = [
    "DeepPotSE", "DeepPotSEConfig", "LEFTNet", "LEFTNetConfig", "MACE", "MACEConfig", "NequIP", "NequIPConfig",
    "PaiNN", "PaiNNConfig", "Potential", "SE3Transformer", "SE3TransformerConfig", "SchNet", "SchNetConfig",
    "SphereNet", "SphereNetConfig", "TFN", "TFNConfig",
]  # fmt: skip
