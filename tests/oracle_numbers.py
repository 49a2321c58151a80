"""Numbers for the oracle that know more than their value: how far rounding took them, or their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

UNIT = 2.0**-53


class Rounded:
    """A float64 with a bound on how far rounding has taken it from the exact result (running error analysis)."""

    def __init__(self, value: float, error: float = 0.0) -> None:
        self.value, self.error = value, error

    def __add__(self, other: Any) -> Rounded:
        b = rounded(other)
        value = self.value + b.value
        return Rounded(value, self.error + b.error + UNIT * abs(value))

    def __mul__(self, other: Any) -> Rounded:
        b = rounded(other)
        value = self.value * b.value
        carried = abs(self.value) * b.error + abs(b.value) * self.error + self.error * b.error
        return Rounded(value, carried + UNIT * abs(value))

    def __truediv__(self, other: Any) -> Rounded:
        b = rounded(other)
        value = self.value / b.value
        return Rounded(value, (self.error + abs(value) * b.error) / (abs(b.value) - b.error) + UNIT * abs(value))

    def apply(self, function: Callable[[float], float]) -> Rounded:
        """A libm function of slope at most 1, right to 4 units."""
        value = function(self.value)
        return Rounded(value, self.error + 4 * UNIT * abs(value))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Rounded:
        return Rounded(-self.value, self.error)

    def __sub__(self, other: Any) -> Rounded:
        return self + -rounded(other)

    def __rsub__(self, other: Any) -> Rounded:
        return rounded(other) + -self

    def __rtruediv__(self, other: Any) -> Rounded:
        return rounded(other) / self

    def __abs__(self) -> Rounded:
        return Rounded(abs(self.value), self.error)

    def __lt__(self, other: Any) -> bool:
        return self.value < rounded(other).value

    def __le__(self, other: Any) -> bool:
        return self.value <= rounded(other).value

    def __gt__(self, other: Any) -> bool:
        return self.value > rounded(other).value

    def __ge__(self, other: Any) -> bool:
        return self.value >= rounded(other).value


def rounded(number: Any) -> Rounded:
    return number if isinstance(number, Rounded) else Rounded(float(number))


class Dual:
    """An exact number with its derivatives with respect to the leaves of one neuron."""

    def __init__(self, value: Any, slopes: dict[Any, Fraction] | None = None) -> None:
        self.value = value if isinstance(value, Fraction) else Fraction(float(value))
        self.slopes = slopes or {}

    def chain(self, other: Any, value: Fraction, by_self: Any, by_other: Any) -> Dual:
        slopes = {leaf: by_self * slope for leaf, slope in self.slopes.items()}
        for leaf, slope in dual(other).slopes.items():
            slopes[leaf] = slopes.get(leaf, 0) + by_other * slope
        return Dual(value, slopes)

    def __add__(self, other: Any) -> Dual:
        return self.chain(other, self.value + dual(other).value, 1, 1)

    def __sub__(self, other: Any) -> Dual:
        return self.chain(other, self.value - dual(other).value, 1, -1)

    def __mul__(self, other: Any) -> Dual:
        return self.chain(other, self.value * dual(other).value, dual(other).value, self.value)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Dual:
        return -1 * self

    def __rsub__(self, other: Any) -> Dual:
        return other + -self

    def __truediv__(self, other: Any) -> Dual:
        by = dual(other).value
        return self.chain(other, self.value / by, 1 / by, -self.value / by**2)

    def __rtruediv__(self, other: Any) -> Dual:
        return dual(other) / self

    def __lt__(self, other: Any) -> bool:
        return self.value < dual(other).value

    def __le__(self, other: Any) -> bool:
        return self.value <= dual(other).value

    def __gt__(self, other: Any) -> bool:
        return self.value > dual(other).value

    def __ge__(self, other: Any) -> bool:
        return self.value >= dual(other).value


def dual(number: Any) -> Dual:
    return number if isinstance(number, Dual) else Dual(number)
