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


def mace(numbers: list[int], *, dtype: str = "float32", seed: int = 0, **options: Any) -> nn.Module:
    """A ScaleShiftMACE 0.3 for atomic numbers, in evaluation mode: 128x0e+128x1o, 2 layers, correlation 3, r_max 5 A.

    Weights are random. Further options are those of `mace.modules.ScaleShiftMACE`; `model` names another class of
    `mace.modules`, `first` and `others` the classes of the interaction blocks.
    """
    import numpy as np

    before, random = torch.get_default_dtype(), torch.get_rng_state()
    try:
        from mace import modules  # isort: skip  (first: it lets torch load e3nn's constants)
        from e3nn import o3

        torch.set_default_dtype(getattr(torch, dtype))
        torch.manual_seed(seed)
        block = modules.interaction_classes
        kind = getattr(modules, options.pop("model", "ScaleShiftMACE"))
        scale = {"atomic_inter_scale": 0.7, "atomic_inter_shift": 0.1} if kind is modules.ScaleShiftMACE else {}
        hidden = o3.Irreps(options.pop("hidden_irreps", "128x0e+128x1o"))
        model = kind(
            interaction_cls_first=block[options.pop("first", "RealAgnosticInteractionBlock")],
            interaction_cls=block[options.pop("others", "RealAgnosticResidualInteractionBlock")],
            hidden_irreps=hidden,
            MLP_irreps=o3.Irreps("16x0e"),
            num_elements=len(numbers),
            atomic_numbers=numbers,
            atomic_energies=np.linspace(-1, -3, len(numbers)),
            **(MACE | scale | options),
        )
    finally:
        torch.set_default_dtype(before)
        torch.set_rng_state(random)
    return model.eval()  # type: ignore[no-any-return]


MACE: dict[str, Any] = {
    "r_max": 5.0,
    "num_bessel": 8,
    "num_polynomial_cutoff": 5,
    "max_ell": 3,
    "num_interactions": 2,
    "avg_num_neighbors": 20.0,
    "correlation": 3,
    "gate": torch.nn.functional.silu,
}


def mace_input(
    atoms: Any, numbers: list[int], dtype: torch.dtype = torch.float32, r_max: float = 5.0
) -> dict[str, Any]:
    """MACE's dictionary of one structure."""
    before = torch.get_default_dtype()
    try:
        from mace import data, tools

        torch.set_default_dtype(dtype)
        table = tools.AtomicNumberTable(numbers)
        one = data.AtomicData.from_config(data.config_from_atoms(atoms), z_table=table, cutoff=r_max)
        loader = tools.torch_geometric.dataloader.DataLoader([one], batch_size=1, shuffle=False)
        return next(iter(loader)).to_dict()  # type: ignore[no-any-return]
    finally:
        torch.set_default_dtype(before)


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
