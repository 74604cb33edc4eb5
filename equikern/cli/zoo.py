"""Our models by name, small and with random weights in every layer, to be examined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from equikern import models
from equikern.models import Potential

ELEMENTS, CUTOFF = (1, 6, 8), 4.0


@dataclass(frozen=True)
class Entry:
    """A model for three species and a cutoff of 4 angstrom, its layers of messages, and what must fail of it, why.

    scale multiplies its energies, where random weights make them vary too little.
    """

    model: Callable[[], nn.Module]
    layers: int = 2
    must_fail: Mapping[str, str] = field(default_factory=dict)
    periodic: bool = True
    scale: float = 1.0

    def potential(self, dtype: torch.dtype = torch.float64) -> Potential:
        """The model as a potential of H, C and O."""
        return Potential(random_weights(self.model, 0, dtype), ELEMENTS, scale=self.scale)


def random_weights(model: Callable[[], nn.Module], seed: int, dtype: torch.dtype) -> nn.Module:
    """A model in evaluation mode whose weights are random, those too that start at zero."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    made = model()
    for weight in made.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.1)
    torch.set_rng_state(state)
    return made.to(dtype).eval()


_SIZES: dict[str, Any] = {"cutoff": CUTOFF, "num_species": len(ELEMENTS), "layers": 2, "channels": 8}
_BOTH = {"P5", "P9"}
_NO_PARITY = dict.fromkeys(_BOTH, "its paths ignore parity: SE(3) only")
_TORSIONS = dict.fromkeys(_BOTH, "its torsions have a sense: SE(3) only") | {
    "P13": "its energy has kinks where two neighbours have one azimuth about an edge, as in a mirror plane"
}
_CENTROID = dict.fromkeys({"P16", "P17"}, "its frames lie about the centroid of all atoms")
ZOO = {
    "schnet": Entry(lambda: models.SchNet(models.SchNetConfig(**_SIZES, filters=8, num_basis=8))),
    "deeppot-se": Entry(
        lambda: models.DeepPotSE(
            models.DeepPotSEConfig(CUTOFF, slots=(20, 20, 20), embedding=(4, 8), axis=4, fitting=(8, 8))
        ),
        layers=1,
        scale=1000.0,
    ),
    "painn": Entry(lambda: models.PaiNN(models.PaiNNConfig(**_SIZES, hidden=4, num_basis=8), dipole=True)),
    "spherenet": Entry(
        lambda: models.SphereNet(models.SphereNetConfig(**_SIZES, inner=4, narrow=4, output=8, degrees=3)),
        layers=3,  # the first messages are those of edges
        must_fail=_TORSIONS,
    ),
    "leftnet": Entry(
        lambda: models.LEFTNet(models.LEFTNetConfig(**_SIZES, num_basis=8)),
        layers=4,  # two of messages, after sums over neighbours for the scalars and for the structures
        must_fail=_CENTROID,
        periodic=False,
    ),
    "tfn": Entry(lambda: models.TFN(models.TFNConfig(**_SIZES, hidden=8))),
    "tfn-se3": Entry(
        lambda: models.TFN(models.TFNConfig(**_SIZES | {"layers": 3}, hidden=8, parity="none")),
        layers=3,  # two see no triple product
        must_fail=_NO_PARITY,
    ),
    "se3-transformer": Entry(
        lambda: models.SE3Transformer(models.SE3TransformerConfig(**_SIZES, hidden=8)), scale=10.0
    ),
    "nequip": Entry(lambda: models.NequIP(models.NequIPConfig(**_SIZES, radial=(16,)))),
    "mace": Entry(lambda: models.MACE(models.MACEConfig(**_SIZES, radial=(16,)))),
}

# Where a model keeps the modules whose outputs are its hidden features.
_LAYERS = ("layers", "activations", "updates")


def features(potential: Potential) -> Callable[[Tensor, Tensor], Sequence[tuple[str, Tensor]]] | None:
    """Every layer's output with its irreps, for models that have a list of layers."""
    lists = [getattr(potential.model, name, None) for name in _LAYERS]
    layers = next((found for found in lists if isinstance(found, nn.ModuleList)), None)
    if layers is None:
        return None

    def blocks(numbers: Tensor, positions: Tensor) -> list[tuple[str, Tensor]]:
        found: list[tuple[str, Tensor]] = []
        hooks = [layer.register_forward_hook(lambda m, _, out: found.append(_block(m, out))) for layer in layers]
        try:
            # Positions that require gradients: no model takes a short way round its layers.
            potential(numbers, positions.clone().requires_grad_())
        finally:
            for hook in hooks:
                hook.remove()
        return found

    return blocks


def _block(layer: Any, out: Any) -> tuple[str, Tensor]:
    """Irreps and features (N, dim) in the layout mul_ir of a layer's output."""
    if isinstance(out, tuple):  # scalars (N, C) and vectors (N, 3, C)
        scalars, vectors = out
        c = scalars.shape[1]
        return f"{c}x0e+{c}x1o", torch.cat([scalars, vectors.mT.flatten(1)], 1)
    last = getattr(layer, "product_linear", layer)  # of MACE
    irreps = getattr(last, "irreps_out", getattr(last, "irreps", f"{out.shape[1]}x0e"))
    return str(irreps), out
