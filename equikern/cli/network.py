"""A small NequIP-like energy model in plain e3nn, with random weights: for the demo where SevenNet is absent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SCALE = 0.1  # of the energy: random weights then give forces of a few eV/angstrom, as molecules have


class Interaction(nn.Module):
    """x_i <- gate(linear(x_i) + linear(sum over edges (j -> i) of R(r) (x_j tensor Y)) / sqrt(degree))."""

    def __init__(self, irreps_in: Any, irreps_edge: Any, irreps_out: Any, basis: int, degree: float) -> None:
        super().__init__()
        from e3nn import nn as enn
        from e3nn import o3

        middle: list[Any] = []
        instructions = []
        for i, (mul, ir_in) in enumerate(irreps_in):
            for j, (_, ir_edge) in enumerate(irreps_edge):
                for ir in ir_in * ir_edge:
                    if ir in [out.ir for out in irreps_out]:
                        instructions.append((i, j, len(middle), "uvu", True))
                        middle.append((mul, ir))
        scalars = o3.Irreps([(mul, ir) for mul, ir in irreps_out if ir.l == 0])
        gated = o3.Irreps([(mul, ir) for mul, ir in irreps_out if ir.l > 0])
        gates = o3.Irreps([(mul, "0e") for mul, _ in gated])
        silu, tanh = torch.nn.functional.silu, torch.tanh
        acts = [silu if ir.p == 1 else tanh for _, ir in scalars]
        self.gate = enn.Gate(scalars, acts, gates, [torch.sigmoid] * len(gates), gated)
        self.product = o3.TensorProduct(
            irreps_in, irreps_edge, o3.Irreps(middle), instructions, shared_weights=False, internal_weights=False
        )
        self.radial = enn.FullyConnectedNet([basis, 32, self.product.weight_numel], silu)
        self.keep = o3.Linear(irreps_in, self.gate.irreps_in)
        self.mix = o3.Linear(o3.Irreps(middle).simplify(), self.gate.irreps_in)
        self.norm = degree**-0.5
        self.irreps_out = self.gate.irreps_out

    def forward(self, x: Tensor, harmonics: Tensor, basis: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
        """x (N, dim), harmonics (E, dim), basis (E, B), sender and receiver (E,) -> (N, dim out)."""
        message = self.product(x[sender], harmonics, self.radial(basis))
        total = message.new_zeros(x.shape[0], message.shape[1]).index_add(0, receiver, message)
        return self.gate(self.keep(x) + self.mix(total * self.norm))  # type: ignore[no-any-return]


class Network(nn.Module):
    """Energy of atoms: species embedding, `layers` interactions, a linear readout of scalars, summed over atoms."""

    def __init__(
        self, channels: int = 32, lmax: int = 2, layers: int = 2, *, cutoff: float = 4.5, degree: float = 30.0
    ) -> None:
        super().__init__()
        from e3nn import o3

        self.cutoff, self.basis = cutoff, 8
        irreps_edge = o3.Irreps.spherical_harmonics(lmax)
        hidden = o3.Irreps([(channels, (degree, (-1) ** degree)) for degree in range(lmax + 1)])
        self.harmonics = o3.SphericalHarmonics(irreps_edge, normalize=True, normalization="component")
        self.species = nn.Embedding(119, channels)
        self.layers = nn.ModuleList()
        irreps = o3.Irreps([(channels, "0e")])
        for _ in range(layers):
            self.layers.append(Interaction(irreps, irreps_edge, hidden, self.basis, degree))
            irreps = self.layers[-1].irreps_out
        self.readout = o3.Linear(irreps, "0e")

    def forward(self, numbers: Tensor, vectors: Tensor, sender: Tensor, receiver: Tensor) -> Tensor:
        """numbers (N,), edge vectors (E, 3) in angstrom, sender and receiver (E,) -> energy () in eV."""
        length = vectors.norm(dim=1)
        harmonics = self.harmonics(vectors)
        x = self.species(numbers)
        for layer in self.layers:
            x = layer(x, harmonics, self.radial_basis(length), sender, receiver)
        return SCALE * self.readout(x).sum()  # type: ignore[no-any-return]

    def radial_basis(self, length: Tensor) -> Tensor:
        """Bessel functions times NequIP's polynomial envelope (p = 6): (E,) -> (E, B)."""
        n = torch.arange(1, self.basis + 1, dtype=length.dtype, device=length.device)
        u = (length / self.cutoff).unsqueeze(1)  # (E, 1)
        envelope = 1 - 28 * u**6 + 48 * u**7 - 21 * u**8
        return torch.sin(torch.pi * n * u) / u * envelope * (u < 1)


class EnergyAndForces(nn.Module):
    """Energy () in eV and forces (N, 3) in eV/angstrom of a Network, from positions (N, 3)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, numbers: Tensor, pos: Tensor, offsets: Tensor, sender: Tensor, receiver: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Edge vectors are pos[sender] + offsets - pos[receiver], offsets (E, 3)."""
        pos = pos.requires_grad_()
        energy = self.network(numbers, pos[sender] + offsets - pos[receiver], sender, receiver)
        (gradient,) = torch.autograd.grad(energy, pos)
        return energy.detach(), -gradient


def calculator(model: EnergyAndForces) -> Any:
    """An ASE calculator of a Network."""
    from ase.calculators.calculator import Calculator, all_changes
    from ase.neighborlist import neighbor_list

    class NetworkCalculator(Calculator):  # type: ignore[misc]
        implemented_properties = ("energy", "free_energy", "forces")

        def calculate(
            self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes
        ) -> None:
            super().calculate(atoms, properties, system_changes)
            receiver, sender, shifts = neighbor_list("ijS", self.atoms, model.network.cutoff)
            like = next(model.parameters())
            pos, offsets = (torch.tensor(a).to(like) for a in (self.atoms.positions, shifts @ self.atoms.cell.array))
            energy, forces = model(
                torch.tensor(self.atoms.numbers), pos, offsets, torch.tensor(sender), torch.tensor(receiver)
            )
            self.results = {"energy": energy.item(), "forces": forces.numpy(), "num_edges": len(sender)}
            self.results["free_energy"] = self.results["energy"]

    return NetworkCalculator()
