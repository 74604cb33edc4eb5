"""Our values and gradients against those that e3nn recorded (`make golden`); no e3nn needed."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch

from equikern import backends
from equikern.ops import linear, product
from equikern.ops.harmonics import spherical_harmonics
from equikern.program import linear as linear_program
from equikern.program import product as product_program
from equikern.program import wigner_3j, wigner_d
from equikern.testing import assert_close

FOLDER = Path(__file__).parent


def recorded(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


PRODUCTS = recorded("products")
LINEARS = recorded("linears")
NAMES = sorted({key.split("/")[0] for key in PRODUCTS})


def record(table, name):
    """The tensors of one record, and its specification."""
    entries = {key.split("/")[1]: value for key, value in table.items() if key.startswith(f"{name}/")}
    spec = ast.literal_eval(str(entries.pop("spec")))
    return {key: torch.from_numpy(value) for key, value in entries.items()}, spec


def program_and_tensors(name):
    data, (x, y, z, instructions, options) = record(PRODUCTS, name)
    return product_program(x, y, z, instructions, **options), data


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", backends.NAMES)
def test_values_and_gradients_of_products_are_those_of_e3nn(name, backend):
    program, data = program_and_tensors(name)
    reason = backends.reasons(program.text, "cpu", torch.float64)[backend]
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")
    names = [n for n in "xyw" if n in data]
    leaves = {n: data[n].requires_grad_() for n in names}
    with backends.backend(backend):
        z = product(program, leaves["x"], leaves["y"], leaves.get("w"))
        gradients = torch.autograd.grad((z * data["c"]).sum(), leaves.values())
    got = {"z": z, **{f"d{n}": g for n, g in zip(names, gradients, strict=True)}}
    assert_close(got, {key: data[key] for key in got}, 1e-13, name)


@pytest.mark.parametrize("name", sorted({key.split("/")[0] for key in LINEARS}))
def test_linear_maps_are_those_of_e3nn(name):
    data, (x, z, paths) = record(LINEARS, name)
    program = linear_program(x, z, paths)
    assert_close(linear(program, data["x"], data["w"]), data["z"], 1e-13, name)


@pytest.mark.parametrize("convention, file", [("e3nn-0.5", "wigner_3j_06"), ("e3nn-0.4", "wigner_3j_04")])
def test_signs_of_3j_symbols_are_those_of_that_e3nn(convention, file):
    data = recorded(file)
    got = [wigner_3j(*map(int, t), convention).ravel()[k] for t, k in zip(data["triples"], data["places"], strict=True)]
    assert_close(torch.tensor(got), torch.from_numpy(data["values"]), 1e-12)


def test_the_two_sign_conventions_differ():
    values = [recorded(file)["values"] for file in ("wigner_3j_06", "wigner_3j_04")]
    assert (np.abs(values[0] - values[1]) > 1e-3).sum() > 30


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("normalization", ["integral", "component", "norm"])
def test_spherical_harmonics_are_those_of_e3nn(normalization, normalize, backend):
    data = recorded("harmonics")
    with backends.backend(backend):
        got = spherical_harmonics(list(range(7)), torch.from_numpy(data["vectors"]), normalize, normalization)
    assert_close(got, torch.from_numpy(data[f"{normalization}/{normalize}"]), 1e-13)


def test_wigner_d_matrices_are_those_of_e3nn():
    data = recorded("wigner_d")
    got = {f"D{degree}": torch.from_numpy(wigner_d(degree, data["rotation"])) for degree in range(6)}
    assert_close(got, {key: torch.from_numpy(data[key]) for key in got}, 1e-12)


def test_the_records_are_small():
    assert sum(path.stat().st_size for path in FOLDER.glob("*.npz")) < 300_000
