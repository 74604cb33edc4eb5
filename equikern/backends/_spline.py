"""What the splines of all backends share: the factors of an interval's rows, as polynomials (see ops/spline.py)."""

from __future__ import annotations

from typing import Any

# Of t in [0, 1] along the interval: 5040 times the factors of the rows, constant first.
POLYNOMIALS = (
    (-1, 7, -21, 35, -35, 21, -7, 1),
    (-121, 399, -525, 315, -35, -63, 35, -6),
    (-1312, 2114, -840, -350, 280, 42, -70, 15),
    (-3728, 2114, 840, -350, -280, 42, 70, -20),
    (5040, 0, 0, 0, 0, 0, 0, 0),
    (121, 399, 525, 315, 35, -63, -35, 15),
    (1, 7, 21, 35, 35, 21, 7, -6),
    (0, 0, 0, 0, 0, 0, 0, 1),
)
WHOLE = 5040


def derivative(polynomial: tuple[int, ...], order: int) -> tuple[int, ...]:
    """The coefficients of a derivative of a polynomial, constant first.

    >>> derivative((1, 2, 3), 1)
    (2, 6)
    """
    for _ in range(order):
        polynomial = tuple(power * c for power, c in enumerate(polynomial))[1:]
    return polynomial


def rows_of(intervals: Any) -> Any:
    """Rows of the table that a piece of so many intervals has."""
    return 2 * intervals + 12
