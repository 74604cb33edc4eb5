"""The layer of symmetric contractions: equivariance, completeness, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch

import equikern
from equikern.errors import BackendError, ProgramError, ShapeError
from equikern.nn import SymmetricContraction
from equikern.o3 import Irreps
from equikern.testing import assert_close

X, Z = "4x0e+4x1o+4x2e", "4x0e+4x1o+4x2e"


def layer(x=X, z=Z, correlation=3, **options):
    return SymmetricContraction(x, z, correlation=correlation, num_species=3, **options).double()


def arguments(x=X, nodes=6):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(nodes, Irreps(x).dim, generator=generator, dtype=torch.float64)
    return features, torch.randint(3, (nodes,), generator=generator)


@pytest.mark.parametrize("correlation", [1, 2, 3, 4])
@pytest.mark.parametrize(("x", "z"), [(X, Z), ("2x0o+2x1e+2x1o", "2x0o+2x0e+2x1e"), ("2x3o+2x0e", "2x3o+2x2e")])
def test_equivariant_under_rotations_and_inversion(x, z, correlation):
    module = layer(x, z, correlation)
    features, species = arguments(x)
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    left = module(features @ Irreps(x).D_from_matrix(q).to(q).t(), species)
    assert_close(left, module(features, species) @ Irreps(z).D_from_matrix(q).to(q).t(), 1e-11)


def test_layouts_agree():
    features, species = arguments()
    module, other = layer(), layer(layout="ir_mul")
    other.load_state_dict(module.state_dict())

    def turn(a, irreps):
        parts = []
        for s, (mul, ir) in zip(Irreps(irreps).slices(), Irreps(irreps), strict=True):
            parts.append(a[:, s].unflatten(1, (mul, ir.dim)).transpose(1, 2).flatten(1))
        return torch.cat(parts, 1)

    assert_close(other(turn(features, X), species), turn(module(features, species), Z), 1e-13)


def test_channels_and_nodes_do_not_mix():
    module = layer()
    features, species = arguments()
    jacobian = torch.autograd.functional.jacobian(lambda a: module(a, species)[:, :4], features)
    channel = torch.arange(4)
    # scalars of z in, scalars of x: node n' and channel c' count for node n and channel c only if they are the same
    between = jacobian[:, :, :, :4].abs().permute(0, 2, 1, 3)
    same = torch.eye(6)[:, :, None, None] * (channel[:, None] == channel)
    assert (between > 0).equal(same > 0)


def test_every_parameter_counts():
    module = layer(correlation=2)
    features, _ = arguments(nodes=9)
    module(features, torch.arange(9) % 3).square().sum().backward()
    assert (module.weight.grad != 0).all()


def test_polynomials_are_independent():
    module = layer("1x0e+1x1o+1x2e", "1x0e", 4)
    features, species = arguments("1x0e+1x1o+1x2e", 200)
    columns = []
    for n in range(module.weight.shape[1]):
        with torch.no_grad():
            module.weight.zero_()[:, n] = 1
        columns.append(module(features, species)[:, 0].detach())
    matrix = torch.stack(columns, 1)
    assert torch.linalg.matrix_rank(matrix / matrix.norm(dim=0)) == matrix.shape[1] == 18


def test_state_dict_and_copies():
    module = layer()
    assert list(module.state_dict()) == ["weight"]
    features, species = arguments()
    assert torch.equal(copy.deepcopy(module)(features, species), module(features, species))
    assert module(features.float().double(), species.int()).dtype == torch.float64


def test_what_is_wrong_is_named():
    module = layer()
    features, species = arguments()
    with pytest.raises(ShapeError, match="species are integers"):
        module(features, species.double())
    with pytest.raises(ShapeError, match="operand 'x'"):
        module(features[:, 1:], species)
    with pytest.raises(BackendError, match="out of range"):
        module(features, species + 1)
    with pytest.raises(ProgramError, match="one species"):
        SymmetricContraction(X, Z, correlation=2, num_species=0)
    with pytest.raises(ProgramError, match="layout"):
        layer(layout="channels")


def test_explain_names_the_backends_of_a_contraction():
    layer = SymmetricContraction("2x0e+2x1o", "2x0e", correlation=2, num_species=1)
    lines = str(equikern.explain(layer)).splitlines()
    assert lines[1].strip() == layer.program.text
    assert dict(line.split(None, 1) for line in lines[2:])["reference"] == "runs it"
    on_device = str(equikern.explain(layer, device="cuda"))
    assert "cuda        there is no CUDA device" in on_device or "cuda        runs it" in on_device
