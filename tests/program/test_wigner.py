"""3j symbols and Wigner D matrices: what defines them."""

from __future__ import annotations

import numpy as np
import pytest

from equikern.errors import ProgramError
from equikern.program import wigner_3j, wigner_d
from equikern.program.wigner import CONVENTIONS

TRIPLES = [(a, b, c) for a in range(5) for b in range(5) for c in range(abs(a - b), min(a + b, 6) + 1)]


def turn(seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_3j_symbols_are_orthogonal(convention):
    for a, b in [(0, 0), (1, 1), (2, 1), (3, 2), (4, 4), (6, 5)]:
        symbols = [
            wigner_3j(a, b, c, convention).reshape(-1, 2 * c + 1) * (2 * c + 1) ** 0.5
            for c in range(abs(a - b), a + b + 1)
        ]
        matrix = np.concatenate(symbols, axis=1)
        assert np.abs(matrix.T @ matrix - np.eye((2 * a + 1) * (2 * b + 1))).max() < 1e-12


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_3j_symbols_have_norm_one(convention):
    assert all(abs(np.linalg.norm(wigner_3j(*t, convention)) - 1) < 1e-13 for t in [*TRIPLES, (12, 12, 12), (7, 9, 11)])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_3j_symbols_are_invariant_under_rotation(convention):
    d = [wigner_d(degree, turn(1)) for degree in range(7)]
    for a, b, c in TRIPLES:
        symbol = wigner_3j(a, b, c, convention)
        assert np.abs(np.einsum("ai,bj,ck,ijk->abc", d[a], d[b], d[c], symbol) - symbol).max() < 1e-12


def test_conventions_differ_by_a_sign_in_six_triples_up_to_l_3():
    flipped = [t for t in TRIPLES if max(t) <= 3 and np.array_equal(wigner_3j(*t), -wigner_3j(*t, "e3nn-0.4"))]
    assert flipped == [(1, 2, 2), (1, 3, 3), (2, 1, 2), (2, 2, 1), (3, 1, 3), (3, 3, 1)]


def test_two_vectors_give_the_cross_product_and_the_dot_product():
    a, b = np.random.default_rng(0).normal(size=(2, 3))
    cross = np.einsum("ijk,i,j->k", wigner_3j(1, 1, 1), a, b) * 6**0.5
    dot = np.einsum("ijk,i,j->k", wigner_3j(1, 1, 0), a, b) * 3**0.5
    assert np.allclose(cross, np.cross(a, b)) and np.allclose(dot, a @ b)


def test_wigner_d_of_degree_one_is_the_rotation_itself():
    assert np.allclose(wigner_d(1, turn(2)), turn(2))


def test_wigner_d_is_a_representation():
    one, two = turn(3), turn(4)
    assert all(np.allclose(wigner_d(n, one) @ wigner_d(n, two), wigner_d(n, one @ two)) for n in range(7))


def test_a_table_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        wigner_3j(1, 1, 1)[0, 0, 0] = 1.0


def test_triangle_inequality_is_checked():
    with pytest.raises(ProgramError, match="triangle"):
        wigner_3j(1, 1, 3)


def test_unknown_sign_convention_is_refused():
    with pytest.raises(ProgramError, match="unknown sign convention"):
        wigner_3j(1, 1, 1, "e3nn-1.0")


@pytest.mark.parametrize(
    "matrix, message", [(np.ones((3, 3)), "orthogonal"), (np.eye(2), "orthogonal"), (-np.eye(3), "proper")]
)
def test_wigner_d_refuses_what_is_no_rotation(matrix, message):
    with pytest.raises(ProgramError, match=message):
        wigner_d(1, matrix)
