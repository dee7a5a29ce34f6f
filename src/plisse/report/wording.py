"""Numbers as people read them: the same words in the terminal and in the report."""

from __future__ import annotations

from plisse.train.evaluate import Difference, Evaluation

MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"
NOT_MEASURED = "not measured"


def size(n_bytes: float) -> str:
    """Bytes in decimal units, as `Budget` reads them, with three figures.

    >>> size(980), size(105_316), size(1_090_000)
    ('980\\xa0B', '105\\xa0kB', '1.09\\xa0MB')
    """
    return scaled(n_bytes, ("B", "kB", "MB", "GB"))


def round_size(n_bytes: float) -> str:
    """Bytes without zeros behind the point, for ticks.

    >>> round_size(50_000)
    '50\\xa0kB'
    """
    number, _, unit = size(n_bytes).partition(SPACE)
    return f"{float(number):g}{SPACE}{unit}"


def count(number: float) -> str:
    """Parameters or multiply-adds.

    >>> count(272_474), count(40_813_184)
    ('272\\xa0k', '40.8\\xa0M')
    """
    return scaled(number, ("", "k", "M", "G", "T"))


def scaled(number: float, units: tuple[str, ...]) -> str:
    place = 0
    while abs(number) >= 999.5 and place < len(units) - 1:
        number, place = number / 1000, place + 1
    shown = f"{number:.0f}" if place == 0 and float(number).is_integer() else figures(number)
    return f"{shown}{SPACE}{units[place]}" if units[place] else shown


def figures(number: float) -> str:
    """Three significant figures without an exponent.

    >>> figures(10.352), figures(0.0123), figures(1234.5)
    ('10.4', '0.0123', '1234')
    """
    if number == 0:
        return "0"
    digits = 2
    bound = abs(number)
    while bound >= 9.995 and digits > 0:
        bound, digits = bound / 10, digits - 1
    while 0 < bound < 0.9995 and digits < 8:
        bound, digits = bound * 10, digits + 1
    return f"{number:.{digits}f}"


def seconds(value: float | None, spread: float | None = None) -> str:
    """A latency with half its interquartile range.

    >>> seconds(0.00312, 0.0001)
    '3.12 ± 0.10\\xa0ms'
    """
    if value is None:
        return NOT_MEASURED
    factor, unit = next(((f, u) for f, u in ((1.0, "s"), (1e3, "ms")) if value * f >= 0.9995), (1e6, "µs"))
    shown = figures(value * factor)
    if spread is not None:
        places = len(shown.partition(".")[2])
        shown = f"{shown} ± {spread * factor:.{places}f}"
    return f"{shown}{SPACE}{unit}"


def times(ratio: float) -> str:
    """A ratio before/after.

    >>> times(10.352), times(0.984)
    ('10.4x', '0.98x')
    """
    return f"{ratio:.1f}x" if ratio >= 1.95 else f"{ratio:.2f}x"


def score(value: float, unit: str) -> str:
    """A score in its own range, or in percent where its unit is points.

    >>> score(0.9782, "points"), score(0.8672, "")
    ('97.82\\xa0%', '0.8672')
    """
    return f"{100 * value:.2f}{SPACE}%" if unit == "points" else f"{value:.4f}".replace("-", MINUS)


def signed(value: float, unit: str) -> str:
    """A difference of scores with its sign.

    >>> signed(-0.0061, "points").replace(MINUS, "-"), signed(0.0, "")
    ('-0.61', '0.0000')
    """
    shown = f"{100 * value:+.2f}" if unit == "points" else f"{value:+.4f}"
    if not shown.strip("+-0."):
        shown = shown[1:]
    return shown.replace("-", MINUS)


def tick(value: float) -> str:
    """A short number with a proper minus sign."""
    return f"{value:g}".replace("-", MINUS)


def interval(evaluation: Evaluation) -> str:
    """Both ends, the unit once: "90.14 to 93.54 %"."""
    low, high = score(evaluation.low, evaluation.unit), score(evaluation.high, evaluation.unit)
    return f"{low.partition(SPACE)[0]} to {high}"


def difference(found: Difference, unit: str) -> str:
    """The paired difference with its interval, and its unit."""
    value = f"{signed(found.value, unit)}{SPACE}{unit}" if unit else signed(found.value, unit)
    return f"{value} [{signed(found.low, unit)}, {signed(found.high, unit)}]"


def verdict(found: Difference, name: str) -> str:
    """What the interval of a paired difference says, in one sentence."""
    samples = f"{found.n:,} samples"
    if found.value == 0 and found.low == 0 and found.high == 0:
        return f"Equal {name} on every resample of {samples}."
    if found.high < 0:
        return f"{name.capitalize()} went down by more than chance explains (95 %, {samples})."
    if found.low > 0:
        return f"{name.capitalize()} went up by more than chance explains (95 %, {samples})."
    return f"No difference in {name} can be told from chance (95 %, {samples})."


def percent(share: float) -> str:
    """A share from 0 to 1.

    >>> percent(0.9), percent(0.0004), percent(0)
    ('90\\xa0%', '<1\\xa0%', '0\\xa0%')
    """
    if 0 < share < 0.005:
        return f"<1{SPACE}%"
    if 0.995 <= share < 1:
        return f">99{SPACE}%"
    return f"{100 * share:.0f}{SPACE}%"


def shape(sides: tuple[int, ...]) -> str:
    """
    >>> shape((64, 3, 3)), shape(())
    ('64 × 3 × 3', 'scalar')
    """
    return " × ".join(str(side) for side in sides) or "scalar"
