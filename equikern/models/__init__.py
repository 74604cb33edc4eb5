"""Models, one file each."""

from equikern.models.leftnet import LEFTNet, LEFTNetConfig
from equikern.models.painn import PaiNN
from equikern.models.se3_transformer import SE3Transformer, SE3TransformerConfig
from equikern.models.spherenet import SphereNet, SphereNetConfig
from equikern.models.tfn import TFN, TFNConfig
from equikern.ops import PaiNNConfig

__all__ = [
    "LEFTNet",
    "LEFTNetConfig",
    "PaiNN",
    "PaiNNConfig",
    "SE3Transformer",
    "SE3TransformerConfig",
    "SphereNet",
    "SphereNetConfig",
    "TFN",
    "TFNConfig",
]
