"""How numbers are written for readers: three significant digits and a unit that fits."""

from __future__ import annotations

MISSING = "–"  # noqa: RUF001  an en dash stands for a number that there is not


def _scaled(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    for limit, unit in steps:
        if abs(value) >= limit:
            return f"{_digits(value / limit)} {unit}"
    return f"{_digits(value)} {steps[-1][1]}" if value else f"0 {steps[-1][1]}"


def _digits(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def size(value: float | None) -> str:
    """Bytes as B, kB (1000), MB or GB."""
    return MISSING if value is None else _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")))


def duration(value: float | None) -> str:
    """Microseconds as us, ms or s."""
    return MISSING if value is None else _scaled(value, ((1e6, "s"), (1e3, "ms"), (1, "µs")))


def energy(value: float | None) -> str:
    """Picojoules as pJ, nJ, uJ or mJ."""
    return MISSING if value is None else _scaled(value, ((1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1, "pJ")))


def count(value: float | None) -> str:
    """A number of things: 1,234 or 1.23 M."""
    if value is None:
        return MISSING
    return f"{value:,.0f}" if abs(value) < 1e5 else _scaled(value, ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))).strip()


def percent(value: float | None, digits: int = 2) -> str:
    """A share as a percentage."""
    return MISSING if value is None else f"{100 * value:.{digits}f} %"


def power_of_ten(value: float) -> str:
    """1234567 -> 1.2 x 10^6 in typographic form; small numbers as they are."""
    if value < 1e5:
        return f"{value:,.0f}"
    exponent = len(str(int(value))) - 1
    digits = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
    return f"{value / 10**exponent:.1f}\u202f\u00d7\u202f10{str(exponent).translate(digits)}"


def rate(value: float, what: str) -> str:
    """A number a second, like 9.75 TMAC/s."""
    steps = ((1e12, f"T{what}"), (1e9, f"G{what}"), (1e6, f"M{what}"), (1e3, f"k{what}"), (1.0, what))
    return _scaled(value, steps)


def exact(value: float) -> str:
    """All digits of a whole number, six of any other."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"
