"""What the backends share about PaiNN as one op: its sizes as text, and the order and shapes of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from math import isfinite

from equikern.errors import ProgramError

BASES = ("gaussian", "bessel")


@dataclass(frozen=True)
class PaiNNConfig:
    """Sizes and functions of a PaiNN: what its weights do not say.

    basis: "gaussian", exp(-(d - mu_k)^2 / 2 w^2), where the centres mu are kept with the weights, not trained, and w is
    `width`, or the spacing of linspace(0, cutoff, num_basis) if it is None; or "bessel", sin(k pi d / cutoff) / d. Both
    are multiplied by the cosine cutoff after the filters' linear map. hidden: width of the read-out.
    """

    layers: int = 3
    channels: int = 128
    hidden: int = 64
    basis: str = "gaussian"
    num_basis: int = 20
    num_species: int = 100
    cutoff: float = 5.0
    epsilon: float = 1e-8
    width: float | None = None

    def __post_init__(self) -> None:
        if self.basis not in BASES:
            raise ProgramError(f"unknown radial basis {self.basis!r}; use one of {', '.join(BASES)}.")
        spaced = self.basis == "gaussian" and self.width is None
        for name in ("layers", "channels", "hidden", "num_basis", "num_species"):
            value, least = getattr(self, name), 2 if spaced and name == "num_basis" else 1
            if not isinstance(value, int) or value < least:
                raise ProgramError(f"PaiNN: {name} is an integer >= {least}; got {value!r}.")
        for name in ("cutoff", "epsilon", "width"):
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value > 0):
                raise ProgramError(f"PaiNN: {name} is finite and above 0; got {value!r}.")

    @property
    def gaussian_width(self) -> float:
        """w of the Gaussians."""
        return self.cutoff / (self.num_basis - 1) if self.width is None else self.width

    @cached_property
    def text(self) -> str:
        """The spec as text; `parse_painn` reads it back."""
        fields = (self.layers, self.channels, self.hidden, self.basis, self.num_basis, self.num_species)
        return " ".join(map(str, ("painn", *fields, float(self.cutoff), float(self.epsilon), self.width)))

    @cached_property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the weights, in the op's order; matrices are (out, in), y = W x + b."""
        f = self.channels
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (self.num_species, f)}
        for n in range(self.layers):
            layer: dict[str, tuple[int, ...]] = {
                "phi.0.weight": (f, f), "phi.0.bias": (f,), "phi.2.weight": (3 * f, f), "phi.2.bias": (3 * f,),
                "filter.weight": (3 * f, self.num_basis), "filter.bias": (3 * f,), "mix.weight": (2 * f, f),
                "update.0.weight": (f, 2 * f), "update.0.bias": (f,),
                "update.2.weight": (3 * f, f), "update.2.bias": (3 * f,),
            }  # fmt: skip
            shapes |= {f"layers.{n}.{name}": shape for name, shape in layer.items()}
        h = self.hidden
        return shapes | {
            "readout.0.weight": (h, f), "readout.0.bias": (h,), "readout.2.weight": (1, h), "readout.2.bias": (1,),
        } | ({"centres": (self.num_basis,)} if self.basis == "gaussian" else {})  # fmt: skip


@cache
def parse_painn(text: str) -> PaiNNConfig:
    """The spec of a text."""
    try:
        head, layers, channels, hidden, basis, num_basis, species, cutoff, epsilon, width = text.split()
        if head != "painn":
            raise ValueError
        sizes = (int(layers), int(channels), int(hidden)), (int(num_basis), int(species))
        given = None if width == "None" else float(width)
        return PaiNNConfig(*sizes[0], basis, *sizes[1], float(cutoff), float(epsilon), given)
    except ValueError:
        raise ProgramError(f"{text!r} is no PaiNN; it reads 'painn layers channels hidden basis ...'.") from None
