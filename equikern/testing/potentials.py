"""Other libraries' potentials and their inputs from ASE's atoms, for tests and benches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What NequIP sets for the whole process is as before afterwards: default dtype, e3nn's options, random numbers."""
    from e3nn import get_optimization_defaults, set_optimization_defaults

    dtype, options, random = torch.get_default_dtype(), get_optimization_defaults(), torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        set_optimization_defaults(**options)
        torch.set_rng_state(random)


def nequip(species: list[str], *, dtype: str = "float32", seed: int = 0, **options: Any) -> nn.Module:
    """A NequIP 0.19 for these species, in evaluation mode: 64 channels, l <= 2, 4 layers, r_max 5 A, random weights.

    Further options are those of `nequip.model.NequIPGNNModel`.
    """
    with _undisturbed():
        from nequip.model import NequIPGNNModel
        from nequip.utils.global_state import set_global_state

        set_global_state()
        torch.set_default_dtype(torch.float64)  # set_global_state does so once in a process
        options = {"num_layers": 4, "l_max": 2, "parity": False, "num_features": 64, "r_max": 5.0} | options
        scale = {"avg_num_neighbors": 40.0, "per_type_energy_scales": 1.0, "per_type_energy_shifts": 0.0}
        model = NequIPGNNModel(seed=seed, model_dtype=dtype, type_names=species, **(scale | options))
    return model.eval()  # type: ignore[no-any-return]


def nequip_input(atoms: Any, species: list[str], r_max: float = 5.0) -> dict[str, Tensor]:
    """NequIP's dictionary of one structure."""
    with _undisturbed():
        from nequip.data import compute_neighborlist_, from_ase

        torch.set_default_dtype(torch.float64)
        data = compute_neighborlist_(from_ase(atoms), r_max)
    data["atom_types"] = torch.tensor([species.index(symbol) for symbol in atoms.get_chemical_symbols()])
    return {key: value for key, value in data.items() if isinstance(value, Tensor)}


def sevennet(name: str) -> nn.Module:
    """A trained SevenNet of the sevenn package, "7net-0" or "7net-l3i5", for single structures, in evaluation mode."""
    from sevenn.util import load_checkpoint

    model = load_checkpoint(name).build_model()
    model.set_is_batch_data(False)
    return model.eval()  # type: ignore[no-any-return]


def sevennet_input(atoms: Any, model: nn.Module) -> Any:
    """SevenNet's data of one structure; the model adds to it: give each call a `clone()`."""
    from sevenn.atom_graph_data import AtomGraphData
    from sevenn.train.dataload import unlabeled_atoms_to_graph

    return AtomGraphData.from_numpy_dict(unlabeled_atoms_to_graph(atoms, model.cutoff))
