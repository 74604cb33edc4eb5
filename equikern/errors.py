"""The errors equikern raises for what a user can get wrong. Each says what, where and what to do."""

from __future__ import annotations


class EquikernError(ValueError):
    """Base of all equikern errors."""


class ProgramError(EquikernError):
    """Irreps, a path, a mode or a program's text that cannot be."""


class ShapeError(EquikernError):
    """Tensors that do not fit the program, or one another."""


class BackendError(EquikernError, RuntimeError):
    """The backend that was asked for cannot run this call here."""
