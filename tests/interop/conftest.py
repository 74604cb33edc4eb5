"""What the interop tests share: e3nn or a skip, small products and one small network."""

import pytest
import torch


@pytest.fixture
def o3():
    """e3nn.o3; modules are made in float64, so that their stored symbols are not rounded."""
    o3 = pytest.importorskip("e3nn.o3", reason="e3nn is not installed")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield o3
    torch.set_default_dtype(before)


@pytest.fixture
def uvu(o3):
    """A channelwise product with weights per row, as convolutions have it, with signs that differ between versions."""

    def make(**options):
        x, y = o3.Irreps("3x0e+3x1o+3x2e+3x3o"), o3.Irreps("0e+1o+2e+3o")
        middle, instructions = [], []
        for i, (mul, ir1) in enumerate(x):
            for j, (_, ir2) in enumerate(y):
                for ir in ir1 * ir2:
                    if ir.l <= 3:
                        instructions.append((i, j, len(middle), "uvu", True, 0.5 + len(middle) % 3))
                        middle.append((mul, ir))
        options = {"shared_weights": False, "internal_weights": False} | options
        return o3.TensorProduct(x, y, o3.Irreps(middle), instructions, **options)

    return make


@pytest.fixture
def network(o3):
    """A NequIP-like energy model in plain e3nn, float64, and its arguments: numbers, vectors, sender, receiver."""
    from equikern.cli.network import Network

    torch.manual_seed(0)
    model = Network(channels=4, lmax=2, layers=2).double()
    generator = torch.Generator().manual_seed(1)
    sender, receiver = torch.randint(0, 5, (2, 12), generator=generator)
    vectors = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    return model, torch.tensor([1, 6, 8, 6, 1]), vectors, sender, receiver
