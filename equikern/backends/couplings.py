"""How channels of x and y are coupled by a path's symbol C_ijk: coupled channels A_k, and their gradients.

Tensors are named by einsum's letters: t of rows, r of rows within a tile that are summed, u v of channels of x and y,
i j k of components of x, y and z. `x` and `y` give the letters of a row of x and y, in their order.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Pairs:
    """Each channel of x with each of y: A_k = sum over i of x_i T_ik, T_ik = sum over j of C_ijk y_j."""

    def __init__(self, x: str, y: str, symbol: Tensor, rows: str, plain: bool) -> None:
        self.symbol, self.cells = symbol, "ijk"
        self.x, self.y = rows + x, rows + y
        self.t = f"{rows}{y.replace('j', '')}ik"
        self.scalar = symbol.shape[1] == 1
        if self.scalar:
            # Of scalars y the symbol is a multiple of the unit matrix: T has no components.
            self.symbol, self.cells = symbol[0, :, 0], "j"
            self.x, self.t = self.x.replace("i", "k"), self.t[:-2]
        # `plain`, or the order in which the matrix product gives A
        self.a = "tkuv" if plain or self.scalar else "tkvu"

    def matrices(self, y: Tensor) -> Tensor:
        """T."""
        return torch.einsum(f"{self.y},{self.cells}->{self.t}", y, self.symbol)

    def coupled(self, x: Tensor, t: Tensor) -> Tensor:
        """A. einsum puts the letters of its left factor first: so it is made in its own order, not copied to it."""
        if self.scalar:
            return torch.einsum(f"{self.x},{self.t}->{self.a}", x, t)
        return torch.einsum(f"{self.t},{self.x}->{self.a}", t, x)

    def grad_x(self, da: Tensor, t: Tensor) -> Tensor:
        """From the gradient of A."""
        return torch.einsum(f"{self.t},{self.a}->{self.x}", t, da)

    def grad_y(self, da: Tensor, x: Tensor) -> Tensor:
        """From the gradient of A."""
        dt = torch.einsum(f"{self.x},{self.a}->{self.t}", x, da)
        return torch.einsum(f"{self.t},{self.cells}->{self.y}", dt, self.symbol)


class Equal:
    """Equal channels of x and y: A_k = sum over i and j of C_ijk x_i y_j; products by channel, no matrix of theirs."""

    def __init__(self, x: str, y: str, symbol: Tensor, rows: str, plain: bool) -> None:
        self.symbol = symbol
        self.x, self.y = rows + x, rows + y
        self.t = self.x.replace("i", "ij")
        self.a = "t" + x.replace("i", "k")

    def matrices(self, y: Tensor) -> Tensor:
        """Y itself."""
        return y

    def coupled(self, x: Tensor, t: Tensor) -> Tensor:
        """A, from the products x_i y_j."""
        return torch.einsum(f"{self.t},ijk->{self.a}", _product(self.x, x, self.y, t, self.t), self.symbol)

    def grad_x(self, da: Tensor, t: Tensor) -> Tensor:
        """From the gradient of A."""
        return _product(*self._grad(da), self.y, t, self.x)

    def grad_y(self, da: Tensor, x: Tensor) -> Tensor:
        """From the gradient of A."""
        return _product(*self._grad(da), self.x, x, self.y)

    def _grad(self, da: Tensor) -> tuple[str, Tensor]:
        letters = self.t.replace("r", "")
        return letters, torch.einsum(f"{self.a},ijk->{letters}", da, self.symbol)


def _product(letters_a: str, a: Tensor, letters_b: str, b: Tensor, to: str) -> Tensor:
    """Like einsum, for small sums in many rows: multiplied by element, then summed."""
    summed = "".join(dict.fromkeys(c for c in letters_a + letters_b if c not in to))
    both = [
        x.permute([letters.index(c) for c in to + summed if c in letters])[
            tuple(slice(None) if c in letters else None for c in to + summed)
        ]
        for letters, x in ((letters_a, a), (letters_b, b))
    ]
    product = both[0] * both[1]
    return product.sum(tuple(range(len(to), product.ndim))) if summed else product
