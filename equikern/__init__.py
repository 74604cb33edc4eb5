"""Fast, trusted equivariant kernels for PyTorch."""

__version__ = "0.1.0"
