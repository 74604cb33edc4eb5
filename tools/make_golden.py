"""Record e3nn's results as small float64 files for tests/golden. Run it under e3nn >= 0.5 and, for the old signs, 0.4.

    python tools/make_golden.py [folder]

Under e3nn 0.4 it writes wigner_3j_04.npz only; under e3nn >= 0.5 all others. Review the diff of what it prints.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # e3nn 0.4 loads its table of constants by pickle

import e3nn
import numpy as np
import torch
from e3nn import o3

ROWS = 3
LMAX_SIGNS = 11

# name: irreps of x, y, out, instructions, options
PRODUCTS: dict[str, tuple[str, str, str, list[tuple[Any, ...]], dict[str, Any]]] = {
    "uvw": (
        "2x0e+3x1o",
        "2x0e+2x1o",
        "3x1o+2x1e",
        [(0, 1, 0, "uvw", True), (1, 0, 0, "uvw", True), (1, 1, 1, "uvw", True)],
        {},
    ),
    "uvu": (
        "2x0e+2x1o",
        "3x0e+2x1o",
        "2x1o+2x1e",
        [(0, 1, 0, "uvu", True), (1, 0, 0, "uvu", True), (1, 1, 1, "uvu", True)],
        {},
    ),
    "uvu-plain": (
        "2x0e+2x1o",
        "3x0e+2x1o",
        "2x1o+2x1e",
        [(0, 1, 0, "uvu", False), (1, 0, 0, "uvu", False), (1, 1, 1, "uvu", False)],
        {},
    ),
    "uvv": (
        "2x0e+2x1o",
        "3x0e+3x1o",
        "3x1o+3x1e",
        [(0, 1, 0, "uvv", True), (1, 0, 0, "uvv", True), (1, 1, 1, "uvv", True)],
        {},
    ),
    "uuw": (
        "3x0e+3x1o",
        "3x0e+3x1o",
        "2x1o+4x1e",
        [(0, 1, 0, "uuw", True), (1, 0, 0, "uuw", True), (1, 1, 1, "uuw", True)],
        {},
    ),
    "uuw-plain": ("3x1o", "3x1o", "1x0e", [(0, 0, 0, "uuw", False)], {}),
    "uuu": (
        "3x0e+3x1o",
        "3x0e+3x1o",
        "3x1o+3x1e",
        [(0, 1, 0, "uuu", True), (1, 0, 0, "uuu", False), (1, 1, 1, "uuu", True)],
        {},
    ),
    "uvuv": (
        "2x0e+2x1o",
        "3x0e+3x1o",
        "6x1o+6x1e",
        [(0, 1, 0, "uvuv", True), (1, 0, 0, "uvuv", False), (1, 1, 1, "uvuv", True)],
        {},
    ),
    "uvu-triangle": (
        "3x1o",
        "3x1o",
        "3x0e+3x1e+3x2e",
        [(0, 0, 0, "uvu<v", True), (0, 0, 1, "uvu<v", False), (0, 0, 2, "uvu<v", True)],
        {},
    ),
    "uvw-triangle": (
        "3x1o",
        "3x1o",
        "2x0e+1x1e+2x2e",
        [(0, 0, 0, "u<vw", True), (0, 0, 1, "u<vw", True), (0, 0, 2, "u<vw", True)],
        {},
    ),
    "mixed-modes": (
        "2x0e+2x1o",
        "2x0e+1x1o",
        "2x0e+2x1o+3x1e",
        [
            (0, 0, 0, "uuu", False),
            (1, 1, 0, "uvu", True),
            (0, 1, 1, "uvu", True),
            (1, 0, 1, "uvv", True),
            (1, 1, 2, "uvw", True),
        ],
        {},
    ),
    "norm-path": (
        "2x0e+2x1o",
        "1x0e+1x1o",
        "2x1o+2x0e",
        [(0, 1, 0, "uvu", True), (1, 0, 0, "uvu", True), (1, 1, 1, "uvu", True)],
        {"irrep_normalization": "norm", "path_normalization": "path"},
    ),
    "none-none": (
        "2x0e+2x1o",
        "1x0e+1x1o",
        "2x1o+2x0e",
        [(0, 1, 0, "uvu", True), (1, 0, 0, "uvu", True), (1, 1, 1, "uvu", True)],
        {"irrep_normalization": "none", "path_normalization": "none"},
    ),
    "variances": (
        "2x0e+2x1o",
        "1x0e+1x1o",
        "2x1o+2x0e",
        [(0, 1, 0, "uvu", True, 0.5), (1, 0, 0, "uvu", True, 2.0), (1, 1, 1, "uvu", True)],
        {"in1_var": [0.5, 2.0], "in2_var": [1.5, 0.25], "out_var": [3.0, 0.5]},
    ),
    "high-l": (
        "2x4e+1x3o",
        "1x2e+1x6e",
        "2x5e+2x3e+1x4o+1x6o",
        [(0, 0, 0, "uvu", True), (0, 1, 1, "uvu", True), (1, 0, 2, "uvu", True), (1, 1, 3, "uvu", True)],
        {},
    ),
}
LINEARS = {
    "one-to-one": ("4x0e+2x1o", "3x0e+2x1o"),
    "repeated": ("2x0e+1x1o+3x0e", "2x0e+2x1o+1x0e"),
    "missing": ("2x0e+2x1e", "2x0e+2x1o+1x1e"),
}


def products(folder: Path) -> None:
    """Values and gradients of tensor products: x, y, w, c in; z and d<c, z> out."""
    data: dict[str, Any] = {}
    for name, (ix, iy, iz, instructions, options) in PRODUCTS.items():
        tp = o3.TensorProduct(ix, iy, iz, instructions, shared_weights=False, internal_weights=False, **options)
        shapes = {"x": tp.irreps_in1.dim, "y": tp.irreps_in2.dim, "w": tp.weight_numel, "c": tp.irreps_out.dim}
        a = {key: torch.randn(ROWS, n, requires_grad=True) for key, n in shapes.items()}
        z = tp(a["x"], a["y"], a["w"] if tp.weight_numel else None)
        gradients = torch.autograd.grad((z * a["c"]).sum(), [a["x"], a["y"], a["w"]], allow_unused=True)
        for key, value in (*a.items(), ("z", z), *zip(("dx", "dy", "dw"), gradients, strict=True)):
            if value is not None and value.numel():
                data[f"{name}/{key}"] = value.detach().numpy()
        data[f"{name}/spec"] = np.array(repr((ix, iy, iz, instructions, options)))
    np.savez_compressed(folder / "products.npz", **data)


def harmonics(folder: Path) -> None:
    """Spherical harmonics up to l = 6 of unnormalised vectors, in each normalisation."""
    vectors = torch.randn(5, 3)
    data = {"vectors": vectors.numpy()}
    for normalization in ("integral", "component", "norm"):
        for normalize in (True, False):
            values = o3.spherical_harmonics(list(range(7)), vectors, normalize=normalize, normalization=normalization)
            data[f"{normalization}/{normalize}"] = values.numpy()
    np.savez_compressed(folder / "harmonics.npz", **data)


def linears(folder: Path) -> None:
    """Linear maps with one weight row."""
    data: dict[str, Any] = {}
    for name, (ix, iz) in LINEARS.items():
        linear = o3.Linear(ix, iz)
        x = torch.randn(ROWS, linear.irreps_in.dim)
        paths = [(i.i_in, i.i_out, i.path_weight) for i in linear.instructions]
        data |= {
            f"{name}/x": x.numpy(),
            f"{name}/w": linear.weight.detach().numpy(),
            f"{name}/z": linear(x).detach().numpy(),
        }
        data[f"{name}/spec"] = np.array(repr((ix, iz, paths)))
    np.savez_compressed(folder / "linears.npz", **data)


def wigner_signs(path: Path) -> None:
    """Of every 3j symbol with l1 <= l2 <= l3 <= 11 and of all permutations up to l = 4, its largest element."""
    triples, places, values = [], [], []
    for a in range(LMAX_SIGNS + 1):
        for b in range(LMAX_SIGNS + 1):
            for c in range(abs(a - b), min(a + b, LMAX_SIGNS) + 1):
                if a <= b <= c or max(a, b, c) <= 4:
                    symbol = o3.wigner_3j(a, b, c, dtype=torch.float64).numpy().ravel()
                    place = int(np.abs(symbol).argmax())
                    triples.append((a, b, c))
                    places.append(place)
                    values.append(symbol[place])
    np.savez_compressed(
        path, triples=np.array(triples, np.int8), places=np.array(places, np.int16), values=np.array(values)
    )


def rotations(folder: Path) -> None:
    """Wigner D matrices of one proper rotation."""
    angles = torch.tensor([0.3, 1.1, -0.7])
    data = {"rotation": o3.angles_to_matrix(*angles).numpy()}
    data |= {f"D{degree}": o3.wigner_D(degree, *angles).numpy() for degree in range(6)}
    np.savez_compressed(folder / "wigner_d.npz", **data)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests" / "golden")
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    if e3nn.__version__.startswith("0.4"):
        wigner_signs(folder / "wigner_3j_04.npz")
    else:
        wigner_signs(folder / "wigner_3j_06.npz")
        for record in (products, harmonics, linears, rotations):
            record(folder)
    for path in sorted(folder.glob("*.npz")):
        print(f"{path.stat().st_size:8d}  {path}")


if __name__ == "__main__":
    main()
