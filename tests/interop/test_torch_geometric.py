"""SchNet with torch_geometric's weights is torch_geometric's SchNet."""

import pytest
import torch

from equikern.errors import EquikernError

schnet = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is not installed").SchNet
from equikern.interop import torch_geometric  # noqa: E402

CUTOFF = 4.0


def all_within_the_cutoff(positions, batch):
    """The edges that torch_geometric's own builder takes from pyg-lib, without its cap of 32."""
    d = (positions[:, None] - positions[None]).detach().norm(dim=2)
    receiver, sender = ((d < CUTOFF) & ~torch.eye(len(d), dtype=torch.bool)).nonzero().T
    edges = torch.stack([sender, receiver])
    return edges, (positions[sender] - positions[receiver]).norm(dim=1)


def theirs(dtype=torch.float64, **options):
    torch.manual_seed(0)
    sizes = dict(hidden_channels=32, num_filters=24, num_interactions=3, num_gaussians=20, cutoff=CUTOFF)
    model = schnet(**sizes, interaction_graph=all_within_the_cutoff, **options).to(dtype)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def structure(atoms=9):
    generator = torch.Generator().manual_seed(2)
    numbers = torch.randint(1, 10, (atoms,), generator=generator)
    return numbers, torch.rand(atoms, 3, generator=generator, dtype=torch.float64) * 5


@pytest.mark.parametrize("born", [torch.float64, torch.float32])
@pytest.mark.parametrize("scaled", [False, True])
def test_energy_and_forces_are_theirs(born, scaled):
    options = dict(mean=0.3, std=1.7, atomref=torch.randn(100, 1)) if scaled else {}
    before = torch.get_default_dtype()
    torch.set_default_dtype(born)  # that of the Gaussians' centres and of ln 2
    model = theirs(**options)
    torch.set_default_dtype(before)
    numbers, positions = structure()
    positions.requires_grad_()
    energy = model(numbers, positions).squeeze()
    (gradient,) = torch.autograd.grad(energy, positions)
    found = torch_geometric.schnet(model).predict(numbers, positions.detach())
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(found["energy"], energy.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["forces"], -gradient, rtol=0, atol=1e-12 * float(gradient.abs().max()))


def test_the_model_is_left_as_it_is():
    model, (numbers, positions) = theirs(), structure()
    before = model(numbers, positions).detach()
    copy = torch_geometric.schnet(model)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    assert torch.equal(model(numbers, positions), before)


@pytest.mark.parametrize("options", [dict(readout="mean"), dict(dipole=True)])
def test_other_readouts_are_refused(options):
    with pytest.raises(EquikernError, match="readout='add'"):
        torch_geometric.schnet(theirs(**options))
