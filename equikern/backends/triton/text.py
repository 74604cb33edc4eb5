"""Lines of a kernel's source, and the pieces of arithmetic that have a form of their own."""

from __future__ import annotations

HEADER = "import triton\nimport triton.language as tl\n\n\n"


class Lines:
    """Lines of a function, and which of its variables have a value."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 1
        self.set: set[str] = set()

    def add(self, *lines: str) -> None:
        """Add lines at the present depth."""
        self.lines += ["    " * self.depth + line for line in lines]

    def accumulate(self, name: str, value: str) -> None:
        """Add to a variable, or set it where it has no value yet."""
        self.add(f"{name} {'+=' if name in self.set else '='} {value}")
        self.set.add(name)


def power_of_two(n: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << (n - 1).bit_length()


def combination(terms: list[tuple[float, str]]) -> str:
    """A linear combination.

    >>> combination([(1.0, "y1"), (-0.5, "y2")])
    'y1 - 0.5 * y2'
    """
    text = ""
    for value, name in terms:
        sign = ("-" if value < 0 else "") if not text else (" - " if value < 0 else " + ")
        text += sign + (name if abs(value) == 1 else f"{abs(value)!r} * {name}")
    return text


WARP = 32


def store_lane_sums(out: Lines, names: dict[int, str], lanes: int, width: int, pointer: str) -> None:
    """Store at `pointer + j` the sum over all lanes of the variable names[j], zero for other columns j < width.

    One warp: by halves, lanes that differ in a bit exchange what the other one goes on with, so that n sums take about
    n shuffles, not 5 n. What is left after the halvings is added across the remaining bits.
    """
    if lanes < WARP or width > WARP:
        _store_sums_one_by_one(out, names, width, pointer)
        return
    values: list[str | None] = [None] * power_of_two(width)
    for j, name in names.items():
        values[j] = name
        if lanes > WARP:
            out.add(f"{name} = tl.sum(tl.reshape({name}, [{WARP}, {lanes // WARP}]), 1)")
    out.add(f"lane = tl.arange(0, {WARP})")
    bit = WARP // 2
    while bit:
        half = len(values) // 2
        if half:
            out.add(f"upper = (lane & {bit}) != 0")
            values = [_halve(out, values[m], values[m + half], bit) for m in range(half)]
        elif values[0]:
            out.add(f"{values[0]} += tl.gather({values[0]}, lane ^ {bit}, 0)")
        bit //= 2
    per = WARP // power_of_two(width)  # lanes that hold the same sum
    column = f"lane // {per}" if per > 1 else "lane"
    masks = [f"lane % {per} == 0"] * (per > 1) + [f"{column} < {width}"] * (width < power_of_two(width))
    mask = f", mask={' & '.join(f'({m})' for m in masks)}" if masks else ""
    out.add(f"tl.store({pointer} + {column}, {values[0] or f'tl.zeros([{WARP}], T)'}{mask})")


def _halve(out: Lines, low: str | None, high: str | None, bit: int) -> str | None:
    """Lower lanes go on with `low`, upper ones with `high`, each with what its partner had of it."""
    if low is None and high is None:
        return None
    mine = f"tl.where(upper, {high or 0.0}, {low or 0.0})"
    other = f"tl.where(upper, {low or 0.0}, {high or 0.0})"
    name = low or high
    assert name is not None
    out.add(f"{name} = {mine} + tl.gather({other}, lane ^ {bit}, 0)")
    return name


def _store_sums_one_by_one(out: Lines, names: dict[int, str], width: int, pointer: str) -> None:
    size = power_of_two(width)
    out.add(f"columns = tl.arange(0, {size})", f"sums = tl.zeros([{size}], T)")
    for j, name in names.items():
        out.add(f"sums = tl.where(columns == {j}, tl.sum({name}, 0), sums)")
    mask = "" if size == width else f", mask=columns < {width}"
    out.add(f"tl.store({pointer} + columns, sums{mask})")
