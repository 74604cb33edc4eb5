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
    """A model for three species and a cutoff of 4 angstrom, its layers of messages, and what must fail of it, why."""

    model: Callable[[], nn.Module]
    layers: int = 2
    must_fail: Mapping[str, str] = field(default_factory=dict)
    periodic: bool = True

    def random(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The model with random weights, none of them zero."""
        state = torch.get_rng_state()
        torch.manual_seed(seed)
        model = self.model()
        for weight in model.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.1)
        torch.set_rng_state(state)
        return model.to(dtype).eval()

    def potential(self, dtype: torch.dtype = torch.float64) -> Potential:
        """The model as a potential of H, C and O."""
        return Potential(self.random(dtype=dtype), ELEMENTS)


_SIZES: dict[str, Any] = {"cutoff": CUTOFF, "num_species": len(ELEMENTS), "layers": 2, "channels": 8}
ZOO = {
    "schnet": Entry(lambda: models.SchNet(models.SchNetConfig(**_SIZES, filters=8, num_basis=8))),
    "painn": Entry(lambda: models.PaiNN(models.PaiNNConfig(**_SIZES, hidden=4, num_basis=8))),
    "nequip": Entry(lambda: models.NequIP(models.NequIPConfig(**_SIZES, radial=(16,)))),
    "mace": Entry(lambda: models.MACE(models.MACEConfig(**_SIZES, radial=(16,)))),
}


def features(potential: Potential) -> Callable[[Tensor, Tensor], Sequence[tuple[str, Tensor]]] | None:
    """Every layer's output with its irreps, for models that have layers of irreps."""
    layers = getattr(potential.model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
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
    if isinstance(out, tuple):  # PaiNN: q (N, C), mu (N, 3, C)
        q, mu = out
        return f"{q.shape[1]}x0e+{q.shape[1]}x1o", torch.cat([q, mu.mT.flatten(1)], 1)
    # MACE's layers end in a linear map; SchNet's give scalars.
    irreps = getattr(getattr(layer, "product_linear", layer), "irreps_out", f"{out.shape[1]}x0e")
    return str(irreps), out
