"""Is a potential symmetric? Twenty predicates on any callable, each a number against a tolerance.

A potential is `predict(numbers (N,), positions (N, 3), cell (3, 3) or None)`, which returns a mapping with 'energy' ()
and 'forces' (N, 3), and where it has them 'stress' (3, 3) (with a cell), 'energies' (N,), 'dipole' (3,) and
'pseudoscalar' (). Lengths are in angstrom, energies in eV or in what the model uses; rows of a cell are vectors.

>>> subject = Subject(predict, elements=[1, 6, 8], cutoff=5.0)  # doctest: +SKIP
>>> for result in examine(subject): print(result)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from equikern.errors import EquikernError
from equikern.testing import consistency, predicates
from equikern.testing.systems import System, systems
from equikern.testing.trial import TOLERANCES, Predicate, Result, Subject, probed

__all__ = ["PREDICATES", "Result", "Subject", "System", "TOLERANCES", "assert_symmetric", "examine", "systems"]

PREDICATES = {
    p.id: p for module in (predicates, consistency) for p in vars(module).values() if isinstance(p, Predicate)
}


def examine(
    subject: Subject,
    on: Sequence[System] | None = None,
    seed: int = 0,
    only: Sequence[str] | None = None,
    tick: Callable[[Result], object] = lambda result: None,
) -> list[Result]:
    """The results of all predicates, or of those named, in order. One that raises fails, with the error as `where`."""
    unknown = sorted(set(only or ()) - set(PREDICATES))
    if unknown:
        raise EquikernError(f"There is no predicate {', '.join(unknown)}; there are {', '.join(PREDICATES)}.")
    probes = probed(subject, on, seed)
    results = []
    for id in only or PREDICATES:
        try:
            result = PREDICATES[id](subject, probes, seed)
        except Exception as error:
            words = " ".join(str(error).split())[:200]
            result = Result(
                id, PREDICATES[id].name, False, float("inf"), 0.0, f"raised {type(error).__name__}: {words}"
            )
        results.append(result)
        tick(result)
    return results


def assert_symmetric(subject: Subject, must_fail: Sequence[str] = (), **options: Any) -> list[Result]:
    """Raise AssertionError with every predicate that fails, or that was to fail and does not; else the results."""
    results = examine(subject, **options)
    wrong = [str(r) for r in results if r.holds is (r.id in must_fail)]
    if wrong:
        raise AssertionError("\n".join(["not as the symmetry says:", *wrong]))
    return results
