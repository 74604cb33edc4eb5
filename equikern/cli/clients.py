"""What `certify` can examine: our potentials, ASE calculators, any `predict`; found by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from equikern.cli import zoo
from equikern.errors import EquikernError
from equikern.graph import Neighbours, neighbours
from equikern.models import Potential
from equikern.testing.symmetry import Subject

Given = tuple[Tensor, Tensor, Tensor | None]  # numbers, positions, cell


def of_potential(potential: Potential, layers: int | None = None, periodic: bool = True) -> Subject:
    """A subject with everything that our potentials can do, in the dtype of their parameters, at float64 positions."""

    def predict(numbers: Tensor, positions: Tensor, cell: Tensor | None = None) -> dict[str, Tensor]:
        return of_edges(numbers, positions, cell, None)

    def of_edges(
        numbers: Tensor, positions: Tensor, cell: Tensor | None, edges: Neighbours | None
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            found = potential(numbers, positions, cell, pbc=cell is not None, edges=edges)
        return {k: v if k in ("energies", "forces") else v[0] for k, v in found.items()}

    def shuffled(numbers: Tensor, positions: Tensor, cell: Tensor | None, seed: int) -> dict[str, Tensor]:
        edges = neighbours(positions, potential.cutoff, cell)
        order = torch.randperm(edges.shifts.shape[0], generator=torch.Generator().manual_seed(seed))
        return of_edges(numbers, positions, cell, edges.select(order))

    def batch(given: list[Given]) -> list[dict[str, Tensor]]:
        sizes = [len(numbers) for numbers, _, _ in given]
        cells = torch.stack([x.new_zeros(3, 3) if cell is None else cell for _, x, cell in given])
        of = torch.arange(len(given)).repeat_interleave(torch.tensor(sizes))
        numbers, positions = (torch.cat([one[i] for one in given]) for i in (0, 1))  # type: ignore[misc]
        pbc = torch.tensor([[cell is not None] * 3 for _, _, cell in given])
        with torch.no_grad():
            found = potential(numbers, positions, cells, pbc=pbc, batch=of)
        forces = found["forces"].split(sizes)
        return [{"energy": e, "forces": f} for e, f in zip(found["energy"], forces, strict=True)]

    dtype = next(potential.parameters()).dtype
    return Subject(
        predict, potential.elements, dtype, exact_positions=True, cutoff=potential.cutoff, layers=layers,
        periodic=periodic, features=zoo.features(potential), batch=batch, shuffled=shuffled,
    )  # fmt: skip


def of_calculator(calculator: Any, elements: Sequence[int]) -> Subject:
    """An ASE calculator, in eV and angstrom; float32 if its forces are."""
    from ase import Atoms

    def predict(numbers: Tensor, positions: Tensor, cell: Tensor | None = None) -> dict[str, Any]:
        lattice = {} if cell is None else {"cell": cell.numpy(), "pbc": True}
        atoms = Atoms(numbers=numbers.numpy(), positions=positions.numpy(), **lattice)
        atoms.calc = calculator
        found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        if cell is not None and "stress" in calculator.implemented_properties:
            found["stress"] = atoms.get_stress(voigt=False)
        if "energies" in calculator.results:
            found["energies"] = calculator.results["energies"]
        return found

    x = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.2]], dtype=torch.float64)
    forces = predict(torch.tensor([elements[0]] * 2), x)["forces"]
    dtype = torch.float32 if forces.dtype == "float32" else torch.float64
    return Subject(predict, elements, dtype, exact_positions=True)


def find(name: str, elements: Sequence[int]) -> Subject:
    """The subject that a name means: one of ours, or `package.module:object`."""
    if name in zoo.ZOO:
        entry = zoo.ZOO[name]
        return of_potential(entry.potential(), entry.layers, entry.periodic)
    if ":" not in name:
        raise EquikernError(f"There is no model {name!r}: give package.module:object, or one of {', '.join(zoo.ZOO)}.")
    module, attribute = name.split(":", 1)
    try:
        found = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise EquikernError(f"{name} cannot be loaded: {error}") from error
    return subject(found, elements, name)


def subject(found: Any, elements: Sequence[int], name: str) -> Subject:
    """A potential, an ASE calculator or a predict as a subject; what makes one of these is called first."""
    if not _is_client(found) and callable(found) and _required(found) == 0:
        found = found()
    if isinstance(found, Potential):
        return of_potential(found)
    if hasattr(found, "implemented_properties"):
        return of_calculator(found, elements)
    predict = getattr(found, "predict", found)
    if not callable(predict) or _required(predict) < 2:
        raise EquikernError(
            f"{name} is {found!r}: no equikern Potential, no ASE calculator, no predict(numbers, positions, "
            "cell=None), and no function without arguments that returns one of these."
        )
    return Subject(predict, elements)


def _is_client(found: Any) -> bool:
    return not inspect.isclass(found) and (isinstance(found, Potential) or hasattr(found, "implemented_properties"))


def _required(function: Callable[..., Any]) -> int:
    """The number of arguments that a call must have."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = inspect.signature(function).parameters.values()
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in given)


def adjusted(found: Subject, cutoff: float | None, layers: int | None, dtype: str | None) -> Subject:
    """The subject with what the caller knows better."""
    given = {"cutoff": cutoff, "layers": layers, "dtype": dtype and getattr(torch, dtype)}
    return replace(found, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
