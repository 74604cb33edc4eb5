"""What the PaiNN benches share: systems, the eager rival with our weights, and the peak memory of many edges.

python bench/painn.py [EDGES]     peak resident memory of energy and forces, 40 edges an atom (default 10 million)
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from torch import Tensor

from equikern.models import PaiNN

CUTOFF = 5.0


def eager_twin() -> tuple[PaiNN, Any]:
    """(our PaiNN, the rival's) with the same weights: 128 channels, 3 layers, 20 Gaussians."""
    from baselines import EagerPaiNN

    ours, eager = PaiNN(), EagerPaiNN()
    state = {"embedding.weight": eager.embed.weight, "centres": eager.centres}
    rows = eager.filters.weight.chunk(eager.L), eager.filters.bias.chunk(eager.L)
    for n in range(eager.L):
        parts = {"phi": eager.message[n], "update": eager.update[n], "mix": eager.mix[n]}
        for name, part in parts.items():
            state |= {f"layers.{n}.{name}.{k}": v for k, v in part.state_dict().items()}
        state |= {f"layers.{n}.filter.weight": rows[0][n], f"layers.{n}.filter.bias": rows[1][n]}
    state |= {f"readout.{k}": v for k, v in eager.readout.state_dict().items()}
    ours.load_state_dict(state)
    return ours, eager


def system(atoms: int) -> tuple[Tensor, Tensor, Tensor]:
    """species, positions, edges within the cutoff: a small cluster, or a piece of a rattled lattice."""
    generator = torch.Generator().manual_seed(0)
    if atoms <= 27:
        side, spacing = 3, 1.2
    else:
        side, spacing = round(atoms ** (1 / 3)), 2.17
    line = torch.arange(side) * spacing
    positions = torch.cartesian_prod(line, line, line)[:atoms]
    positions = positions + 0.15 * spacing * torch.randn(positions.shape, generator=generator)
    near = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist") < CUTOFF
    edges = (near & ~torch.eye(len(positions), dtype=torch.bool)).nonzero().T.contiguous()
    return torch.randint(1, 10, (len(positions),), generator=generator), positions, edges


def flops(atoms: int, edges: int, layers: int = 3, channels: int = 128, basis: int = 20) -> int:
    """Multiplications and additions of energy and forces, recomputation not counted: matrices, filters, messages."""
    node = 2 * 2 * 15 * channels**2
    edge = 2 * 3 * 3 * channels * basis + 70 * channels
    return layers * (atoms * node + edges * edge)


def peak_memory(edges: int) -> None:
    """Energy and forces of a chain of atoms with 40 neighbours each, and what they took."""
    from memory import reset, resident

    from equikern.nn import force_graph

    torch.set_num_threads(1)
    atoms, reach = edges // 40, torch.cat([torch.arange(-20, 0), torch.arange(1, 21)])
    receiver = torch.arange(atoms).repeat_interleave(40)
    sender = (receiver + reach.repeat(atoms)) % atoms
    positions = torch.randn(atoms, 3)
    species = torch.randint(10, (atoms,))
    forces_of = force_graph(PaiNN(), species, torch.stack([sender, receiver]))
    del receiver, sender
    reset()
    before, start = resident("VmRSS"), time.perf_counter()
    _, forces = forces_of(positions)
    seconds = time.perf_counter() - start
    assert forces.isfinite().all() and forces.norm() > 0
    print(
        f"{atoms * 40} edges, {atoms} atoms, float32, 1 thread: energy and forces in {seconds:.1f} s, "
        f"peak resident {resident('VmHWM') / 1e9:.2f} GB, of it {before / 1e9:.2f} GB before the call"
    )


if __name__ == "__main__":
    peak_memory(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
