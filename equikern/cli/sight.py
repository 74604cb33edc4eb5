"""Our models as they are shown pairs of geometric graphs, and what theory says they separate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from equikern import models
from equikern.cli.zoo import random_weights
from equikern.testing.expressivity import Pair, Separation, separation

# Pairs have five species at most; edges are shown this long on average, well within the cutoff.
LENGTH = 1.5
_SIZES: dict[str, Any] = {"cutoff": 5.0, "num_species": 6, "channels": 8}
# A class sees what a class of fewer bodies sees.
_FEWER = {
    "centre_5body_O3": "centre_4body_O3",
    "centre_4body_O3": "deeppot_se_3body_centre",
    "deeppot_se_3body_centre": "schnet_any_depth",
}


@dataclass(frozen=True)
class Sight:
    """A model, and the class of models, a column of `separated_by`, whose sight it has; None: theory has no word.

    lmax: the highest degree of features, which bounds what is seen of rings. chiral: it tells mirror images apart.
    """

    model: Callable[[], nn.Module]
    column: str | None = None
    lmax: int | None = None
    chiral: bool = False

    def random(self, seed: int) -> nn.Module:
        """The model with random weights in float64."""
        return random_weights(self.model, seed, torch.float64)

    def separates(self, pair: Pair, seeds: int = 4) -> Separation:
        """What random models make of a pair."""
        return separation(self.random, pair.scaled(LENGTH), range(seeds))

    def expected(self, separated_by: Mapping[str, Any]) -> bool | None:
        """Whether it separates a pair; None where theory does not say."""
        if separated_by.get("congruent_SO3") or (separated_by.get("congruent_O3") and not self.chiral):
            return False
        if self.lmax is not None and separated_by.get("smallest_l", 0) > self.lmax:
            return False
        column = self.column
        while column is not None:
            if separated_by.get(column) is not None and (separated_by[column] or column == self.column):
                return bool(separated_by[column])
            column = _FEWER.get(column)
        return None


def _deeppot() -> nn.Module:
    slots = (1,) * _SIZES["num_species"]
    return models.DeepPotSE(
        models.DeepPotSEConfig(_SIZES["cutoff"], slots=slots, embedding=(4, 8), axis=4, fitting=(8, 8))
    )


def _spherenet() -> nn.Module:
    return models.SphereNet(models.SphereNetConfig(**_SIZES, layers=3, inner=4, narrow=4, output=8, degrees=4))


def _painn(layers: int) -> nn.Module:
    return models.PaiNN(models.PaiNNConfig(**_SIZES, layers=layers, hidden=4, num_basis=8))


def _tfn(l_max: int, parity: str = "natural") -> nn.Module:
    return models.TFN(models.TFNConfig(**_SIZES, layers=3, lmax=l_max, hidden=8, parity=parity))


def _mace(correlation: int, layers: int = 1) -> nn.Module:
    return models.MACE(models.MACEConfig(**_SIZES, layers=layers, lmax=3, correlation=correlation, radial=(8,)))


SIGHT = {
    "SchNet, 3 layers": Sight(
        lambda: models.SchNet(models.SchNetConfig(**_SIZES, layers=3, filters=8, num_basis=8)), "schnet_any_depth"
    ),
    "DeepPot-SE": Sight(_deeppot, "deeppot_se_3body_centre", lmax=1),
    "PaiNN, 1 layer": Sight(lambda: _painn(1), "painn_1_layers"),
    "PaiNN, 2 layers": Sight(lambda: _painn(2), "painn_2_layers"),
    "PaiNN, 3 layers": Sight(lambda: _painn(3), "painn_3_layers"),
    "SphereNet, 3 layers": Sight(_spherenet, "spherenet_smp_any_depth", chiral=True),
    "LEFTNet, 2 layers": Sight(lambda: models.LEFTNet(models.LEFTNetConfig(**_SIZES, layers=2, num_basis=8))),
    "TFN, 3 layers, l <= 1": Sight(lambda: _tfn(1), lmax=1),
    "TFN, 3 layers, l <= 2": Sight(lambda: _tfn(2), lmax=2),
    "TFN, 3 layers, l <= 3": Sight(lambda: _tfn(3), lmax=3),
    "TFN without parity, l <= 2": Sight(lambda: _tfn(2, "none"), lmax=2, chiral=True),
    "SE(3)-Transformer, 3 layers, l <= 2": Sight(
        lambda: models.SE3Transformer(models.SE3TransformerConfig(**_SIZES, layers=3, lmax=2, hidden=8)), lmax=2
    ),
    "NequIP, 3 layers, l <= 2": Sight(
        lambda: models.NequIP(models.NequIPConfig(**_SIZES, layers=3, lmax=2, radial=(8,))), lmax=2
    ),
    "MACE, 1 layer, 3 bodies": Sight(lambda: _mace(2), "deeppot_se_3body_centre", lmax=3),
    "MACE, 1 layer, 4 bodies": Sight(lambda: _mace(3), "centre_4body_O3", lmax=3),
    "MACE, 1 layer, 5 bodies": Sight(lambda: _mace(4), "centre_5body_O3", lmax=3),
    "MACE, 2 layers, 4 bodies": Sight(lambda: _mace(3, layers=2), lmax=3),
}
